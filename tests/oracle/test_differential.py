"""Native engine against Python engine: the same random worlds, run in the same pieces, must look the same throughout.

``DM_SEED`` sets the first seed; a failure names the world, reduced to the instructions it needs, and
``python tests/oracle/pair.py "World(...)"`` replays it.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import edges
import worlds
from pair import fuzz
from worlds import World

from dm.engine import native_status
from dm.engine.api import ExitReason

SEED = int(os.environ.get("DM_SEED", "20250101"))


def common(first: int, count: int) -> None:
    """Run common worlds."""
    pair = fuzz(first, count, World.random)
    assert pair.reasons[ExitReason.BUDGET] > count / 2  # most have code that runs
    assert len(pair.faults) > min(count / 50, 40)  # and finds many ways to fault


def uncommon(first: int, count: int) -> None:
    """Run worlds with breakpoints, wraps, devices, code that changes, misaligned LOCK and tables in ROM and devices."""
    pair = fuzz(first, count, edges.random_world)
    for reason in (ExitReason.BUDGET, ExitReason.MMIO_READ, ExitReason.MMIO_WRITE, ExitReason.PORT_IN):
        assert pair.reasons[reason] > count / 20
    assert pair.reasons[ExitReason.HYPERVISOR]
    assert {"PAGE_FAULT", "ALIGNMENT", "SEGMENT_LIMIT", "SS_LIMIT"} <= set(pair.faults)


@pytest.fixture(autouse=True)
def _native() -> None:
    usable, why = native_status()
    if not usable:
        pytest.skip(why)


@pytest.mark.parametrize("part", range(4))
def test_random_worlds(part: int) -> None:
    common(SEED + part * 1000, 1000)


@pytest.mark.parametrize("part", range(4))
def test_uncommon_worlds(part: int) -> None:
    uncommon(SEED + part * 1000, 500)


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("part", range(8))
def test_many_random_worlds(part: int) -> None:
    common((SEED << 24) + part * 20_000, 20_000)


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("part", range(8))
def test_many_uncommon_worlds(part: int) -> None:
    uncommon((SEED << 24) + part * 10_000, 10_000)


def test_an_uncommon_world_is_the_same_each_time() -> None:
    met: Counter[str] = Counter()
    for seed in range(60):
        world = edges.random_world(seed)
        first, second = (worlds.build(world) for _ in range(2))
        assert (first.ram, first.state, first.code) == (second.ram, second.state, second.code)
        assert (first.special, first.top) == (second.special, second.top)
        assert eval(repr(world), {"World": World}) == world  # so it can be replayed by its name
        met.update(world.edges)
    assert set(met) == set(edges.EDGES)
