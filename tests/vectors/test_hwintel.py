"""The sets recorded on Intel's CPUs: ring 3, and what is read of x87, MMX and SSE."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import msgpack
import pytest
from ring_three import LDT
from ring_three import row as plain_row

import dm.engine
from dm.isa.map import coverage
from dm.vectors import hwamd, hwfpu
from dm.vectors.case import FormatError
from dm.vectors.formats import find_files, open_file
from dm.vectors.runner import run_file


@pytest.mark.parametrize(
    ("engine", "sample"), [("native", 1), ("python", 0.1), pytest.param("python", 1, marks=pytest.mark.long)]
)
@pytest.mark.timeout(3600)
def test_engine_does_what_hardware_did(recorded: Path, hold: Any, engine: str, sample: float) -> None:
    assert hold(recorded / "hwintel", engine, sample) > 55000 * sample


@pytest.mark.parametrize(("name", "rest"), [("hwintel", set()), ("hwamd", {"37", "3f", "f6", "f7", "0fa4", "0fa5"})])
def test_undefined_flags_are_as_the_table_says(recorded: Path, name: str, rest: set[str]) -> None:
    """All of them on Intel's part; on AMD's but for AAA, AAS, DIV, IDIV and SHLD of a word by 16 (dm.isa.undefined)."""
    files = [path for path in find_files([recorded / name]) if not rest & {path.name.partition(".")[0]}]
    failed = {}
    for path in files:
        found = run_file(path, lambda cpu: dm.engine.create("native", cpu), undefined=True)
        if found.failed:
            failed[found.opcode] = found.failures
    assert failed == {}
    assert len(files) > 300


FPU = [0x37F, 0x3800, 0x81, 0x123, 0x1000, 0x2000, 0x1F80]


def row(**columns: Any) -> list[Any]:
    more: dict[str, Any] = {
        "fpu": FPU, "regs": {7: bytes(9) + b"\x40"}, "xmm": {1: bytes(range(16))}, "final_fpu": {1: 0x3000},
        "final_regs": {0: b"\x01" * 10}, "final_xmm": {2: b"\x02" * 16},
    }  # fmt: skip
    ours = {key: columns.pop(key, value) for key, value in more.items()}
    return [*plain_row(**columns), *ours.values()]


def write(tmp_path: Path, *rows: list[Any], **table: Any) -> Path:
    whole = {
        "op": "d9", "gpr": list(hwamd.GPR), "seg": list(hwamd.SEG), "fpu": list(hwfpu.FPU),
        "fields": list(hwfpu.FIELDS), "tests": list(rows),
    }  # fmt: skip
    folder = tmp_path / "hwfpu-intel"
    folder.mkdir()
    path = folder / "d9.mp.gz"
    path.write_bytes(gzip.compress(msgpack.packb(whole | table)))
    (folder / "ldts.mp.gz").write_bytes(gzip.compress(msgpack.packb([LDT])))
    return path


def test_a_floating_point_case_is_read_whole(tmp_path: Path) -> None:
    form, _, cases = open_file(write(tmp_path, row()))
    (case,) = cases
    assert form == "hwfpu-intel"
    image = case.state.fxsave
    assert image[:2] + image[2:4] + image[4:5] == b"\x7f\x03" + b"\x00\x38" + b"\x81"
    assert image[6:12] == b"\x23\x01" + (0x1000).to_bytes(4, "little")
    assert image[16:20] == (0x2000).to_bytes(4, "little")
    assert image[24:32] == bytes.fromhex("801f0000 ffff0000")
    # TOP is 7, so ST(0) is R7 and ST(1) is R0; the base of R0 has significand 1 and exponent 3FFFh.
    assert image[32:42] == bytes(9) + b"\x40"
    assert image[48:58] == (0x3FFF << 64 | 1 << 63).to_bytes(10, "little")
    assert image[160:176] == bytes((11 * j + 5) & 255 for j in range(16))
    assert image[176:192] == bytes(range(16))
    assert case.state.cr4 == 0x600
    assert case.registers["fsw"] == (0x3000, 0xFFFFFFFF)
    assert case.registers["fcw"][0] == 0x37F
    assert case.registers["r0"][0] == int.from_bytes(b"\x01" * 10, "little")
    assert case.registers["r7"][0] == 0x40 << 72
    assert case.registers["xmm2"][0] == int.from_bytes(b"\x02" * 16, "little")
    assert case.registers["eax"] == (2, 0xFFFFFFFF)


@pytest.mark.parametrize("engine", ["native", "python"])
def test_what_is_implemented_of_floating_point_passes_and_the_rest_is_named(tmp_path: Path, engine: str) -> None:
    """FNCLEX, with no other change than its own, and F2XM1."""
    fnclex = row(
        bytes=b"\xdb\xe2", fpu=[0x37F, 0x80BF, 0xFF, 0, 0, 0, 0x1F80], final_fpu={1: 0}, final_regs={}, final_xmm={},
        final_gpr={}, final_eip=0x102, final_eflags=0x97, mem_writes=[], undef_flags=0,
    )  # fmt: skip
    f2xm1 = row(bytes=b"\xd9\xf0")
    found = run_file(write(tmp_path, fnclex, f2xm1), lambda cpu: dm.engine.create(engine, cpu))
    assert (found.passed, found.failed, sum(found.unimplemented.values())) == (1, 0, 1), found.failures
    assert next(iter(found.unimplemented)) == "F2XM1"


def test_other_columns_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="the columns of 'fpu' must be fcw fsw ftw fop fip fdp mxcsr"):
        open_file(write(tmp_path, row(), fpu=["fcw"]))


#: Cases of the transcendental instructions in the set.
TRANSCENDENTAL = 1484


@pytest.mark.parametrize(
    ("engine", "sample"), [("native", 1), ("python", 0.2), pytest.param("python", 1, marks=pytest.mark.long)]
)
@pytest.mark.timeout(3600)
def test_x87_does_what_hardware_did(recorded: Path, engine: str, sample: float) -> None:
    passed, unimplemented = 0, 0
    for name in ("9b", *(f"d{digit}" for digit in "89abcdef")):
        path = recorded / "hwfpu-intel" / f"{name}.mp.gz"
        found = run_file(path, lambda cpu: dm.engine.create(engine, cpu), sample, record=sample == 1)
        coverage.recorded.update(found.executed)
        assert found.failed == 0, found.failures
        assert set(found.unimplemented) <= {"F2XM1", "FYL2X", "FYL2XP1", "FPTAN", "FPATAN", "FSIN", "FCOS", "FSINCOS"}
        passed, unimplemented = passed + found.passed, unimplemented + sum(found.unimplemented.values())
    assert passed > 38000 * sample
    assert unimplemented < TRANSCENDENTAL * (sample + 0.05)


@pytest.mark.parametrize(("engine", "sample"), [("native", 0.2), ("python", 0.01)])
@pytest.mark.timeout(600)
def test_recorded_mmx_and_sse_is_readable(recorded: Path, engine: str, sample: float) -> None:
    """Each case runs, or is named as not implemented; no engine raises."""
    unimplemented = 0
    for path in find_files([recorded / "hwfpu-intel"]):
        if path.name.startswith("0f"):
            found = run_file(path, lambda cpu: dm.engine.create(engine, cpu), sample, seed=1)
            unimplemented += sum(found.unimplemented.values())
            assert not [line for failure in found.failures for line in failure.lines if line.startswith("raised")]
    assert unimplemented > 25000 * sample
