"""The program of a private daemon: ``python -m dm.shim.private DIRECTORY PID serve ...``.

Runs ``x86-dm serve ...`` and, when the process PID that started it has died without tidying up, removes DIRECTORY,
once nothing is in it but the log that is written there.
"""

from __future__ import annotations

import contextlib
import os
import runpy
import sys


def main(directory: str, parent: int, words: list[str]) -> None:
    """Run ``x86-dm`` with these arguments; ends with its exit status."""
    sys.argv = ["x86-dm", *words]
    log = os.fstat(sys.stderr.fileno())
    try:
        runpy.run_module("dm.cli", run_name="__main__")
    finally:
        if os.getppid() != parent:
            with contextlib.suppress(OSError):
                if os.path.samestat(os.lstat(f"{directory}/log"), log):
                    os.unlink(f"{directory}/log")
                    os.rmdir(directory)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
