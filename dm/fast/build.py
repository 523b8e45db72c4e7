"""Builds the extension module ``dm.fast._fast``: ``python -m dm.fast.build`` in the source tree, setup.py elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Final

from dm import extension, fast
from dm.fast import times

HERE: Final = Path(__file__).resolve().parent
_ARGS: Final = ("-std=gnu11", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall", "-Wextra", "-pthread")


def build(target: Path, extra: tuple[str, ...] = ()) -> Path:
    """Compile into the directory ``target`` and return the module's path.

    Raises:
        OSError, subprocess.CalledProcessError: there is no compiler, or it fails.
    """
    module = target / f"_fast{sysconfig.get_config_var('EXT_SUFFIX')}"
    fresh = module.with_suffix(".new")
    command = [
        *extension.compiler(),
        *_ARGS,
        *extra,
        f'-DDM_FAST_DIGEST="{fast.digest()}"',
        *times.DEFINES,
        f"-I{sysconfig.get_path('include')}",
        *map(str, sorted(HERE.glob("*.c"))),
        *("-o", str(fresh)),
    ]
    subprocess.run(command, check=True)
    os.replace(fresh, module)  # not rewritten: processes that run the old one keep it
    return module


if __name__ == "__main__":
    print(build(HERE, tuple(sys.argv[1:])))
