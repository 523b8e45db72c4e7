"""Byte ports through which guests report to their developers: a debug console, POST codes, and an exit port."""

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
    """The POST code display: keeps the codes a guest shows, in order, the last 256 of them."""

    def __init__(self, port: int = 0x80, shown: Callable[[int], None] | None = None) -> None:
        """``shown`` is called with a code that differs from the one before."""
        self.codes: list[int] = []
        self._port, self._shown = port, shown

    def connect(self, bus: PortBus) -> None:
        """Put the port on ``bus``."""
        bus.add((self._port,), lambda _: self.codes[-1] if self.codes else 0, lambda _, value: self._show(value))

    def _show(self, value: int) -> None:
        if self._shown and self.codes[-1:] != [value]:
            self._shown(value)
        self.codes.append(value)
        del self.codes[:-256]


class ExitPort:
    """A port whose first write ends the machine; ``value`` is the byte written, None before."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.value: int | None = None

    def connect(self, bus: PortBus) -> None:
        """Put the port on ``bus``."""
        bus.add((self._port,), None, lambda _, value: self._write(value))

    def _write(self, value: int) -> None:
        if self.value is None:
            self.value = value
