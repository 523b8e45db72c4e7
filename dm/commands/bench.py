"""``x86-dm bench``: measure the engines and the exchange, alone and beside peers."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from dm.bench import c_client, engines, no_transport, programs, transport
from dm.bench.compare import Comparison, compare, summary, table
from dm.bench.engines import BenchError, Figure
from dm.bench.floors import judge
from dm.bench.kernels import KERNELS
from dm.bench.peers import PEERS, Missing, Peer, find
from dm.engine import create, engine_in_use
from dm.engine.api import CpuConfig
from dm.shim.daemon import DaemonError
from dm.shim.errors import ShimError

#: Number of runs, and seconds that a run of a kernel takes.
FULL: Final = (5, 0.5)
QUICK: Final = (3, 0.1)

#: Parts besides the kernels.  ``build`` runs only when it is named: it keeps both CPUs busy for a while.
_PARTS: Final = {
    "requests": "one instruction as a request, without transport",
    "transport": "request and I/O exit through a daemon, each beside a bare ZeroMQ echo of the same bytes",
    "c-client": "the same by the C client, beside an echo in C on both sides",
    "busy": "what transport measures, while a second VM runs",
    "scaling": "two vCPUs and two VMs against one",
    "start": "start-up time and idle memory of the daemon",
    "idle": "a guest that waits for a key",
    "grub": "x86-dm boot to GRUB's prompt",
    "build": "building the native engine (only when named; once with --quick, else three times)",
}
_NAMES: Final = ("kernels", *KERNELS, *_PARTS)


class UsageError(Exception):
    """An argument names what does not exist."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    kernels = "\n".join(f"  {kernel.name:12}{kernel.about}" for kernel in KERNELS.values())
    parts = "\n".join(f"  {name:12}{about}" for name, about in _PARTS.items())
    parser.epilog = (
        f"kernels, in MIPS (a whole REP is one instruction):\n{kernels}\n\nother parts:\n{parts}\n\n"
        "Peers are found, never installed: a missing one is named, with what provides it. DM_PEER_QEMU names the QEMU\n"
        "to compare with. Progress goes to standard error. Exit status: 0, 1 when a measurement failed, 2 for usage."
    )
    parser.add_argument("--quick", action="store_true", help="three short runs of each; for a first impression")
    parser.add_argument("--engine", choices=("native", "python"), help="engine to measure (default: the one in use)")
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")
    parser.add_argument(
        "--only", metavar="PART,...", help="only these kernels and parts (kernels: all kernels; build: the extra one)"
    )
    parser.add_argument(
        "--peers",
        nargs="?",
        const="all",
        metavar="PEER,...",
        help="run each kernel on peers too, in turn with this engine: " + ", ".join(PEERS) + " (default: all)",
    )


@dataclass
class Report:
    """What was measured; printed as it comes, or as JSON at the end."""

    engine: str
    runs: int
    quiet: bool
    figures: list[Figure] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    peers: list[Peer] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)

    def say(self, line: str) -> None:
        """Print a line of the text report."""
        if not self.quiet:
            print(line, flush=True)

    def add(self, figures: Iterable[Figure]) -> None:
        """Take figures and print them."""
        for figure in figures:
            self.figures.append(figure)
            self.say(row(figure))

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        value: dict[str, Any] = {
            "engine": self.engine,
            "runs": self.runs,
            "figures": [
                {"name": f.name, "unit": f.unit, "median": f.median, "low": f.low, "high": f.high} for f in self.figures
            ],
            "skipped": self.skipped,
            "failed": self.failed,
        }
        value["floors"] = [
            {"figure": floor.figure, "at_most" if floor.most else "at_least": floor.value, "reached": reached}
            for floor, _, reached in judge(self.figures, self.engine)
        ]
        if self.peers:
            value["peers"] = [peer_json(peer, self.comparisons) for peer in self.peers]
        return value


def row(figure: Figure) -> str:
    """Return a figure as a line of the text report."""
    return f"{figure.name:46} {figure.median:10.2f} {figure.unit:5} ({figure.low:.2f}, {figure.high:.2f})"


def peer_json(peer: Peer, comparisons: Iterable[Comparison]) -> dict[str, Any]:
    """Return one peer's comparisons as JSON values: ratios above 1 say that this engine is faster."""
    kernels: dict[str, Any] = {}
    for c in (c for c in comparisons if c.peer == peer.name):
        if c.failure:
            kernels[c.kernel] = {"failure": c.failure}
        else:
            kernels[c.kernel] = {
                "mips": statistics.median(c.theirs),
                "ours": statistics.median(c.ours),
                "ratio": c.ratio,
                "low": min(c.ratios),
                "high": max(c.ratios),
            }
    return {"name": peer.name, "version": peer.version, "kernels": kernels}


def floors(figures: Iterable[Figure], engine: str = "native") -> list[str]:
    """Return a line for each floor of an engine whose figure was measured."""
    return [
        f"{floor.figure:46} {'at most' if floor.most else 'at least':8} {floor.value:6g} {figure.unit:5} "
        f"{'reached' if reached else f'NOT reached: {figure.median:.4g}'}"
        for floor, figure, reached in judge(figures, engine)
    ]


def progress(text: str) -> None:
    """Say on standard error what is being measured."""
    print(f"x86-dm bench: {text}", file=sys.stderr, flush=True)


def main(args: argparse.Namespace) -> int:
    """Measure and print; returns 0, 1 when something could not be measured, 2 for a name that does not exist."""
    try:
        chosen = _choose(args.only)
        wanted = _peers(args.peers)
        engine = args.engine or engine_in_use()[0]
        create(engine, CpuConfig()).close()
    except (UsageError, RuntimeError) as error:
        print(f"x86-dm bench: {error}", file=sys.stderr)
        return 2
    runs, seconds = QUICK if args.quick else FULL
    report = Report(engine, runs, quiet=args.json)
    report.say(f"engine {engine}, median of {runs} runs (lowest, highest)")
    if wanted:
        report.peers = _find(wanted, report)
    for name in chosen:
        if args.json or (name in KERNELS and report.peers):
            progress(name)
        try:
            _measure(name, report, seconds)
        except programs.Skipped as reason:
            report.skipped[name] = str(reason)
            report.say(f"{name}: skipped, {reason}")
        except (BenchError, DaemonError, ShimError, OSError) as error:
            report.failed[name] = str(error)
            print(f"x86-dm bench: {name}: {error}", file=sys.stderr)
    if report.comparisons:
        ours = {figure.name: figure.median for figure in report.figures}
        report.say("\n" + table(report.comparisons, ours))
        report.add(summary(report.comparisons))
    if lines := floors(report.figures, engine):
        report.say("\nfloors, set for a two-core Zen 4 machine")
        report.say("\n".join(lines))
    if args.json:
        print(json.dumps(report.as_json(), indent=2))
    return 1 if report.failed else 0


def _choose(only: str | None) -> list[str]:
    """Return the parts to measure, in order."""
    if only is None:
        return [*KERNELS, *(name for name in _PARTS if name != "build")]
    names = only.split(",")
    for name in names:
        if name not in _NAMES:
            raise UsageError(f"--only {name}: one of {', '.join(_NAMES)} is needed")
    return list(dict.fromkeys(part for name in names for part in (KERNELS if name == "kernels" else [name])))


def _peers(text: str | None) -> list[str]:
    """Return the names of the peers that are asked for."""
    if text is None:
        return []
    if text == "all":
        return list(PEERS)
    names = {name.lower(): name for name in PEERS}
    for name in text.split(","):
        if name.lower() not in names:
            raise UsageError(f"--peers {name}: one of {', '.join(PEERS)} is needed")
    return list(dict.fromkeys(names[name.lower()] for name in text.split(",")))


def _find(wanted: list[str], report: Report) -> list[Peer]:
    present = []
    for name in wanted:
        peer = find(name)
        if isinstance(peer, Missing):
            report.skipped[name] = peer.remedy
            report.say(f"{name}: not here; {peer.remedy}")
        else:
            present.append(peer)
            report.say(f"{name}: {peer.version}")
    return present


def _requests(engine: str, runs: int, count: int) -> list[Figure]:
    kernel = KERNELS["alu"]
    own = no_transport.single_request(kernel, runs, count) if engine == "native" else []
    return own + engines.single_requests(kernel, engine, runs, count)


def _measure(name: str, report: Report, seconds: float) -> None:
    engine, runs = report.engine, report.runs
    count = int(2000 * seconds) + 200
    if name in KERNELS:
        kernel = KERNELS[name]
        mips, comparisons = compare(kernel, engine, report.peers, runs, seconds, progress)
        report.add([Figure.of(name, "MIPS", mips)])
        report.comparisons += comparisons
        return
    parts: dict[str, Callable[[], list[Figure]]] = {
        "requests": lambda: _requests(engine, runs, count),
        "transport": lambda: transport.round_trips(engine, runs, count),
        "c-client": lambda: c_client.round_trips(engine, runs, count),
        "busy": lambda: transport.beside_busy(engine, runs, count),
        "scaling": lambda: transport.scaling(engine, runs, seconds),
        "start": lambda: programs.start_up(engine, runs),
        "idle": lambda: programs.idle_guest(engine, runs, 10 * seconds),
        "grub": lambda: programs.time_to_grub(engine, runs),
        "build": lambda: programs.build_time(1 if seconds < 0.5 else 3),
    }
    report.add(parts[name]())
