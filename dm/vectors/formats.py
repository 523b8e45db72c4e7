"""Which format a file is of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from dm.vectors import hw286, hwamd, moo, packed
from dm.vectors.case import Case, FormatError, World

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


def open_file(path: Path) -> tuple[str, World, Iterator[Case]]:
    """Return format name, world and cases of a file; the cases are decoded as they are asked for.

    Raises:
        FormatError: it is of no known format, or damaged.
    """
    name = path.name.lower()
    if name.endswith(_MOO):
        return "moo", *moo.read(path)
    if name.endswith(_PACKED):
        table = packed.load(path)
        fields = tuple(table.get("fields", ())) if isinstance(table, dict) else ()
        if fields == hw286.FIELDS:
            return "hw286", *hw286.read(path, table)
        if fields == hwamd.FIELDS:
            return "hwamd", *hwamd.read(path, table)
        raise FormatError(f"{path}: neither the fields of hw286 nor those of hwamd")
    raise FormatError(f"{path}: unknown kind of file; known are *{_PACKED}, *.MOO and *.MOO.gz")
