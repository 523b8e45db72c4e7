r"""The library in one class: a virtual CPU, its memory, and its questions.

::

    with Emulator(memory=0x100000) as vm:
        vm.write(0x7C00, b"\xe4\x60\xf4")                    # in al, 60h; hlt
        vm.state = real_mode_state
        end = vm.run(on_io=lambda question: b"\x1c")

Everything the emulator cannot do on its own (ports, devices, model-specific registers) is a question, answered by the
function given to :meth:`Emulator.run` or, without one, by :meth:`Emulator.answer` between two runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Final, TypeAlias, TypeVar

import dm.engine
from dm.engine.api import (
    FREELY,
    MOST_STEPS,
    QUESTIONS,
    CpuConfig,
    CpuidEntry,
    Exit,
    ExitReason,
    MemoryMap,
    Region,
    RegionKind,
    RunRequest,
    Until,
)
from dm.engine.parts import names, part
from dm.machine.state import EventType, State

_E = TypeVar("_E", EventType, Until)

PAGE: Final = 4096
#: Steps between two checks for signals (Ctrl-C): some milliseconds of the native engine, which cannot check itself.
_SLICE: Final = 1 << 22
_BACKED: Final = (RegionKind.RAM, RegionKind.ROM, RegionKind.FIRMWARE)


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """Answer to a question.

    ``data``: the ``size * count`` bytes read, in the order of access; nothing for a write.  ``fault``: raise #GP(0)
    instead (MSRs only).  ``memory``: a map that takes effect before the instruction continues.  ``stop``: end the run
    after this instruction with ``kicked``.
    """

    data: bytes = b""
    fault: bool = False
    memory: MemoryMap | None = None
    stop: bool = False


#: Called with each question; returns an Answer, or just the bytes read (None: none).
OnIo: TypeAlias = Callable[[Exit], "Answer | bytes | None"]


class Emulator:
    """One virtual CPU with its guest-physical memory.

    Not thread-safe, except :meth:`kick`.  Leaving the ``with`` block frees everything.
    """

    def __init__(
        self,
        memory: int | Iterable[Region] | MemoryMap = (),
        state: State | None = None,
        *,
        engine: str = "auto",
        cpu: str = "",
        cpuid: Iterable[CpuidEntry] = (),
        model: str = "",
    ) -> None:
        """Create a virtual CPU in the state after RESET.

        Args:
            memory: bytes of RAM at address 0 (a multiple of 4096), or regions in any order, or a finished map.
            state: state to begin with.
            engine: ``native``, ``python``, or ``auto`` for the faster one that is available.
            cpu: the CPU model by name, vendor or model: ``intel`` (the default), ``amd``, ``80286`` and the others
                of :data:`dm.isa.parts.PARTS`.  Vendors differ in more than CPUID (docs/architecture.md, Vendors).
            cpuid: your own CPUID table instead of ``cpu``; leaf 0 names the vendor.
            model: with ``cpuid``: ``p6`` (the default), ``80386`` or ``80286``.

        Raises:
            TypeError: an argument is of another type.
            ValueError: an argument has an impossible value; the text says what would be right.
            RuntimeError: the native engine is asked for and cannot be used; the text says why.
        """
        self._map = _map(memory, 1)
        self._engine = dm.engine.create(engine, _cpu(cpu, tuple(cpuid), model))
        self._question: Exit | None = None
        self._answered = False
        self._request: RunRequest = FREELY
        self._asked: tuple[Until, int, bool, bool, int | None, bytes] | None = None  # what it was made of
        try:
            self._engine.set_map(self._map)
            if state is not None:
                self.state = state
        except BaseException:
            self.close()
            raise

    # ------------------------------------------------------------------------------------------ state

    @property
    def engine(self) -> str:
        """Name of the engine: ``native`` or ``python``."""
        return self._engine.name

    @property
    def state(self) -> State:
        """The architectural state, a copy; while a question is open, as it was before the interrupted instruction.

        Setting it replaces all of it and abandons an interrupted instruction.  TypeError: it is no State; ValueError
        names a field that does not fit its width.
        """
        return self._engine.get_state()

    @state.setter
    def state(self, state: State) -> None:
        if not isinstance(state, State):
            raise TypeError(f"state is {type(state).__name__}, a dm.State is needed")
        self._engine.set_state(state)
        self._question, self._answered = None, False

    @property
    def question(self) -> Exit | None:
        """The question that is open for :meth:`answer`, None if there is none."""
        return None if self._answered else self._question

    # ------------------------------------------------------------------------------------------ memory

    @property
    def memory(self) -> MemoryMap:
        """The memory map.  Setting it (also to regions) takes effect at once, between question and answer too."""
        return self._map

    @memory.setter
    def memory(self, memory: int | Iterable[Region] | MemoryMap) -> None:
        made = _map(memory, self._map.generation + 1)
        self._engine.set_map(made)
        self._map = made

    def read(self, gpa: int, size: int) -> bytes:
        """Return guest-physical memory, of RAM, ROM and firmware regions only.

        Raises:
            ValueError: a byte has no memory behind it.
        """
        out = bytearray()
        while len(out) < size:
            region, at, room = self._piece(gpa + len(out), size - len(out), "read", _BACKED)
            assert region.memory is not None
            out += region.memory[at : at + room]
        return bytes(out)

    def write(self, gpa: int, data: bytes) -> None:
        """Change guest-physical memory as DMA would: RAM, and ROM and firmware that are not read-only here.

        Raises:
            ValueError: a byte has no memory behind it (nothing has been written).
        """
        pieces, done = [], 0
        while done < len(data):
            pieces.append(self._piece(gpa + done, len(data) - done, "written", _BACKED))
            done += pieces[-1][2]
        done = 0
        for region, at, room in pieces:
            assert region.memory is not None
            region.memory[at : at + room] = data[done : done + room]
            done += room

    def _piece(self, gpa: int, size: int, done: str, kinds: tuple[RegionKind, ...]) -> tuple[Region, int, int]:
        for region in self._map.regions:
            if region.gpa <= gpa < region.gpa + region.size and region.kind in kinds:
                at = gpa - region.gpa
                return region, region.offset + at, min(size, region.size - at)
        raise ValueError(f"{gpa:#x} cannot be {done}: no RAM, ROM or firmware region covers it")

    # ------------------------------------------------------------------------------------------ running

    def run(
        self,
        until: Until | str = Until.NEVER,
        budget: int | None = None,
        *,
        on_io: OnIo | None = None,
        progress: bool = False,
        window: bool = False,
        mmio: int | None = None,
        code: bytes = b"",
    ) -> Exit:
        """Run guest code until something ends it.

        Args:
            until: who runs the state next; the run ends with ``enterable`` at the first boundary where they can.
            budget: end with ``budget`` after so many steps (instructions, REP iterations); None: no limit.
            on_io: answers questions; without it the run ends with each question, see :meth:`answer`.
            progress: make one step, or deliver one event, before ``until`` is tested.
            window: end with ``interrupt-window`` when an external interrupt could be taken.
            mmio: guest-physical address that the first instruction must touch; else the run ends with
                ``mmio-mismatch``, and nothing has changed.
            code: instruction bytes that take precedence over memory for the first fetch.

        An exception from a signal handler (KeyboardInterrupt, at Ctrl-C) ends it within milliseconds, between two
        instructions; another call continues.

        Returns:
            Why it ended.  Steps, instructions, posted writes, pages and ``tlb_flush`` are those of the whole call.

        Raises:
            TypeError: ``budget`` is not an integer.
            ValueError: a question is open, or an argument is out of range.  What ``on_io`` raises leaves its question
                open.
        """
        until = _member(Until, until, "until")
        if budget is not None and (isinstance(budget, bool) or not isinstance(budget, int)):
            raise TypeError(f"budget is {type(budget).__name__}, a number of steps or None is needed")
        limit = MOST_STEPS if budget is None else budget
        if not 0 <= limit <= MOST_STEPS:
            raise ValueError(f"budget is {budget}, 0 to 2**62 is needed")
        if self._question is not None and not self._answered:
            raise ValueError(f"the question {self._question.reason} is open: answer it first")
        total: Exit | None = None
        left, stop = limit, False
        while True:
            piece = 0 if stop else min(left, _SLICE)
            if total is None:
                asked = until, piece, progress, window, mmio, code
            else:
                asked = Until.NEVER if stop else until, piece, False, window and not stop, None, b""
            if asked != self._asked:  # making a request costs half as much as a short run
                self._request = RunRequest(*asked)
                self._asked = *asked[:-1], self._request.code  # a copy, in case `code` is changed
            end = self._engine.run(self._request)
            self._question, self._answered = (end if end.reason in QUESTIONS else None), False
            total = end if total is None else _joined(total, end)
            if self._question is None:
                if end.reason is ExitReason.BUDGET and piece == _SLICE and (left := limit - total.steps) > 0:
                    continue  # here Python has handled signals
                if stop and end.reason is ExitReason.BUDGET:
                    total = dataclasses.replace(total, reason=ExitReason.KICKED)
                return total
            if on_io is None:
                return total
            # The open instruction has been charged, though its steps are reported when it is finished.
            left = max(0, limit - total.steps - end.count)
            given = on_io(end)
            answer = given if isinstance(given, Answer) else Answer(given or b"")
            if answer.memory is not None:
                self.memory = answer.memory
            self.answer(answer.data, fault=answer.fault)
            stop |= answer.stop

    def answer(self, data: bytes = b"", *, fault: bool = False) -> None:
        """Answer the open question; :meth:`run` then continues the instruction.

        Args:
            data: the ``size * count`` bytes read, nothing for a write.
            fault: raise #GP(0) in the guest instead (MSRs only).

        Raises:
            ValueError: no question is open, or the answer does not fit it.
        """
        self._engine.answer(data, fault=fault)
        self._answered = True

    def inject(self, event: EventType | str, vector: int, *, error: int | None = None, length: int = 0) -> None:
        """Deliver an event before the next instruction.

        Args:
            event: its kind, also by name (``"external"``, ``"nmi"``, ``"exception"`` ...).
            vector: 0 to 255.
            error: error code it pushes, None for none.
            length: bytes of the instruction, for software interrupts and exceptions.

        Raises:
            ValueError: an event is pending already, a question is open, or a value does not fit.
        """
        self._engine.inject(_member(EventType, event, "event"), vector, error=error, length=length)

    def kick(self) -> None:
        """Make the current run, or the next one, end with ``kicked`` soon; callable from any thread."""
        self._engine.kick()

    def close(self) -> None:
        """Free everything; may be called again."""
        self._engine.close()

    def __enter__(self) -> Emulator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _cpu(name: str, cpuid: tuple[CpuidEntry, ...], model: str) -> CpuConfig:
    """Return the configuration of a named CPU model, or of a table and a model."""
    if not isinstance(name, str):
        raise TypeError(f"cpu is {type(name).__name__}, the name of a CPU model is needed: {names()}")
    if name and (cpuid or model):
        raise ValueError(
            f"cpu is {name!r}, and {'cpuid' if cpuid else 'model'} is given as well: one of them is needed"
        )
    return part(name) if name else CpuConfig(cpuid, model or "p6")


def _map(memory: int | Iterable[Region] | MemoryMap, generation: int) -> MemoryMap:
    """Return a memory map; of a number of bytes, or of regions in any order."""
    if isinstance(memory, MemoryMap):
        return memory
    if isinstance(memory, int):
        if memory <= 0 or memory % PAGE:
            raise ValueError(f"memory is {memory:#x} bytes, a positive multiple of 4096 is needed")
        return MemoryMap(generation, (Region(0, memory, RegionKind.RAM, bytearray(memory)),))
    regions = tuple(memory)
    for region in regions:
        if not isinstance(region, Region):
            raise TypeError(f"memory holds {type(region).__name__}, dm.Region values are needed")
    return MemoryMap(generation, tuple(sorted(regions, key=lambda region: region.gpa)))


def _member(kind: type[_E], given: _E | str, what: str) -> _E:
    """Return the member of an enumeration, also by its name or word."""
    if isinstance(given, kind):
        return given
    if isinstance(given, str):
        name = given.upper().replace("-", "_")
        if name in kind.__members__:
            return kind[name]
    words = ", ".join(member.lower().replace("_", "-") for member in kind.__members__)
    raise ValueError(f"{what} is {given!r}, one of {words} is needed")


def _joined(first: Exit, then: Exit) -> Exit:
    """Return the later exit with the counts and reports of both."""
    return dataclasses.replace(
        then,
        steps=first.steps + then.steps,
        instructions=first.instructions + then.instructions,
        posted=first.posted + then.posted,
        pages=tuple(sorted({*first.pages, *then.pages})),
        tlb_flush=first.tlb_flush or then.tlb_flush,
    )
