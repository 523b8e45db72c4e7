"""Checks an engine against recorded tests: runs the cases of one file and reports what differs."""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from dm.engine.api import CpuConfig, Engine
from dm.engine.parts import part
from dm.isa.map import coverage
from dm.isa.map.decode import LONGEST, NeedMore, TooLong, decode
from dm.vectors import differences
from dm.vectors.case import Case, CaseOutcome, Stuck, Unimplemented, World
from dm.vectors.differences import Difference
from dm.vectors.formats import open_file
from dm.vectors.world_memory import WorldMemory

#: Makes an engine for a CPU; :func:`dm.engine.create` with its first argument bound.
MakeEngine = Callable[[CpuConfig], Engine]

#: Failures of one file that are described; the others are counted.
DESCRIBED = 5
# Bytes of memory that are named in one description.
_BYTES = 8


@dataclass(frozen=True, slots=True)
class CaseFailure:
    """One case whose result differs from hardware's, with a line for each thing that differs."""

    opcode: str
    index: int
    name: str
    code: str
    lines: tuple[str, ...]


@dataclass(slots=True)
class FileResult:
    """The results of a file's cases.

    ``part`` is the vendor of the CPU they were checked against, as CPUID says it, and its model if that is an old one.
    ``excused`` counts passed cases by the reason of the row of :data:`~dm.vectors.differences.DIFFERENCES` that let
    them pass, ``skipped`` cases that were not run by their reason, ``unimplemented`` those that the engine cannot run
    by what it lacks.  ``failures`` describes the first few of ``failed``.  ``executed`` holds the forms that passed
    cases have executed, when asked for.
    """

    form: str
    opcode: str = ""
    part: str = ""
    passed: int = 0
    failed: int = 0
    excused: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    unimplemented: Counter[str] = field(default_factory=Counter)
    failures: list[CaseFailure] = field(default_factory=list)
    executed: set[coverage.Execution] = field(default_factory=set)


def run_file(
    path: Path,
    make: MakeEngine,
    sample: float = 1.0,
    seed: int = 0,
    record: bool = False,
    vendor: str = "",
    undefined: bool = False,
) -> FileResult:
    """Run the cases of one file.

    Args:
        path: a file of any known format.
        make: gives the engine.
        sample: fraction of the cases to run, chosen at random.
        seed: makes that choice repeatable; the file's name goes into it.
        record: whether to say which forms were executed.
        vendor: whose CPU to check the file against (:data:`dm.vectors.vendor.PARTS`); empty: that of the set.
        undefined: whether flags that the manual leaves undefined are compared as well.

    Raises:
        FormatError: the file cannot be read.
    """
    form, world, cases = open_file(path, vendor)
    choose = random.Random(f"{seed}:{path.name}")
    result = FileResult(form, part=part_of(world.cpu))
    memory = WorldMemory(world.pieces)
    engine = make(world.cpu)
    try:
        engine.set_map(memory.map())
        for case in cases:
            result.opcode = case.opcode
            if sample < 1.0 and choose.random() >= sample:
                continue
            if undefined and case.undefined:
                case = with_undefined(case)
            if case.skip:
                result.skipped[case.skip] += 1
                continue
            try:
                lines = run_case(engine, world, memory, case)
            except Unimplemented as e:
                result.unimplemented[str(e)] += 1
                continue
            known = differences.find(form, case, result.part) if lines else None
            if known and not run_case(engine, world, memory, case, known):
                result.excused[known.reason] += 1
                lines = []
            if not lines:
                result.passed += 1
                if record:
                    executed(case)
                continue
            result.failed += 1
            if len(result.failures) < DESCRIBED:
                result.failures.append(
                    CaseFailure(case.opcode, case.index, case.name, case.code.hex(" "), tuple(lines))
                )
    finally:
        engine.close()
    if record:
        result.executed |= coverage.recorded
    return result


def part_of(cpu: CpuConfig) -> str:
    """Return the vendor that a CPU's CPUID leaf 0 says, and the model where it is not the usual one."""
    rows = cpu.cpuid or part().cpuid
    words = next((row.ebx, row.edx, row.ecx) for row in rows if row.leaf == 0)
    vendor = b"".join(word.to_bytes(4, "little") for word in words).decode("ascii", "replace")
    return vendor if cpu.model == CpuConfig().model else f"{vendor} {cpu.model}"


def with_undefined(case: Case) -> Case:
    """Return the case with the flags that the manual leaves undefined among what is compared."""
    value, mask = case.registers["eflags"]
    return replace(case, registers={**case.registers, "eflags": (value, mask | case.undefined)})


def executed(case: Case) -> None:
    """Record that a case has been run and came out as on hardware (:func:`dm.isa.map.coverage.executed`)."""
    with contextlib.suppress(NeedMore, TooLong):
        decoded = decode(case.code[:LONGEST].ljust(LONGEST, b"\0"), case.state.cs.big)
        coverage.executed(decoded, coverage.mode_of(case.state), completed=not case.faults)


def run_case(
    engine: Engine, world: World, memory: WorldMemory, case: Case, known: Difference | None = None
) -> list[str]:
    """Run one case and return a line for each thing that differs; none means that it passed.

    Args:
        engine: with ``memory``'s map set.
        world: the surroundings the case belongs to.
        memory: shows the world's background, before and after.
        case: what to run.
        known: a reviewed difference whose mask is to be left out of the comparison.

    Raises:
        Unimplemented: the engine cannot run it.
    """
    try:
        memory.load(case.patches)
        engine.set_state(case.state)
        outcome = world.run(engine, memory, case)
        return compare(case, outcome, memory, known)
    except Stuck as e:  # the result of another vector, for which the case has no handler
        return [] if known and known.everything else [str(e)]
    except Unimplemented:
        raise
    except Exception as e:  # an engine's error fails this case, not the whole run
        return [f"raised {type(e).__name__}: {e}"]
    finally:
        memory.reset()


def compare(case: Case, outcome: CaseOutcome, memory: WorldMemory, known: Difference | None = None) -> list[str]:
    """Return a line for each thing in which ``outcome`` and memory are not what hardware left."""
    if known and known.everything:
        return []
    lines = []
    if outcome.fault != case.fault and not (known and known.fault):
        lines.append(f"fault: {outcome.fault or 'none'}, hardware: {case.fault or 'none'}")
    if case.vector_only:
        return lines
    flags = known.flags if known else 0
    for name, (wanted, mask) in case.registers.items():
        if name in ("flags", "eflags"):
            mask &= ~flags
        found = outcome.registers[name]
        if (found ^ wanted) & mask:
            lines.append(f"{name}: {found & mask:x}, hardware: {wanted & mask:x}")
    if not (known and known.memory):
        pushed = zip(sorted(case.memory_masks.items()), (flags & 0xFFFF).to_bytes(2, "little"), strict=False)
        masks = {address: mask & ~bits for (address, mask), bits in pushed}
        wrong = memory.differences(case.changes, masks)
        lines += [f"[{address:x}]: {found:02x}, hardware: {wanted:02x}" for address, found, wanted in wrong[:_BYTES]]
        if len(wrong) > _BYTES:
            lines.append(f"and {len(wrong) - _BYTES} more bytes of memory")
    return lines
