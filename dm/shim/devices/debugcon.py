"""Write-only byte ports: a debug console and the POST code display."""

from __future__ import annotations

from collections.abc import Callable

from dm.shim.bus import PortBus


class DebugConsole:
    """A port whose bytes are text for the user; reading returns E9h, which is how guests detect it."""

    def __init__(self, port: int, sink: Callable[[bytes], None]) -> None:
        self._port, self._sink = port, sink

    def connect(self, bus: PortBus) -> None:
        """Put the port on ``bus``."""
        bus.add((self._port,), lambda _: 0xE9, lambda _, value: self._sink(bytes((value,))))


class PostCodes:
    """Port 80h: keeps the codes a guest shows, in order, the last 256 of them."""

    def __init__(self) -> None:
        self.codes: list[int] = []

    def connect(self, bus: PortBus) -> None:
        """Put the port on ``bus``."""
        bus.add((0x80,), lambda _: self.codes[-1] if self.codes else 0, lambda _, value: self._show(value))

    def _show(self, value: int) -> None:
        self.codes.append(value)
        del self.codes[:-256]
