"""``x86-dm vectors``: run recorded hardware tests on an engine, and report by opcode."""

from __future__ import annotations

import argparse
import difflib
import functools
import json
import os
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final, TextIO

import dm.engine
from dm.vectors.case import FormatError
from dm.vectors.formats import find_files
from dm.vectors.runner import FileResult, run_file
from dm.vectors.vendor import PARTS, named

# Sets recorded on processors older than any vendor difference.
_OLD = ("hw286", "moo")
# Opcodes whose failures are described, and failures of each.
_OPCODES, _EACH = 20, 3


EXIT_STATUS: Final = (
    "Exit status: 0, 1 when a test failed or could not be run, 2 when a file or the engine cannot be used."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``x86-dm vectors``."""
    parser.add_argument(
        "paths", metavar="PATH", type=Path, nargs="+", help="files (*.mp.gz, *.MOO, *.MOO.gz) or directories of them"
    )
    parser.add_argument("--engine", choices=("native", "python"), help="engine to test (default: the one in use)")
    parser.add_argument(
        "--vendor",
        type=_vendor,
        metavar="|".join(PARTS),
        help="whose CPU to compare with, instead of the one that the set names (in its files or its README)",
    )
    parser.add_argument(
        "--undefined",
        action="store_true",
        help="also compare the flags that the manual leaves undefined, if the set has them (hwamd, hwintel)",
    )
    parser.add_argument("--jobs", type=_positive, default=len(os.sched_getaffinity(0)), metavar="N", help="processes")
    parser.add_argument("--sample", type=_fraction, default=1.0, metavar="F", help="fraction of the cases, at random")
    parser.add_argument("--seed", type=int, metavar="N", help="make --sample repeatable")
    parser.add_argument("--json", action="store_true", help="report as one JSON object")


def _vendor(text: str) -> str:
    if found := named(text):
        return found
    close = difflib.get_close_matches(text.lower(), PARTS, n=1, cutoff=0.5)
    hint = f" (did you mean {close[0]}?)" if close else ""
    raise argparse.ArgumentTypeError(f"vendor {text!r} is not known{hint}; one of {', '.join(PARTS)} is needed")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return int(text)


def _fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a fraction above 0 and up to 1")
    return value


def main(args: argparse.Namespace) -> int:
    """Run the tests; 0: all passed, 1: some failed or could not be run, 2: a file or the engine cannot be used."""
    engine = args.engine or dm.engine.engine_in_use()[0]
    seed = random.randrange(1 << 32) if args.seed is None else args.seed
    work = functools.partial(
        _work, engine=engine, sample=args.sample, seed=seed, vendor=args.vendor or "", undefined=args.undefined
    )
    results = []
    try:
        files = find_files(args.paths)
        for done, result in enumerate(run_all(files, work, args.jobs), 1):
            results.append(result)
            _progress(sys.stderr, done, len(files), sum(r.failed for r in results))
    except BrokenProcessPool:
        print(f"x86-dm vectors: a process of the {engine} engine died; --jobs 1 shows where", file=sys.stderr)
        return 1
    except (FormatError, RuntimeError) as e:  # the latter: the engine asked for cannot be used
        print(f"x86-dm vectors: {e}", file=sys.stderr)
        return 2
    results.sort(key=lambda r: (r.form, r.opcode))
    if args.json:
        json.dump(summary(engine, seed, results), sys.stdout, indent=1)
        print()
    else:
        print(report(engine, None if args.sample == 1 else seed, results))
    return 1 if any(r.failed or r.unimplemented for r in results) else 0


def _work(path: Path, engine: str, sample: float, seed: int, vendor: str, undefined: bool) -> FileResult:
    make = functools.partial(dm.engine.create, engine)
    return run_file(path, make, sample, seed, vendor=vendor, undefined=undefined)


def run_all(files: list[Path], work: Callable[[Path], FileResult], jobs: int) -> Iterator[FileResult]:
    """Yield the result of each file as it is done, from ``jobs`` processes (1: this one).

    Raises:
        FormatError: a file cannot be read.
        BrokenProcessPool: a process died.
    """
    if jobs == 1 or len(files) == 1:
        yield from map(work, files)
        return
    pool = ProcessPoolExecutor(min(jobs, len(files)), mp_context=get_context("spawn"))
    try:
        waiting: list[Future[FileResult]] = [pool.submit(work, path) for path in files]
        for future in as_completed(waiting):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _progress(out: TextIO, done: int, total: int, failed: int) -> None:
    if out.isatty():
        end = "\n" if done == total else ""
        print(f"\r{done}/{total} files, {failed} cases failed ", end=end, file=out, flush=True)


def _total(results: list[FileResult], what: str) -> Counter[str]:
    return sum((getattr(r, what) for r in results), Counter())


def parts(results: list[FileResult]) -> dict[str, str]:
    """Return set -> vendor of the CPU that it was compared with; several are joined by commas."""
    found: dict[str, dict[str, None]] = {}
    for result in results:
        found.setdefault(result.form, {})[result.part] = None
    return {form: ", ".join(names) for form, names in found.items()}


def summary(engine: str, seed: int, results: list[FileResult]) -> dict[str, Any]:
    """Return the report as values for JSON."""
    return {
        "engine": engine,
        "seed": seed,
        "parts": parts(results),
        "passed": sum(r.passed for r in results),
        "failed": sum(r.failed for r in results),
        "excused": _total(results, "excused"),
        "skipped": _total(results, "skipped"),
        "unimplemented": _total(results, "unimplemented"),
        "opcodes": {f"{r.form}/{r.opcode}": {"passed": r.passed, "failed": r.failed} for r in results},
        "failures": [
            {"case": f"{r.form}/{f.opcode}#{f.index}", "code": f.code, "name": f.name, "differences": list(f.lines)}
            for r in results
            for f in r.failures
        ],
    }


def report(engine: str, seed: int | None, results: list[FileResult]) -> str:
    """Return the report for people: totals, then the opcodes that failed with their first few cases.

    ``seed`` is given when only a sample was run.
    """
    passed, failed = sum(r.passed for r in results), sum(r.failed for r in results)
    lines = [f"{engine} engine: {passed} passed, {failed} failed" + ("" if seed is None else f" (--seed {seed})")]
    known = {form: names for form, names in parts(results).items() if form not in _OLD}
    if known:
        lines.append("  checked against: " + ", ".join(f"{names} ({form})" for form, names in known.items()))
    for word, what in (
        ("of the passed differ rightly", "excused"),
        ("not applicable", "skipped"),
        ("not implemented", "unimplemented"),
    ):
        lines += [f"  {count} {word}: {reason}" for reason, count in _total(results, what).most_common()]
    worst = sorted((r for r in results if r.failed), key=lambda r: -r.failed)
    for result in worst[:_OPCODES]:
        lines.append(f"{result.form}/{result.opcode}: {result.failed} of {result.failed + result.passed} failed")
        for failure in result.failures[:_EACH]:
            lines.append(f"  #{failure.index} [{failure.code}] {failure.name}".rstrip())
            lines += [f"    {line}" for line in failure.lines]
    if len(worst) > _OPCODES:
        rest = worst[_OPCODES:]
        lines.append("also failed: " + ", ".join(f"{r.form}/{r.opcode} ({r.failed})" for r in rest))
    return "\n".join(lines)
