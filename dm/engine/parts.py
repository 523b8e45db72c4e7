"""Named CPU models as configurations of engines."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from dm.engine.api import CpuConfig, CpuidEntry
from dm.isa import features
from dm.isa.lineage import Lineage, lineage
from dm.isa.parts import ALIASES, DEFAULT, DEFAULT_CPUID, PARTS, Cpuid


@dataclass(frozen=True, slots=True)
class Identity:
    """What microcode sees of a configuration: the table of CPUID, and the cells that follow from it."""

    cpuid: Cpuid
    vendor: int
    model: int
    features: int
    more_features: int
    lineage: Lineage


def identity(config: CpuConfig) -> Identity:
    """Return what both engines make of a configuration; of rows for one leaf and subleaf the last counts.

    Raises:
        ValueError: there is no such model.
    """
    if config.model not in features.MODELS:
        raise ValueError(f"model {config.model!r} is not known, one of {', '.join(features.MODELS)} is needed")
    table = {(row.leaf, row.subleaf): (row.eax, row.ebx, row.ecx, row.edx) for row in config.cpuid}
    cpuid = table or dict(DEFAULT_CPUID)
    vendor, model, mask = features.vendor(cpuid), features.MODELS[config.model], features.feature_mask(cpuid)
    return Identity(cpuid, vendor, model, mask & (1 << 64) - 1, mask >> 64, lineage(model, vendor))


def part(name: str = DEFAULT, *, copies: bool = False) -> CpuConfig:
    """Return the configuration of a CPU model by its name, its vendor's or its model's (:data:`dm.isa.parts.PARTS`).

    ``copies``: see :class:`~dm.engine.api.CpuConfig`.

    Raises:
        ValueError: there is no such model; the text names the nearest one and all of them.
    """
    known = {alias.lower(): target for alias, target in ALIASES.items()} | {known: known for known in PARTS}
    found = PARTS.get(known.get(name.lower(), ""))
    if found is None:
        close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise ValueError(f"CPU {name!r} is not known{hint}; one of {names()} is needed")
    rows = tuple(CpuidEntry(leaf, subleaf, *values) for (leaf, subleaf), values in found.cpuid.items())
    return CpuConfig(rows, found.model, copies)


def names() -> str:
    """Return the names of all models in one line, the default first."""
    return ", ".join(PARTS)


def summary() -> str:
    """Return a line with what each name means."""
    return "; ".join(f"{name}: {part.summary}" for name, part in PARTS.items())
