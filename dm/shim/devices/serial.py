"""16550A UART (National Semiconductor PC16550D data sheet)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from dm.shim.bus import PortBus


class Serial:
    """One UART whose transmitter is the user's terminal.

    Transmission takes no time, so the transmitter is always empty.  Received bytes wait outside the chip until the
    FIFO has room, so none is ever overrun.
    """

    def __init__(self, base: int, sink: Callable[[bytes], None], irq: Callable[[bool], None]) -> None:
        self._base, self._sink, self._irq = base, sink, irq
        self.waiting: deque[int] = deque()
        self.reset()

    def reset(self) -> None:
        """State after master reset."""
        self._received: deque[int] = deque()
        self._ier = self._lcr = self._mcr = self._scratch = 0
        self._fifo = False
        self.divisor = 12
        self._thr_empty_pending = False
        self._msr_delta = 0
        self._update()

    def connect(self, bus: PortBus) -> None:
        """Put the chip on ``bus``."""
        bus.add(range(self._base, self._base + 8), self._read, self._write)

    def receive(self, data: bytes) -> None:
        """Let ``data`` arrive on the line."""
        self.waiting.extend(data)
        self._fill()

    def _fill(self) -> None:
        while self.waiting and len(self._received) < (16 if self._fifo else 1):
            self._received.append(self.waiting.popleft())
        self._update()

    def _cause(self) -> int:
        """Return the interrupt identification bits of the highest-priority pending cause, 1 for none."""
        if self._ier & 1 and self._received:
            return 4
        if self._ier & 2 and self._thr_empty_pending:
            return 2
        if self._ier & 8 and self._msr_delta:
            return 0
        return 1

    def _update(self) -> None:
        # OUT2 gates the interrupt onto the bus in the PC.
        self._irq(self._cause() != 1 and bool(self._mcr & 8) and not self._mcr & 0x10)

    def _modem_lines(self) -> int:
        if self._mcr & 0x10:  # loopback: DTR RTS OUT1 OUT2 -> DSR CTS RI DCD
            m = self._mcr
            return (m & 1) << 5 | (m & 2) << 3 | (m & 4) << 4 | (m & 8) << 4
        return 0xB0  # carrier, data set ready, clear to send

    def _read(self, port: int) -> int:
        register = port - self._base
        if register < 2 and self._lcr & 0x80:
            return self.divisor >> 8 * register & 0xFF
        value = 0
        if register == 0:
            value = self._received.popleft() if self._received else 0
            self._fill()
        elif register == 1:
            value = self._ier
        elif register == 2:
            value = self._cause()
            if value == 2:
                self._thr_empty_pending = False
            value |= 0xC0 if self._fifo else 0
        elif register == 3:
            value = self._lcr
        elif register == 4:
            value = self._mcr
        elif register == 5:
            value = 0x60 | bool(self._received)
        elif register == 6:
            value = self._modem_lines() | self._msr_delta
            self._msr_delta = 0
        else:
            value = self._scratch
        self._update()
        return value

    def _write(self, port: int, value: int) -> None:
        register = port - self._base
        if register < 2 and self._lcr & 0x80:
            shift = 8 * register
            self.divisor = self.divisor & ~(0xFF << shift) | value << shift
        elif register == 0:
            self._transmit(value)
        elif register == 1:
            if value & 2 and not self._ier & 2:
                self._thr_empty_pending = True
            self._ier = value & 0xF
        elif register == 2:
            self._fifo = bool(value & 1)
            if value & 2:
                self._received.clear()
        elif register == 3:
            self._lcr = value
        elif register == 4:
            before = self._modem_lines()
            self._mcr = value & 0x1F
            changed = before ^ self._modem_lines()
            if self._mcr & 0x10:
                # Deltas: DCTS, DDSR, DDCD on any change, TERI on the trailing edge of RI.
                self._msr_delta |= changed >> 4 & 0b1011 | (4 if changed & before & 0x40 else 0)
        elif register == 7:
            self._scratch = value
        self._fill()

    def _transmit(self, value: int) -> None:
        self._thr_empty_pending = True
        if self._mcr & 0x10:
            if len(self._received) < 16:
                self._received.append(value)
        else:
            self._sink(bytes((value,)))

    # What the firmware's INT 14h does without going over the bus.

    def send_byte(self, value: int) -> None:
        """Transmit one byte for the firmware."""
        self._transmit(value)
        self._update()

    def read_byte(self) -> int | None:
        """Return the next received byte for the firmware, None if there is none."""
        if not self._received:
            return None
        value = self._received.popleft()
        self._fill()
        return value

    @property
    def line_status(self) -> int:
        """Line status register: transmitter empty, data ready."""
        return 0x60 | bool(self._received)

    @property
    def modem_status(self) -> int:
        """Modem status register, deltas not cleared."""
        return self._modem_lines() | self._msr_delta

    def set_line(self, divisor: int, line_control: int) -> None:
        """Set baud divisor (16 bits) and line control (bits 0-4) for the firmware."""
        self.divisor, self._lcr = divisor, line_control & 0x1F
