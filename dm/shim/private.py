"""The program of a daemon of one's own: ``python -m dm.shim.private DIRECTORY PID serve ...``.

Runs ``x86-dm serve ...`` and, when the process PID that started it has died without tidying up, removes DIRECTORY.
"""

from __future__ import annotations

import os
import runpy
import shutil
import sys


def main(directory: str, parent: int, words: list[str]) -> None:
    """Run ``x86-dm`` with these arguments; ends with its exit status."""
    sys.argv = ["x86-dm", *words]
    try:
        runpy.run_module("dm.cli", run_name="__main__")
    finally:
        if os.getppid() != parent:
            shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
