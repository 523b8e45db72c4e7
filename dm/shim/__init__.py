"""The other side: the client library a hypervisor uses, and a small PC that boots images with no hypervisor.

``from dm.shim import Shim`` is the client (docs/library.md); names are imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from dm.protocol.schema import IoKind, Kind, Reason, Region, Stop, Until
    from dm.shim.answer import Answer
    from dm.shim.client import Shim
    from dm.shim.daemon import OwnDaemon
    from dm.shim.errors import Refused, RunLost, SessionLost, ShimError
    from dm.shim.ram import Ram
    from dm.shim.vcpu import Vcpu

_HOME: Final = {
    **dict.fromkeys(("Refused", "RunLost", "SessionLost", "ShimError"), "dm.shim.errors"),
    **dict.fromkeys(("IoKind", "Kind", "Reason", "Region", "Stop", "Until"), "dm.protocol.schema"),
    "Answer": "dm.shim.answer",
    "OwnDaemon": "dm.shim.daemon",
    "Ram": "dm.shim.ram",
    "Shim": "dm.shim.client",
    "Vcpu": "dm.shim.vcpu",
}

__all__ = [
    "Answer",
    "IoKind",
    "Kind",
    "OwnDaemon",
    "Ram",
    "Reason",
    "Refused",
    "Region",
    "RunLost",
    "SessionLost",
    "Shim",
    "ShimError",
    "Stop",
    "Until",
    "Vcpu",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'dm.shim' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_HOME[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
