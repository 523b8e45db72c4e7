"""A fingerprint of everything the native engine is made from."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

_HERE: Final = Path(__file__).resolve().parent
_PACKAGE: Final = _HERE.parent.parent


def digest() -> str:
    """Return the SHA-256 of the instruction descriptions, the microcode and the runtime's sources, as hex digits."""
    sources = [
        *(_PACKAGE / "isa").rglob("*.py"),
        *(_PACKAGE / "microcode").glob("*.py"),
        *(_PACKAGE / "machine" / name for name in ("architecture.py", "header.py", "state.py", "cells.py", "rules.py")),
        *(path for path in _HERE.iterdir() if path.suffix in (".py", ".c", ".h")),
    ]
    sha = hashlib.sha256()
    for path in sorted(sources):
        sha.update(path.relative_to(_PACKAGE).as_posix().encode() + b"\0")
        sha.update(path.read_bytes() + b"\0")
    return sha.hexdigest()
