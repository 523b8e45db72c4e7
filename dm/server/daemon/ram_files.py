"""Guest RAM passed by descriptor or by path: checked before a session's worker maps it."""

from __future__ import annotations

import fcntl
import os
import stat

from dm.protocol.codec import ProtocolError
from dm.protocol.schema import ErrorClass


def _refuse(text: str, expected: str, field: str = "") -> ProtocolError:
    return ProtocolError(ErrorClass.BAD_MEMORY, text, expected, field)


def check_sealed(fd: int) -> None:
    """Check that a descriptor from a peer is a memfd that can never shrink, since a shrunk one kills us with SIGBUS.

    Raises:
        ProtocolError: it is something else (memfd_create(2), fcntl(2) F_GET_SEALS).
    """
    wanted = "a memfd made with MFD_ALLOW_SEALING and sealed with F_SEAL_SHRINK; files go by path"
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError:
        raise _refuse("the descriptor is not a memfd", wanted, "ram") from None
    if not seals & fcntl.F_SEAL_SHRINK:
        raise _refuse("the memfd is not sealed against shrinking", wanted, "ram")
    if seals & fcntl.F_SEAL_WRITE:
        raise _refuse("the memfd is sealed against writing", "a memfd that can be mapped shared and writable", "ram")


def open_below(directory: str, path: str) -> int:
    """Open a RAM file by path; with all links resolved, the file must be below ``directory``.

    Returns:
        A new descriptor, open for reading and writing.

    Raises:
        ProtocolError: not absolute, not below, not a regular file, or not accessible.
    """
    root = os.path.realpath(directory)
    wanted = f"an absolute path of a regular file below {root}"
    if not os.path.isabs(path) or "\0" in path:
        raise _refuse(f"path {path!r} is not absolute", wanted, "path")
    outside = _refuse(f"path {path!r} is not below the memory path", wanted, "path")
    if os.path.commonpath([root, os.path.realpath(path)]) != root:
        raise outside  # before opening: opening alone can have effects
    try:
        fd = os.open(os.path.realpath(path), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise _refuse(f"path {path!r} cannot be opened: {error.strerror}", wanted, "path") from None
    try:
        # Links may have changed between the check and the opening: check what was opened.
        if os.path.commonpath([root, os.readlink(f"/proc/self/fd/{fd}")]) != root:
            raise outside
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise _refuse(f"path {path!r} is not a regular file", wanted, "path")
    except BaseException:
        os.close(fd)
        raise
    return fd
