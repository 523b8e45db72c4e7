"""``x86-dm bench``: measure the engines and the exchange."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from typing import Final

from dm.bench import engines, transport
from dm.bench.engines import Figure
from dm.bench.kernels import KERNELS
from dm.engine import engine_in_use

_RUNS: Final = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare options."""
    parser.add_argument("--quick", action="store_true", help="three short runs of each; for a first impression")
    parser.add_argument("--engine", choices=("native", "python"), help="engine to measure (default: the one in use)")
    parser.add_argument("--json", action="store_true", help="print a JSON object")
    parser.add_argument(
        "--only", metavar="PART", help="only this kernel, or one of: requests, transport, scaling, start"
    )


def main(args: argparse.Namespace) -> int:
    """Measure and print; returns 0, or 2 for an unknown part."""
    engine = args.engine or engine_in_use()[0]
    runs, seconds = (3, 0.05) if args.quick else (_RUNS, 0.5)
    parts = _parts(engine, runs, seconds)
    if args.only and args.only not in parts:
        print(f"x86-dm bench: --only {args.only}: one of {', '.join(parts)} is needed", file=sys.stderr)
        return 2
    figures: list[Figure] = []
    if not args.json:
        print(f"engine {engine}, median of {runs} runs (lowest, highest)")
    for name, measure in parts.items():
        if args.only and name != args.only:
            continue
        if args.json and sys.stderr.isatty():
            print(f"measuring {name}", file=sys.stderr)
        for figure in measure():
            figures.append(figure)
            if not args.json:
                print(
                    f"{figure.name:44} {figure.median:10.2f} {figure.unit:5} ({figure.low:.2f}, {figure.high:.2f})",
                    flush=True,
                )
    if args.json:
        rows = [{"name": f.name, "unit": f.unit, "median": f.median, "low": f.low, "high": f.high} for f in figures]
        print(json.dumps({"engine": engine, "runs": runs, "figures": rows}, indent=2))
    return 0


def _parts(engine: str, runs: int, seconds: float) -> dict[str, Callable[[], Iterator[Figure]]]:
    def kernel(name: str) -> Callable[[], Iterator[Figure]]:
        return lambda: iter([engines.speed(KERNELS[name], engine, runs, seconds)])

    count = int(2000 * seconds) + 200
    return {
        **{name: kernel(name) for name in KERNELS},
        "requests": lambda: iter(engines.single_requests(KERNELS["alu"], engine, runs, count)),
        "transport": lambda: iter(transport.round_trips(engine, runs, count)),
        "scaling": lambda: iter(transport.scaling(engine, runs, seconds)),
        "start": lambda: iter(transport.start_up(engine, runs)),
    }
