"""The interface of an engine: guest memory, runs, exits.

Both engines (native and Python) implement :class:`Engine`; everything above this package sees only this module and
:func:`dm.engine.create`.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeAlias, runtime_checkable

from dm.machine.state import EventType, State, misfit
from dm.machine.words import QUESTIONS as QUESTIONS
from dm.machine.words import ExitReason as ExitReason
from dm.machine.words import RegionKind as RegionKind
from dm.machine.words import Until as Until

#: Most steps of one run.
MOST_STEPS: Final = 1 << 62
#: Most bytes of an instruction: dm.isa.map.decode.LONGEST, without the tables that come with it.
_LONGEST: Final = 15

#: State groups: name to flat list of values, as :func:`dm.machine.state.get_group` gives them.
Groups: TypeAlias = dict[str, list[int | bytes]]


@dataclass(frozen=True, slots=True)
class Region:
    """One range of guest-physical memory.

    ``gpa`` and ``size`` are in bytes and multiples of 4096.  ``memory`` backs RAM, ROM and FIRMWARE (a shared mapping
    or a bytearray) from byte ``offset`` on; it is None for the other kinds.
    """

    gpa: int
    size: int
    kind: RegionKind
    memory: mmap.mmap | bytearray | None = None
    offset: int = 0


@dataclass(frozen=True, slots=True)
class MemoryMap:
    """All regions, sorted by address, not overlapping.  ``a20`` False clears bit 20 of every physical address."""

    generation: int
    regions: tuple[Region, ...]
    a20: bool = True

    def __post_init__(self) -> None:
        """Check alignment, order and backing.

        Raises:
            ValueError: naming the region and what would be right.
        """
        end = 0
        for r in self.regions:
            where = f"region {r.gpa:#x}+{r.size:#x} ({r.kind.name})"
            if r.size <= 0 or r.gpa % 4096 or r.size % 4096:
                raise ValueError(f"{where}: address and size must be multiples of 4096, size positive")
            if r.gpa < end:
                raise ValueError(f"{where}: regions must be sorted and must not overlap (previous ends at {end:#x})")
            end = r.gpa + r.size
            if end > 1 << 52:
                raise ValueError(f"{where}: beyond 52 bits of physical address")
            backed = r.kind in (RegionKind.RAM, RegionKind.ROM, RegionKind.FIRMWARE)
            if backed != (r.memory is not None):
                raise ValueError(f"{where}: {'needs' if backed else 'must not have'} backing memory")
            if r.memory is not None and not 0 <= r.offset <= len(r.memory) - r.size:
                raise ValueError(f"{where}: backing has {len(r.memory):#x} bytes, offset {r.offset:#x} + size needed")


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What a run is to do and what ends it.  Reusing one costs less than making another one.

    ``until``: end with ``enterable`` at the first boundary where this policy's rules hold.
    ``budget``: end with ``budget`` after this many steps (instructions or REP iterations), 0 to 2**62.
    ``progress``: retire one step or deliver one event before ``until`` is tested.
    ``window``: end with ``interrupt-window`` when an external interrupt could be taken (IF=1, no shadow).
    ``mmio``: guest-physical address (64 bits) the first instruction must touch, else ``mmio-mismatch`` with nothing
    changed.
    ``code``: instruction bytes, at most 15, that take precedence over memory for the first fetch.
    ``stop_at``: linear address (32 bits); end with ``debug`` before an instruction there, the first one too.  Every
    boundary is checked then, which is slower.

    While a question is open (its answer given) all of this applies from the next boundary on.

    Raises:
        ValueError: a value is out of range.
    """

    until: Until = Until.NEVER
    budget: int = MOST_STEPS
    progress: bool = False
    window: bool = False
    mmio: int | None = None
    code: bytes = b""
    stop_at: int | None = None

    def __post_init__(self) -> None:
        """Check all values, so that engines need not."""
        if not isinstance(self.until, Until):
            raise ValueError(f"until is {self.until!r}, a member of Until is needed")
        if not 0 <= self.budget <= MOST_STEPS:
            raise ValueError(f"budget is {self.budget}, 0 to 2**62 is needed")
        if len(self.code) > _LONGEST:
            raise ValueError(f"code has {len(self.code)} bytes, at most {_LONGEST} make an instruction")
        if self.mmio is not None and not 0 <= self.mmio < 1 << 64:
            raise ValueError(f"mmio is {self.mmio:#x}, an address of 64 bits is needed")
        if self.stop_at is not None and not 0 <= self.stop_at < 1 << 32:
            raise ValueError(f"stop_at is {self.stop_at:#x}, a linear address of 32 bits is needed")
        if not isinstance(self.code, bytes):  # a copy, which nobody can change
            object.__setattr__(self, "code", bytes(self.code))


#: Run until something other than a limit ends it.
FREELY: Final = RunRequest()


@dataclass(slots=True)  # frozen would cost a microsecond for each exit
class Exit:
    """Result of one :meth:`Engine.run`.

    ``address`` is the port, guest-physical address (MMIO, FIRMWARE, HYPERVISOR; for a mismatch the address touched, 0
    if the instruction touches none) or MSR number.  ``size`` is the element size in bytes, ``count`` the number of
    elements (above 1 for string I/O).  ``data`` holds the ``size * count`` bytes written, little-endian.  ``down``:
    each MMIO element lies ``size`` below the one before, not above.  ``target``: a MEMORY_COPY reads an element at
    ``address``, writes it at ``target`` and advances both, ``count`` times; so reads and writes alternate.  ``detail``
    names what was unsupported or lost.  ``posted`` are coalesced writes (gpa, bytes) made since the last exit,
    in order; they precede the question.
    ``steps`` counts instructions, REP iterations and instructions that faulted (their delivery included) since the
    last exit, ``instructions`` completed instructions.  ``pages`` are numbers (gpa >> 12) of pages written since the
    last exit, sorted.
    ``tlb_flush`` is set when the guest flushed or changed paging.

    PAGE_FAULT ends a run of SVM's paged real mode (PE=0, PG=1; APM vol. 2, 15.19) before the instruction or delivery:
    the fault is the hypervisor's.  Then ``address`` is the linear address and ``error`` the error code.
    """

    reason: ExitReason
    address: int = 0
    size: int = 0
    count: int = 1
    data: bytes = b""
    down: bool = False
    detail: str = ""
    steps: int = 0
    instructions: int = 0
    posted: tuple[tuple[int, bytes], ...] = ()
    pages: tuple[int, ...] = ()
    tlb_flush: bool = False
    error: int = 0
    target: int = 0


def check_copied(copied: int, reason: ExitReason, count: int) -> None:
    """Check how many elements an answer says have been copied, of a question for ``count``.

    Raises:
        ValueError: saying what would be right.
    """
    if reason is not ExitReason.MEMORY_COPY:
        raise ValueError(f"answer: copied is {copied}, but {reason} copies nothing")
    if not 0 <= copied <= count:
        raise ValueError(f"answer: copied is {copied}, 0 to {count} are possible")


@dataclass(frozen=True, slots=True)
class CpuidEntry:
    """One row of the CPUID table the hypervisor shows its guest; all values have 32 bits.

    Raises:
        ValueError: naming the row, the value and its width.
    """

    leaf: int
    subleaf: int
    eax: int
    ebx: int
    ecx: int
    edx: int

    def __post_init__(self) -> None:
        """Check every value."""
        for name in ("leaf", "subleaf", "eax", "ebx", "ecx", "edx"):
            row = "" if name in ("leaf", "subleaf") else f" leaf {self.leaf:#x} subleaf {self.subleaf:#x}"
            if (wrong := misfit(f"CPUID{row} {name}", 32, getattr(self, name))) is not None:
                raise ValueError(wrong)


@dataclass(frozen=True, slots=True)
class CpuConfig:
    """What does not change while a vCPU lives.

    ``cpuid``: the guest's table; empty means the default P6-class part.  ``model`` is ``"p6"``, or ``"80286"`` /
    ``"80386"`` for older processors.  ``copies``: a string operation from device to device becomes a MEMORY_COPY;
    otherwise it is asked element by element.
    """

    cpuid: tuple[CpuidEntry, ...] = field(default=())
    model: str = "p6"
    copies: bool = False


@runtime_checkable
class Engine(Protocol):
    """One vCPU.  Not thread-safe except :meth:`kick`."""

    name: str

    def get_state(self) -> State:
        """Return the architectural state; after a question, as it was before the interrupted instruction."""
        ...

    def set_state(self, state: State) -> None:
        """Replace the architectural state; abandons an interrupted instruction.

        Raises:
            ValueError: a value does not fit its width (state unchanged).
        """
        ...

    def get_groups(self) -> Groups:
        """Return the same as :meth:`get_state`, as lists by group (:func:`dm.machine.state.get_group`).

        The lists belong to the engine: a group that has not changed may be the same list as the last time.
        """
        ...

    def set_groups(self, delta: Groups) -> None:
        """Replace the groups of the state in ``delta``; abandons an interrupted instruction.

        Unknown groups, and values after the last known one, are ignored.

        Raises:
            ValueError: naming the field, when values are missing or one does not fit its width (state unchanged).
        """
        ...

    def inject(self, event: EventType, vector: int, *, error: int | None = None, length: int = 0) -> None:
        """Deliver this event before the next instruction (the same as setting the state's ``inject_*`` fields).

        Raises:
            ValueError: an event is pending already, or a question is open.
        """
        ...

    def set_map(self, memory: MemoryMap) -> None:
        """Replace the memory map, also between a question and its answer; takes effect at once."""
        ...

    def run(self, request: RunRequest = FREELY) -> Exit:
        """Run guest code; it never blocks.  The native engine releases the GIL.

        Raises:
            ValueError: a question is open.
        """
        ...

    def answer(self, data: bytes = b"", *, fault: bool = False, copied: int | None = None) -> None:
        """Answer the open question with ``size * count`` bytes for a read, nothing for a write.

        ``fault`` raises #GP(0) in the guest (MSR accesses only).  ``copied`` says how many elements of a MEMORY_COPY
        have been copied (None: all); with 0 the instruction asks again, by the memory map of that moment.

        Raises:
            ValueError: no question is open, or the length or the count is wrong.
        """
        ...

    def kick(self) -> None:
        """Make a running or the next :meth:`run` end with ``kicked`` soon; callable from any thread."""
        ...

    def close(self) -> None:
        """Free everything; further calls raise ValueError."""
        ...
