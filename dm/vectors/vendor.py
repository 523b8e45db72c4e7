"""Whose CPU a recorded set is checked against: what the set says, or what the user says."""

from __future__ import annotations

import dataclasses
import functools
import re
from pathlib import Path
from typing import Any, Final

from dm.engine.api import CpuConfig
from dm.engine.parts import part

#: Name of a vendor here and in ``--vendor`` -> the part its sets are checked against, one of 64 bits.
PARTS: Final = {"amd": "amd-x86-64", "intel": "x86-64"}
_WORDS: Final = {"amd": r"\bAMD\b|AuthenticAMD", "intel": r"\bIntel\b|GenuineIntel"}
#: Key of a packed file that says it, with one of the names, the vendor's characters of CPUID or its name in words.
KEY: Final = "vendor"

# CPUID leaf 1, EDX: x87.
_FPU: Final = 1


def cpu(vendor: str, *, x87: bool = True, ecx: int = 0, ebx7: int = 0) -> CpuConfig:
    """Return the part that a vendor's sets are checked against.

    Args:
        vendor: one of :data:`PARTS`.
        x87: False leaves floating point out: some sets were recorded on boards whose coprocessor socket was empty.
        ecx: further bits of CPUID leaf 1, ECX.
        ebx7: further bits of CPUID leaf 7, EBX.
    """
    config = part(PARTS[vendor])
    rows = tuple(
        dataclasses.replace(row, ecx=row.ecx | ecx, edx=row.edx if x87 else row.edx & ~_FPU) if row.leaf == 1 else row
        for row in config.cpuid
    )
    if ebx7:
        rows += (dataclasses.replace(rows[0], leaf=7, subleaf=0, eax=0, ebx=ebx7, ecx=0, edx=0),)
    return dataclasses.replace(config, cpuid=rows)


def named(text: str) -> str:
    """Return the one vendor that a text names, or an empty string when it names none or several."""
    found = [name for name, words in _WORDS.items() if re.search(words, text, re.IGNORECASE)]
    return found[0] if len(found) == 1 else ""


def of_set(path: Path, table: dict[str, Any], default: str = "amd") -> str:
    """Return the vendor of a packed file: its own key's, its folder's README's, its folder's name's, or ``default``."""
    found = named(str(table.get(KEY, ""))) or _of_readme(path.parent)
    return found or next((name for name in PARTS if name in path.parent.name.lower()), default)


@functools.lru_cache(maxsize=16)
def _of_readme(folder: Path) -> str:
    """Return the vendor that a README names in its title, or alone in all of its text."""
    for name in ("README.md", "README", "README.txt"):
        try:
            text = (folder / name).read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        return named(text.lstrip().partition("\n")[0]) or named(text)
    return ""
