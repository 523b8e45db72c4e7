"""Which format a file has, and whose CPU it is checked against."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from dm.vectors import hw286, hwamd, hwfpu, moo, packed
from dm.vectors.case import Case, FormatError, World
from dm.vectors.vendor import of_set

_PACKED = ".mp.gz"
_MOO = (".moo", ".moo.gz")


def find_files(paths: Iterable[Path]) -> list[Path]:
    """Return the test files among ``paths``, directories searched, in order and without repetitions.

    Raises:
        FormatError: a path does not exist, or holds no test file.
    """
    out: dict[Path, None] = {}
    for path in paths:
        if not path.exists():
            raise FormatError(f"{path}: no such file or directory")
        inside = sorted(p for p in path.rglob("*") if _named(p)) if path.is_dir() else [path]
        if not inside:
            raise FormatError(f"{path}: no files named *{_PACKED}, *.MOO or *.MOO.gz in it")
        out.update(dict.fromkeys(inside))
    return list(out)


def _named(path: Path) -> bool:
    name = path.name.lower()
    return name.endswith(_MOO) or (name.endswith(_PACKED) and name != hwamd.LDT_FILE)


def open_file(path: Path, vendor: str = "") -> tuple[str, World, Iterator[Case]]:
    """Return the name of a file's set, its world and its cases; these are decoded as they are asked for.

    Args:
        path: the file.
        vendor: whose CPU to check it against (:data:`dm.vectors.vendor.PARTS`); empty: that of the set.

    Raises:
        FormatError: it is of no known format, or damaged.
    """
    name = path.name.lower()
    if name.endswith(_MOO):
        return "moo", *moo.read(path, vendor or "intel")
    if name.endswith(_PACKED):
        table = packed.load(path)
        if not isinstance(table, dict):
            table = {}
        fields = tuple(table.get("fields", ()))
        vendor = vendor or of_set(path, table)
        if fields == hw286.FIELDS:
            return "hw286", *hw286.read(path, table, vendor)
        if fields == hwamd.FIELDS:
            return f"hw{vendor}", *hwamd.read(path, table, vendor)
        if fields == hwfpu.FIELDS:
            return f"hwfpu-{vendor}", *hwfpu.read(path, table, vendor)
        raise FormatError(f"{path}: neither the fields of hw286 nor those of hwamd, hwintel or hwfpu-intel")
    raise FormatError(f"{path}: unknown kind of file; known are *{_PACKED}, *.MOO and *.MOO.gz")
