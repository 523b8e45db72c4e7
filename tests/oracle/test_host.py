"""The emulator against the CPU it runs on: random instructions in random ring-3 segments, nothing unexplained."""

from __future__ import annotations

import os
import random
import sys
import time
from collections import Counter
from multiprocessing import get_context
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import generate
import host
import undefined

from dm.engine import create
from dm.engine.api import CpuConfig, CpuidEntry
from dm.vectors import hwamd
from dm.vectors.memory import Memory
from dm.vectors.runner import run_case

BATCH = 5000


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
        lines = run_case(engine, world, memory, case)
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


def run_all(tmp_path: Path, engine: str, total: int, seed: int) -> None:
    try:
        program = host.build(tmp_path)
        host.run(program, [generate.make_ldt(random.Random(1))], [])
    except host.HostError as error:
        pytest.skip(f"no modify_ldt or no compiler: {error}")
    jobs = [(str(program), engine, seed + n, BATCH) for n in range(-(-total // BATCH))]
    done, wrong, words = 0, Counter[str](), []
    started = time.monotonic()
    with get_context("spawn").Pool(min(2, os.cpu_count() or 1)) as pool:
        for count, by_opcode, text in pool.imap_unordered(run_batch, jobs):
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


@pytest.mark.timeout(1200)
def test_python_engine(tmp_path: Path) -> None:
    run_all(tmp_path, "python", 5_000, int(os.environ.get("DM_SEED", random.SystemRandom().randrange(1 << 32))))


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_native_engine_ten_million(tmp_path: Path) -> None:
    run_all(tmp_path, "native", 10_000_000, int(os.environ.get("DM_SEED", random.SystemRandom().randrange(1 << 32))))
