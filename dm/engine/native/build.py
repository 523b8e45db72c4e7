"""Builds the extension module ``dm.engine._native``.

``python -m dm.engine.native.build`` builds it in the source tree, compiling only what has changed; setup.py uses
:func:`generate` and :func:`ffibuilder` with its own compiler.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import cffi

from dm import extension

HERE: Final = Path(__file__).resolve().parent
#: Where the extension is put in the source tree.
TARGET: Final = HERE.parent
#: Functions that run one after the other by tail calls.
_CHAINED: Final = re.compile(
    r"(fast_\w+|enter|enter_first|enter_new|enter_indirect|block_end|leave_exact|miss_read|miss_write)\b"
)
#: Checks that can be left out, to measure their cost: see docs/performance.md.
CHECKS: Final = ("limits", "tlb", "budget", "smc", "pairs")
#: Fast handlers never return to their callers (run.c), so they need not save registers; only GCC has these options.
_SCRATCH_ARGS: Final = tuple(f"-fcall-used-{register}" for register in ("rbx", "r12", "r13", "r14", "r15"))
COMPILE_ARGS: Final = (
    "-std=gnu11",
    "-O2",
    "-fvisibility=hidden",
    "-fno-strict-aliasing",
    "-Wall",
    "-Wextra",
    "-Wno-unused",
    "-Wno-unused-parameter",
)


def generate(out: Path) -> list[Path]:
    """Write the generated C and headers into ``out`` and return all C files to compile, the runtime's included.

    Raises:
        MicrocodeError: the instruction descriptions are incomplete or wrong.
    """
    from dm.engine.native import generate as generator

    return [*generator.generate(out), *sorted(HERE.glob("*.c"))]


def ffibuilder() -> cffi.FFI:
    """Return the definition of the extension module; its generated C includes the runtime's ``api.h``."""
    ffi = cffi.FFI()
    ffi.cdef((HERE / "api.h").read_text())
    ffi.set_source(
        "dm.engine._native",
        '#include <stdint.h>\n#include "api.h"\n',
        include_dirs=[str(HERE)],
        extra_compile_args=list(COMPILE_ARGS),
    )
    return ffi


def check_tail_calls(module: Path) -> None:
    """Fail if a fast handler calls another one instead of jumping to it: the stack would grow with every instruction.

    Raises:
        SystemExit: naming the function.
    """
    objdump = shutil.which("objdump")
    if objdump is None or platform.machine() != "x86_64":
        return
    text = subprocess.run([objdump, "-d", "--no-show-raw-insn", module], check=True, capture_output=True, text=True)
    name, seen = "", 0
    for line in text.stdout.splitlines():
        if line.endswith(">:"):
            name = line.split("<")[1][:-2]
            seen += name.startswith("fast_")
        elif "\tcall" in line and _CHAINED.fullmatch(name):
            target = line.partition("\tcall")[2]
            if "*" not in target and not _CHAINED.match(target.partition("<")[2]):
                continue
            raise SystemExit(f"{name} calls a handler instead of jumping to it; build with --cflag=-DDM_THREADED=0")
    if not seen:
        raise SystemExit(f"{module}: no handlers found in the disassembly")


def scratch_args(flags: list[str]) -> list[str]:
    """Return the options that let fast handlers use all registers, or none if the compiler or its ``flags`` forbid it.

    Only threaded handlers may have it: a dispatch loop keeps its own values in those registers.
    """
    compiler = extension.compiler()
    trial = '#include "cpu.h"\n#if !DM_THREADED\n#error "not threaded"\n#endif\n'
    command = [*compiler, *flags, *_SCRATCH_ARGS, "-fsyntax-only", "-x", "c", "-"]
    done = subprocess.run(command, input=trial.encode(), capture_output=True)
    return list(_SCRATCH_ARGS) if done.returncode == 0 else []


def _compile(source: Path, out: Path, flags: list[str], headers: bytes) -> Path:
    """Compile one file unless its object was made from the same text and flags."""
    made = out / (source.stem + ".o")
    mark = made.with_suffix(".sha")
    told = [flag for flag in flags if not flag.startswith("-I")]
    key = hashlib.sha256(headers + source.read_bytes() + "\0".join(told).encode()).hexdigest()
    if not (made.exists() and mark.exists() and mark.read_text() == key):
        compiler = extension.compiler()
        subprocess.run([*compiler, *flags, "-c", str(source), "-o", str(made)], check=True)
        mark.write_text(key)
    return made


def without(checks: list[str]) -> list[str]:
    """Return compiler flags of an engine that lacks these checks, to measure what they cost.

    What is built with them says so in its digest, and :func:`dm.engine.native_status` refuses it.

    Raises:
        ValueError: an unknown check.
    """
    for check in checks:
        if check not in CHECKS:
            raise ValueError(f"no check {check!r} that can be left out; there are {', '.join(CHECKS)}")
    if not checks:
        return []
    name = f'"without {",".join(checks)}: "'
    return [*(f"-DWITHOUT_{check.upper()}" for check in checks), f"-DDM_VARIANT={name}"]


def build(out: Path, target: Path, extra: list[str]) -> Path:
    """Generate into ``out``, compile what has changed, link into ``target``.

    Returns:
        The path of the extension module.
    """
    sources = generate(out)
    glue = out / "_native.c"
    ffibuilder().emit_c_code(str(glue))
    flags = [*COMPILE_ARGS, "-fPIC", *extra, f"-I{out}", f"-I{HERE}", f"-I{sysconfig.get_path('include')}"]
    # labels.h changes with every new cause and is seen by handlers only through the names they use.
    headers = b"".join(path.read_bytes() for path in sorted([*HERE.glob("*.h"), *out.glob("*.h")]))
    scratch = scratch_args(flags)

    # Exact handlers and procedures know nothing of the checks that may be left out.
    exact = [flag for flag in flags if not flag.startswith(("-DWITHOUT_", "-DDM_VARIANT"))]

    def compiled(source: Path) -> Path:
        if source.name.startswith("fast_"):
            return _compile(source, out, [*flags, *scratch], headers)
        return _compile(source, out, exact if source.name.startswith(("exact_", "procedures_")) else flags, headers)

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        objects = list(pool.map(compiled, [glue, *sources]))
    module = target / f"_native{sysconfig.get_config_var('EXT_SUFFIX')}"
    fresh = out / module.name
    compiler = extension.compiler()
    subprocess.run([*compiler, "-shared", *extra, *map(str, objects), "-o", str(fresh)], check=True)
    if not any("DM_THREADED" in flag or "sanitize" in flag for flag in extra):
        check_tail_calls(fresh)
    extension.put(fresh, module)
    return module


def main(arguments: list[str]) -> int:
    """Build in the source tree; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m dm.engine.native.build", description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=HERE.parents[2] / "build" / "native", help="generated files, objects"
    )
    parser.add_argument("--target", type=Path, default=TARGET, help="where the extension module goes")
    parser.add_argument("--cflag", action="append", default=[], help="one more argument for compiler and linker")
    parser.add_argument(
        "--without",
        metavar="CHECK,...",
        help=f"leave out {', '.join(CHECKS)}: for measurements only (with --output)",
    )
    parser.add_argument("--output", type=Path, help="directory for objects and extension of such a build")
    args = parser.parse_args(arguments)
    if (args.without is None) != (args.output is None):
        parser.error("--without and --output go together: such a build must not replace the real one")
    if args.without is not None:
        try:
            args.cflag += without(args.without.split(","))
        except ValueError as problem:
            parser.error(str(problem))
        args.target, args.out = args.output, args.output / "objects"
        args.out.mkdir(parents=True, exist_ok=True)
    print(build(args.out.resolve(), args.target.resolve(), args.cflag))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
