"""Whose CPU a set is checked against: what names it, what overrides it, and that it matters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ring_three import row, write

from dm.cli import Parser
from dm.commands import vectors as command
from dm.isa.parts import AMD, INTEL
from dm.vectors import vendor
from dm.vectors.differences import DIFFERENCES
from dm.vectors.formats import open_file
from dm.vectors.runner import part_of

# CALL to 10000h, beyond the limit of the code segment: #GP(0), and the return address in memory, or not.
CALL = {"bytes": bytes.fromhex("e8fbfe0000"), "exception": [13, 0], "final_gpr": {}, "final_eip": 0x100,
        "final_eflags": 0x97, "gpr": [1, 2, 3, 4, 0x40, 6, 7, 8], "patches": []}  # fmt: skip
AS_INTEL = row(**CALL, mem_writes=[[0x103C, b"\x05\x01\0\0"]])
AS_AMD = row(**CALL, mem_writes=[])
CODE_64_KIB = [[2, 0x30000, 0xFFFF, 1, 2, 0, 0, 0], [3, 0x1000, 0xFF, 1, 0, 0, 0, 0], [4, 0, 31, 1, 1, 1, 1, 0]]


def call(folder: Path, rows: list[object], **table: object) -> Path:
    """Write a set of one file."""
    folder.mkdir(exist_ok=True)
    return write(folder, *rows, ldts=[CODE_64_KIB], **table)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("GenuineIntel", "intel"),
        ("recorded on Intel", "intel"),
        ("AuthenticAMD", "amd"),
        ("an AMD EPYC", "amd"),
        ("amd", "amd"),
        ("Intel and AMD", ""),
        ("hwamd", ""),
        ("Intelligent", ""),
        ("", ""),
    ],
)
def test_a_text_names_one_vendor(text: str, name: str) -> None:
    assert vendor.named(text) == name


@pytest.mark.parametrize(
    ("readme", "key", "folder", "form"),
    [
        (None, None, "set", "hwamd"),
        (None, None, "hwintel", "hwintel"),
        ("# recorded on real hardware (Intel)\nformat as of hwamd's, AMD", None, "set", "hwintel"),
        ("# a set\nfrom a GenuineIntel part", None, "set", "hwintel"),
        ("# a set\nof AMD and Intel", None, "set", "hwamd"),
        ("# AMD's", None, "hwintel", "hwamd"),
        ("# AMD's", "GenuineIntel", "hwamd", "hwintel"),
    ],
)
def test_what_names_the_vendor(tmp_path: Path, readme: str | None, key: str | None, folder: str, form: str) -> None:
    path = call(tmp_path / folder, [AS_AMD], **({"vendor": key} if key else {}))
    if readme:
        (path.parent / "README.md").write_text(readme)
    vendor._of_readme.cache_clear()
    found, world, _ = open_file(path)
    assert (found, part_of(world.cpu)) == (form, INTEL if form == "hwintel" else AMD)


def test_the_vendor_given_wins(tmp_path: Path) -> None:
    path = call(tmp_path / "hwamd", [AS_AMD])
    for name, form, part in (("intel", "hwintel", INTEL), ("amd", "hwamd", AMD)):
        found, world, _ = open_file(path, name)
        assert (found, part_of(world.cpu)) == (form, part)


def run(*words: object) -> int:
    parser = Parser("x86-dm vectors", "")
    command.add_arguments(parser)
    return command.main(parser.parse([str(w) for w in words] + ["--jobs", "1", "--engine", "python"]))


def test_sets_of_both_vendors_in_one_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(tmp_path / "hwamd", [AS_AMD])
    call(tmp_path / "hwintel", [AS_INTEL])
    assert run(tmp_path) == 0
    assert capsys.readouterr().out.splitlines() == [
        "python engine: 2 passed, 0 failed", "  checked against: AuthenticAMD (hwamd), GenuineIntel (hwintel)"
    ]  # fmt: skip
    assert run(tmp_path, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["parts"] == {"hwamd": "AuthenticAMD", "hwintel": "GenuineIntel"}
    assert told["opcodes"].keys() == {"hwamd/40", "hwintel/40"}


def test_another_vendors_part_fails_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(tmp_path / "hwamd", [AS_AMD])
    call(tmp_path / "hwintel", [AS_INTEL])
    assert run(tmp_path, "--vendor", "intel") == 1
    assert "python engine: 1 passed, 1 failed\n  checked against: GenuineIntel (hwintel)" in capsys.readouterr().out
    assert run(tmp_path, "--vendor", "AuthenticAMD") == 1
    assert "1 passed, 1 failed\n  checked against: AuthenticAMD (hwamd)" in capsys.readouterr().out


@pytest.mark.parametrize(("wrong", "hint"), [("intle", "did you mean intel?"), ("via", "one of amd, intel is needed")])
def test_a_wrong_vendor_is_answered_with_the_right_ones(
    capsys: pytest.CaptureFixture[str], wrong: str, hint: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        run("x", "--vendor", wrong)
    assert caught.value.code == 2
    assert hint in capsys.readouterr().err


def test_flags_that_are_undefined_are_compared_when_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shifted = {"bytes": bytes.fromhex("c1e002"), "gpr": [1, 2, 3, 4, 0x40, 6, 7, 8], "final_gpr": {0: 4},
               "final_eip": 0x103, "patches": [], "mem_writes": [], "undef_flags": 0x810}  # fmt: skip
    call(tmp_path / "hwintel", [row(**shifted, final_eflags=2), row(**shifted, final_eflags=0x12)])
    assert run(tmp_path) == 0
    assert run(tmp_path, "--undefined") == 1
    out = capsys.readouterr().out
    assert "1 passed, 1 failed" in out
    assert "#1 [c1 e0 02]\n    eflags: 0, hardware: 10" in out


def test_a_row_of_nothing_but_prefixes(tmp_path: Path) -> None:
    """It lies at the end of the code segment: the fetch behind it is #GP(0)."""
    cut = {**CALL, "bytes": b"\xf3\x67\x2e", "eip": 0xFFFD, "final_eip": 0xFFFD, "mem_writes": []}
    call(tmp_path / "hwintel", [row(**cut)])
    assert run(tmp_path) == 0


def test_differences_of_a_vendor_need_its_part() -> None:
    held = [row for row in DIFFERENCES if row.held]
    assert held
    assert all(row.held.partition(" ")[0] in (INTEL, AMD) for row in held)
