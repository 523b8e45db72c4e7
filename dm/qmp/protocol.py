"""One QMP connection without I/O: bytes in, requests and ready answers out; replies and events to bytes.

Source: QEMU's docs/interop/qmp-spec.  Use::

    connection = Connection(schema, version)
    transport.write(connection.greeting())
    connection.receive_data(data)
    while (item := connection.next_item()) is not None:
        reply = item if isinstance(item, Reply) else ...carry it out, item.reply(value) or item.fail(text)
        transport.write(connection.send(reply))

Replies to in-band items go out in the order the items came; an item with ``oob`` set overtakes them.  Take the next
item only when the one before is answered, or up to ``connection.lookahead`` of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from dm.qmp.framing import MAX_BYTES, MAX_DEPTH, JsonError, JsonStream
from dm.qmp.schema import Command, Json, Schema, SchemaError, kind_of

#: In-band requests taken before the first is answered, once out-of-band execution is on (QEMU's figure).
OOB_LOOKAHEAD: Final = 8


class QmpErrorClass(StrEnum):
    """Error classes of the QMP specification that still mean something to clients."""

    GENERIC = "GenericError"
    COMMAND_NOT_FOUND = "CommandNotFound"


class QmpCapability(StrEnum):
    """Capabilities a server may offer."""

    OOB = "oob"


class CommandError(Exception):
    """A command failed; ``str()`` is the ``desc`` the client reads."""

    def __init__(self, desc: str, error_class: QmpErrorClass = QmpErrorClass.GENERIC) -> None:
        super().__init__(desc)
        self.error_class = error_class


@dataclass(frozen=True, slots=True)
class VersionTriple:
    """A version number in three parts."""

    major: int
    minor: int
    micro: int


@dataclass(frozen=True, slots=True)
class VersionInfo:
    """QEMU's VersionInfo; clients insist on the member name ``qemu``, ``package`` says what really answers."""

    qemu: VersionTriple
    package: str

    @classmethod
    def parse(cls, version: str) -> VersionInfo:
        """Make one from a version such as ``0.3.1`` or ``0.3.dev2``; parts that are not there are 0."""
        match = re.match(r"(\d+)(?:\.(\d+))?(?:\.(\d+))?", version)
        parts = [int(part or 0) for part in match.groups()] if match else [0, 0, 0]
        return cls(VersionTriple(*parts), f"x86-dm {version}")


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer's bytes.  ``negotiated``: it ends capability negotiation, events may follow it."""

    data: bytes
    oob: bool = False
    negotiated: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """A command to carry out, its arguments checked and decoded; ``tag`` is ``{"id": ...}`` or empty."""

    command: Command
    arguments: Mapping[str, object]
    tag: Mapping[str, Json]
    oob: bool = False

    def reply(self, value: object) -> Reply:
        """Answer with the command's result.

        Raises:
            ValueError: ``value`` is not what the command is declared to return.
        """
        returned = self.command.returns.encode(value, self.command.name)
        return Reply(encode({"return": returned, **self.tag}), self.oob)

    def fail(self, desc: str, error_class: QmpErrorClass = QmpErrorClass.GENERIC) -> Reply:
        """Answer with an error."""
        return _failure(self.tag, desc, error_class, oob=self.oob)


class Connection:
    """The server's side of one connection."""

    def __init__(
        self, schema: Schema, version: VersionInfo, *, max_bytes: int = MAX_BYTES, max_depth: int = MAX_DEPTH
    ) -> None:
        """``schema`` must hold :data:`CAPABILITIES`; the limits bound one incoming message (bytes, nesting)."""
        self._schema = schema
        self._version = version
        self._stream = JsonStream(max_bytes, max_depth)
        self._negotiated = False
        self._oob = False
        #: Whether events may be sent: from the reply to ``qmp_capabilities`` on.
        self.listening = False
        #: Whether some input was not JSON before negotiation was over: the peer may not be a QMP client at all.
        self.suspect = False

    @property
    def lookahead(self) -> int:
        """How many items may be under way at a time."""
        return OOB_LOOKAHEAD if self._oob and self.listening else 1  # nothing overtakes the end of negotiation

    def greeting(self) -> bytes:
        """Return what the server says first."""
        version = _VERSION.encode(self._version, "version")
        return encode({"QMP": {"version": version, "capabilities": [str(c) for c in QmpCapability]}})

    def receive_data(self, data: bytes) -> None:
        """Take input; keep it bounded by calling this only when :meth:`next_item` has returned None."""
        self._stream.feed(data)

    def next_item(self) -> Request | Reply | None:
        """Return the next request, or the reply to one that needs no carrying out; None: more input is needed."""
        try:
            message = self._stream.next_object()
        except JsonError as error:
            self.suspect |= not self._negotiated
            return _failure({}, f"JSON parse error: {error}")
        if message is None:
            return None
        tag = {"id": message["id"]} if "id" in message else {}
        oob = self._oob and "exec-oob" in message
        try:
            request = self._check(message, tag, oob)
            if request.command is not CAPABILITIES:
                return request
            self._negotiate(**request.arguments)  # type: ignore[arg-type]  # checked against its signature
            return Reply(encode({"return": {}, **tag}), negotiated=True)
        except CommandError as error:
            return _failure(tag, str(error), error.error_class, oob=oob)

    def send(self, reply: Reply) -> bytes:
        """Return the bytes of a reply, which must then be written before anything else."""
        self.listening |= reply.negotiated
        return reply.data

    def _check(self, message: Mapping[str, Json], tag: Mapping[str, Json], oob: bool) -> Request:
        """Return the request in ``message``; CommandError says what is wrong with it."""
        verbs = ("execute", "exec-oob") if self._oob else ("execute",)
        for key in message:
            if key not in (*verbs, "arguments", "id"):
                raise CommandError(f"QMP input member '{key}' is unexpected")
        given = [verb for verb in verbs if verb in message]
        if not given:
            raise CommandError("QMP input lacks member 'execute'")
        if len(given) > 1:
            raise CommandError("QMP input member 'exec-oob' clashes with 'execute'")
        name, arguments = message[given[0]], message.get("arguments", {})
        if not isinstance(name, str):
            raise CommandError(f"QMP input member '{given[0]}' must be a string")
        if not isinstance(arguments, dict):
            raise CommandError("QMP input member 'arguments' must be an object")
        command = self._schema.commands.get(name)
        if not self._negotiated and command is not CAPABILITIES:
            text = f"Expecting capabilities negotiation with '{CAPABILITIES.name}'"
            raise CommandError(text, QmpErrorClass.COMMAND_NOT_FOUND)
        if command is None:
            raise CommandError(f"The command {name} has not been found", QmpErrorClass.COMMAND_NOT_FOUND)
        if self._negotiated and command is CAPABILITIES:
            text = "Capabilities negotiation is already complete, command ignored"
            raise CommandError(text, QmpErrorClass.COMMAND_NOT_FOUND)
        if oob and not command.oob:
            raise CommandError(f"The command {name} does not support OOB")
        try:
            return Request(command, command.arguments.decode(arguments, ""), tag, oob)
        except SchemaError as error:
            raise CommandError(str(error)) from None

    def _negotiate(self, enable: tuple[QmpCapability, ...] = ()) -> None:
        self._oob = QmpCapability.OOB in enable
        self._negotiated = True


async def _qmp_capabilities(connection: Connection, enable: list[QmpCapability] | None = None) -> None:
    """Only its signature is used: the connection carries it out when it is read, since it decides how to read on."""
    raise CommandError("Capabilities are negotiated by the connection")


CAPABILITIES: Final = Command.of("qmp_capabilities", _qmp_capabilities)

_VERSION: Final = kind_of(VersionInfo)


def encode(message: Mapping[str, Json]) -> bytes:
    """Return a message as it goes over the wire: ASCII, ended by CR LF."""
    return json.dumps(message, allow_nan=False).encode("ascii") + b"\r\n"


def encode_event(name: str, data: Mapping[str, Json], time_ns: int) -> bytes:
    """Return an event's bytes; ``time_ns`` is when it happened, since the epoch.  Empty ``data`` is left out."""
    seconds, rest = divmod(time_ns, 10**9)
    body: dict[str, Json] = {"event": name, "timestamp": {"seconds": seconds, "microseconds": rest // 1000}}
    return encode({**body, "data": data} if data else body)


def _failure(
    tag: Mapping[str, Json], desc: str, error_class: QmpErrorClass = QmpErrorClass.GENERIC, *, oob: bool = False
) -> Reply:
    return Reply(encode({"error": {"class": str(error_class), "desc": desc}, **tag}), oob)
