"""The MOO reader, on files made here chunk by chunk."""

from __future__ import annotations

import gzip
import json
import struct
from pathlib import Path

import pytest

from dm.vectors import moo
from dm.vectors.case import Case, FormatError

R32 = [
    "cr0", "cr3", "eax", "ebx", "ecx", "edx", "esi", "edi", "ebp", "esp",
    "cs", "ds", "es", "fs", "gs", "ss", "eip", "eflags", "dr6", "dr7",
]  # fmt: skip
R16 = ["ax", "bx", "cx", "dx", "cs", "ss", "ds", "es", "sp", "bp", "si", "di", "ip", "flags"]
FULL32 = dict.fromkeys(R32, 0) | {
    "eax": 0x11223344, "cs": 0x1000, "eip": 0x20, "eflags": 0xFFFC0002, "cr0": 0x7FFEFFF0
}  # fmt: skip


def chunk(kind: str, data: bytes) -> bytes:
    return kind.encode() + struct.pack("<I", len(data)) + data


def registers(kind: str, names: list[str], values: dict[str, int]) -> bytes:
    width = "I" if kind in ("RG32", "RM32") else "H"
    mask = sum(1 << names.index(n) for n in values)
    ordered = [values[n] for n in names if n in values]
    return chunk(kind, struct.pack(f"<{1 + len(ordered)}{width}", mask, *ordered))


def ram(*entries: tuple[int, int]) -> bytes:
    return chunk("RAM ", struct.pack("<I", len(entries)) + b"".join(struct.pack("<IB", a, v) for a, v in entries))


def counted(kind: str, data: bytes) -> bytes:
    return chunk(kind, struct.pack("<I", len(data)) + data)


def header(part: bytes = b"386E", tests: int = 1, version: int = 1) -> bytes:
    return chunk("MOO ", struct.pack("<BB2xI4s", version, 1, tests, part))


def meta(mode: int = 0) -> bytes:
    return chunk("META", struct.pack("<BBBI8sIQB3x", 1, 0, 3, 0x40, b"inc     ", 1, 0, mode))


def a_test(index: int = 7, final: bytes = b"", extra: bytes = b"", digest: bytes = bytes(20)) -> bytes:
    initial = registers("RG32", R32, FULL32) + ram((0x10020, 0x40), (0x10021, 0xF4), (0x500, 1)) + counted("QUEU", b"")
    parts = counted("NAME", b"inc ax") + counted("BYTS", b"\x40") + chunk("INIT", initial) + chunk("FINA", final)
    return chunk("TEST", struct.pack("<I", index) + parts + extra + chunk("HASH", digest))


def cases(tmp_path: Path, data: bytes, name: str = "40.MOO") -> list[Case]:
    path = tmp_path / name
    path.write_bytes(data)
    return list(moo.read(path)[1])


def test_a_32_bit_test_is_read_whole(tmp_path: Path) -> None:
    final = registers("RG32", R32, {"eax": 0x11223345, "eip": 0x22}) + ram((0x600, 9))
    data = header() + meta() + chunk("CYCL", b"?") + a_test(final=final)
    (case,) = cases(tmp_path, data)
    assert (case.opcode, case.index, case.name, case.code) == ("40", 7, "inc ax", b"\x40")
    assert case.patches == ((0x10020, b"\x40\xf4"), (0x500, b"\x01"))
    assert case.changes == ((0x600, b"\x09"),)
    assert case.state.eax == 0x11223344
    assert (case.state.cs.selector, case.state.cs.base, case.state.cs.limit) == (0x1000, 0x10000, 0xFFFF)
    assert case.state.rip == 0x20
    assert case.state.rflags == 2
    assert case.state.cr0 & 1 == 0
    assert case.registers["eax"] == (0x11223345, 0xFFFFFFFF)
    assert case.registers["eip"] == (0x22, 0xFFFFFFFF)
    assert case.registers["cs"] == (0x1000, 0xFFFF)
    assert case.fault is None
    assert not case.skip


def test_gzipped_files_and_the_286s_registers(tmp_path: Path) -> None:
    values = {name: 0x100 + i for i, name in enumerate(R16)}
    body = chunk("INIT", registers("REGS", R16, values) + ram()) + chunk("FINA", registers("REGS", R16, {"sp": 5}))
    data = header(b"C286") + chunk("TEST", struct.pack("<I", 0) + body)
    (case,) = cases(tmp_path, gzip.compress(data), "50.MOO.gz")
    assert case.opcode == "50"
    assert [case.state.ax, case.state.bx, case.state.cx, case.state.dx] == [0x100, 0x101, 0x102, 0x103]
    assert [s.selector for s in case.state.seg[:6]] == [0x107, 0x104, 0x105, 0x106, 0, 0]
    assert case.registers["sp"] == (5, 0xFFFF)
    assert case.registers["ax"] == (0x100, 0xFFFF)


def test_undefined_bits_are_masked_for_the_file_and_for_one_test(tmp_path: Path) -> None:
    whole = registers("RM32", R32, {"eflags": 0xFFFFF7FF, "ebx": 0})
    own = registers("RM32", R32, {"eflags": 0xFFFFFFFE})
    data = header() + whole + a_test(0) + a_test(1, final=own)
    first, second = cases(tmp_path, data)
    assert first.registers["eflags"][1] == 0x0FD5 & ~0x800
    assert first.registers["ebx"][1] == 0
    assert second.registers["eflags"][1] == 0x0FD5 & ~1
    assert second.registers["ebx"][1] == 0


def test_pushed_flags_of_an_exception_are_masked_in_memory(tmp_path: Path) -> None:
    whole = registers("RM32", R32, {"eflags": 0xFFFFF7FE})
    final = registers("RG32", R32, {"ss": 0x90, "esp": 0xFD})
    data = header() + whole + a_test(final=final, extra=chunk("EXCP", struct.pack("<BI", 0, 0xA00)))
    (case,) = cases(tmp_path, data)
    assert case.memory_masks == {0xA01: 0xD4, 0xA02: 0x07}


METADATA = {
    "opcodes": {
        "40": {"status": "normal", "flags-mask": 0xFFEF},
        "D2": {"reg": {"5": {"status": "normal", "flags-mask": 0xF7EE}}},
        "0FA4": {"flags-mask": 0xF7FF},
    }
}


@pytest.mark.parametrize(
    ("name", "mask"),
    [
        ("40.MOO", 0x0FD5 & ~0x10),
        ("D2.5.MOO", 0x0FD5 & ~0x811),
        ("D2.4.MOO", 0x0FD5),
        ("67660FA4.MOO", 0x0FD5 & ~0x800),
        ("41.MOO", 0x0FD5),
    ],
)
@pytest.mark.parametrize("above", [False, True])
def test_flags_that_the_metadata_calls_undefined_are_masked(tmp_path: Path, name: str, mask: int, above: bool) -> None:
    """Also in the flags that an exception pushes; the file lies beside the tests or one folder up."""
    moo._opcodes.cache_clear()
    (tmp_path / "metadata.json").write_text(json.dumps(METADATA), encoding="utf-8")
    folder = tmp_path / "v1" if above else tmp_path
    folder.mkdir(exist_ok=True)
    final = registers("RG32", R32, {"ss": 0x90, "esp": 0xFD})
    whole = registers("RM32", R32, {"eflags": 0xFFFFFFFB})
    plain, pushed, own = cases(
        folder,
        header() + a_test(0) + a_test(1, final=final, extra=chunk("EXCP", struct.pack("<BI", 0, 0xA00)))
        + whole + a_test(2),
        name,
    )  # fmt: skip
    assert plain.registers["eflags"][1] == mask
    assert pushed.memory_masks == {0xA01: mask & 0xFF, 0xA02: mask >> 8}
    assert own.registers["eflags"][1] == mask & ~4


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"opcodes": 5}', '{"opcodes": {"40": 5}}', '{"opcodes": {"40": {"flags-mask": "x"}}}']
)
def test_damaged_metadata_is_named(tmp_path: Path, text: str) -> None:
    moo._opcodes.cache_clear()
    (tmp_path / "metadata.json").write_text(text, encoding="utf-8")
    with pytest.raises(FormatError, match="metadata"):
        cases(tmp_path, header() + a_test())


def test_revoked_tests_are_not_run(tmp_path: Path) -> None:
    (tmp_path / "revocation_list.txt").write_text("AA" * 20 + "\n", encoding="ascii")
    data = header() + a_test(0, digest=b"\xaa" * 20) + a_test(1, digest=b"\xab" * 20)
    first, second = cases(tmp_path, data)
    assert first.skip == "taken back by the set's authors"
    assert second.skip == ""


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "begins with chunk ''"),
        (b"RIFF\0\0\0\0", "begins with chunk 'RIFF'"),
        (b"MOO \0\0", "6 bytes left where a chunk's 8-byte header should be"),
        (header()[:-1], "chunk b'MOO ' of 12 bytes, but 11 are left"),
        (chunk("MOO ", b"\x01" * 11), "header of 11 bytes"),
        (header(version=2), "version 02; 12 bytes, 1 needed"),
        (header(b"8088"), "recorded on part '8088'; modelled are C286, 386E"),
        (header() + meta(mode=2), "CPU mode 2; only real mode"),
        (header() + chunk("TEST", b"\0"), "test: 1 bytes, 4 needed"),
        (header() + chunk("TEST", bytes(4)), "lacks register 'ax'"),
        (header() + a_test(final=chunk("RAM ", b"\xff\xff\xff\xff")), "4294967295 entries announced, room for 0"),
        (header() + a_test(final=chunk("RG32", b"\xff\0\0\0")), "4 bytes, 36 needed"),
        (header() + a_test()[:-1], "but"),
        (b"\x1f\x8bnonsense", "40.MOO"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_damaged_files_are_refused_with_what_is_wrong(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        cases(tmp_path, data)
    assert message in str(caught.value)
