"""Builds the extension module ``dm.server.vcpu._exchange``.

``python -m dm.server.vcpu.native.build`` does so in the source tree.  The engine's own build comes first:
``python -m dm.engine.native.build``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Final

import cffi

from dm import extension
from dm.engine.native.build import COMPILE_ARGS
from dm.fast import times
from dm.machine.header import header
from dm.server.vcpu.native.generate import machine_header, request_header, schema_header

HERE: Final = Path(__file__).resolve().parent
#: Where the extension is put in the source tree.
TARGET: Final = HERE.parent
MODULE: Final = "dm.server.vcpu._exchange"


def build(out: Path, target: Path, extra: list[str]) -> Path:
    """Generate into ``out``, compile, link into ``target``; ``extra`` goes to compiler and linker.

    Returns:
        The path of the extension module.

    Raises:
        OSError: there is no compiler.
        subprocess.CalledProcessError: the compiler fails.
    """
    out.mkdir(parents=True, exist_ok=True)
    (out / "schema_made.h").write_text(schema_header())
    (out / "machine_made.h").write_text(machine_header())
    (out / "request_made.h").write_text(request_header())
    (out / "architecture.h").write_text(header())
    ffi = cffi.FFI()
    ffi.cdef((HERE / "exchange.h").read_text().replace('#include "machine_made.h"', machine_header()))
    ffi.set_source(MODULE, '#include <stdint.h>\n#include "exchange.h"\n')
    glue = out / "_exchange.c"
    ffi.emit_c_code(str(glue))
    module = target / f"_exchange{sysconfig.get_config_var('EXT_SUFFIX')}"
    fresh = out / module.name
    includes = [f"-I{path}" for path in (out, HERE, HERE.parents[2], sysconfig.get_path("include"))]
    sources = [str(path) for path in (glue, *sorted(HERE.glob("*.c")))]
    flags = [*COMPILE_ARGS, *times.DEFINES, "-fPIC", "-shared", *extra]
    subprocess.run([*extension.compiler(), *flags, *includes, *sources, "-o", str(fresh)], check=True)
    extension.put(fresh, module)
    return module


def main(arguments: list[str]) -> int:
    """Build in the source tree; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m dm.server.vcpu.native.build", description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE.parents[3] / "build" / "exchange", help="generated files")
    parser.add_argument("--target", type=Path, default=TARGET, help="where the extension module goes")
    parser.add_argument("--cflag", action="append", default=[], help="one more argument for compiler and linker")
    args = parser.parse_args(arguments)
    print(build(args.out.resolve(), args.target.resolve(), args.cflag))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
