"""``x86-dm isa``: every form with its modes and the tests that execute it, and that none is without one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dm import cli
from dm.commands import isa as command
from dm.isa.insn import Variant
from dm.isa.map import coverage
from dm.isa.map.coverage import Execution
from dm.isa.map.decode import decode, variants
from dm.isa.map.forms import ROWS

TESTS = Path(__file__).resolve().parents[1]
ADD = next(row for row in ROWS if row.text == "01 /r ADD Ev,Gv")


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return a table of its own that the command reads."""
    path = tmp_path / "executed.txt"
    whole = coverage.load()
    monkeypatch.setattr(coverage, "load", lambda: load(path))
    coverage.save(whole, path)
    return path


load = coverage.load


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, list[str]]:
    status = cli.run(["isa", *words])
    return status, capsys.readouterr().out.splitlines()


def test_no_form_is_without_an_executed_test(capsys: pytest.CaptureFixture[str]) -> None:
    status, lines = run(capsys, "--missing")
    assert (status, lines) == (0, [lines[-1]])
    assert lines[-1].endswith(" 0 without an executed test")


def test_what_is_claimed_exists() -> None:
    claims = coverage.load()
    forms = {(row.text, coverage.form_name(variant, row)) for row in ROWS for variant in variants(row)}
    assert {claim.test for claim in claims if not (TESTS / f"{claim.test}.py").is_file()} == set()
    assert {(claim.row, claim.form) for claim in claims} <= forms
    assert len(claims) > 10000


def test_every_mode_runs_most_forms() -> None:
    """Each mode of the processor in turn: what is executed there is most of what can be."""
    modes: dict[str, int] = {}
    for form in coverage.survey(coverage.load()):
        for mode in form.modes:
            modes[mode] = modes.get(mode, 0) + 1
    for mode in "real unreal vm86 vm86+paged p16.0 p16.3 p32.0 p32.1 p32.3 p32.0+paged p32.3+paged".split():
        assert modes[mode] > 1200, mode


def test_the_listing_names_every_form(capsys: pytest.CaptureFixture[str]) -> None:
    status, lines = run(capsys)
    assert status == 0
    at = lines.index("01 /r         ADD             Ev,Gv       80286")
    names = " ".join(line.strip() for line in lines[at + 1 : at + 30] if line.startswith("    ") and ":" not in line)
    assert {coverage.form_name(v, ADD) for v in variants(ADD)} <= set(names.split())
    assert any("tests: " in line and "vectors/test_hw286" in line for line in lines[at : at + 30])
    assert "F3 0F B8 /r   POPCNT          Gv,Ev       cpuid:popcnt" in lines
    assert "0F 40 /r      CMOVO           Gv,Ev       cpuid:cmov" in lines
    assert "0F B6 /r      MOVZX           Gv,Eb       80386" in lines
    assert "0F C8+r       BSWAP           Zv          80486" in lines
    assert "0F 01 F9      RDTSCP                      cpuid:rdtscp" in lines
    assert "NP 0F 38 F9 /r MOVDIRI         Md,Gd       cpuid:movdiri" in lines


def test_json_has_one_object_for_each_form(capsys: pytest.CaptureFixture[str]) -> None:
    status, lines = run(capsys, "--json")
    found = [json.loads(line) for line in lines]
    assert status == 0
    assert len(found) == len(list(coverage.survey(())))
    add = next(f for f in found if (f["opcode"], f["form"]) == ("01 /r", "32m16+lock"))
    assert (add["mnemonic"], add["operands"], add["since"], add["feature"]) == ("ADD", ["Ev", "Gv"], "80286", None)
    assert "tests/oracle/test_forms.py" in add["tests"]
    assert {"p16.3", "p32.3"} <= set(add["modes"])
    assert next(f for f in found if f["opcode"] == "99" and f["form"] == "32")["mnemonic"] == "CDQ"


def test_a_form_without_a_test_is_missing(
    table: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = load(table)
    coverage.save({e for e in whole if (e.row, e.form) != (ADD.text, "32m16+lock")}, table)
    status, lines = run(capsys, "--missing")
    assert status == 1
    assert [lines[0].split()[0], lines[1].strip(), lines[-1].split()[-5]] == ["01", "32m16+lock", "1"]
    # Engines that agree are no test of what is right.
    agreement = next(iter(coverage.AGREEMENT))
    coverage.save(load(table) | {Execution(ADD.text, "32m16+lock", agreement, "real")}, table)
    assert run(capsys, "--missing")[0] == 1
    coverage.save(load(table) | {Execution(ADD.text, "32m16+lock", "isa/test_arithmetic", "real")}, table)
    assert run(capsys, "--missing")[0] == 0


def test_the_table_is_written_as_it_is_read(table: Path) -> None:
    assert load(table) == coverage.load()
    before = table.read_text()
    coverage.save(load(table), table)
    assert table.read_text() == before


@pytest.mark.parametrize("line", ["01 /r ADD Ev,Gv\n  16: 0", "01 /r ADD Ev,Gv\n  16", "= 1 isa/test_x real"])
def test_a_damaged_table_is_named(table: Path, line: str) -> None:
    table.write_text(line + "\n")
    with pytest.raises(ValueError, match=r"executed\.txt, line \d: "):
        load(table)


def test_claims_are_held_against_what_was_executed() -> None:
    claims = [Execution("NP 90 NOP", "16", "isa/test_a", "real"), Execution("NP 90 NOP", "16", "isa/test_b", "real")]
    assert coverage.broken_claims(claims, {claims[0]}, {"isa/test_a", "isa/test_b"}) == [claims[1]]
    assert coverage.broken_claims(claims, {claims[0]}, {"isa/test_a"}) == []
    # A host may lack POPCNT, but not NOP.
    host = next(iter(coverage.ON_HOST))
    claims = [Execution("F3 0F B8 /r POPCNT Gv,Ev", "16", host, "p16.3"), Execution("NP 90 NOP", "16", host, "p16.3")]
    assert coverage.broken_claims(claims, set(), {host}) == claims[1:]


def test_only_what_ran_to_its_end_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    done: set[Execution] = set()
    monkeypatch.setattr(coverage, "recorded", done)
    add, ud2 = decode(bytes.fromhex("01c8"), True), decode(bytes.fromhex("0f0b"), True)
    coverage.executed(add, "p32.3", completed=False)
    coverage.executed(decode(bytes.fromhex("f001c8"), True), "p32.3", completed=False)  # no instruction at all
    assert done == set()
    coverage.executed(add, "p32.3", completed=True)
    coverage.executed(ud2, "real", completed=False)  # it can do nothing else
    assert {(e.row, e.form, e.mode) for e in done} == {("01 /r ADD Ev,Gv", "32", "p32.3"), ("0F 0B UD2", "32", "real")}
    assert {e.test for e in done} == {"isa/test_coverage"}


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ((0, 2, 0, False, [0xFFFF]), "real"),
        ((0, 2, 0, False, [0xFFFF, 0xFFFFFFFF]), "unreal"),
        ((0, 2, 0, True, [0xFFFF]), "unreal"),
        ((1, 0x20002, 3, False, [0xFFFF]), "vm86"),
        ((0x80000001, 0x20002, 3, False, [0xFFFF]), "vm86+paged"),
        ((1, 2, 2, False, [0xFFFFFFFF]), "p16.2"),
        ((0x80000001, 2, 3, True, [0xFFFFFFFF]), "p32.3+paged"),
    ],
)
def test_modes_have_names(values: tuple[int, int, int, bool, list[int]], name: str) -> None:
    assert coverage.mode_name(*values) == name


def test_forms_have_names() -> None:
    movs = next(row for row in ROWS if row.text.startswith("A4 "))
    assert coverage.form_name(Variant(16, 32, False, False, "rep"), movs) == "16a32+rep"
    assert coverage.form_name(Variant(32, 16, True, True), ADD) == "32m16+lock"
    assert command.opcode(ADD) == "01 /r"
