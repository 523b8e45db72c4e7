"""The daemon's own directory beside an ipc control endpoint: RAM socket, vCPUs' endpoints, and the lock."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
from pathlib import Path


class Directory:
    """PATH.d of mode 0700 for the control endpoint at PATH.  ``name`` is its path."""

    def __init__(self, path: str) -> None:
        """Take it, and remove what a daemon that was killed has left there.

        Raises:
            OSError: another daemon has it, or it cannot be ours; the text says which.
        """
        self._path, self.name = path, path + ".d"
        if os.path.lexists(path) and not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise OSError(f"{path} exists and is not a socket; choose another endpoint")
        try:
            os.mkdir(self.name, 0o700)
        except FileExistsError:
            there = os.lstat(self.name)
            if not stat.S_ISDIR(there.st_mode) or there.st_uid != os.geteuid():
                raise OSError(f"{self.name} is not a directory of ours; remove it") from None
            os.chmod(self.name, 0o700)
        self._lock = os.open(self.name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise OSError(f"another daemon serves ipc://{path}") from None
        for entry in os.scandir(self.name):
            os.unlink(entry)

    def forget(self, session: int) -> None:
        """Remove the sockets of a session whose worker could not."""
        for left in Path(self.name).glob(f"vcpu-{session}-*"):
            left.unlink(missing_ok=True)

    def close(self) -> None:
        """Remove it, and the control endpoint's socket, which libzmq leaves behind."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        shutil.rmtree(self.name, ignore_errors=True)
        os.close(self._lock)
