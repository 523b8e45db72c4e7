"""Every form of the opcode map in every mode, on both engines: the same state, memory, exits and faults.

This shows that both run a form, and run it alike; what is right the recorded vectors, the live oracle and the cases of
tests/isa show.  ``x86-dm isa`` takes from here the modes in which forms run to their end, nothing else.
"""

from __future__ import annotations

import dataclasses
import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "isa"))
sys.path.insert(0, str(Path(__file__).parent))

import worlds
from encode import encode
from worlds import CODE, Machine, World

from dm.engine import native_status
from dm.isa.lineage import Lineage
from dm.isa.map import coverage
from dm.isa.map.decode import decode, variants
from dm.isa.map.forms import ROWS
from dm.machine.state import State

#: Mode of the world, paging, CPUID table.
CASES = [
    ("real", "", "rich"), ("big-real", "", "amd"), ("vm86", "", "rich"), ("vm86", "32", "rich"),
    ("pm16-0", "", "rich"), ("pm16-3", "", "amd"), ("pm32-0", "", "rich"), ("pm32-1", "", "rich"),
    ("pm32-3", "", "amd"), ("pm32-0", "32", "amd"), ("pm32-3", "pae", "rich"),
]  # fmt: skip
_SELECTORS = (0, worlds.DATA32, worlds.CODE32, worlds.USER_DATA32, worlds.LDTR, worlds.TASK32, 0xA0)


def prepared(base: State, rng: random.Random) -> State:
    """Return the state with registers that make most accesses land in memory."""
    state = dataclasses.replace(base, gpr=[*base.gpr], seg=[dataclasses.replace(s) for s in base.seg])
    for number in range(8):
        if number != 4:
            state.gpr[number] = rng.choice((rng.randrange(0x400), 0x600, 0x9000, rng.getrandbits(15)))
    state.gpr[0] = rng.choice((state.gpr[0], *_SELECTORS))
    state.gpr[1] = rng.choice((1, 1, 2, 0x174, 0x10))  # count, MSR
    state.rflags = state.rflags & ~0x50100 | rng.choice((0, 0x3000)) * (state.cpl != 0)
    return state


@pytest.mark.parametrize(("mode", "paging", "config"), CASES)
@pytest.mark.timeout(600)
def test_both_engines_run_every_form_alike(mode: str, paging: str, config: str) -> None:
    if not native_status()[0]:
        pytest.skip(native_status()[1])
    world = World(mode, 11, (), paging, sane=True)
    built = dataclasses.replace(worlds.build(world), config=config, a20=True)
    pair = [Machine(name, world, built=built) for name in ("native", "python")]
    name = coverage.mode_of(built.state)
    code32 = bool(built.state.cs.attributes & 0x4000)
    part = Lineage.AMD if config == "amd" else Lineage.INTEL
    wrong, count, whole = [], 0, 0
    for row in ROWS:
        for variant in variants(row):
            # Numbers of its own: a row that comes or goes changes no other form's case, nor what is claimed of it.
            rng = random.Random(f"{mode} {paging} {config} {row.text} {coverage.form_name(variant, row)}")
            for _ in range(2):
                code = encode(row, variant, code32, rng, 0x600, part)
                if code is None:
                    continue
                count += 1
                state = prepared(built.state, rng)
                for machine in pair:
                    machine.ram[CODE : CODE + 16] = code.ljust(16, b"\x90")
                    machine.steps = machine.instructions = 0
                    machine.ended = None
                    machine.seen.clear()
                    machine.engine.set_state(state)
                    machine.advance(1)
                native, python = pair
                difference = worlds.compare(native.engine.get_state(), python.engine.get_state())
                if native.ended != python.ended or native.seen != python.seen:
                    difference += f" exits: {native.ended} {native.seen} != {python.ended} {python.seen}"
                if native.ram != python.ram:
                    difference += f" memory: {native.changed()[:4]} != {python.changed()[:4]}"
                if difference or native.instructions != python.instructions:
                    wrong.append(f"{row.text} {coverage.form_name(variant, row)} {code.hex(' ')}: {difference}")
                whole += native.instructions
                coverage.executed(decode(code, code32, part), name, completed=native.instructions == 1)
                for machine in pair:
                    for page in machine.written | {CODE >> 12}:
                        machine.ram[page << 12 : page + 1 << 12] = built.ram[page << 12 : page + 1 << 12]
                    machine.written.clear()
                    assert machine.ram == built.ram
    for machine in pair:
        machine.close()
    print(f"{name}: {count} instructions, {whole} completed")
    assert not wrong, f"{len(wrong)} of {count} differ:\n" + "\n".join(wrong[:10])
    assert count > 2500
    assert whole > count / 2 - 300 * (built.state.cpl == 3)
