"""All descriptions: importing this module fills :data:`dm.isa.insn.DESCRIPTIONS` from every module that has some."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType
from typing import Final

from dm.isa import instructions, mechanisms
from dm.isa.insn import DESCRIPTIONS as DESCRIPTIONS

#: The modules of both rooms.
MODULES: Final[tuple[ModuleType, ...]] = tuple(
    importlib.import_module(f"{room.__name__}.{module.name}")
    for room in (instructions, mechanisms)
    for module in pkgutil.iter_modules(room.__path__)
)
