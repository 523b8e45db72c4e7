"""Guest RAM on the shim's side: a sealed memfd, shared with the daemon by descriptor."""

from __future__ import annotations

import fcntl
import mmap
import os
from types import TracebackType


class Ram:
    """A block of guest RAM.  ``fd`` is the memfd, ``view`` the shared mapping, ``size`` in bytes."""

    def __init__(self, size: int, name: str = "guest-ram") -> None:
        """Make a block of ``size`` bytes (a positive multiple of 4096), zeroed.

        Raises:
            ValueError: size is not acceptable.
            OSError: the system has no memory for it.
        """
        if size <= 0 or size % mmap.PAGESIZE:
            raise ValueError(f"RAM size is {size:#x}, a positive multiple of {mmap.PAGESIZE} is needed")
        self.size = size
        self.fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self.fd, size)
            # The daemon requires it: a file that shrinks under a mapping kills the process that touches it.
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
            self.view = mmap.mmap(self.fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        except BaseException:
            os.close(self.fd)
            raise

    def close(self) -> None:
        """Free it; the daemon keeps its own mapping as long as its session lives."""
        if self.fd >= 0:
            self.view.close()
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Ram:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
