"""The emulator against the CPU it runs on: random instructions in random ring-3 segments, nothing unexplained."""

from __future__ import annotations

import itertools
import os
import random
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import generate
import host
from batch import compared, run_batch

pytestmark = pytest.mark.modify_ldt
BATCH = 5000


def run_all(tmp_path: Path, engine: str, total: int, seed: int) -> None:
    try:
        program = host.build(tmp_path)
        host.run(program, [generate.make_ldt(random.Random(1))], [])
    except host.HostError as error:
        pytest.skip(f"no modify_ldt or no compiler: {error}")
    jobs = [(str(program), engine, seed + n, BATCH) for n in range(-(-total // BATCH))]
    done, wrong, words = 0, Counter[str](), []
    started = time.monotonic()
    # An executor, not a Pool: it says so when a process dies, instead of waiting for it.
    with ProcessPoolExecutor(min(2, os.cpu_count() or 1), get_context("spawn")) as pool:
        for count, by_opcode, text in pool.map(run_batch, jobs):
            done += count
            wrong += by_opcode
            words += text
    print(
        f"\n{done} cases, seed {seed}, {time.monotonic() - started:.0f} s, "
        f"{sum(wrong.values())} unexplained {dict(wrong)}"
    )
    assert done >= total * 0.9
    assert not wrong, f"seed {seed}: {sum(wrong.values())} of {done} differ: {dict(wrong)}\n" + "\n".join(words[:10])


@pytest.mark.timeout(1200)
def test_native_engine(tmp_path: Path) -> None:
    run_all(tmp_path, "native", 200_000, int(os.environ.get("DM_SEED", random.SystemRandom().randrange(1 << 32))))


@pytest.mark.parametrize("engine", ["native", "python"])
def test_a_repeated_store_that_overwrites_itself(tmp_path: Path, engine: str) -> None:
    """The host traps after each iteration and fetches anew: NOP, PAUSE or FCOMP for REP STOSB."""
    try:
        program = host.build(tmp_path)
        ldt = [[generate.CODE32, generate.CODE, 0xFFFF, 1, 2, 0, 0, 0], [3, generate.CODE, 0xFFFF, 1, 0, 0, 0, 0]]
        host.run(program, [ldt], [])
    except host.HostError as error:
        pytest.skip(f"no modify_ldt or no compiler: {error}")
    data, requests = 3 << 3 | 7, []
    for value, count, edi in itertools.product((0x90, 0xD8), (1, 3, 40), (0xFF, 0x100, 0x101)):
        gpr = [value * 0x01010101, count, 0, 0, 0x1000, 0, 0x2000, edi]
        segments = [data, generate.CODE32 << 3 | 7, data, data, data, data]
        requests.append(
            generate.Request(1, bytes.fromhex("f3aa").ljust(16, b"\x90"), gpr, segments, 0x100, 0x202, [], 0)
        )
    rows, cpuid = host.run(program, [ldt], requests)
    assert len(rows) == len(requests)
    found = [lines for _, lines in compared(rows, cpuid, [ldt], engine)]
    assert [lines for lines in found if lines] == []
    assert found.count(None) == 0


@pytest.mark.timeout(1200)
def test_python_engine(tmp_path: Path) -> None:
    run_all(tmp_path, "python", 5_000, int(os.environ.get("DM_SEED", random.SystemRandom().randrange(1 << 32))))


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_native_engine_ten_million(tmp_path: Path) -> None:
    run_all(tmp_path, "native", 10_000_000, int(os.environ.get("DM_SEED", random.SystemRandom().randrange(1 << 32))))
