"""The 80286 set: its reader on a file made here, and both engines on the recorded one."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import msgpack
import pytest

from dm.vectors import hw286
from dm.vectors.case import Case, FormatError, RecordedFault
from dm.vectors.formats import open_file

INITIAL = [1, 2, 3, 4, 0x1000, 0x2000, 0x3000, 0x4000, 0x100, 5, 6, 7, 0x20, 0xF002 | 1]


def row(**columns: Any) -> list[Any]:
    values: dict[str, Any] = {
        "idx": 9, "bytes": b"\x40\xf4", "initial": INITIAL, "ram": [[0x10020, b"\x40\xf4"]],
        "final_regs": {0: 2, 12: 0x22}, "final_ram": [], "exception": None, "name": "inc ax",
        "x386": None, "x386_regs": None,
    }  # fmt: skip
    return list((values | columns).values())


def write(tmp_path: Path, *rows: list[Any], **table: Any) -> Path:
    whole = {
        "file": "40", "flags_mask": 0xF7FF, "regs": list(hw286.REGISTERS), "fields": list(hw286.FIELDS),
        "tests": list(rows),
    }  # fmt: skip
    path = tmp_path / "40.mp.gz"
    path.write_bytes(gzip.compress(msgpack.packb(whole | table)))
    return path


def one(tmp_path: Path, **columns: Any) -> Case:
    form, _, cases = open_file(write(tmp_path, row(**columns)))
    assert form == "hw286"
    (case,) = cases
    return case


def test_a_case_is_read_whole(tmp_path: Path) -> None:
    case = one(tmp_path, final_ram=[[0x500, b"ab"]])
    s = case.state
    assert (case.opcode, case.index, case.name, case.code) == ("40", 9, "inc ax", b"\x40\xf4")
    assert [s.ax, s.bx, s.cx, s.dx, s.sp, s.bp, s.si, s.di] == [1, 2, 3, 4, 0x100, 5, 6, 7]
    assert [(g.selector, g.base) for g in (s.cs, s.ss, s.ds, s.es)] == [
        (0x1000, 0x10000), (0x2000, 0x20000), (0x3000, 0x30000), (0x4000, 0x40000)
    ]  # fmt: skip
    assert (s.rip, s.rflags, s.cr0 & 1, s.cpl, s.idtr_base, s.idtr_limit) == (0x20, 3, 0, 0, 0, 0x3FF)
    assert case.patches == ((0x10020, b"\x40\xf4"),)
    assert case.changes == ((0x500, b"ab"),)
    assert case.registers["ax"] == (2, 0xFFFF)
    assert case.registers["bx"] == (2, 0xFFFF)
    assert case.registers["ip"] == (0x22, 0xFFFF)
    assert case.registers["flags"] == (0xF003, 0x07D5)
    assert (case.fault, case.vector_only, case.skip) == (None, False, "")


def test_flags_pushed_by_an_exception_are_masked(tmp_path: Path) -> None:
    case = one(tmp_path, exception=[0, 0x200FE], final_regs={8: 0xFB})
    assert case.memory_masks == {0x200FF: 0xD5, 0x20100: 0x07}


def test_another_vector_on_a_386_is_found_with_handlers_of_its_own(tmp_path: Path) -> None:
    case = one(tmp_path, x386=12, ram=[[0x400, bytes(0x20)], [0x10020, b"\x50\xf4"]])
    assert (case.fault, case.vector_only) == (RecordedFault(12), True)
    assert case.state.idtr_base == 0x110000
    memory = dict(case.patches)
    offset, segment = (int.from_bytes(memory[0x110000][12 * 4 + i : 12 * 4 + i + 2], "little") for i in (0, 2))
    handlers = (segment << 4, memory[segment << 4])
    assert handlers == (0x500, b"\xf4" * 32)
    assert offset == 12


def test_registers_that_a_386_keeps(tmp_path: Path) -> None:
    assert one(tmp_path, final_regs={10: 0xFF, 12: 0}, x386_regs={10: 6}).registers["si"] == (6, 0xFFFF)


def test_a_386_faults_before_sp_moves_so_its_frame_stands_elsewhere(tmp_path: Path) -> None:
    final = {8: 0x102 - 6, 12: 0}
    frame = [[0x200FC, b"?" * 6]]
    case = one(tmp_path, final_regs=final, x386_regs={8: 0x100}, exception=[13, 0x20100], final_ram=frame)
    assert case.registers["sp"] == (0xFA, 0xFFFF)
    assert case.changes == ((0x200FA, b"\x20\0"), (0x200FC, b"\0\x10"), (0x200FE, b"\3\0"))
    assert case.memory_masks.keys() == {0x200FE, 0x200FF}


def test_what_only_the_286_does_is_skipped(tmp_path: Path) -> None:
    case = one(tmp_path, x386=-1)
    assert case.skip == "the 80286 differs from all later parts here"
    assert case.fault is None


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"fields": ["a"]}, "neither the fields of hw286 nor those of hwamd"),
        ({"regs": ["eax"]}, "registers must be ax bx"),
        ({"tests": [[1, 2]]}, "rows with 10 values"),
        ({"tests": None}, "rows with 10 values"),
    ],
)
def test_other_tables_are_refused(tmp_path: Path, table: dict[str, Any], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        open_file(write(tmp_path, row(), **table))


@pytest.mark.parametrize(
    "data",
    [b"", b"\x1f\x8b", b"text", gzip.compress(b"\xc1"), gzip.compress(b"\x92\x01")],
    ids=["empty", "cut", "text", "not-msgpack", "msgpack-cut"],
)
def test_damaged_files_are_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "40.mp.gz"
    path.write_bytes(data)
    with pytest.raises(FormatError, match=r"40\.mp\.gz: not a gzipped msgpack file"):
        open_file(path)


@pytest.mark.parametrize(
    ("engine", "sample"), [("native", 1), ("python", 0.1), pytest.param("python", 1, marks=pytest.mark.long)]
)
@pytest.mark.timeout(3600)
def test_engine_does_what_hardware_did(recorded: Path, hold: Any, engine: str, sample: float) -> None:
    assert hold(recorded / "hw286", engine, sample) > 70000 * sample
