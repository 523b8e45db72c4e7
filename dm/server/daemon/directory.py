"""The daemon's own directory beside an ipc control endpoint: RAM socket, vCPUs' endpoints, and the lock."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from typing import Final

from dm.claim import Claim

#: The record of the control endpoint's socket (:mod:`dm.claim`); a directory that has it is a daemon's.
_RECORD: Final = "x86-dm"
#: The names that daemons give to their files here.
_RAM: Final = "ram"
_ASIDE: Final = "listener-"
_OURS: Final = re.compile(rf"{_RAM}|{_ASIDE}\d+|vcpu-\d+-\d+")
#: Notes in the record: who has made the directory.
_MADE, _FOUND = "directory-made", "directory-found"


class Directory:
    """PATH.d of mode 0700 for the control endpoint at PATH.

    ``name`` is its path, ``ram`` that of the RAM socket, ``aside`` the beginning of names for listeners that are
    about to get PATH, ``claim`` the right to it.  A directory is used only if it is empty or a daemon's, and
    removed only if a daemon made it; only sockets with the names above are removed from it.
    """

    def __init__(self, path: str) -> None:
        """Take it, and remove what a killed daemon has left there.

        Raises:
            OSError: another daemon has it, or it cannot be used; the text says which.
        """
        self.name = path + ".d"
        self.ram, self.aside = f"{self.name}/{_RAM}", f"{self.name}/{_ASIDE}"
        try:
            os.mkdir(self.name, 0o700)
            note = _MADE
        except FileExistsError:
            note = _FOUND
        self._directory = self._open()
        try:
            self._check()
            os.fchmod(self._directory, 0o700)
            try:
                # By its path, since others are told where the record is; that it is this directory is checked
                # afterwards.
                self.claim = Claim(path, f"{self.name}/{_RECORD}", note)
            except BlockingIOError:
                raise OSError(f"another daemon serves ipc://{path}") from None
            except FileExistsError as error:
                raise OSError(error.strerror) from None
        except BaseException:
            os.close(self._directory)
            if note is _MADE:
                with contextlib.suppress(OSError):
                    os.rmdir(self.name)
            raise
        self._sweep(_OURS)

    def _open(self) -> int:
        try:
            directory = os.open(self.name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except NotADirectoryError:
            raise OSError(f"{self.name} is not a directory of ours; remove it, or choose another endpoint") from None
        if os.fstat(directory).st_uid != os.geteuid():
            os.close(directory)
            raise OSError(f"{self.name} is not a directory of ours; choose another endpoint")
        return directory

    def _check(self) -> None:
        """Refuse a directory that contains anything that no daemon has made."""
        names = os.listdir(self._directory)
        if names and _RECORD not in names:
            raise OSError(
                f"{self.name} holds {min(names)!r} and was not made by x86-dm: nothing in it is touched; "
                "choose another endpoint, or empty it"
            )

    def _sockets(self, names: re.Pattern[str]) -> Iterator[str]:
        for name in os.listdir(self._directory):
            if names.fullmatch(name):
                there = os.stat(name, dir_fd=self._directory, follow_symlinks=False)
                if stat.S_ISSOCK(there.st_mode):
                    yield name

    def _sweep(self, names: re.Pattern[str]) -> None:
        """Remove the sockets of these names."""
        for name in self._sockets(names):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self._directory)

    def forget(self, session: int) -> None:
        """Remove the sockets of a session whose worker could not."""
        self._sweep(re.compile(rf"vcpu-{session}-\d+"))

    def close(self) -> None:
        """Remove the control endpoint's socket and what daemons have made here; leave everything else."""
        if self.claim.held:  # else somebody has emptied it, and another daemon may use it by now
            self._sweep(_OURS)
        self.claim.close()
        with contextlib.suppress(OSError):  # not empty, or not there any more
            if self.claim.note == _MADE and os.path.samestat(os.lstat(self.name), os.fstat(self._directory)):
                os.rmdir(self.name)
        os.close(self._directory)
