"""The hot part of an exchange in C, if its extension module is built.

Knows nothing of the package: its types are given the tables they work from.  Each has a Python equivalent, which is the
reference, replaces it where the module is missing, and handles what it does not:

- ``Codec``: :mod:`dm.protocol.codec`,
- ``Groups``: :mod:`dm.machine.groups`,
- ``Link``: :mod:`dm.shim.link`.

Under them is the C that knows no Python, and that the worker's exchange and the C client are made of as well:
``messagepack.h`` (the reader and the writer) and ``waiting.h`` (messages of ZeroMQ, and how to wait for them).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from dm import extension

_HERE = Path(__file__).resolve().parent


def digest() -> str:
    """Return the SHA-256 of the extension module's sources, as hex digits."""
    return extension.digest(_HERE, [*_HERE.glob("*.c"), *_HERE.glob("*.h"), _HERE / "times.py"])


@cache
def module() -> Any:
    """Return the extension module, or None where it is not built or was built from other sources."""
    try:
        from dm.fast import _fast
    except ImportError:
        return None
    return _fast if digest() == _fast.DIGEST else None
