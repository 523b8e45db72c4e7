"""The engine package: guest code execution behind one interface (:mod:`dm.engine.api`).

The native engine is used if its extension module exists and was built from these sources; otherwise the Python engine
is, and :func:`native_status` says why.
"""

from __future__ import annotations

from functools import cache
from typing import Final

from dm import extension
from dm.engine.api import CpuConfig, Engine

#: Names that :func:`create` takes.
ENGINES: Final = ("native", "python")

_REBUILD: Final = "python -m dm.engine.native.build (in an installation: reinstall x86-dm)"


@cache
def native_status() -> tuple[bool, str]:
    """Return whether the native engine can be used, and why (not)."""
    from dm.engine.native.digest import digest

    def made_from() -> str:
        from dm.engine import _native

        return str(_native.ffi.string(_native.lib.dm_digest()).decode())

    return extension.status("the native engine", made_from, digest, _REBUILD)


def engine_in_use() -> tuple[str, str]:
    """Return the name of the engine that runs by default, and why."""
    usable, why = native_status()
    return ("native" if usable else "python"), why


def engine_name() -> str:
    """Return the name of the engine that runs by default."""
    return engine_in_use()[0]


def create(name: str = "auto", config: CpuConfig | None = None) -> Engine:
    """Return a new vCPU.

    Args:
        name: ``native``, ``python`` or ``auto``.
        config: what does not change during its life; default: a P6-class processor.

    Raises:
        ValueError: unknown name, or ``config`` is wrong.
        RuntimeError: the native engine is asked for and cannot be used.
    """
    if name == "auto":
        name = engine_name()
    config = config if config is not None else CpuConfig()
    if name == "native":
        usable, why = native_status()
        if not usable:
            raise RuntimeError(why)
        from dm.engine.native_engine import NativeEngine

        return NativeEngine(config)
    if name == "python":
        from dm.engine.python_engine import PythonEngine

        return PythonEngine(config)
    raise ValueError(f"engine {name!r} is not known: {', '.join(ENGINES)} or auto is needed")
