"""One recorded test, its result, and what a world must offer to run it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from dm.engine.api import CpuConfig, Engine, Exit, ExitReason
from dm.machine.state import State
from dm.vectors.world_memory import MemoryPiece, Patch, WorldMemory

#: Prefixes of repeated string instructions.
REP: Final = frozenset({0xF2, 0xF3})
_PREFIXES: Final = REP | {0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0x67, 0xF0}


def prefix_count(code: bytes) -> int:
    """Return the number of prefix bytes that ``code`` begins with (SDM vol. 2A, 2.1.1)."""
    return next((i for i, byte in enumerate(code) if byte not in _PREFIXES), len(code))


class FormatError(Exception):
    """A file is not what its format says; the message names the file and what is wrong."""


class Stuck(Exception):
    """The engine did not reach the case's end; the message says how the run ended instead."""


class Unimplemented(Exception):
    """The engine ended before an instruction that it does not implement; the message is its name for what is missing.

    That is neither a wrong answer nor a right one.
    """


def ended(end: Exit) -> Exception:
    """Return what to raise for a run that ended in a way no hardware could have."""
    if end.reason is ExitReason.UNSUPPORTED:
        return Unimplemented(end.detail)
    return Stuck(f"ended with {end.reason} at {end.address:#x} {end.detail}".rstrip())


@dataclass(frozen=True, slots=True)
class RecordedFault:
    """An exception as its handler sees it: vector, and the error code if one was pushed."""

    vector: int
    error: int | None = None

    def __str__(self) -> str:
        return f"vector {self.vector}" + ("" if self.error is None else f", error code {self.error:#x}")


@dataclass(frozen=True, slots=True)
class Case:
    """One instruction, the state before it and what hardware did.

    ``opcode`` is the group it is counted in, ``index`` its number in the set it comes from.  ``patches`` is memory
    before, on top of the world's background; ``changes`` what differs afterwards, ``memory_masks`` the defined bits of
    the two bytes of a flags word that an exception pushed (by guest-physical address).  ``registers`` maps the world's
    register names to (value, mask): both sides are compared under the mask.  ``fault`` is what the world must report;
    with ``vector_only`` nothing else is compared.  ``skip`` says why the recorded answer does not apply to the modelled
    CPU.  ``undefined`` are bits of ``eflags`` that were recorded, but that the manual leaves undefined: they are not in
    the mask of ``registers``.
    """

    opcode: str
    index: int
    name: str
    code: bytes
    state: State
    patches: tuple[Patch, ...]
    registers: Mapping[str, tuple[int, int]]
    changes: tuple[Patch, ...]
    memory_masks: Mapping[int, int] = field(default_factory=dict)
    fault: RecordedFault | None = None
    vector_only: bool = False
    skip: str = ""
    undefined: int = 0

    @property
    def faults(self) -> bool:
        """Whether the instruction ends in an exception."""
        return self.fault is not None or bool(self.memory_masks)


@dataclass(frozen=True, slots=True)
class CaseOutcome:
    """An engine's result for a case: registers by the world's names, and the fault if the world can tell."""

    registers: Mapping[str, int]
    fault: RecordedFault | None = None


class World(Protocol):
    """The surroundings that all cases of a file share: CPU, memory and the way to run one."""

    @property
    def cpu(self) -> CpuConfig:
        """The CPU that the recorded one is compared with."""
        ...

    @property
    def pieces(self) -> tuple[MemoryPiece, ...]:
        """All of guest memory, with its content before any case."""
        ...

    def run(self, engine: Engine, memory: WorldMemory, case: Case) -> CaseOutcome:
        """Run the case, its state and memory loaded, to its end.

        Raises:
            Stuck: the run ended in a way that no hardware could have.
            Unimplemented: the engine cannot run this instruction.
        """
        ...
