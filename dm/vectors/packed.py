"""The container of the compact vector sets: gzip around one msgpack map."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Any

import msgpack

from dm.vectors.case import FormatError


def load(path: Path) -> Any:
    """Return the object a ``.mp.gz`` file holds.

    Raises:
        FormatError: it cannot be read, unpacked or decoded.
    """
    try:
        return msgpack.unpackb(gzip.decompress(path.read_bytes()), strict_map_key=False)
    except (OSError, EOFError, zlib.error, ValueError, msgpack.UnpackException) as e:
        raise FormatError(f"{path}: not a gzipped msgpack file: {e}") from e


def check_tests(path: Path, table: dict[str, Any], fields: tuple[str, ...]) -> list[list[Any]]:
    """Return the rows of a test file.

    Raises:
        FormatError: a row has not one value for each of ``fields``.
    """
    tests = table.get("tests")
    if not isinstance(tests, list) or any(not isinstance(t, list) or len(t) != len(fields) for t in tests):
        raise FormatError(f"{path}: 'tests' must be a list of rows with {len(fields)} values each")
    return tests
