"""Builds the native engine; everything else about the package stands in pyproject.toml.

The engine's C is generated from the instruction description, so the build imports this source tree.  Without a C
compiler the installation goes on and the Python engine is used; ``x86-dm --version`` says so.  X86_DM_NATIVE=require
makes that an error, for wheels that are published and for tests.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
# A PEP 517 build does not put the project itself on the path.
sys.path.insert(0, str(ROOT))

PACKAGES = [
    "dm",
    *sorted(
        ".".join(init.parent.relative_to(ROOT).parts)
        for top in (ROOT / "dm").iterdir()
        if top.is_dir()
        for init in top.rglob("__init__.py")
    ),
]


class BuildNative(build_ext):
    """Generates the engine's C into the build directory and compiles the files side by side."""

    def build_extension(self, ext: Extension) -> None:
        """Generate, compile and link; raises CompileError or LinkError, a warning if the extension is optional."""
        generated = Path(self.build_temp) / "generated"
        generated.mkdir(parents=True, exist_ok=True)
        # Generating takes a while: first see whether there is a compiler and Python's headers.
        probe = generated / "probe.c"
        probe.write_text("#include <Python.h>\n", encoding="ascii")
        self.compiler.compile([str(probe)], output_dir=self.build_temp)

        from dm.engine.native import build

        sources = [str(path) for path in build.generate(generated)]
        native = build.ffibuilder().distutils_extension(tmpdir=str(generated))
        include_dirs = [str(generated), *native.include_dirs]

        def compile_one(source: str) -> list[str]:
            return self.compiler.compile(
                [source],
                output_dir=self.build_temp,
                macros=native.define_macros,
                include_dirs=include_dirs,
                extra_postargs=native.extra_compile_args,
            )

        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            objects = [name for names in pool.map(compile_one, [*native.sources, *sources]) for name in names]
        ext.extra_objects = objects
        ext.extra_link_args = native.extra_link_args
        super().build_extension(ext)


setup(
    packages=PACKAGES,
    ext_modules=[Extension("dm.engine._native", sources=[], optional=os.environ.get("X86_DM_NATIVE") != "require")],
    cmdclass={"build_ext": BuildNative},
)
