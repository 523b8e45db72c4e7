"""Addresses of libzmq's functions, for C code that uses pyzmq's sockets: a second libzmq could not share them."""

from __future__ import annotations

import ctypes
from functools import cache
from importlib import import_module
from typing import Final

#: What C uses of zmq.h, in the order of struct x86_dm__libzmq (dm/fast/waiting.h).
NAMES: Final = (
    *("zmq_send", "zmq_getsockopt", "zmq_msg_init", "zmq_msg_recv", "zmq_msg_data"),
    *("zmq_msg_size", "zmq_msg_more", "zmq_msg_close", "zmq_errno"),
)


@cache
def functions(*names: str) -> dict[str, int]:
    """Return the addresses of functions (zmq.h) of the libzmq that pyzmq is linked with, in this order: those of NAMES.

    Raises:
        LookupError: pyzmq does not expose them, for instance because it contains libzmq in another way.
    """
    try:
        bound = import_module("zmq.backend.cython._zmq")
        library = ctypes.CDLL(bound.__file__)  # what that is linked with is searched, too (dlsym(3))
        found = {name: ctypes.cast(getattr(library, name), ctypes.c_void_p).value for name in names or NAMES}
    except (ImportError, OSError, AttributeError) as error:
        raise LookupError(f"libzmq's functions cannot be found: {error}") from error
    return {name: address for name, address in found.items() if address is not None}
