"""Both engines in the same world, run in the same pieces, looked at after each.

``python tests/oracle/pair.py "World(...)"`` replays a world that a failing test has named.
"""

from __future__ import annotations

import dataclasses
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import worlds
from worlds import CONFIGS, Machine, World

from dm.engine import create
from dm.engine.api import Until

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

    def differences(self, world: World) -> str:
        """Run one world on both in random pieces; say how they first differ."""
        built = worlds.build(world)
        pair = [Machine(n, world, engine=self.engines[n, built.config], built=built) for n in ("native", "python")]
        r = random.Random(world.seed)
        options = {"until": r.choice(_UNTIL), "window": r.random() < 0.1, "progress": r.random() < 0.3}
        if r.random() < 0.04:
            options["mmio"] = worlds.DEVICE + r.choice((0, 1, 0xFFF))
        if r.random() < 0.04:
            options["code"] = worlds.instruction(r.getrandbits(32), 16)[:15]
        older = [machine.engine.last_fault for machine in pair]
        for turn in range(60 if world.edges else 16):  # devices in uncommon places ask for much
            budget = r.choice((0, 1, 1, 2, 5, 40))
            ends = [machine.run(budget, **options) for machine in pair]
            if ends[0] != ends[1]:
                return f"exit {turn}: {ends[0]} != {ends[1]}"
            difference = worlds.compare(*(machine.engine.get_state() for machine in pair))
            if difference:
                return f"state after {turn} {ends[0].reason}: {difference}"
            faults = [machine.engine.last_fault for machine in pair]
            if faults[0] != faults[1] and faults != older:  # not what another world has left behind
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


def fuzz(first: int, count: int, world_of: Callable[[int], World]) -> Pair:
    """Run the worlds of ``count`` seeds; return what they have met.

    Raises:
        AssertionError: some differ, named so that each can be replayed.
    """
    pair = Pair()
    wrong = []
    started = time.monotonic()
    try:
        for seed in range(first, first + count):
            if pair.differences(world_of(seed)):
                world = pair.reduced(world_of(seed))
                wrong.append(f"seed {seed}: {pair.differences(world)}\n{worlds.show(world)}")
    finally:
        pair.close()
    print(f"\nseeds {first}+{count}, {time.monotonic() - started:.0f} s, {len(wrong)} differ; {dict(pair.reasons)}")
    print(dict(pair.faults))
    assert not wrong, f"{len(wrong)} of {count} worlds from seed {first} differ:\n\n" + "\n\n".join(wrong[:4])
    return pair


if __name__ == "__main__":
    named = eval(sys.argv[1], {"World": World})
    both = Pair()
    print(worlds.show(named))
    print(both.differences(named) or "no difference")
