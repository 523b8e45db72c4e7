"""The ring-3 set: its reader and its world on a file made here, and both engines on the recorded one."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import msgpack
import pytest
from ring_three import CS32, SS, row, write

from dm.vectors import hwamd
from dm.vectors.case import Case, FormatError, RecordedFault
from dm.vectors.formats import open_file


def one(tmp_path: Path, **columns: Any) -> Case:
    form, _, cases = open_file(write(tmp_path, row(**columns)))
    assert form == "hwamd"
    (case,) = cases
    return case


def test_a_case_is_read_whole(tmp_path: Path) -> None:
    case = one(tmp_path)
    s = case.state
    assert s.gpr == [1, 2, 3, 4, 5, 6, 7, 8]
    assert (s.rip, s.rflags, s.cpl, s.cr0 & 1) == (0x100, 0x297, 3, 1)
    assert case.registers["eax"] == (2, 0xFFFFFFFF)
    assert case.registers["ecx"] == (2, 0xFFFFFFFF)
    assert case.registers["cs"] == (CS32, 0xFFFF)
    assert case.registers["eip"] == (0x101, 0xFFFFFFFF)
    assert case.registers["eflags"] == (6, 0x244CD5 & ~0x10)
    assert case.changes == ((hwamd.ARENA + 0x20, b"w"),)
    assert (hwamd.ARENA + 0x30100, b"\x40") in case.patches
    assert (hwamd.ARENA + 0x1008, b"xy") in case.patches
    assert case.fault is None


def test_segment_caches_hold_what_their_descriptors_say(tmp_path: Path) -> None:
    s = one(tmp_path).state
    assert (s.es.selector, s.es.unusable) == (0, 1)
    # user_desc to descriptor: DPL 3, S, accessed, AVL, present; SDM vol. 3A, table 3-1 for the types
    assert (s.cs.selector, s.cs.base, s.cs.limit, s.cs.attributes) == (CS32, hwamd.ARENA + 0x30000, 0x1FFFF, 0x50F9)
    assert (s.ss.selector, s.ss.base, s.ss.limit, s.ss.attributes) == (SS, hwamd.ARENA + 0x1000, 0xFF, 0x10F3)
    assert (s.ds.selector, s.ds.base, s.ds.limit, s.ds.attributes) == (39, hwamd.ARENA, 0x1FFFF, 0xD0F5)
    assert s.seg[1] is not s.seg[2]


def test_the_ldt_in_memory_holds_the_same_descriptors(tmp_path: Path) -> None:
    case = one(tmp_path)
    table = dict(case.patches)[case.state.ldtr.base]
    assert case.state.ldtr.limit == len(table) - 1 == 8 * 7 - 1
    assert table[:8] == table[40:48] == bytes(8)
    assert table[8:16] == bytes.fromhex("ffff 0000 03 fb 10 10")
    assert table[16:24] == bytes.fromhex("ffff 0000 03 f9 51 10")
    assert table[32:40] == bytes.fromhex("1f00 0000 00 f5 d0 10")
    assert table[48:56] == bytes.fromhex("2143 3412 00 73 50 10")


@pytest.mark.parametrize(
    ("exception", "fault"),
    [([13, 0x24], RecordedFault(13, 0x24)), ([13, 0], RecordedFault(13, 0)), ([6, 0], RecordedFault(6))],
)
def test_error_codes_belong_to_the_vectors_that_push_one(
    tmp_path: Path, exception: list[int], fault: RecordedFault
) -> None:
    assert one(tmp_path, exception=exception).fault == fault


@pytest.mark.parametrize("selector", [5 << 3 | 7, 7 << 3 | 7, 1 << 3 | 3])
def test_selectors_outside_the_ldt_are_refused(tmp_path: Path, selector: int) -> None:
    with pytest.raises(FormatError, match=f"selector {selector:#x} names no entry"):
        one(tmp_path, seg=[selector, CS32, SS, 0, 0, 0])


@pytest.mark.parametrize("ldts", [5, [[[1, 2]]]])
def test_damaged_ldts_are_refused(tmp_path: Path, ldts: Any) -> None:
    path = write(tmp_path, row())
    (tmp_path / "ldts.mp.gz").write_bytes(gzip.compress(msgpack.packb(ldts)))
    with pytest.raises(FormatError, match=r"ldts\.mp\.gz: a list of LDTs"):
        open_file(path)


def test_missing_ldts_are_named(tmp_path: Path) -> None:
    path = write(tmp_path, row())
    (tmp_path / "ldts.mp.gz").unlink()
    with pytest.raises(FormatError, match=r"ldts\.mp\.gz"):
        open_file(path)


@pytest.mark.parametrize(
    ("engine", "sample"), [("native", 1), ("python", 0.1), pytest.param("python", 1, marks=pytest.mark.long)]
)
@pytest.mark.timeout(3600)
def test_engine_does_what_hardware_did(recorded: Path, hold: Any, engine: str, sample: float) -> None:
    assert hold(recorded / "hwamd", engine, sample) > 55000 * sample
