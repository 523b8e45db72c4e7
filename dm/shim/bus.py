"""The I/O port bus: byte-wide devices, wider accesses split as an ISA bridge splits them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

Reader = Callable[[int], int]
Writer = Callable[[int, int], None]


class PortBus:
    """65,536 byte-wide ports.  A port that nothing drives reads all ones; writing it does nothing."""

    def __init__(self) -> None:
        self._readers: dict[int, Reader] = {}
        self._writers: dict[int, Writer] = {}
        self._alone: set[int] = set()

    def add(self, ports: Iterable[int], read: Reader | None, write: Writer | None, *, alone: bool = False) -> None:
        """Connect a device.

        Args:
            ports: port numbers, 16 bits.
            read: called with the port, returns a byte; None: all ones.
            write: called with the port and a byte; None: ignored.
            alone: answer byte accesses only, not parts of wider ones.

        Raises:
            ValueError: another device drives one of the ports already (nothing is connected).
        """
        ports = list(ports)
        for port in ports:
            if not 0 <= port <= 0xFFFF:
                raise ValueError(f"port {port:#x} is not below 10000h")
            if (read and port in self._readers) or (write and port in self._writers):
                raise ValueError(f"port {port:#x} is taken by another device")
        for port in ports:
            if read:
                self._readers[port] = read
            if write:
                self._writers[port] = write
            if alone:
                self._alone.add(port)

    def _answers(self, port: int, size: int) -> bool:
        return size == 1 or port not in self._alone

    def read(self, port: int, size: int, count: int = 1) -> bytes:
        """Return ``size * count`` bytes: ``count`` elements of ``size`` (1, 2, 4) read from ``port`` in order."""
        out = bytearray()
        for _ in range(count):
            for i in range(size):
                at = port + i & 0xFFFF
                reader = self._readers.get(at) if self._answers(at, size) else None
                out.append(reader(at) & 0xFF if reader else 0xFF)
        return bytes(out)

    def write(self, port: int, size: int, data: bytes) -> None:
        """Write ``data``, whole elements of ``size`` (1, 2, 4) bytes, to ``port`` in order."""
        for i, byte in enumerate(data):
            at = port + i % size & 0xFFFF
            writer = self._writers.get(at)
            if writer and self._answers(at, size):
                writer(at, byte)
