"""A fingerprint of everything the native engine is made from."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from dm import extension

_HERE: Final = Path(__file__).resolve().parent
_PACKAGE: Final = _HERE.parent.parent


def digest() -> str:
    """Return the SHA-256 of the instruction descriptions, the microcode and the runtime's sources, as hex digits."""
    sources = [
        *(_PACKAGE / "isa").rglob("*.py"),
        *(_PACKAGE / "microcode").glob("*.py"),
        *(
            _PACKAGE / "machine" / f"{name}.py"
            for name in ("architecture", "cells", "header", "rules", "state", "words")
        ),
        *(path for path in _HERE.iterdir() if path.suffix in (".py", ".c", ".h")),
    ]
    return extension.digest(_PACKAGE, sources)
