from __future__ import annotations

import functools
import gzip
import json
import struct
from collections.abc import Callable
from pathlib import Path

import msgpack
import pytest

import dm.engine
from dm.cli import Parser
from dm.commands import vectors as command
from dm.engine.api import CpuConfig, Engine
from dm.vectors import hw286
from dm.vectors.case import FormatError
from dm.vectors.formats import find_files
from dm.vectors.runner import run_file

Tiny = Callable[..., Callable[[CpuConfig], Engine]]


def write(path: Path, wrong: int = 0, cases: int = 20, code: bytes = b"\x40\xf4") -> Path:
    """Write a file of INC AX cases, the first ``wrong`` of which say something false."""
    initial = [1, 2, 3, 4, 0x1000, 0x2000, 0x3000, 0x4000, 0x100, 5, 6, 7, 0x20, 2]
    rows = [
        [i, code, initial, [[0x10020, code]], {0: 3 if i < wrong else 2, 12: 0x22}, [], None, "inc ax",
         None, None]
        for i in range(cases)
    ]  # fmt: skip
    rows.append([cases, b"\x40\xf4", initial, [], {}, [], None, "inc ax", -1, None])
    table = {"flags_mask": 0xFFFF, "regs": list(hw286.REGISTERS), "fields": list(hw286.FIELDS), "tests": rows}
    path.write_bytes(gzip.compress(msgpack.packb(table)))
    return path


@pytest.fixture
def vectors(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Return a function that runs the command on the tiny engine, in this process."""
    monkeypatch.setattr(dm.engine, "create", lambda name, config: tiny()(config))

    def run(*words: object) -> int:
        parser = Parser("x86-dm vectors", "")
        command.add_arguments(parser)
        return command.main(parser.parse([str(w) for w in words] + ["--jobs", "1"]))

    return run


def test_all_passed(vectors: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert vectors(write(tmp_path / "40.mp.gz"), "--engine", "python") == 0
    assert capsys.readouterr().out.splitlines() == [
        "python engine: 20 passed, 0 failed",
        "  1 not applicable: the 80286 differs from all later parts here",
    ]


def test_failures_are_reported_by_opcode(
    vectors: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "40.mp.gz")
    write(tmp_path / "41.mp.gz", wrong=7)
    assert vectors(tmp_path, "--engine", "python") == 1
    out = capsys.readouterr().out
    assert out.startswith("python engine: 33 passed, 7 failed\n")
    assert "hw286/41: 7 of 20 failed\n  #0 [40 f4] inc ax\n    ax: 2, hardware: 3\n  #1 " in out
    assert out.count("hardware: 3") == 3
    assert "hw286/40" not in out


def test_unimplemented_instructions_are_counted_apart(
    vectors: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert vectors(write(tmp_path / "d8.mp.gz", code=b"\xd8\xf4"), "--engine", "python") == 1
    assert capsys.readouterr().out.splitlines()[0::2] == [
        "python engine: 0 passed, 0 failed", "  20 not implemented: opcode d8"
    ]  # fmt: skip


def test_json(vectors: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert vectors(write(tmp_path / "40.mp.gz", wrong=1), "--engine", "native", "--json", "--seed", 5) == 1
    told = json.loads(capsys.readouterr().out)
    assert {k: told[k] for k in ("engine", "seed", "passed", "failed", "opcodes")} == {
        "engine": "native", "seed": 5, "passed": 19, "failed": 1, "opcodes": {"hw286/40": {"passed": 19, "failed": 1}}
    }  # fmt: skip
    assert told["failures"] == [
        {"case": "hw286/40#0", "code": "40 f4", "name": "inc ax", "differences": ["ax: 2, hardware: 3"]}
    ]


def test_a_sample_is_a_fraction_and_repeatable(tiny: Tiny, tmp_path: Path) -> None:
    path = write(tmp_path / "40.mp.gz", cases=400)
    first, again, other = (run_file(path, tiny(), 0.25, seed) for seed in (1, 1, 2))
    assert 60 < first.passed < 140
    assert again == first
    assert other.passed != first.passed or other.skipped != first.skipped


def test_several_processes_give_what_one_gives(tmp_path: Path) -> None:
    files = [write(tmp_path / f"4{i}.mp.gz", cases=i + 1) for i in range(3)]
    work = functools.partial(run_file, make=functools.partial(dm.engine.create, "python"))
    results = command.run_all(files, work, 2)
    assert sorted((r.passed, r.failed) for r in results) == [(1, 0), (2, 0), (3, 0)]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none", None, "none: no such file or directory"),
        ("40.mp.gz", b"?", "40.mp.gz: not a gzipped msgpack file"),
        ("40.MOO", struct.pack("<4sI", b"MOO ", 0), "header of 0 bytes"),
        ("notes.txt", b"", "unknown kind of file; known are *.mp.gz, *.MOO and *.MOO.gz"),
    ],
)
def test_unusable_files_end_with_2(
    vectors: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    content: bytes | None,
    message: str,
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert vectors(tmp_path / name, "--engine", "python") == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


def test_an_engine_that_cannot_be_used_ends_with_2(
    vectors: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def create(name: str, config: CpuConfig) -> Engine:
        raise RuntimeError("the native engine is not built")

    monkeypatch.setattr(dm.engine, "create", create)
    assert vectors(write(tmp_path / "40.mp.gz"), "--engine", "native") == 2
    assert capsys.readouterr().err == "x86-dm vectors: the native engine is not built\n"


def test_files_are_found_once_and_in_order(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("b.mp.gz", "A.MOO", "deep/c.moo.gz", "ldts.mp.gz", "README.md"):
        (tmp_path / name).touch()
    assert [str(p.relative_to(tmp_path)) for p in find_files([tmp_path, tmp_path / "b.mp.gz"])] == [
        "A.MOO", "b.mp.gz", "deep/c.moo.gz"
    ]  # fmt: skip


def test_a_directory_without_tests_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="no files named"):
        find_files([tmp_path])


@pytest.mark.parametrize("words", [["--sample", "0"], ["--sample", "1.5"], ["--jobs", "0"], ["--jobs", "x"], []])
def test_bad_options_end_with_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    parser = Parser("x86-dm vectors", "")
    command.add_arguments(parser)
    with pytest.raises(SystemExit) as caught:
        parser.parse([*words, "x"] if words else [])
    assert caught.value.code == 2
    assert "x86-dm vectors: " in capsys.readouterr().err
