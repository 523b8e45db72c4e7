"""Guest RAM that disappears while mapped: SIGBUS becomes ``memory-lost`` instead of the worker's death.

Whoever owns a file we have mapped may truncate it, and a page that cannot be had (no huge page left, a full file
system, a memory error) ends alike: the thread that touches it gets SIGBUS (mmap(2)).  The handler replaces the
whole block by empty memory, so that the access succeeds and no later one reaches the guest's real memory, and records
that the block is lost; the run ends before a device is asked anything more.

The handler is a ctypes callback: the faults are synchronous, in a plain access to guest memory, either with the GIL
held (then it goes on being held) or in an engine that has released it (then it is taken for the moment).
"""

from __future__ import annotations

import ctypes
import mmap
import signal
import weakref
from typing import Any, Final

_SA_SIGINFO: Final = 4
_MAP_FIXED: Final = 0x10
_SI_ADDR: Final = 16  # offset in siginfo_t on 64-bit Linux (sigaction(2))

_Handler: Final = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


class _SigAction(ctypes.Structure):
    """``struct sigaction`` of 64-bit Linux's C libraries."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_ubyte * 128),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


_libc: Final[Any] = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (*(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long),)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)

#: Mapped blocks: (first address, bytes, name).  Replaced as a whole, so the handler needs no lock.
_blocks: tuple[tuple[int, int, str], ...] = ()
_lost = ""
#: Not 0 once something is lost; for C.
_flag: Final = ctypes.c_int(0)


def install() -> None:
    """Handle SIGBUS in this process from now on.

    Raises:
        OSError: the system refuses.
    """
    action = _SigAction(handler=ctypes.cast(_on_sigbus, ctypes.c_void_p), flags=_SA_SIGINFO)
    if _libc.sigaction(signal.SIGBUS, ctypes.byref(action), None):
        raise OSError(ctypes.get_errno(), "sigaction")


def watch(block: mmap.mmap, name: str) -> None:
    """Guard a mapping as long as it lives; :func:`lost` will call it ``name``."""
    global _blocks
    entry = (ctypes.addressof(ctypes.c_char.from_buffer(block)), len(block), name)
    _blocks = (*_blocks, entry)
    weakref.finalize(block, _forget, entry)


def lost() -> str:
    """Return what has been lost, in words; empty while nothing is.  It stays lost."""
    return _lost


def lost_address() -> int:
    """Return the address of an int that is not 0 once something has been lost."""
    return ctypes.addressof(_flag)


def _forget(entry: tuple[int, int, str]) -> None:
    global _blocks
    _blocks = tuple(one for one in _blocks if one is not entry)


@_Handler  # type: ignore[untyped-decorator]
def _on_sigbus(number: int, info: int, context: int) -> None:
    global _lost
    address = ctypes.c_size_t.from_address(info + _SI_ADDR).value
    for start, size, name in _blocks:
        if start <= address < start + size:
            flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED
            if _libc.mmap(start, size, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0) == start:
                _libc.madvise(start, size, mmap.MADV_DONTDUMP)
                _lost = _lost or f"{name} is gone: its byte {address - start:#x} cannot be accessed any more"
                _flag.value = 1
                return
    # Not guest memory: the repeated access ends the process, as without a handler.
    _libc.sigaction(signal.SIGBUS, ctypes.byref(_SigAction()), None)
