"""Every form of every instruction that hardware executes in ring 3, one after the other, against the CPU it runs on.

Where :mod:`test_host` draws at random, this goes through the opcode map; its seed is fixed, so what it executes is the
same in every run and stands in the table of ``x86-dm isa``.
"""

from __future__ import annotations

import dataclasses
import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "isa"))
sys.path.insert(0, str(Path(__file__).parent))

import generate
import host
import undefined
from encode import encode
from generate import CODE16, CODE32, CODE_LENGTH, Request

from dm.engine import create, native_status
from dm.engine.api import CpuConfig, CpuidEntry
from dm.isa.map.decode import variants
from dm.isa.map.forms import ROWS
from dm.vectors import hwamd
from dm.vectors.runner import executed, run_case
from dm.vectors.world_memory import WorldMemory

pytestmark = pytest.mark.modify_ldt
SEED = 286


def requests_for_every_form(each: int, ldts: list[list[list[int]]]) -> list[Request]:
    """Return ``each`` cases per form and code size."""
    rng = random.Random(SEED)
    out = []
    for row in ROWS:
        for variant in variants(row):
            for code32 in (0, 1):
                for _ in range(each):
                    code = encode(row, variant, bool(code32), rng)
                    if code is None:
                        continue
                    code = (code + rng.randbytes(CODE_LENGTH))[:CODE_LENGTH]
                    if not generate.comparable(code):
                        continue
                    case = generate.make_case(rng, ldts)
                    seg = [*case.seg]
                    seg[1] = (CODE32 if code32 else CODE16) << 3 | 7
                    gpr = [*case.gpr]
                    if variant.rep or rng.random() < 0.5:
                        gpr[1] = rng.randrange(1, 20)
                    if rng.random() < 0.7:  # addresses that lie in most segments
                        gpr[3], gpr[5:8] = rng.randrange(0x60), [rng.randrange(0x60) for _ in range(3)]
                    out.append(dataclasses.replace(case, code32=code32, code=code, seg=seg, gpr=gpr, eip=0x200))
    return sorted((r for r in out if not undefined.result(r)), key=lambda r: r.ldt)


@pytest.mark.parametrize(("engine_name", "each"), [("native", 12), ("python", 4)])
@pytest.mark.timeout(900)
def test_every_form_does_what_hardware_does(tmp_path: Path, engine_name: str, each: int) -> None:
    if engine_name == "native" and not native_status()[0]:
        pytest.skip(native_status()[1])
    rng = random.Random(SEED)
    ldts = [generate.make_ldt(rng) for _ in range(40)]
    try:
        rows, cpuid = host.run(host.build(tmp_path), ldts, requests_for_every_form(each, ldts))
    except host.HostError as error:
        pytest.skip(f"no modify_ldt or no compiler: {error}")
    world = hwamd.RingThree(CpuConfig(tuple(CpuidEntry(*row) for row in cpuid)))
    known = [{entry[0]: hwamd.segment(*entry) for entry in ldt} for ldt in ldts]
    memory = WorldMemory(world.pieces)
    engine = create(engine_name, world.cpu)
    engine.set_map(memory.map())
    wrong = []
    for index, row in enumerate(rows):
        code = row[1]
        case = hwamd.case(code.hex(), index, row, known)
        lines = run_case(engine, world, memory, case)
        if lines:
            wrong.append(f"case {index} code32={row[0]} {code.hex(' ')}: {'; '.join(lines)}\n    {case.state}")
        else:
            executed(case)
    engine.close()
    print(f"{len(rows)} cases, {len(wrong)} differ")
    assert len(rows) > 2500 * each
    assert not wrong, f"{len(wrong)} of {len(rows)} differ:\n" + "\n".join(wrong[:10])
