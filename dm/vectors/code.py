"""What has to be known about an instruction's bytes to run and check it."""

from __future__ import annotations

from typing import Final

REP: Final = frozenset({0xF2, 0xF3})
_PREFIXES: Final = REP | {0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0x67, 0xF0}


def prefix_count(code: bytes) -> int:
    """Return the number of prefix bytes that ``code`` begins with (SDM vol. 2A, 2.1.1)."""
    return next((i for i, byte in enumerate(code) if byte not in _PREFIXES), len(code))
