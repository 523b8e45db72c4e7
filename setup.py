"""Builds the native engine and the two extensions of the exchange; everything else stands in pyproject.toml.

The engine's C is generated from the instruction descriptions, so the build imports this source tree.  Without a C
compiler the installation goes on and the Python engine is used; ``x86-dm --version`` says so.

Environment: ``X86_DM_NATIVE=require`` makes that an error, for wheels that are published and for tests;
``X86_DM_OBJECTS`` names a directory that keeps objects from one build to the next.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

ROOT = Path(__file__).resolve().parent
# A PEP 517 build does not put the project itself on the path.
sys.path.insert(0, str(ROOT))

# dm/protocol is a link to protocol/, which finders of packages miss or find twice.
PACKAGES = [
    "dm",
    *sorted(
        ".".join(init.parent.relative_to(ROOT).parts)
        for part in (ROOT / "dm").iterdir()
        if part.is_dir()
        for init in part.rglob("__init__.py")
    ),
]


class BuildNative(build_ext):
    """Leaves generating, compiling and linking to the engine's own build."""

    def build_extension(self, ext: Extension) -> None:
        """Build the extension; raises CompileError, a warning where the extension is optional."""
        if ext.name != "dm.engine._native":
            self._build_small(ext)
            return
        from dm.engine.native import build

        objects = Path(os.environ.get("X86_DM_OBJECTS") or self.build_temp).resolve()
        target = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        for place in (objects, target):
            place.mkdir(parents=True, exist_ok=True)
        try:
            try:
                build.build(objects, target, [])
            except SystemExit as problem:  # this compiler does not turn the handlers' last calls into jumps
                self.warn(f"{problem}; building the slower dispatch loop")
                build.build(objects, target, ["-DDM_THREADED=0"])
        except (OSError, subprocess.CalledProcessError) as problem:
            raise CompileError(f"the native engine could not be built: {problem}") from problem

    def _build_small(self, ext: Extension) -> None:
        from dm.fast import build as fast
        from dm.server.vcpu.native import build as exchange

        target = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        target.mkdir(parents=True, exist_ok=True)
        try:
            if ext.name == "dm.fast._fast":
                fast.build(target)
            else:
                exchange.build(Path(self.build_temp).resolve() / "exchange", target, [])
        except (OSError, subprocess.CalledProcessError) as problem:
            raise CompileError(f"{ext.name} could not be built: {problem}") from problem


setup(
    packages=PACKAGES,
    ext_modules=[
        Extension(name, sources=[], optional=os.environ.get("X86_DM_NATIVE") != "require")
        for name in ("dm.engine._native", "dm.server.vcpu._exchange", "dm.fast._fast")
    ],
    cmdclass={"build_ext": BuildNative},
)
