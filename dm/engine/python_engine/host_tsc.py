"""The host's time-stamp counter, which a guest's continues from."""

from __future__ import annotations

import ctypes
import mmap
import platform
import time
from collections.abc import Callable
from functools import cache
from typing import Final

# rdtsc; shl rdx,32; or rax,rdx; ret
_READ: Final = bytes.fromhex("0f31 48c1e220 4809d0 c3")


@cache
def _reader() -> Callable[[], int]:
    if platform.machine() in ("x86_64", "AMD64"):
        try:
            code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        except OSError:  # a host that forbids pages both writable and executable
            return time.perf_counter_ns
        code.write(_READ)
        read = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(ctypes.c_char.from_buffer(code)))

        def rdtsc() -> int:
            assert code is not None  # keeps the page mapped
            return int(read())

        return rdtsc
    return time.perf_counter_ns


def host_tsc() -> int:
    """Return the host's TSC, 64 bits; nanoseconds if it cannot be read."""
    return _reader()() & 0xFFFFFFFFFFFFFFFF
