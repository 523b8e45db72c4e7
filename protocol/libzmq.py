"""Addresses of libzmq's functions, for C code that uses pyzmq's sockets: a second libzmq could not share them."""

from __future__ import annotations

import ctypes
from functools import cache
from importlib import import_module


@cache
def functions(*names: str) -> dict[str, int]:
    """Return the addresses of functions (zmq.h) of the libzmq that pyzmq is linked with, in this order.

    Raises:
        LookupError: pyzmq does not expose them, for instance because it contains libzmq in another way.
    """
    try:
        bound = import_module("zmq.backend.cython._zmq")
        library = ctypes.CDLL(bound.__file__)  # what that is linked with is searched, too (dlsym(3))
        found = {name: ctypes.cast(getattr(library, name), ctypes.c_void_p).value for name in names}
    except (ImportError, OSError, AttributeError) as error:
        raise LookupError(f"libzmq's functions cannot be found: {error}") from error
    return {name: address for name, address in found.items() if address is not None}
