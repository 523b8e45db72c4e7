"""Two 8259A interrupt controllers, cascaded as in the PC/AT (Intel 8259A data sheet)."""

from __future__ import annotations

from dm.shim.bus import PortBus, Reader, Writer


class Pic:
    """One 8259A."""

    def __init__(self) -> None:
        self.lines = 0
        self.elcr = 0
        self.reset()

    def reset(self) -> None:
        """Power-on state; input lines keep their level."""
        self.irr = self.isr = 0
        self.imr = 0xFF
        self.base = 0
        self._init_step = 0
        self._needs_icw4 = self._single = False
        self._auto_eoi = self._rotate_auto = self._nested = self._special_mask = False
        self._read_isr = self._poll = False
        self._lowest = 7

    def set_line(self, line: int, level: bool) -> None:
        """Drive input ``line`` (0-7); a rising edge latches a request, a level-triggered one follows the line."""
        bit = 1 << line
        if level:
            if not self.lines & bit or self.elcr & bit:
                self.irr |= bit
            self.lines |= bit
        else:
            self.lines &= ~bit
            # An edge request needs its line high until it is acknowledged; a falling line withdraws it.
            self.irr &= ~bit

    def _priority(self, mask: int) -> int | None:
        """Return the highest-priority line of ``mask``, None if empty."""
        for i in range(1, 9):
            line = (self._lowest + i) & 7
            if mask >> line & 1:
                return line
        return None

    def request(self) -> int | None:
        """Return the line that INT is raised for, None when INT is low."""
        line = self._priority(self.irr & ~self.imr)
        if line is None:
            return None
        blockers = self.isr & ~self.imr if self._special_mask else self.isr
        serving = self._priority(blockers)
        if serving is None:
            return line
        rank = (line - self._lowest - 1) & 7
        serving_rank = (serving - self._lowest - 1) & 7
        # Special fully nested mode lets the slave interrupt its own earlier request on the cascade line.
        if rank < serving_rank or (self._nested and line == serving):
            return line
        return None

    def acknowledge(self) -> int:
        """Do the INTA cycle and return the line; 7 (spurious) when no request is left."""
        line = self.request()
        if line is None:
            return 7
        bit = 1 << line
        if not self.elcr & bit:
            self.irr &= ~bit
        if self._auto_eoi:
            if self._rotate_auto:
                self._lowest = line
        else:
            self.isr |= bit
        return line

    def read(self, a0: int) -> int:
        """Return the byte at the command (0) or data (1) port."""
        if self._poll:
            self._poll = False
            line = self.request()
            return 0 if line is None else 0x80 | self.acknowledge()
        if a0:
            return self.imr
        return self.isr if self._read_isr else self.irr

    def write(self, a0: int, value: int) -> None:
        """Take an initialization or operation command word."""
        if not a0:
            if value & 0x10:
                self._icw1(value)
            elif value & 8:
                self._ocw3(value)
            else:
                self._ocw2(value)
        elif self._init_step == 2:
            self.base = value & 0xF8
            self._init_step = 4 if self._single else 3
            if self._single and not self._needs_icw4:
                self._init_step = 0
        elif self._init_step == 3:
            self._init_step = 4 if self._needs_icw4 else 0
        elif self._init_step == 4:
            self._auto_eoi = bool(value & 2)
            self._nested = bool(value & 0x10)
            self._init_step = 0
        else:
            self.imr = value

    def _icw1(self, value: int) -> None:
        self.reset()
        self.imr = 0
        # Edge sensing is reset: a line that is already high requests again.
        self.irr = self.lines & self.elcr
        self._needs_icw4 = bool(value & 1)
        self._single = bool(value & 2)
        self._init_step = 2

    def _ocw2(self, value: int) -> None:
        command, level = value >> 5, value & 7
        if command in (1, 5):  # non-specific EOI, with rotation
            line = self._priority(self.isr)
            if line is not None:
                self.isr &= ~(1 << line)
                if command == 5:
                    self._lowest = line
        elif command in (3, 7):  # specific EOI, with rotation
            self.isr &= ~(1 << level)
            if command == 7:
                self._lowest = level
        elif command == 6:
            self._lowest = level
        elif command in (0, 4):
            self._rotate_auto = command == 4

    def _ocw3(self, value: int) -> None:
        if value & 4:
            self._poll = True
        elif value & 2:
            self._read_isr = bool(value & 1)
        if value & 0x40:
            self._special_mask = bool(value & 0x20)


class PicPair:
    """Master at 20h, slave at A0h cascaded on line 2, edge/level registers at 4D0h."""

    def __init__(self) -> None:
        self.master, self.slave = Pic(), Pic()

    def connect(self, bus: PortBus) -> None:
        """Put the chips on ``bus``."""
        for base, chip in ((0x20, self.master), (0xA0, self.slave)):
            bus.add((base, base + 1), self._reader(chip), self._writer(chip))
        bus.add((0x4D0,), lambda _: self.master.elcr, lambda _, v: setattr(self.master, "elcr", v & 0xF8))
        bus.add((0x4D1,), lambda _: self.slave.elcr, lambda _, v: setattr(self.slave, "elcr", v & 0xDE))

    def _reader(self, chip: Pic) -> Reader:
        def read(port: int) -> int:
            value = chip.read(port & 1)
            self._cascade()
            return value

        return read

    def _writer(self, chip: Pic) -> Writer:
        def write(port: int, value: int) -> None:
            chip.write(port & 1, value)
            self._cascade()

        return write

    def _cascade(self) -> None:
        self.master.set_line(2, self.slave.request() is not None)

    def reset(self) -> None:
        """Power-on state of both chips."""
        self.master.reset()
        self.slave.reset()

    def set_irq(self, irq: int, level: bool) -> None:
        """Drive interrupt line ``irq`` (0-15)."""
        if irq < 8:
            self.master.set_line(irq, level)
        else:
            self.slave.set_line(irq - 8, level)
            self._cascade()

    def pulse(self, irq: int) -> None:
        """Raise ``irq`` and leave it high until the next pulse, as a timer output does."""
        self.set_irq(irq, False)
        self.set_irq(irq, True)

    @property
    def pending(self) -> bool:
        """True while INTR is asserted to the CPU."""
        return self.master.request() is not None

    def acknowledge(self) -> int:
        """Do the CPU's interrupt-acknowledge cycle and return the vector (8 bits)."""
        line = self.master.acknowledge()
        if line != 2:
            return self.master.base | line
        vector = self.slave.base | self.slave.acknowledge()
        self._cascade()
        return vector

    def end_of_interrupt(self, irq: int) -> None:
        """Send the non-specific EOI that the firmware's handler of ``irq`` sends."""
        if irq >= 8:
            self.slave.write(0, 0x20)
        self.master.write(0, 0x20)
        self._cascade()
