"""Compares kernels on this engine with peers: the same image, run in turn, figures as ratios."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from dm.bench.engines import BenchError, BenchMachine, Figure, calibrate
from dm.bench.kernels import KERNELS, Kernel
from dm.bench.peers import Peer


@dataclass
class Comparison:
    """One kernel on one peer: MIPS of each run, ours beside theirs; ``failure`` says why there are none."""

    kernel: str
    peer: str
    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)
    failure: str = ""

    @property
    def ratios(self) -> list[float]:
        """How many times as fast as the peer this engine was, run by run."""
        return [a / b for a, b in zip(self.ours, self.theirs, strict=True)]

    @property
    def ratio(self) -> float:
        """Median of :attr:`ratios`.

        Raises:
            ValueError: there are none.
        """
        if not self.theirs or self.failure:
            raise ValueError(f"{self.peer} has no figure for kernel {self.kernel}: {self.failure or 'not run'}")
        return statistics.median(self.ratios)


@dataclass(frozen=True)
class _Runner:
    """A peer with its number of rounds, and what they compute and count here."""

    peer: Peer
    result: Comparison
    rounds: int
    instructions: int
    checksum: int


def compare(
    kernel: Kernel, engine: str, peers: Sequence[Peer], runs: int, seconds: float, say: Callable[[str], None]
) -> tuple[list[float], list[Comparison]]:
    """Return MIPS of ``runs`` runs here, and the comparison with each peer.

    Every run of a peer stands right behind one of ours.  Both last about ``seconds``, each with its own number of
    rounds; the peer's is run here once more, which tells what its checksum must be and how many instructions it takes.
    A peer that fails or computes something else is not counted.
    """
    machine = BenchMachine(engine)
    try:
        rounds = calibrate(lambda n: machine.run(kernel, n).seconds, seconds)
        results = [Comparison(kernel.name, peer.name) for peer in peers]
        runners = []
        for peer, result in zip(peers, results, strict=True):
            if kernel.device and not peer.devices:
                result.failure = "has no such device"
                continue
            say(f"{kernel.name}: how many rounds for {peer.name}")
            try:
                runners.append(_prepare(machine, kernel, peer, result, rounds, seconds))
            except BenchError as error:
                result.failure = str(error)
        ours = []
        for number in range(runs):
            if runners:
                say(f"{kernel.name}: run {number + 1} of {runs}")
            else:
                ours.append(machine.run(kernel, rounds).mips)
            for runner in runners:
                here = machine.run(kernel, rounds).mips
                ours.append(here)
                if runner.result.failure:
                    continue
                try:
                    theirs = _run(kernel, runner, seconds)
                except BenchError as error:
                    runner.result.failure = str(error)
                else:
                    runner.result.ours.append(here)
                    runner.result.theirs.append(theirs)
        return ours, results
    finally:
        machine.close()


def _timeout(seconds: float) -> float:
    return 30 + 20 * seconds


def _prepare(
    machine: BenchMachine, kernel: Kernel, peer: Peer, result: Comparison, ours: int, seconds: float
) -> _Runner:
    # Peers are up to a few hundred times slower, and a run too long costs more than one too short.
    rounds = calibrate(lambda n: peer.run(kernel, n, _timeout(seconds))[0], seconds, first=max(1, ours // 300))
    here = machine.run(kernel, rounds)
    return _Runner(peer, result, rounds, here.instructions, here.checksum)


def _run(kernel: Kernel, runner: _Runner, seconds: float) -> float:
    taken, checksum = runner.peer.run(kernel, runner.rounds, _timeout(seconds))
    if checksum != runner.checksum:
        raise BenchError(
            f"{runner.peer.name} computed {checksum:08x} in kernel {kernel.name}, this engine {runner.checksum:08x}"
        )
    return runner.instructions / taken / 1e6


def geometric_mean(values: Iterable[float]) -> float:
    """Return the geometric mean of positive numbers.

    Raises:
        ValueError: there are none, or one is not positive.
    """
    numbers = list(values)
    if not numbers or min(numbers) <= 0:
        raise ValueError("a geometric mean needs positive numbers")
    return math.exp(math.fsum(map(math.log, numbers)) / len(numbers))


def table(results: Sequence[Comparison], ours: dict[str, float]) -> str:
    """Return a table: a row per kernel, MIPS here (``ours``), then MIPS and ratio for each peer; then who failed."""
    peers = list(dict.fromkeys(result.peer for result in results))
    lines = [f"{'MIPS':10}{'x86-dm':>10}" + "".join(f"{peer:>12}{'ratio':>8}" for peer in peers)]
    for kernel in dict.fromkeys(result.kernel for result in results):
        line = f"{kernel:10}{ours[kernel]:10.1f}"
        for result in (r for r in results if r.kernel == kernel):
            if result.failure:
                line += f"{'-':>12}{'-':>8}"
            else:
                line += f"{statistics.median(result.theirs):12.1f}{result.ratio:8.2f}"
        lines.append(line)
    return "\n".join([*lines, *(f"not counted: {r.peer}, {r.kernel}: {r.failure}" for r in results if r.failure)])


def counted(results: Iterable[Comparison], peer: str) -> list[Comparison]:
    """Return the comparisons with one peer that say something about its engine: not failed, and without a device."""
    return [r for r in results if r.peer == peer and not r.failure and not KERNELS[r.kernel].device]


def summary(results: Sequence[Comparison]) -> list[Figure]:
    """Return for each peer with any figure the geometric mean of its ratios, and how many are 4 or more.

    The lowest and highest of a mean are those of the single ratios.
    """
    figures = []
    for peer in dict.fromkeys(result.peer for result in results):
        ratios = [result.ratio for result in counted(results, peer)]
        if ratios:
            mean = geometric_mean(ratios)
            figures.append(Figure(f"{peer}: geometric mean of the ratios", "x", mean, min(ratios), max(ratios)))
            fast = sum(ratio >= 4 for ratio in ratios)
            figures.append(Figure(f"{peer}: kernels with a ratio of 4 or more", f"of {len(ratios)}", fast, fast, fast))
    return figures
