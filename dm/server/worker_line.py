"""The line between supervisor and worker: datagrams on a Unix socket pair, file descriptors alongside.

A datagram is a MessagePack array ``[operation, tag, body]``; the answer to a request carries its tag.  Requests of a
shim travel as the bytes it sent (operation ``message``), so this line adds no second contract.

A worker runs guest code and may be compromised: the supervisor accepts no descriptors from it, and only what
:func:`from_worker` has checked.  The worker trusts its supervisor, which is its parent.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import msgpack

from dm.protocol import schema

#: Largest datagram in bytes; a control message (64 KiB) fits with room to spare.
MAX_DATAGRAM: Final = 1 << 17
#: What a vCPU can be doing.
DOING: Final = ("idle", "running", "waiting", "lost")

_MOST_TEXT: Final = 512


class LineError(Exception):
    """A datagram is not what the other side may send; the text says what it is."""


# ------------------------------------------------------------------------------------------- from the supervisor


@dataclass(frozen=True, slots=True)
class Datagram:
    """What a worker receives.  ``fd`` is a received descriptor that now belongs to the receiver, or -1."""

    operation: str
    tag: int
    body: Any
    fd: int = -1


# ------------------------------------------------------------------------------------------- from a worker


@dataclass(frozen=True, slots=True)
class Ready:
    """The worker serves, with this engine and for this reason."""

    engine: str
    why: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The worker cannot serve."""

    why: str


@dataclass(frozen=True, slots=True)
class MemoryLost:
    """The session's RAM is gone."""

    what: str


@dataclass(frozen=True, slots=True)
class VcpuStatus:
    """What is known about a vCPU without asking its worker; ``doing`` is one of :data:`DOING`."""

    number: int
    doing: str
    requests: int
    instructions: int
    io: int


@dataclass(frozen=True, slots=True)
class StatusUpdate:
    """What the vCPUs are doing, at most one row for each."""

    rows: tuple[VcpuStatus, ...]


@dataclass(frozen=True, slots=True)
class ShimReply:
    """The answer to a shim's request, encoded."""

    tag: int
    answer: bytes


@dataclass(frozen=True, slots=True)
class Paused:
    """All vCPUs have been stopped or resumed, except those named."""

    tag: int
    but: tuple[int, ...]


FromWorker: TypeAlias = Ready | Failed | MemoryLost | StatusUpdate | ShimReply | Paused


def pair() -> tuple[socket.socket, socket.socket]:
    """Return both ends of a new line."""
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (left, right):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * MAX_DATAGRAM)
    return left, right


def send(line: socket.socket, operation: str, tag: int = 0, body: Any = None, fd: int = -1) -> None:
    """Send one datagram; ``fd`` (if any) is duplicated to the receiver.

    Raises:
        OSError: the other end is gone, or (non-blocking) its buffer is full.
    """
    data = msgpack.packb([operation, tag, body])
    if fd >= 0:
        socket.send_fds(line, [data], [fd])
    else:
        line.send(data)


def receive(line: socket.socket) -> Datagram | None:
    """Return the next datagram of the supervisor, or None when it is gone.

    Raises:
        LineError: it is not a datagram of the supervisor's.
    """
    try:
        data, fds, _, _ = socket.recv_fds(line, MAX_DATAGRAM, 1)
    except ConnectionError:
        return None
    try:
        for fd in fds:
            os.set_inheritable(fd, False)
        if not data:
            return None
        operation, tag, body = _unpack(data)
        if type(operation) is not str or type(tag) is not int:
            raise LineError("it is no [operation, tag, body]")
        return Datagram(operation, tag, body, fds.pop(0) if fds else -1)
    finally:
        for fd in fds:
            os.close(fd)


def from_worker(line: socket.socket) -> FromWorker | None:
    """Return the next datagram of a worker, or None when the other end is gone.

    Raises:
        BlockingIOError: nothing is there.
        LineError: it is not what a worker may send.
    """
    try:
        data = line.recv(MAX_DATAGRAM)  # without room for descriptors the system closes any that are attached (unix(7))
    except ConnectionError:
        return None
    return _checked(*_unpack(data)) if data else None


def _unpack(data: bytes) -> tuple[Any, Any, Any]:
    try:
        whole = msgpack.unpackb(data)
    except Exception as error:  # msgpack has a dozen
        raise LineError(f"it is not MessagePack: {type(error).__name__}") from None
    if type(whole) is not list or len(whole) != 3:
        raise LineError("it is no [operation, tag, body]")
    operation, tag, body = whole
    return operation, tag, body


def _checked(operation: object, tag: object, body: object) -> FromWorker:
    match operation:
        case "ready":
            engine, why = _list(body, 2, 2)
            return Ready(_text(engine, 64), _text(why))
        case "failed":
            return Failed(_text(body))
        case "memory-lost":
            return MemoryLost(_text(body))
        case "counters":
            rows = tuple(_row(row) for row in _list(body, 0, schema.MAX_VCPUS))
            if len({row.number for row in rows}) != len(rows):
                raise LineError("a vCPU is there twice")
            return StatusUpdate(rows)
        case "reply":
            if type(body) is not bytes or len(body) > schema.MAX_CONTROL:
                raise LineError("a reply is no message")
            return ShimReply(_number(tag, 1 << 63), body)
        case "paused":
            return Paused(_number(tag, 1 << 63), tuple(_vcpu(one) for one in _list(body, 0, schema.MAX_VCPUS)))
        case _:
            raise LineError(f"there is no operation {operation!r:.40}")


def _row(row: object) -> VcpuStatus:
    number, doing, *counters = _list(row, 5, 5)
    if doing not in DOING:
        raise LineError(f"a vCPU is {doing!r:.40}")
    requests, instructions, io = (_number(counter, 1 << 64) for counter in counters)
    return VcpuStatus(_vcpu(number), str(doing), requests, instructions, io)


def _vcpu(value: object) -> int:
    return _number(value, schema.MAX_VCPUS)


def _list(value: object, least: int, most: int) -> Sequence[object]:
    if type(value) is not list or not least <= len(value) <= most:
        raise LineError(f"a list of {least} to {most} values is expected")
    return value


def _number(value: object, end: int) -> int:
    if type(value) is not int or not 0 <= value < end:
        raise LineError(f"a number from 0 to {end - 1} is expected")
    return value


def _text(value: object, most: int = _MOST_TEXT) -> str:
    if type(value) is not str or len(value.encode("utf-8", "surrogatepass")) > most:
        raise LineError(f"text of at most {most} bytes is expected")
    return value
