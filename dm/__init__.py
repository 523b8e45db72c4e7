"""x86-dm: runs the guest code that virtualization hardware or a kernel cannot.

``from dm import Emulator`` is the library in one class (docs/library.md); ``from dm.shim import Shim`` is the client of
the daemon.  Names are imported when they are first asked for, so that the command line starts fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from dm.emulator import Answer, Emulator
    from dm.engine.api import CpuidEntry, Exit, ExitReason, MemoryMap, Region, RegionKind, Until
    from dm.machine.state import EventType, State

__all__ = [
    "Answer",
    "CpuidEntry",
    "Emulator",
    "EventType",
    "Exit",
    "ExitReason",
    "MemoryMap",
    "Region",
    "RegionKind",
    "State",
    "Until",
]

_HOME: Final = {
    **dict.fromkeys(("Answer", "Emulator"), "dm.emulator"),
    **dict.fromkeys(("State", "EventType"), "dm.machine.state"),
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'dm' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_HOME.get(name, "dm.engine.api")), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
