"""The same round trips by the C client, which hypervisors link, beside a bare echo whose both sides are in C.

What is compared here has no interpreter on the shim's side, neither in the request nor in the echo.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from dm import protocol
from dm.bench.engines import BenchError, Figure
from dm.bench.programs import Skipped
from dm.shim.daemon import OwnDaemon

_SOURCE: Final = Path(__file__).with_suffix(".c")
_HEADERS: Final = Path(protocol.__file__).parent
#: Calls between two turns.
_TURN: Final = 100
_PACKAGES: Final = "it needs gcc and libzmq3-dev"


def build(directory: Path) -> Path:
    """Compile the program and return it.

    Raises:
        Skipped: there is no compiler, or libzmq's headers are missing.
        BenchError: it cannot be compiled.
    """
    if shutil.which("gcc") is None:
        raise Skipped(_PACKAGES)
    program = directory / _SOURCE.stem
    command = ["gcc", "-std=gnu11", "-O2", "-D_GNU_SOURCE", f"-I{_HEADERS}", str(_SOURCE), "-o", str(program)]
    done = subprocess.run([*command, "-lzmq", "-pthread"], capture_output=True, text=True)
    if done.returncode == 0:
        return program
    if "fatal error: " in done.stderr or "cannot find -lzmq" in done.stderr:
        raise Skipped(_PACKAGES)
    raise BenchError(f"the C client cannot be compiled: {done.stderr[-500:]}")


def round_trips(engine: str, runs: int, count: int) -> list[Figure]:
    """Return microseconds for a request of one instruction and for an I/O exit, each with its echo and the ratio.

    Raises:
        Skipped, BenchError: as :func:`build`; the latter also when it fails.
    """
    with tempfile.TemporaryDirectory() as folder, OwnDaemon(engine) as daemon:
        program = build(Path(folder))
        turns = max(1, count // _TURN)
        words = [str(program), daemon.endpoint, folder, str(_TURN), str(turns), str(runs)]
        done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise BenchError(f"the C client failed: {done.stderr.strip()}")
    taken = [[float(word) for word in line.split()] for line in done.stdout.splitlines()]
    figures = []
    for at, name in enumerate(("request by the C client", "I/O exit by the C client")):
        own, echo = ([run[2 * at + k] for run in taken] for k in (0, 1))
        figures += [
            Figure.of(name, "us", own),
            Figure.of(f"{name}: echo in C", "us", echo),
            Figure.of(f"{name} / echo in C", "x", [a / b for a, b in zip(own, echo, strict=True)]),
        ]
    return figures
