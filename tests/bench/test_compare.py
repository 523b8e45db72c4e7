"""Ratios: their arithmetic, and which peers are counted."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dm.bench.compare import Comparison, compare, counted, geometric_mean, summary, table
from dm.bench.engines import BenchError, calibrate
from dm.bench.kernels import KERNELS
from dm.bench.peers import Peer

#: Runs an image on the Python engine, as a peer would; {0} is done to the checksum.
SCRIPT = """
import os, sys
from pathlib import Path
from dm.bench.engines import BenchMachine
machine = BenchMachine("python")
feed = []
import dm.bench.image as image
class Reader(image.Reader):
    def feed(self, data, now):
        os.write(1, {0})
        return super().feed(data, now)
image.Reader = Reader
machine.boot(Path(sys.argv[1]).read_bytes())
"""


def scripted(name: str, script: str) -> Peer:
    def command(rom: Path, _folder: Path) -> list[str]:
        return [sys.executable, "-c", script, str(rom)]

    return Peer(name, f"{name} 1", command)


def done(kernel: str, peer: str, ours: list[float], theirs: list[float]) -> Comparison:
    return Comparison(kernel, peer, ours, theirs)


def test_geometric_mean() -> None:
    assert geometric_mean([2.0, 8.0]) == pytest.approx(4.0)
    assert geometric_mean([0.5]) == pytest.approx(0.5)
    for bad in ([], [1.0, 0.0], [-1.0]):
        with pytest.raises(ValueError, match="positive"):
            geometric_mean(bad)


def test_ratio_is_the_median_of_the_runs() -> None:
    result = done("alu", "TCG", [100.0, 300.0, 90.0], [200.0, 100.0, 100.0])
    assert result.ratios == [0.5, 3.0, 0.9]
    assert result.ratio == 0.9


def test_a_failed_comparison_has_no_ratio() -> None:
    result = Comparison("alu", "TCG", [1.0], [1.0], "computed something else")
    with pytest.raises(ValueError, match="TCG has no figure for kernel alu: computed something else"):
        _ = result.ratio
    assert counted([result], "TCG") == []


def test_summary_and_table() -> None:
    results = [
        done("alu", "TCG", [100.0], [400.0]),
        done("alu", "Bochs", [100.0], [25.0]),
        done("fib", "TCG", [50.0], [50.0]),
        done("fib", "Bochs", [50.0], [25.0]),
        done("rmw-mmio", "TCG", [1.0], [1000.0]),
        Comparison("rmw-mmio", "Bochs", failure="has no such device"),
    ]
    found = {figure.name: figure for figure in summary(results)}
    assert found["TCG: geometric mean of the ratios"].median == pytest.approx(0.5)
    assert found["TCG: geometric mean of the ratios"].high == 1.0
    assert found["Bochs: geometric mean of the ratios"].median == pytest.approx(8**0.5)
    fast = found["Bochs: kernels with a ratio of 4 or more"]
    assert (fast.median, fast.unit) == (1, "of 2")
    lines = table(results, {"alu": 100.0, "fib": 50.0, "rmw-mmio": 1.0}).splitlines()
    assert lines[0].split() == ["MIPS", "x86-dm", "TCG", "ratio", "Bochs", "ratio"]
    assert lines[1].split() == ["alu", "100.0", "400.0", "0.25", "25.0", "4.00"]
    assert lines[3].split() == ["rmw-mmio", "1.0", "1000.0", "0.00", "-", "-"]
    assert lines[4] == "not counted: Bochs, rmw-mmio: has no such device"


def test_no_figure_at_all() -> None:
    assert summary([Comparison("alu", "KVM", failure="x")]) == []


def test_calibrate_reaches_the_time_wanted() -> None:
    tried = []

    def attempt(rounds: int) -> float:
        tried.append(rounds)
        return rounds * 1e-6

    assert calibrate(attempt, 0.5) == pytest.approx(500_000)
    assert tried[0] == 1
    assert len(tried) < 8
    assert calibrate(attempt, 0.5, first=10, most=1000) == 1000


def test_compare_with_a_peer_that_agrees() -> None:
    said: list[str] = []
    peer = scripted("Python", SCRIPT.format("data"))
    ours, (result,) = compare(KERNELS["fib"], "native", [peer], 2, 0.05, said.append)
    assert not result.failure
    assert len(result.ratios) == len(ours) == 2
    assert result.ratio > 3
    assert result.ours == ours
    assert any("Python" in line for line in said)


def test_a_peer_that_computes_something_else_is_not_counted() -> None:
    peer = scripted("Wrong", SCRIPT.format("data if data[0] < 0x30 else b'0'"))
    ours, (result,) = compare(KERNELS["alu"], "native", [peer], 2, 0.02, lambda _: None)
    assert "Wrong computed 00000000 in kernel alu, this engine" in result.failure
    assert (result.ours, result.theirs) == ([], [])
    assert len(ours) == 2


def test_a_peer_that_gives_up_says_why() -> None:
    peer = scripted("Broken", "import sys; sys.exit('no such luck')")
    _, (result,) = compare(KERNELS["alu"], "native", [peer], 1, 0.01, lambda _: None)
    assert result.failure == "Broken gave up on kernel alu: no such luck"


def test_a_peer_without_the_device_is_left_out() -> None:
    _, (result,) = compare(KERNELS["rmw-mmio"], "native", [scripted("Plain", "")], 1, 0.01, lambda _: None)
    assert result.failure == "has no such device"


def test_a_peer_that_hangs_is_ended(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    script = f"import os, time; open({str(mark)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    with pytest.raises(BenchError, match="Slow did not end kernel alu in 5 s"):
        scripted("Slow", script).run(KERNELS["alu"], 1, 5.0)
    assert not Path("/proc", mark.read_text()).exists()
