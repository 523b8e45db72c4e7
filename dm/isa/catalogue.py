"""All descriptions: importing this module fills :data:`dm.isa.insn.DESCRIPTIONS` from every module of the package."""

from __future__ import annotations

import importlib
import pkgutil

import dm.isa
from dm.isa.insn import DESCRIPTIONS as DESCRIPTIONS

for _module in pkgutil.iter_modules(dm.isa.__path__):
    importlib.import_module(f"dm.isa.{_module.name}")
