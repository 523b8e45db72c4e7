"""The libzmq of pyzmq, as C code finds it."""

import ctypes

import pytest
import zmq

from dm.protocol import libzmq


def test_it_is_the_library_that_pyzmq_uses():
    places = libzmq.functions("zmq_version", "zmq_getsockopt")
    assert list(places) == ["zmq_version", "zmq_getsockopt"]
    parts = [ctypes.c_int() for _ in range(3)]
    version = ctypes.CFUNCTYPE(None, *[ctypes.POINTER(ctypes.c_int)] * 3)(places["zmq_version"])
    version(*map(ctypes.byref, parts))
    assert ".".join(str(part.value) for part in parts) == zmq.zmq_version()


def test_it_knows_the_sockets_of_pyzmq():
    get = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(
        libzmq.functions("zmq_getsockopt")["zmq_getsockopt"]
    )
    value, size = ctypes.c_int(), ctypes.c_size_t(ctypes.sizeof(ctypes.c_int))
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        assert get(socket.underlying, zmq.TYPE, ctypes.byref(value), ctypes.byref(size)) == 0
    assert value.value == zmq.DEALER


def test_a_function_it_has_not_is_named():
    with pytest.raises(LookupError, match="zmq_no_such_thing"):
        libzmq.functions("zmq_no_such_thing")
