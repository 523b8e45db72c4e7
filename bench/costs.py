"""What the native engine's checks cost: builds it again without one after the other and runs the kernels on each.

``python bench/costs.py [--rounds N]``; needs a C compiler and takes some minutes.  The engines without checks are for
this measurement only: they are made in a temporary directory and run nothing but the kernels.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
KERNELS: Final = ("alu", "sieve", "fib", "crc", "str", "branchy", "call32")

#: Each cut takes away one more thing than the one before: file below dm/engine/native, what stands there, what instead.
CUTS: Final[dict[str, list[tuple[str, str, str]]]] = {
    "code written": [
        ("fast.h", " || \\\n                     (*e_->code && code_hit(cpu, *e_->code, l_, (bytes)))", "")
    ],
    # One translation is enough for memory that lies in one piece and is mapped to itself; only its presence is tested.
    "TLB": [
        ("fast.h", "&tlb->read[l_ / PAGE % TLB_SIZE]", "&tlb->read[0]"),
        ("fast.h", "&tlb->write[l_ / PAGE % TLB_SIZE]", "&tlb->write[0]"),
        ("fast.h", "e_->tag != ((l_ + ((bits) / 8 - 1)) & -PAGE)", "(e_->tag & 1)"),
        ("fast.h", "e_->tag != ((l_ + ((bytes) - 1)) & -PAGE)", "(e_->tag & 1)"),
        ("memory.c", "->read[linear / PAGE % TLB_SIZE];\n    entry->tag", "->read[0];\n    entry->tag"),
        ("memory.c", "->write[linear / PAGE % TLB_SIZE];\n    entry->tag", "->write[0];\n    entry->tag"),
    ],
    "limits": [
        (
            "fast.h",
            "        if (UNLIKELY((int64_t)o_ + ((bits) / 8 - 1) > g_->read_top)) \\\n            BAIL_HANDLER; \\\n",
            "",
        ),
        ("fast.h", "        if (UNLIKELY((int64_t)o_ + ((bytes) - 1) > (top))) \\\n            BAIL_HANDLER; \\\n", ""),
        ("fast.h", " && \\\n                   (uint64_t)to_ + b_->length <= cpu->a.cs_end", ""),
    ],
    # Only the test: what is left of the budget also counts instructions.
    "budget": [("fast.h", " && budget >= b_->count", "")],
}


def make(place: Path, cuts: list[str]) -> None:
    """Build the engine without ``cuts`` in a copy of the package at ``place``.

    Raises:
        SystemExit: the sources no longer say what a cut takes away.
    """
    shutil.copytree(ROOT / "dm", place / "dm", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for cut in cuts:
        for name, old, new in CUTS[cut]:
            path = place / "dm" / "engine" / "native" / name
            text = path.read_text()
            if text.count(old) != 1:
                raise SystemExit(f"costs.py: cut {cut!r}: {name} has {text.count(old)} places, not 1, with {old!r}")
            path.write_text(text.replace(old, new))
    run(place, "-m", "dm.engine.native.build", "--out", str(place / "out"))


def measure(place: Path) -> dict[str, float]:
    """Return MIPS by kernel."""
    text = run(place, "-m", "dm.cli", "bench", "--quick", "--json", "--engine", "native", "--only", ",".join(KERNELS))
    return {figure["name"]: figure["median"] for figure in json.loads(text)["figures"]}


def run(place: Path, *arguments: str) -> str:
    """Run Python on the package at ``place`` and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-P", *arguments],
        env={**os.environ, "PYTHONPATH": str(place)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"costs.py: {' '.join(arguments)} failed:\n{done.stderr}")
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="how often each engine is measured, in turn (5)")
    rounds = parser.parse_args().rounds
    names = list(CUTS)
    with tempfile.TemporaryDirectory(prefix="x86-dm-costs-") as folder:
        places = [Path(folder, str(number)) for number in range(len(names) + 1)]
        for number, place in enumerate(places):
            print(f"building without {', '.join(names[:number]) or 'nothing'}", file=sys.stderr, flush=True)
            make(place, names[:number])
        taken: list[list[dict[str, float]]] = []
        for number in range(rounds):
            print(f"measuring, round {number + 1} of {rounds}", file=sys.stderr, flush=True)
            taken.append([measure(place) for place in places])
    print(f"{'':10}{'all checks':>12}" + "".join(f"{'- ' + name:>16}" for name in [*names, "all"]))
    for kernel in KERNELS:
        line = f"{kernel:10}{statistics.median(row[0][kernel] for row in taken):7.0f} MIPS"
        for number in range(len(names)):
            gain = statistics.median(row[number + 1][kernel] / row[number][kernel] for row in taken)
            line += f"{(gain - 1) * 100:+15.0f}%"
        gain = statistics.median(row[-1][kernel] / row[0][kernel] for row in taken)
        line += f"{(gain - 1) * 100:+15.0f}%"
        print(line)


if __name__ == "__main__":
    main()
