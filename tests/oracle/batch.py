"""One batch of random cases, host against engine, in a process of its own.

It stands in a module that such a process can import: a test module has no name it could be found by.
"""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import generate
import host
import undefined

from dm.engine import create
from dm.engine.api import CpuConfig, CpuidEntry
from dm.vectors import hwamd
from dm.vectors.case import Case, Unimplemented
from dm.vectors.memory import Memory
from dm.vectors.runner import run_case


def _overwrites_itself(case: Case) -> bool:
    """Whether the host has written to this instruction: a repeated store may become x87, which is not executed."""
    start = hwamd.ARENA + hwamd.CODE + case.state.rip
    return any(at < start + len(case.code) and start < at + len(data) for at, data in case.changes)


def run_batch(arguments: tuple[str, str, int, int]) -> tuple[int, Counter[str], list[str]]:
    """Run one batch in its own process: (cases compared, differences by opcode, the first few in words)."""
    program, engine_name, seed, count = arguments
    rng = random.Random(seed)
    ldts = [generate.make_ldt(rng) for _ in range(40)]
    requests = [generate.make_case(rng, ldts) for _ in range(count)]
    requests = sorted((r for r in requests if not undefined.result(r)), key=lambda r: r.ldt)
    rows, cpuid = host.run(Path(program), ldts, requests)
    world = hwamd.RingThree(CpuConfig(tuple(CpuidEntry(*row) for row in cpuid)))
    known = [{entry[0]: hwamd.segment(*entry) for entry in ldt} for ldt in ldts]
    memory = Memory(world.pieces)
    engine = create(engine_name, world.cpu)
    engine.set_map(memory.map())
    wrong: Counter[str] = Counter()
    words = []
    for index, row in enumerate(rows):
        code = row[1]
        n = generate.prefix_length(code)
        case = hwamd.case(code[n : n + 2].hex(), index, row, known)
        try:
            lines = run_case(engine, world, memory, case)
        except Unimplemented as reason:
            lines = [] if _overwrites_itself(case) else [f"cannot be run: {reason}"]
        if lines:
            wrong[f"{code[n]:02x}" if code[n] != 0x0F else code[n : n + 2].hex()] += 1
            if len(words) < 20:
                words.append(
                    f"seed {seed} case {index} code32={row[0]} {code.hex(' ')}\n    "
                    + "\n    ".join(lines)
                    + f"\n    {case.state}"
                )
    engine.close()
    return len(rows), wrong, words
