"""Data and I/O breakpoints of DR0-DR3 (SDM vol. 3B, 17.2.4); instruction breakpoints are handled at boundaries."""

from __future__ import annotations

from typing import Final

_ON_WRITE, _ON_PORT, _ON_ACCESS = 1, 2, 3
#: Bit of PENDING_DEBUG: a breakpoint that was met was enabled.
ENABLED: Final = 1 << 12
_M32: Final = 0xFFFFFFFF


def _hits(dr7: int, dr: list[int], first: int, size: int, kinds: tuple[int, ...]) -> int:
    """Return the hits of an access that may wrap at 4 GiB; only 64-bit code can hit what lies beyond."""
    hits = 0
    for n in range(4):
        control = dr7 >> (16 + 4 * n) & 15
        length = (1, 2, 8, 4)[control >> 2]
        at = dr[n] & -length
        meets = first - at & _M32 < length or at - first & _M32 < size
        if dr7 >> (2 * n) & 3 and control & 3 in kinds and not dr[n] >> 32 and meets:
            hits |= 1 << n | ENABLED
    return hits


def data_hits(dr7: int, dr: list[int], linear: int, size: int, write: bool) -> int:
    """Return the bits that a data access adds to PENDING_DEBUG."""
    return _hits(dr7, dr, linear, size, (_ON_WRITE, _ON_ACCESS) if write else (_ON_ACCESS,))


def port_hits(dr7: int, dr: list[int], port: int, size: int) -> int:
    """Return the bits that a port access adds to PENDING_DEBUG (CR4.DE set)."""
    return _hits(dr7, dr, port, size, (_ON_PORT,))
