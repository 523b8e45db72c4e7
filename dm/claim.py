"""Unix sockets with names in the file system, of which each is removed only by whoever can prove to have made it.

A server that is killed leaves its socket behind, and its successor has to remove it before it can bind.  That somebody
made it who does not listen any more is no reason: it may be another program's.  So a :class:`Claim` stands beside a
socket while it is there, a small file that is locked by the server and holds device, inode and time of the socket it
made.  Only what agrees with the record is ever removed, by the server at its end or by a successor that finds the
record without a lock.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
from dataclasses import dataclass
from typing import Final

#: First word of a record: a file without it is not ours.
_WORD: Final = "x86-dm-socket"
_MOST: Final = 256


@dataclass(frozen=True, slots=True)
class Inode:
    """Which file it is that a name stands for; the time tells it from a later one that was given the same number."""

    device: int
    number: int
    modified_ns: int

    @classmethod
    def of(cls, path: str | os.PathLike[str] | int, directory: int | None = None) -> Inode:
        """Return that of a path (links are not followed), or of an open descriptor; OSError where there is none."""
        if isinstance(path, int):
            there = os.fstat(path)
        else:
            there = os.stat(path, dir_fd=directory, follow_symlinks=False)
        return cls(there.st_dev, there.st_ino, there.st_mtime_ns)


def listening_socket(
    path: str, kind: socket.SocketKind = socket.SOCK_STREAM, backlog: int | None = None
) -> socket.socket:
    """Return a socket bound to ``path``, which must not exist; mode 0600, non-blocking.

    With ``backlog`` it listens (listen(2)).

    Raises:
        OSError: it cannot be bound.
    """
    made = socket.socket(socket.AF_UNIX, kind)
    try:
        made.setblocking(False)
        os.fchmod(made.fileno(), 0o600)  # Linux gives the file the socket's mode: it is never open to others
        made.bind(path)
        if backlog is not None:
            made.listen(backlog)
    except BaseException:
        made.close()
        raise
    return made


def remove(path: str, made: Inode, directory: int | None = None) -> None:
    """Remove the socket that ``path`` names if it is the one that was made, else leave what is there."""
    with contextlib.suppress(FileNotFoundError):
        there = os.stat(path, dir_fd=directory, follow_symlinks=False)
        if stat.S_ISSOCK(there.st_mode) and Inode.of(path, directory) == made:
            os.unlink(path, dir_fd=directory)


class Claim:
    """The right to one name.  ``path`` is the socket's, ``made`` is it once it is bound.

    ``note`` is a word that the record keeps for a successor.
    """

    def __init__(self, path: str, record: str | None = None, note: str = "-") -> None:
        """Take the name, and remove the socket that a server which was killed has left there.

        ``record`` is where the claim is noted, usually PATH.x86-dm; the note of one that is there counts.

        Raises:
            BlockingIOError: another server has the name.
            FileExistsError: something has the name, or the record's, that no server of ours has made.
            OSError: the record cannot be written.
        """
        self.path, self.note = path, note
        self.made: Inode | None = None
        self._record = f"{path}.x86-dm" if record is None else record
        self._file = self._open()
        try:
            for left in self._read():
                remove(path, left)
            if os.path.lexists(path):
                kind = (
                    "a socket that no daemon has left here" if stat.S_ISSOCK(os.lstat(path).st_mode) else "not a socket"
                )
                raise FileExistsError(errno.EEXIST, f"{path} exists and is {kind}; remove it, or choose another path")
        except BaseException:
            self.close()
            raise

    def _open(self) -> int:
        """Open and lock the record: the very file that stands there, since another may have removed it meanwhile."""
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        while True:
            try:
                file = os.open(self._record, flags | os.O_CREAT | os.O_EXCL, 0o600)
                new = True
            except FileExistsError:
                new = False
                try:
                    file = os.open(self._record, flags)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    raise self._foreign() if error.errno == errno.ELOOP else error from None
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.lstat(self._record), os.fstat(file)):
                        if new:
                            _write(file, self.note)
                        return file
            except BaseException:
                os.close(file)
                raise
            os.close(file)

    def _foreign(self) -> FileExistsError:
        self._file = -1  # it stays as it is
        text = f"{self._record} exists and is no record of a daemon's; remove it, or choose another path"
        return FileExistsError(errno.EEXIST, text)

    def _read(self) -> list[Inode]:
        """Return the sockets that the record names."""
        there = os.fstat(self._file)
        try:
            if not stat.S_ISREG(there.st_mode) or there.st_uid != os.geteuid():
                raise ValueError
            word, self.note, *numbers = os.pread(self._file, _MOST, 0).decode("ascii").split()
            if word != _WORD:
                raise ValueError
            return [Inode(*map(int, made)) for made in zip(*[iter(numbers)] * 3, strict=True)]
        except ValueError:
            os.close(self._file)
            raise self._foreign() from None

    def bind(self, kind: socket.SocketKind = socket.SOCK_STREAM, backlog: int | None = None) -> socket.socket:
        """Return the socket, bound (see :func:`listening_socket`) and noted.

        Raises:
            OSError: it cannot be bound.
        """
        made = listening_socket(self.path, kind, backlog)
        try:
            self.made = Inode.of(self.path)
            _write(self._file, self.note, self.made)
        except BaseException:
            made.close()
            raise
        return made

    def replace(self, aside: str, backlog: int) -> socket.socket:
        """Return a new listening socket that has the name instead of the one before; at first it is bound to ``aside``.

        Raises:
            OSError: it cannot be bound, or the name is not ours any more.
        """
        new = listening_socket(aside, backlog=backlog)
        made: Inode | None = None
        try:
            before, made = self.made, Inode.of(aside)
            if before is None or not self.held or Inode.of(self.path) != before:
                raise OSError(errno.ESTALE, f"{self.path} has been taken away")
            _write(self._file, self.note, before, made)  # whatever happens now, a successor knows both
            os.rename(aside, self.path)
            self.made = made
        except BaseException:
            new.close()
            try:
                os.unlink(aside)
            except FileNotFoundError:  # it has the name already, which close() will remove, or has been taken away
                self.made = made or self.made
            raise
        return new

    @property
    def held(self) -> bool:
        """Whether the record is still where it was put: if not, the name may be another's by now."""
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(os.lstat(self._record), os.fstat(self._file))
        return False

    def close(self) -> None:
        """Remove the socket, if it is still the one that was bound, and the record."""
        if self._file < 0:
            return
        if self.made is not None:
            remove(self.path, self.made)
        if self.held:
            os.unlink(self._record)
        os.close(self._file)
        self._file = -1


def _write(file: int, note: str, *made: Inode) -> None:
    """Write a record; all are of one size, so that nothing of an older one stays behind."""
    numbers = " ".join(f"{one.device} {one.number} {one.modified_ns}" for one in made)
    os.pwrite(file, f"{_WORD} {note} {numbers}".ljust(_MOST - 1).encode("ascii") + b"\n", 0)
