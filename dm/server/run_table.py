"""Which vCPUs of a session are running, in memory that outlives the worker.

The worker writes it, the supervisor reads it when the worker is gone: runs in progress then are lost.
"""

from __future__ import annotations

import fcntl
import mmap
import os

from dm.protocol.schema import MAX_VCPUS


class RunTable:
    """``bytes`` has one for each vCPU: 1 while it runs."""

    def __init__(self, fd: int = -1) -> None:
        """Make one, or map that of ``fd``, which is closed with the table.

        Raises:
            OSError: the system has no memory for it.
        """
        self.fd = fd if fd >= 0 else os.memfd_create("run-table", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        if fd < 0:
            os.ftruncate(self.fd, MAX_VCPUS)
            # The worker has it too: if it truncated the table, reading it would kill the supervisor (SIGBUS).
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        self.bytes = mmap.mmap(self.fd, MAX_VCPUS)

    def set(self, vcpu: int, running: bool) -> None:
        """Record whether a vCPU runs."""
        self.bytes[vcpu] = running

    def running(self) -> list[int]:
        """Return the numbers of those that run."""
        return [vcpu for vcpu, running in enumerate(self.bytes[:]) if running]

    def close(self) -> None:
        """Give it back."""
        self.bytes.close()
        os.close(self.fd)
