"""One batch of random cases, host against engine, in a process of its own.

It stands in a module that such a process can import: a test module has no name it could be found by.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import generate
import host
import undefined

from dm.engine import create
from dm.engine.api import CpuConfig, CpuidEntry
from dm.vectors import hwamd
from dm.vectors.case import Case, Unimplemented
from dm.vectors.runner import run_case
from dm.vectors.world_memory import WorldMemory

Rows = list[list[Any]]


def compared(
    rows: Rows, cpuid: list[tuple[int, ...]], ldts: list[list[list[int]]], engine_name: str
) -> Iterator[tuple[Case, list[str] | None]]:
    """Run what the host has run on an engine; yield each case and what differs, None if it is left out."""
    world = hwamd.RingThree(CpuConfig(tuple(CpuidEntry(*row) for row in cpuid)))
    known = [{entry[0]: hwamd.segment(*entry) for entry in ldt} for ldt in ldts]
    memory = WorldMemory(world.pieces)
    engine = create(engine_name, world.cpu)
    engine.set_map(memory.map())
    for index, row in enumerate(rows):
        n = generate.prefix_length(row[1])
        case = hwamd.case(row[1][n : n + 2].hex(), index, row, known)
        try:
            yield case, run_case(engine, world, memory, case)
        except Unimplemented as reason:
            # A repeated store that has overwritten itself may be x87 by then, which is carried and not executed.
            yield case, None if hwamd.overwrites_itself(case) else [f"cannot be run: {reason}"]
    engine.close()


def run_batch(arguments: tuple[str, str, int, int]) -> tuple[int, Counter[str], list[str]]:
    """Run one batch in its own process: (cases compared, differences by opcode, the first few in words)."""
    program, engine_name, seed, count = arguments
    rng = random.Random(seed)
    ldts = [generate.make_ldt(rng) for _ in range(40)]
    requests = [generate.make_case(rng, ldts) for _ in range(count)]
    requests = sorted((r for r in requests if not undefined.result(r)), key=lambda r: r.ldt)
    rows, cpuid = host.run(Path(program), ldts, requests)
    done, wrong, words = 0, Counter[str](), []
    for case, lines in compared(rows, cpuid, ldts, engine_name):
        done += lines is not None
        if lines:
            opcode = case.code[generate.prefix_length(case.code) :]
            wrong[f"{opcode[0]:02x}" if opcode[0] != 0x0F else opcode[:2].hex()] += 1
            if len(words) < 20:
                words.append(
                    f"seed {seed} case {case.index} code32={rows[case.index][0]} {case.code.hex(' ')}\n    "
                    + "\n    ".join(lines)
                    + f"\n    {case.state}"
                )
    return done, wrong, words
