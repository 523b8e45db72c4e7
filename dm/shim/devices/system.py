"""A20 gate and reset lines: system control port A (92h), reset control register (CF9h)."""

from __future__ import annotations

from collections.abc import Callable

from dm.shim.bus import PortBus


class SystemControl:
    """The chipset's two ways to reset, and the A20 gate that port 92h and the keyboard controller share."""

    def __init__(self, changed: Callable[[], None]) -> None:
        """``changed`` is called when A20 changes."""
        self._changed = changed
        self.reset()

    def reset(self) -> None:
        """State after a system reset: A20 open, or the reset vector could not be fetched."""
        self.a20 = True
        self.reset_requested = self.full_reset = False
        self._cf9 = 0

    def connect(self, bus: PortBus) -> None:
        """Put the ports on ``bus``."""
        bus.add((0x92,), lambda _: self.a20 << 1, lambda _, value: self._write92(value))
        # A double word at CF8h is the PCI configuration address, not a reset.
        bus.add((0xCF9,), lambda _: self._cf9, lambda _, value: self._write_cf9(value), alone=True)

    def set_a20(self, enabled: bool) -> None:
        """Open (True) or mask address line 20."""
        if enabled != self.a20:
            self.a20 = enabled
            self._changed()

    def request_reset(self, *, full: bool = False) -> None:
        """Reset the CPU, or the whole machine (``full``), at the end of the instruction."""
        self.reset_requested = True
        self.full_reset |= full

    def _write92(self, value: int) -> None:
        self.set_a20(bool(value & 2))
        if value & 1:
            self.request_reset()

    def _write_cf9(self, value: int) -> None:
        rising = value & 4 and not self._cf9 & 4
        self._cf9 = value & 0xE
        if rising:
            self.request_reset(full=bool(self._cf9 & 2))
