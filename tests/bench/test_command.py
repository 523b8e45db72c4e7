"""`x86-dm bench`: what it prints, what it refuses."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from dm import cli
from dm.bench import engines, no_transport, programs
from dm.bench.compare import Comparison, summary
from dm.bench.engines import BenchError, Figure
from dm.bench.floors import FLOORS, judge
from dm.bench.kernels import KERNELS
from dm.bench.peers import Missing, Peer
from dm.commands import bench as command


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here is about exact figures."""
    monkeypatch.setattr(command, "QUICK", (2, 0.01))


def test_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["bench", "--quick", "--only", "alu,requests"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "engine native, median of 2 runs (lowest, highest)"
    assert lines[1].split()[0] == "alu"
    assert lines[1].split()[2] == "MIPS"
    assert float(lines[1].split()[1]) > 1
    assert [line.split("  ")[0] for line in lines[2:7]] == [
        "single request without transport",
        "run of one instruction",
        "single request, registers in and out",
        "single request, whole state in and out",
        "",
    ]
    assert lines[7] == "floors, set for a two-core Zen 4 machine"
    assert lines[8].split()[:5] == ["alu", "at", "least", "400", "MIPS"]
    assert lines[9].split()[-1] == "reached" or "NOT reached: " in lines[9]


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["bench", "--quick", "--json", "--only", "crc", "--engine", "python"]) == 0
    taken = capsys.readouterr()
    value = json.loads(taken.out)
    assert (value["engine"], value["runs"], value["skipped"], value["failed"]) == ("python", 2, {}, {})
    (figure,) = value["figures"]
    assert (figure["name"], figure["unit"]) == ("crc", "MIPS")
    assert 0 < figure["low"] <= figure["median"] <= figure["high"]
    assert "crc" in taken.err
    assert value["floors"] == [], "those of crc are the native engine's"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--only", "alu,foo"], "--only foo: one of kernels, alu, "),
        (["--peers", "xen"], "--peers xen: one of TCG, Bochs, Unicorn, KVM"),
    ],
)
def test_unknown_names(words: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["bench", *words]) == 2
    assert text in capsys.readouterr().err


def test_help_names_every_part_and_peer(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.run(["bench", "--help"])
    text = capsys.readouterr().out
    for word in (
        *KERNELS,
        "requests",
        "transport",
        "c-client",
        "busy",
        "scaling",
        "start",
        "idle",
        "grub",
        "build",
        "DM_PEER_QEMU",
        "TCG",
    ):
        assert word in text


def test_an_engine_that_cannot_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def create(*_: object) -> None:
        raise RuntimeError("the native engine is not built")

    monkeypatch.setattr(command, "create", create)
    assert cli.run(["bench", "--only", "alu"]) == 2
    assert capsys.readouterr().err == "x86-dm bench: the native engine is not built\n"


def test_a_failure_is_named_and_the_rest_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise BenchError("it broke")

    monkeypatch.setattr(engines, "single_requests", fail)
    assert cli.run(["bench", "--quick", "--only", "requests,alu"]) == 1
    taken = capsys.readouterr()
    assert taken.err == "x86-dm bench: requests: it broke\n"
    assert any(line.startswith("alu ") and " MIPS " in line for line in taken.out.splitlines())


def test_without_grub_a_line_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(programs, "_GRUB", tmp_path / "nothing")
    assert cli.run(["bench", "--only", "grub"]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("grub: skipped, no GRUB for PC BIOS here: apt-get install")
    assert "grub-pc-bin" in line


def test_a_missing_peer_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(command, "find", lambda name: Missing(name, "apt-get install it"))
    assert cli.run(["bench", "--quick", "--only", "alu", "--peers", "bochs"]) == 0
    assert capsys.readouterr().out.splitlines()[1] == "Bochs: not here; apt-get install it"


def test_peers_in_json_and_text(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(_rom: Path, _folder: Path) -> list[str]:
        return [sys.executable, "-c", "import sys; sys.exit('no')"]

    monkeypatch.setattr(command, "find", lambda name: Peer(name, f"{name} 9", broken))
    words = ["bench", "--quick", "--only", "alu", "--peers", "TCG,tcg"]
    assert cli.run(words) == 0
    text = capsys.readouterr().out
    assert "TCG: TCG 9\n" in text
    assert "not counted: TCG, alu: TCG gave up on kernel alu: no\n" in text
    assert cli.run([*words, "--json"]) == 0
    (peer,) = json.loads(capsys.readouterr().out)["peers"]
    assert peer["kernels"] == {"alu": {"failure": "TCG gave up on kernel alu: no"}}
    assert peer["version"] == "TCG 9"


def test_figure_is_the_median() -> None:
    figure = Figure.of("x", "us", [3.0, 1.0, 2.0])
    assert (figure.low, figure.median, figure.high) == (1.0, 2.0, 3.0)
    assert command.row(figure).split() == ["x", "2.00", "us", "(1.00,", "3.00)"]


def test_floors() -> None:
    figures = [
        Figure("alu", "MIPS", 400.0, 1.0, 2.0),
        Figure("fib", "MIPS", 299.0, 1.0, 2.0),
        Figure("start to first answer", "s", 0.4, 0.4, 0.9),
        Figure("request / bare echo", "x", 1.3, 1.0, 2.0),
        Figure("something else", "x", 1.3, 1.0, 2.0),
    ]
    assert [(floor.figure, reached) for floor, _, reached in judge(figures)] == [
        ("alu", True),
        ("fib", False),
        ("request / bare echo", False),
        ("start to first answer", True),
    ]
    assert command.floors(figures)[1].split() == "fib at least 300 MIPS NOT reached: 299".split()


def test_every_floor_names_a_figure_that_exists() -> None:
    machine = [figure.name for figure in no_transport.single_request(KERNELS["alu"], 1, 1)]
    exchange = [f"{name} / bare echo" for name in ("request", "I/O exit")]
    busy = [f"{name}, another VM busy / idle" for name in ("request", "I/O exit")]
    programs = ["start to first answer", "idle guest: CPU", "building the native engine"]
    peers = [f.name for peer in ("TCG", "Bochs") for f in summary([Comparison("alu", peer, [1.0], [1.0])])]
    assert {floor.figure for floor in FLOORS} <= {*KERNELS, *machine, *exchange, *busy, *programs, *peers}
