"""The wire contract as one table: every message, field, type and limit.

The dataclasses below are the schema.  The codec (:mod:`dm.protocol.codec`), the tables in ``README.md``, the golden
messages and the C client are made from :data:`MESSAGES`; nothing else may list fields.  Of the package it imports the
words of a run alone (:mod:`dm.machine.words`); :mod:`dm.machine.state` says what is in a state.

On the wire a message is one MessagePack map: key ``type`` holds the message's name, the other keys are field names.
A field that has its default is left out.  Records are MessagePack arrays in field order; values after the last known
one are ignored.
"""

from __future__ import annotations

from dataclasses import MISSING, Field, dataclass, field, fields
from enum import StrEnum
from typing import Any, ClassVar, Final, TypeAlias

from dm.machine.words import ExitReason, RegionKind
from dm.machine.words import Until as Until

#: Newest and oldest protocol version this schema describes.
VERSION: Final = 3
OLDEST: Final = 1
#: The version that brought secrets.
SECRET_SINCE: Final = 3
#: Most bytes of a session's secret.
MAX_SECRET: Final = 64
#: Largest message on a vCPU's endpoint, in bytes.
MAX_MESSAGE: Final = 1 << 20
#: Largest message on the control endpoint and on the RAM socket, in bytes.
MAX_CONTROL: Final = 1 << 16
#: Most bytes of device data in one exchange.
MAX_DATA: Final = 1 << 18
#: Most regions in a memory map.
MAX_REGIONS: Final = 1024
#: Most vCPUs in a session.
MAX_VCPUS: Final = 256
#: Most RAM blocks in a session.
MAX_RAM_BLOCKS: Final = 256
#: Most page numbers in one report.
MAX_PAGES: Final = 1 << 15
#: Most posted (coalesced) writes in one report.
MAX_POSTED: Final = 1 << 13
#: Most patches of RAM in messages in one report, and bytes in all of them; most ranges of changed pages.
MAX_PATCHES: Final = 1 << 11
MAX_PATCH_DATA: Final = 1 << 16
#: Most bytes of RAM carried in messages in a session.
MAX_MESSAGE_RAM: Final = 1 << 32
#: Most ranges of ports with a flag.
MAX_PORTS: Final = 256
#: Bounds of a state: groups in it, values in a group, bytes in a value.
MAX_GROUPS: Final = 32
MAX_GROUP_VALUES: Final = 256
MAX_GROUP_BLOB: Final = 8192

#: State groups as they travel: group name to flat list of values, in the order of the state table.
Groups: TypeAlias = dict[str, list[int | bytes]]


# ---------------------------------------------------------------------------------------------------- field types


@dataclass(frozen=True, slots=True)
class U:
    """An unsigned integer of ``bits`` bits."""

    bits: int

    def __str__(self) -> str:
        return f"u{self.bits}"


@dataclass(frozen=True, slots=True)
class Flag:
    """True or false."""

    def __str__(self) -> str:
        return "flag"


@dataclass(frozen=True, slots=True)
class Text:
    """UTF-8 text of at most ``limit`` bytes."""

    limit: int

    def __str__(self) -> str:
        return f"text, at most {self.limit} bytes"


@dataclass(frozen=True, slots=True)
class Blob:
    """At most ``limit`` bytes."""

    limit: int

    def __str__(self) -> str:
        return f"at most {self.limit} bytes"


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the words of an enumeration."""

    enum: type[StrEnum]

    def __str__(self) -> str:
        return f"word of {self.enum.__name__}"


@dataclass(frozen=True, slots=True)
class Record:
    """A dataclass that travels as an array."""

    cls: type[Any]

    def __str__(self) -> str:
        return f"record {self.cls.__name__}"


@dataclass(frozen=True, slots=True)
class ListOf:
    """At most ``limit`` values of one type."""

    of: FieldType
    limit: int

    def __str__(self) -> str:
        return f"at most {self.limit} of {self.of}"


@dataclass(frozen=True, slots=True)
class StateGroups:
    """State groups (map of group name to array): all of them, or those that differ."""

    def __str__(self) -> str:
        return "state groups"


FieldType: TypeAlias = "U | Flag | Text | Blob | Choice | Record | ListOf | StateGroups"

U8, U16, U32, U64, FLAG, STATE = U(8), U(16), U(32), U(64), Flag(), StateGroups()


def _field(kind: FieldType, doc: str, default: Any, since: int) -> Any:
    meta = {"kind": kind, "doc": doc, "since": since}
    if isinstance(default, (list, dict)):
        return field(default_factory=type(default), metadata=meta)
    return field(metadata=meta) if default is MISSING else field(default=default, metadata=meta)


def required(kind: FieldType, doc: str, since: int = 1) -> Any:
    """Declare a field that every message carries."""
    return _field(kind, doc, MISSING, since)


def optional(kind: FieldType, doc: str, default: Any, since: int = 1) -> Any:
    """Declare a field that may be left out; ``None`` as default means "not said"."""
    return _field(kind, doc, default, since)


# ---------------------------------------------------------------------------------------------------- enumerations


class ErrorClass(StrEnum):
    """What was wrong with a request."""

    BAD_MESSAGE = "bad-message"
    UNKNOWN_MESSAGE = "unknown-message"
    TOO_LARGE = "too-large"
    VERSION = "version"
    UNKNOWN_SESSION = "unknown-session"
    UNKNOWN_VCPU = "unknown-vcpu"
    STALE_EPOCH = "stale-epoch"
    STALE_SEQUENCE = "stale-sequence"
    UNKNOWN_BASE = "unknown-base"
    BAD_GENERATION = "bad-generation"
    BAD_MEMORY = "bad-memory"
    BAD_STATE = "bad-state"
    BAD_ANSWER = "bad-answer"
    LIMIT = "limit"
    BUSY = "busy"
    ABORTED = "aborted"
    SESSION_LOST = "session-lost"
    SHUTTING_DOWN = "shutting-down"
    INTERNAL = "internal"


class Kind(StrEnum):
    """How a region of guest-physical memory answers; what no region covers is a hole and answers like ``mmio``."""

    RAM = RegionKind.RAM.name.lower()
    ROM = RegionKind.ROM.name.lower()
    MMIO = RegionKind.MMIO.name.lower()
    COALESCED = RegionKind.COALESCED.name.lower()
    HYPERVISOR = RegionKind.HYPERVISOR.name.lower()
    FIRMWARE = RegionKind.FIRMWARE.name.lower()


class Reason(StrEnum):
    """Why the shim asks for emulation.

    After ``failure``, ``invalid-state`` and ``mmio`` the daemon retires at least one instruction or REP iteration, or
    delivers one event, before it tests ``until``.
    """

    REQUEST = "request"
    REAL_MODE = "real-mode"
    INVALID_STATE = "invalid-state"
    FAILURE = "failure"
    MMIO = "mmio"


class IoKind(StrEnum):
    """What an ``io`` asks.

    ``report`` asks nothing: it only delivers posted writes and written pages.  ``memory-read`` (since 2) asks for
    ``count`` bytes of block ``ram``, which is carried in messages, from offset ``address`` on; it is not a device
    access. ``memory-copy`` (since 2): read an element at ``address``, write it at ``target``, advance both, ``count``
    times.
    """

    PORT_IN = ExitReason.PORT_IN
    PORT_OUT = ExitReason.PORT_OUT
    MMIO_READ = ExitReason.MMIO_READ
    MMIO_WRITE = ExitReason.MMIO_WRITE
    MSR_READ = ExitReason.MSR_READ
    MSR_WRITE = ExitReason.MSR_WRITE
    INTERRUPT_ACK = "interrupt-ack"
    REPORT = "report"
    MEMORY_READ = "memory-read"
    MEMORY_COPY = ExitReason.MEMORY_COPY


class Stop(StrEnum):
    """What ends a run at the end of the current instruction."""

    NONE = "none"
    KICK = "kick"
    RESET = "reset"
    INIT = "init"
    NMI = "nmi"
    SMI = "smi"


class DoneReason(StrEnum):
    """Why a run ended; always at an instruction (or REP iteration) boundary."""

    BUDGET = ExitReason.BUDGET
    KICKED = ExitReason.KICKED
    STOPPED = "stopped"
    ENTERABLE = ExitReason.ENTERABLE
    HALT = ExitReason.HALT
    SHUTDOWN = ExitReason.SHUTDOWN
    DEBUG = ExitReason.DEBUG
    INTERRUPT_WINDOW = ExitReason.INTERRUPT_WINDOW
    FIRMWARE = ExitReason.FIRMWARE
    HYPERVISOR = ExitReason.HYPERVISOR
    UNSUPPORTED = ExitReason.UNSUPPORTED
    MMIO_MISMATCH = ExitReason.MMIO_MISMATCH
    MEMORY_LOST = ExitReason.MEMORY_LOST
    PAGE_FAULT = ExitReason.PAGE_FAULT


# ---------------------------------------------------------------------------------------------------- records


@dataclass(slots=True)
class Region:
    """One range of guest-physical memory."""

    gpa: int = required(U64, "first guest-physical address, a multiple of 4096")
    size: int = required(U64, "bytes, a positive multiple of 4096")
    kind: Kind = required(Choice(Kind), "how it answers")
    ram: int = optional(U32, "RAM block behind it (ram, rom, firmware); else 0", 0)
    offset: int = optional(U64, "first byte inside that block", 0)


@dataclass(slots=True)
class Map:
    """A whole memory map."""

    generation: int = required(U64, "greater than that of the map before")
    regions: list[Region] = required(ListOf(Record(Region), MAX_REGIONS), "sorted by address, not overlapping")
    a20: bool = required(FLAG, "false: bit 20 of every physical address is cleared")


@dataclass(slots=True)
class Cpuid:
    """One row of the guest's CPUID table."""

    leaf: int = required(U32, "EAX in")
    subleaf: int = required(U32, "ECX in")
    eax: int = required(U32, "EAX out")
    ebx: int = required(U32, "EBX out")
    ecx: int = required(U32, "ECX out")
    edx: int = required(U32, "EDX out")


@dataclass(slots=True)
class Event:
    """An event to deliver before the first instruction."""

    type: int = required(U8, "VMX interruption type: 0 external, 2 NMI, 3 exception, 4 INT n, 5 ICEBP, 6 INT3/INTO")
    vector: int = required(U8, "vector")
    has_error: bool = optional(FLAG, "an error code is pushed", False)
    error: int = optional(U32, "the error code", 0)
    length: int = optional(U8, "instruction length of a soft event", 0)


@dataclass(slots=True)
class Posted:
    """Writes to a coalesced region, made without waiting: one, or several of one size to ascending addresses."""

    gpa: int = required(U64, "guest-physical address of the first")
    data: bytes = required(Blob(4096), "bytes written, lowest address first")
    size: int = required(U8, "bytes of each write; `data` is a multiple of it")


@dataclass(slots=True)
class Patch:
    """Bytes that the guest has changed in a block carried in messages."""

    ram: int = required(U32, "the block", since=2)
    offset: int = required(U64, "first of them in the block", since=2)
    data: bytes = required(Blob(4096), "their new values, all in one page", since=2)


@dataclass(slots=True)
class PageRange:
    """Consecutive pages of a block carried in messages."""

    ram: int = required(U32, "the block", since=2)
    first: int = required(U64, "offset of the first in the block >> 12", since=2)
    count: int = required(U64, "how many", since=2)


@dataclass(slots=True)
class PortRange:
    """A contiguous range of ports."""

    first: int = required(U16, "first port", since=2)
    last: int = required(U16, "last port, not below the first", since=2)


@dataclass(slots=True)
class Failing:
    """One entry rule that does not hold."""

    rule: str = required(Text(64), "its stable name")
    field: str = required(Text(64), "field checked, as the state table names it")
    actual: str = required(Text(128), "its value")
    expected: str = required(Text(128), "what the rule requires")
    section: str = required(Text(64), "where the manual says so")


@dataclass(slots=True)
class VcpuCounters:
    """What one vCPU has done since it was created."""

    vcpu: int = required(U16, "vCPU number")
    requests: int = required(U64, "runs accepted; a repeated request counts once")
    io: int = required(U64, "io exchanges")
    instructions: int = required(U64, "instructions completed")
    steps: int = required(U64, "instructions and REP iterations")
    bytes_in: int = required(U64, "bytes of messages received on its endpoint")
    bytes_out: int = required(U64, "bytes of messages sent from its endpoint")
    errors: int = required(U64, "error messages sent from its endpoint")


# ---------------------------------------------------------------------------------------------------- messages


class Message:
    """Base of all messages.  ``NAME`` is the word in ``type``; ``SENDER`` and ``ENDPOINT`` say who sends it where."""

    __slots__ = ()
    NAME: ClassVar[str]
    SENDER: ClassVar[str]
    ENDPOINT: ClassVar[str]
    SINCE: ClassVar[int] = 1


@dataclass(slots=True, kw_only=True)
class Hello(Message):
    """Open a session, or resume one with a new socket.  First message on a control socket."""

    NAME, SENDER, ENDPOINT = "hello", "shim", "control"
    seq: int = required(U64, "request number, echoed by the answer")
    min_version: int = required(U16, "oldest protocol version the shim speaks")
    max_version: int = required(U16, "newest protocol version the shim speaks")
    features: list[str] = optional(ListOf(Text(32), 64), "features the shim can use", [])
    name: str = optional(Text(64), "name of the VM, for logs and QMP", "")
    resume: int = optional(U32, "session to resume; 0: a new one", 0)
    epoch: int = optional(U32, "counts the shim's connections; must grow with each resume", 1)
    secret: bytes = optional(Blob(MAX_SECRET), "with `resume`: the session's", b"", since=3)


@dataclass(slots=True, kw_only=True)
class Welcome(Message):
    """Answer to ``hello``: what both will use."""

    NAME, SENDER, ENDPOINT = "welcome", "daemon", "control"
    seq: int = required(U64, "of the request")
    version: int = required(U16, "protocol version to use")
    session: int = required(U32, "session number, never 0")
    features: list[str] = optional(ListOf(Text(32), 64), "those of the shim's features that the daemon has too", [])
    max_message: int = required(U32, "largest message on a vCPU's endpoint, bytes")
    max_control: int = required(U32, "largest message on the control endpoint and the RAM socket, bytes")
    max_data: int = required(U32, "most device data in one exchange, bytes")
    max_regions: int = required(U32, "most regions in a map")
    max_vcpus: int = required(U32, "most vCPUs in a session")
    timeout_ms: int = required(U32, "a session without any control message for this long is freed")
    ram_socket: str = optional(Text(108), "path of the AF_UNIX socket for RAM descriptors; empty: none", "")
    daemon: str = required(Text(64), "name and version of the daemon")
    engine: str = required(Text(64), "engine in use")
    engine_note: str = optional(Text(512), "why this engine, when it is not the usual one", "")
    secret: bytes = optional(
        Blob(MAX_SECRET), "what the shim's other sockets must show; empty before version 3", b"", since=3
    )


@dataclass(slots=True, kw_only=True)
class Ram(Message):
    """Make a block of RAM known.

    With its descriptor on the RAM socket; or, on the control endpoint, by path or to travel in messages.
    """

    NAME, SENDER, ENDPOINT = "ram", "shim", "control"
    seq: int = required(U64, "request number")
    session: int = required(U32, "session")
    ram: int = required(U32, "number the shim gives the block; not in use, not 0")
    size: int = required(U64, "bytes, a positive multiple of 4096")
    path: str = optional(Text(4096), "absolute, below the daemon's memory path; empty: a descriptor comes along", "")
    messages: bool = optional(FLAG, "the block stays with the shim, its pages travel in messages", False, since=2)
    secret: bytes = optional(Blob(MAX_SECRET), "on the RAM socket: the session's", b"", since=3)


@dataclass(slots=True, kw_only=True)
class RamRemove(Message):
    """Forget a block of RAM that the map no longer uses."""

    NAME, SENDER, ENDPOINT = "ram-remove", "shim", "control"
    seq: int = required(U64, "request number")
    session: int = required(U32, "session")
    ram: int = required(U32, "number of the block")


@dataclass(slots=True, kw_only=True)
class MemoryMap(Message):
    """Replace the memory map of the session; running vCPUs use it within a slice."""

    NAME, SENDER, ENDPOINT = "memory-map", "shim", "control"
    seq: int = required(U64, "request number")
    session: int = required(U32, "session")
    map: Map = required(Record(Map), "the new map")


@dataclass(slots=True, kw_only=True)
class StatePorts(Message):
    """Say which ports' devices read and change the CPU's registers; replaces the previous list."""

    NAME, SENDER, ENDPOINT, SINCE = "state-ports", "shim", "control", 2
    seq: int = required(U64, "request number", since=2)
    session: int = required(U32, "session", since=2)
    ports: list[PortRange] = optional(ListOf(Record(PortRange), MAX_PORTS), "those ports", [], since=2)


@dataclass(slots=True, kw_only=True)
class VcpuCreate(Message):
    """Create a vCPU; it gets an endpoint of its own."""

    NAME, SENDER, ENDPOINT = "vcpu-create", "shim", "control"
    seq: int = required(U64, "request number")
    session: int = required(U32, "session")
    vcpu: int = required(U16, "number the shim gives it, below max_vcpus")
    model: str = optional(Text(16), "CPU model: p6, 80386 or 80286", "p6")
    cpuid: list[Cpuid] = optional(
        ListOf(Record(Cpuid), 256),
        "CPUID table; its leaf 0 decides the vendor's behaviour; empty: GenuineIntel, P6 class",
        [],
    )


@dataclass(slots=True, kw_only=True)
class VcpuReady(Message):
    """Answer to ``vcpu-create``."""

    NAME, SENDER, ENDPOINT = "vcpu-ready", "daemon", "control"
    seq: int = required(U64, "of the request")
    session: int = required(U32, "session")
    vcpu: int = required(U16, "vCPU")
    endpoint: str = required(Text(256), "ZeroMQ endpoint of this vCPU; connect a DEALER")


@dataclass(slots=True, kw_only=True)
class VcpuDestroy(Message):
    """Destroy a vCPU; its run, if any, is abandoned."""

    NAME, SENDER, ENDPOINT = "vcpu-destroy", "shim", "control"
    seq: int = required(U64, "request number")
    session: int = required(U32, "session")
    vcpu: int = required(U16, "vCPU")


@dataclass(slots=True, kw_only=True)
class Query(Message):
    """Ask for the session's counters."""

    NAME, SENDER, ENDPOINT = "query", "shim", "control"
    seq: int = required(U64, "request number")
    session: int = required(U32, "session")


@dataclass(slots=True, kw_only=True)
class Counters(Message):
    """Answer to ``query``."""

    NAME, SENDER, ENDPOINT = "counters", "daemon", "control"
    seq: int = required(U64, "of the request")
    session: int = required(U32, "session")
    generation: int = required(U64, "generation of the memory map")
    vcpus: list[VcpuCounters] = required(ListOf(Record(VcpuCounters), MAX_VCPUS), "one record per vCPU")


@dataclass(slots=True, kw_only=True)
class Ping(Message):
    """Heartbeat: keeps the session alive; send one every third of ``timeout_ms`` or so."""

    NAME, SENDER, ENDPOINT = "ping", "shim", "control"
    seq: int = required(U64, "request number")
    session: int = required(U32, "session")


@dataclass(slots=True, kw_only=True)
class Bye(Message):
    """End the session and free all it had."""

    NAME, SENDER, ENDPOINT = "bye", "shim", "control"
    seq: int = required(U64, "request number")
    session: int = required(U32, "session")


@dataclass(slots=True, kw_only=True)
class Ok(Message):
    """A request without other answer has been carried out."""

    NAME, SENDER, ENDPOINT = "ok", "daemon", "control"
    seq: int = required(U64, "of the request")
    session: int = required(U32, "session")


@dataclass(slots=True, kw_only=True)
class Emulate(Message):
    """Run guest code.  The answer is any number of ``io`` and then ``done`` or ``error``."""

    NAME, SENDER, ENDPOINT = "emulate", "shim", "vcpu"
    session: int = required(U32, "session")
    vcpu: int = required(U16, "vCPU")
    epoch: int = required(U32, "counts the sockets this vCPU has used, from 1")
    seq: int = required(U64, "counts this vCPU's runs, from 1; the same number again repeats the answer")
    generation: int = required(U64, "newest memory map the shim has sent")
    base: int = optional(U64, "`seq` of the run whose final state `state` differs from; 0: `state` is whole", 0)
    state: Groups = required(STATE, "whole state, or the groups that differ from `base`")
    reason: Reason = optional(Choice(Reason), "why", Reason.REQUEST)
    until: Until = optional(Choice(Until), "who runs the state next", Until.NEVER)
    steps: int | None = optional(U64, "end after this many instructions or REP iterations", None)
    microseconds: int | None = optional(U64, "end after running this long, without waits for answers", None)
    window: bool = optional(FLAG, "an external interrupt is pending: act at the interrupt window", False)
    acknowledge: bool = optional(FLAG, "at the window ask for the vector and deliver it; else end there", False)
    inject: Event | None = optional(Record(Event), "event to deliver first", None)
    code: bytes = optional(Blob(15), "instruction bytes that take precedence over memory for the first fetch", b"")
    mmio: int | None = optional(U64, "address the one instruction of reason `mmio` must touch", None)
    explain: bool = optional(FLAG, "`done` lists the entry rules that fail", False)
    checkpoint: bool = optional(FLAG, "every `io` carries the state at the start of its instruction", False)
    changed: list[PageRange] = optional(
        ListOf(Record(PageRange), MAX_PATCHES), "RAM in messages: pages that others have changed", [], since=2
    )
    applied: int = optional(U64, "RAM in messages: all `patches` up to this `version` have been applied", 0, since=2)
    secret: bytes = optional(
        Blob(MAX_SECRET), "the session's, until a run on this socket has been answered", b"", since=3
    )
    stop_at: int | None = optional(
        U32, "linear address: the run ends with `debug` before the instruction there", None, since=3
    )


@dataclass(slots=True, kw_only=True)
class Io(Message):
    """A question in the middle of an instruction.  The daemon waits for ``io-answer``."""

    NAME, SENDER, ENDPOINT = "io", "daemon", "vcpu"
    session: int = required(U32, "session")
    vcpu: int = required(U16, "vCPU")
    epoch: int = required(U32, "newest epoch of the vCPU")
    seq: int = required(U64, "of the run")
    io: int = required(U32, "counts the questions of this run, from 1")
    kind: IoKind = required(Choice(IoKind), "what is asked")
    address: int = optional(U64, "port, guest-physical address or MSR number; memory-read: offset in the block", 0)
    size: int = optional(U8, "bytes of one element", 0)
    count: int = optional(U32, "elements; above 1 for string I/O", 1)
    down: bool = optional(FLAG, "MMIO strings, copies: each element is `size` below the one before, not above", False)
    data: bytes = optional(Blob(MAX_DATA), "`size * count` bytes written, little-endian, in order of access", b"")
    posted: list[Posted] = optional(ListOf(Record(Posted), MAX_POSTED), "coalesced writes before this, in order", [])
    pages: list[int] = optional(ListOf(U64, MAX_PAGES), "pages (gpa >> 12) written since the last exchange", [])
    tlb_flush: bool = optional(FLAG, "the guest flushed or changed paging since the last exchange", False)
    instructions: int = optional(U64, "instructions completed in this run so far", 0)
    steps: int = optional(U64, "instructions and REP iterations in this run so far", 0)
    checkpoint: Groups | None = optional(
        STATE, "state at the start of this instruction: groups that differ from the state submitted", None
    )
    patches: list[Patch] = optional(
        ListOf(Record(Patch), MAX_PATCHES), "RAM in messages: what the guest has changed, in no order", [], since=2
    )
    version: int = optional(U64, "RAM in messages: number of `patches` among those of the session", 0, since=2)
    ram: int = optional(U32, "memory-read: the block", 0, since=2)
    registers: list[int] = optional(
        ListOf(U64, 16), "state ports: RAX RCX RDX RBX RSP RBP RSI RDI before the instruction", [], since=2
    )
    target: int = optional(U64, "memory-copy: guest-physical address of the first element written", 0, since=2)


@dataclass(slots=True, kw_only=True)
class IoAnswer(Message):
    """Answer to ``io``."""

    NAME, SENDER, ENDPOINT = "io-answer", "shim", "vcpu"
    session: int = required(U32, "session")
    vcpu: int = required(U16, "vCPU")
    epoch: int = required(U32, "epoch")
    seq: int = required(U64, "of the run")
    io: int = required(U32, "number of the question")
    data: bytes = optional(Blob(MAX_DATA), "`size * count` bytes read; interrupt-ack: the vector, or none", b"")
    fault: bool = optional(FLAG, "MSR accesses: raise #GP(0) in the guest", False)
    map: Map | None = optional(Record(Map), "the access changed the memory map; takes effect at once", None)
    window: bool | None = optional(FLAG, "an external interrupt is pending (true) or no longer is (false)", None)
    stop: Stop = optional(Choice(Stop), "end the run after this instruction", Stop.NONE)
    changed: list[PageRange] = optional(
        ListOf(Record(PageRange), MAX_PATCHES), "RAM in messages: pages that others have changed", [], since=2
    )
    applied: int = optional(U64, "RAM in messages: all `patches` up to this `version` have been applied", 0, since=2)
    registers: list[int] = optional(
        ListOf(U64, 16), "state ports: the registers after the access; empty: it changed none", [], since=2
    )
    copied: int | None = optional(U32, "memory-copy: elements copied, at least one; not said: all", None, since=2)
    native: bool = optional(FLAG, "nothing done: the hypervisor executes this instruction itself", False, since=3)


@dataclass(slots=True, kw_only=True)
class Kick(Message):
    """Act on a run in progress.  It has no answer; one for a run that is over is ignored."""

    NAME, SENDER, ENDPOINT = "kick", "shim", "vcpu"
    session: int = required(U32, "session")
    vcpu: int = required(U16, "vCPU")
    epoch: int = required(U32, "epoch")
    seq: int = required(U64, "of the run")
    stop: Stop = optional(Choice(Stop), "end the run at the next boundary", Stop.KICK)
    window: bool | None = optional(FLAG, "as in `io-answer`; with `stop` none the run continues", None)
    changed: list[PageRange] = optional(
        ListOf(Record(PageRange), MAX_PATCHES), "RAM in messages: pages that others have changed", [], since=2
    )


@dataclass(slots=True, kw_only=True)
class Done(Message):
    """The run has ended; the vCPU belongs to the shim again."""

    NAME, SENDER, ENDPOINT = "done", "daemon", "vcpu"
    session: int = required(U32, "session")
    vcpu: int = required(U16, "vCPU")
    epoch: int = required(U32, "newest epoch of the vCPU")
    seq: int = required(U64, "of the run")
    reason: DoneReason = required(Choice(DoneReason), "why it ended")
    stop: Stop = optional(Choice(Stop), "what an answer or kick asked for, whatever ended the run", Stop.NONE)
    address: int = optional(U64, "reasons firmware, hypervisor: guest-physical address; page-fault: linear", 0)
    detail: str = optional(Text(512), "reasons unsupported, memory-lost: which, in words; hypervisor: instruction", "")
    state: Groups = required(STATE, "groups that differ from the state submitted")
    instructions: int = optional(U64, "instructions completed in this run", 0)
    steps: int = optional(U64, "instructions and REP iterations in this run", 0)
    posted: list[Posted] = optional(ListOf(Record(Posted), MAX_POSTED), "coalesced writes since the last exchange", [])
    pages: list[int] = optional(ListOf(U64, MAX_PAGES), "pages (gpa >> 12) written since the last exchange", [])
    tlb_flush: bool = optional(FLAG, "the guest flushed or changed paging since the last exchange", False)
    failing: list[Failing] = optional(ListOf(Record(Failing), 128), "entry rules that fail, when asked for", [])
    closing: bool = optional(FLAG, "the daemon is shutting down: take the vCPU elsewhere", False)
    patches: list[Patch] = optional(
        ListOf(Record(Patch), MAX_PATCHES), "RAM in messages: what the guest has changed, in no order", [], since=2
    )
    version: int = optional(U64, "RAM in messages: number of `patches` among those of the session", 0, since=2)
    fault: int = optional(U32, "reason page-fault: its error code", 0, since=2)


@dataclass(slots=True, kw_only=True)
class Error(Message):
    """A request was refused and has changed nothing; or, unasked, the session or the run is gone."""

    NAME, SENDER, ENDPOINT = "error", "daemon", "both"
    error: ErrorClass = required(Choice(ErrorClass), "what kind of mistake")
    text: str = required(Text(512), "what was wrong")
    expected: str = optional(Text(512), "what would be right", "")
    field: str = optional(Text(128), "field at fault", "")
    seq: int = optional(U64, "of the request, when it could be read", 0)
    session: int = optional(U32, "session, when known", 0)
    vcpu: int | None = optional(U16, "vCPU, when known", None)
    epoch: int = optional(U32, "newest epoch, when known", 0)


#: All messages, in the order of the text.
MESSAGES: Final[tuple[type[Message], ...]] = (
    Hello,
    Welcome,
    Ram,
    RamRemove,
    MemoryMap,
    StatePorts,
    VcpuCreate,
    VcpuReady,
    VcpuDestroy,
    Query,
    Counters,
    Ping,
    Bye,
    Ok,
    Emulate,
    Io,
    IoAnswer,
    Kick,
    Done,
    Error,
)
#: Messages by the word in ``type``.
BY_NAME: Final[dict[str, type[Message]]] = {cls.NAME: cls for cls in MESSAGES}
#: Records in the order of the text.
RECORDS: Final = (Region, Map, Cpuid, Event, Posted, Patch, PageRange, PortRange, Failing, VcpuCounters)
#: Enumerations in the order of the text.
ENUMS: Final[tuple[type[StrEnum], ...]] = (Kind, Reason, Until, IoKind, Stop, DoneReason, ErrorClass)
#: Features that a shim may ask for, with the version that brought them.
FEATURES: Final = {
    "ram-fd": 1,
    "ram-path": 1,
    "coalesced": 1,
    "acknowledge": 1,
    "checkpoint": 1,
    "explain": 1,
    "ram-messages": 2,
    "state-ports": 2,
    "memory-copy": 2,
    "native": 3,
    "stop-at": 3,
}


@dataclass(frozen=True, slots=True)
class FieldRow:
    """One field of a message or record, as the codec and the tables see it."""

    name: str
    kind: FieldType
    doc: str
    since: int
    optional: bool
    default: Any


def _default(f: Field[Any]) -> Any:
    return f.default_factory() if f.default_factory is not MISSING else f.default


def rows(cls: type[Any]) -> tuple[FieldRow, ...]:
    """Return the fields of a message or record class in wire order."""
    return tuple(
        FieldRow(
            f.name,
            f.metadata["kind"],
            f.metadata["doc"],
            f.metadata["since"],
            _default(f) is not MISSING,
            _default(f),
        )
        for f in fields(cls)
    )
