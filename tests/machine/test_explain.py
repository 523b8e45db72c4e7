"""`x86-dm explain` and states as JSON."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from dm.commands import explain as command
from dm.machine.state import State
from dm.machine.text import from_json, to_json

REAL = {"cs": {"selector": "0xf000", "base": "0xf0000"}}


def explain(tmp_path: Path, content: str, *options: str) -> int:
    path = tmp_path / "state.json"
    path.write_text(content)
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.main(parser.parse_args([str(path), *options]))


def test_a_state_survives_json() -> None:
    state = State.reset()
    state.rax, state.cs.base, state.pdpte[2], state.fxsave = 0x1122334455667788, 0x1234, 7, bytes(range(256)) * 2
    assert from_json(json.loads(json.dumps(to_json(state)))) == state


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"rbz": 1}, "'rbz' is no field of the state .did you mean rbx"),
        ({"cs": {"bose": 1}}, "cs has no 'bose' .did you mean base"),
        ({"cs": {"selector": 65536}}, r"cs.selector is 65536, an integer below 2\*\*16"),
        ({"cr0": "many"}, "cr0 is 'many', a number like 4096"),
        ({"dr": [1]}, "dr is a list of 4 numbers"),
        ({"fxsave": "00"}, "fxsave is a string of 512 bytes"),
        ([], "not list"),
    ],
)
def test_what_does_not_fit_is_named(table: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_json(table)


def test_an_enterable_state(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert explain(tmp_path, json.dumps(REAL)) == 0
    assert capsys.readouterr().out == "vmx: enterable\n"


def test_failing_rules_are_listed_with_value_requirement_and_section(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = REAL | {"ds": {"limit": "0xffffffff"}}
    assert explain(tmp_path, json.dumps(state)) == 1
    out = capsys.readouterr().out
    assert out.splitlines()[0] == "vmx: 1 rule broken"
    for part in ("DS_LIMIT_V86", "ds.limit is 0xffffffff", "FFFFh", "SDM 3C"):
        assert part in out
    assert explain(tmp_path, json.dumps(state), "--for", "svm") == 0


def test_json_for_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert explain(tmp_path, json.dumps(REAL | {"rflags": "0x8002"}), "--json") == 1
    table = json.loads(capsys.readouterr().out)
    assert (table["for"], table["enterable"], [f["rule"] for f in table["failing"]]) == (
        "vmx",
        False,
        ["RFLAGS_RESERVED"],
    )


def test_a_trace_names_the_instruction_that_broke_the_rule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    protected = REAL | {"cr0": "0x60000011", "cs": {"selector": "0xf000", "base": "0xf0000", "attributes": "0x93"}}
    lines = [
        {"instruction": "or eax, 1", "state": REAL},
        {"instruction": "mov cr0, eax", "state": protected},
        {"instruction": "nop", "state": protected},
    ]
    assert explain(tmp_path, "\n".join(map(json.dumps, lines))) == 1
    assert "since: mov cr0, eax" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "not JSON"), ('{"state": 1}\n{"x": 1}', "line 1: a state is an object"), ("{}\n{", "line 1: a trace has")],
)
def test_bad_files(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, message: str) -> None:
    assert explain(tmp_path, content) == 2
    assert message in capsys.readouterr().err


def trace(*limits: int) -> str:
    """Return a trace in real mode whose states have these limits of DS."""
    lines = []
    for number, limit in enumerate(limits):
        state = REAL | {"ds": {"limit": hex(limit)}}
        lines.append(json.dumps({"instruction": f"insn {number}" if number else "", "state": state}))
    return "\n".join(lines)


BIG, USUAL = 0xFFFFFFFF, 0xFFFF


def test_a_trace_is_judged_by_stretches(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = trace(USUAL, BIG, BIG, USUAL, BIG, USUAL)
    assert explain(tmp_path, text) == 0
    assert capsys.readouterr().out.splitlines() == [
        "vmx: enterable (the last state)",
        "trace of 6 states: vmx cannot enter 3 of them, in 2 stretches of about 1 (longest 2)",
        "  DS_LIMIT_V86: 3 states in 2 stretches",
        "  1 to 2 (2): DS_LIMIT_V86",
        "      from insn 1 to insn 3",
        "  4 to 4 (1): DS_LIMIT_V86",
        "      from insn 4 to insn 5",
    ]
    assert explain(tmp_path, text, "--json") == 0
    table = json.loads(capsys.readouterr().out)["trace"]
    assert (table["states"], table["not_enterable"]) == (6, 3)
    assert table["rules"] == {"DS_LIMIT_V86": {"stretches": 2, "states": 3}}
    assert table["stretches"][1] == {
        "first": 4, "last": 4, "began": "insn 4", "ended": "insn 5", "rules": ["DS_LIMIT_V86"],
    }  # fmt: skip


def test_stretches_at_both_ends_of_a_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert explain(tmp_path, trace(BIG, USUAL, BIG)) == 1
    out = capsys.readouterr().out
    assert "from the start to insn 1" in out
    assert "from insn 2 to the end" in out
    assert explain(tmp_path, trace(USUAL, USUAL)) == 0
    assert "vmx can enter each of them" in capsys.readouterr().out


def test_many_stretches_are_not_all_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert explain(tmp_path, trace(*[USUAL, BIG] * 30)) == 1
    out = capsys.readouterr().out
    assert "in 30 stretches of about 1" in out
    assert "the other 10 are shorter; --json lists all" in out


def test_json_nested_without_end_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert explain(tmp_path, "[" * 100_000) == 2
    assert "state.json: " in capsys.readouterr().err
