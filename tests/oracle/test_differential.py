"""Native engine against Python engine: the same random worlds, run in the same pieces, must look the same throughout.

``DM_SEED`` sets the first seed; a failure names the world, reduced to the instructions it needs.
"""

from __future__ import annotations

import dataclasses
import os
import random
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import worlds
from worlds import CONFIGS, Machine, World

from dm.engine import create, native_status
from dm.engine.api import ExitReason, Until

SEED = int(os.environ.get("DM_SEED", "20250101"))
_UNTIL = (Until.NEVER,) * 6 + (Until.PROTECTED, Until.VMX_UG, Until.VMX, Until.SVM)


class Pair:
    """Engines of both kinds, kept from world to world so that what one leaves behind would show in the next."""

    def __init__(self) -> None:
        self.engines = {
            (name, config): create(name, cpu) for name in ("native", "python") for config, cpu in CONFIGS.items()
        }
        self.reasons: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()

    def close(self) -> None:
        for engine in self.engines.values():
            engine.close()

    def differences(self, world: World, rounds: int = 16) -> str:
        """Run one world on both in random pieces; say how they first differ."""
        built = worlds.build(world)
        pair = [Machine(n, world, engine=self.engines[n, built.config], built=built) for n in ("native", "python")]
        r = random.Random(world.seed)
        options = {"until": r.choice(_UNTIL), "window": r.random() < 0.1, "progress": r.random() < 0.3}
        if r.random() < 0.04:
            options["mmio"] = worlds.DEVICE + r.choice((0, 1, 0xFFF))
        if r.random() < 0.04:
            options["code"] = worlds.instruction(r.getrandbits(32), 16)[:15]
        for turn in range(rounds):
            budget = r.choice((0, 1, 1, 2, 5, 40))
            ends = [machine.run(budget, **options) for machine in pair]
            if ends[0] != ends[1]:
                return f"exit {turn}: {ends[0]} != {ends[1]}"
            difference = worlds.compare(*(machine.engine.get_state() for machine in pair))
            if difference:
                return f"state after {turn} {ends[0].reason}: {difference}"
            faults = [machine.engine.last_fault for machine in pair]
            if faults[0] != faults[1]:
                return f"fault {faults[0]} != {faults[1]}"
            self.faults[faults[0][2]] += 1
            self.reasons[ends[0].reason] += 1
            for machine in pair:
                machine.settle(ends[0])
            if pair[0].ended is not None:
                break
            options = {key: value for key, value in options.items() if key not in ("mmio", "code")}
        if pair[0].ram != pair[1].ram:
            first, second = (machine.changed() for machine in pair)
            return f"memory {sorted(set(first) - set(second))[:4]} != {sorted(set(second) - set(first))[:4]}"
        unreported = {int(line.partition(":")[0], 16) >> 12 for line in pair[0].changed()} - pair[0].written
        return f"pages {sorted(unreported)} were written and not reported" if unreported else ""

    def reduced(self, world: World) -> World:
        """Leave out instructions while the two still differ."""
        smaller = True
        while smaller:
            smaller = False
            for n in range(len(world.instructions)):
                without = world.instructions[:n] + world.instructions[n + 1 :]
                candidate = dataclasses.replace(world, instructions=without)
                if self.differences(candidate):
                    world, smaller = candidate, True
                    break
        return world


def fuzz(first: int, count: int) -> None:
    pair = Pair()
    wrong = []
    started = time.monotonic()
    try:
        for seed in range(first, first + count):
            if pair.differences(World.random(seed)):
                world = pair.reduced(World.random(seed))
                wrong.append(f"seed {seed}: {pair.differences(world)}\n{worlds.show(world)}")
    finally:
        pair.close()
    print(f"\nseeds {first}+{count}, {time.monotonic() - started:.0f} s, {len(wrong)} differ; {dict(pair.reasons)}")
    print(dict(pair.faults))
    assert not wrong, f"{len(wrong)} of {count} worlds from seed {first} differ:\n\n" + "\n\n".join(wrong[:4])
    assert pair.reasons[ExitReason.BUDGET] > count / 2  # most have code that runs
    assert len(pair.faults) > min(count / 50, 40)  # and finds many ways to fault


@pytest.fixture(autouse=True)
def _native() -> None:
    usable, why = native_status()
    if not usable:
        pytest.skip(why)


@pytest.mark.parametrize("part", range(4))
def test_random_worlds(part: int) -> None:
    fuzz(SEED + part * 1000, 1000)


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("part", range(8))
def test_many_random_worlds(part: int) -> None:
    fuzz((SEED << 24) + part * 20_000, 20_000)
