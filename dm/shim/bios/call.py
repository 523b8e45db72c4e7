"""One firmware call: the caller's registers, flags and memory."""

from __future__ import annotations

from dm.machine.architecture import Eflags
from dm.machine.state import Seg, State
from dm.shim.bios import rom
from dm.shim.pc_memory import AddressSpace, PcMemory


class BiosCall:
    """Registers by name (8-bit ones here, the rest on ``state``) and the flags the caller will get back.

    The caller's IP, CS and FLAGS are on its stack, where INT put them; results in CF and ZF are stored into that
    FLAGS image, as BIOSes do, and the final IRET is executed by the guest in its own mode.
    """

    def __init__(self, memory: PcMemory, state: State) -> None:
        self.state = state
        self.memory = memory
        self.space = AddressSpace(memory, state)
        self._carry: bool | None = None
        self._zero: bool | None = None

    def _low(self, index: int) -> int:
        return self.state.gpr[index] & 0xFF

    def _set_low(self, index: int, value: int) -> None:
        self.state.gpr[index] = self.state.gpr[index] & ~0xFF | value & 0xFF

    def _high(self, index: int) -> int:
        return self.state.gpr[index] >> 8 & 0xFF

    def _set_high(self, index: int, value: int) -> None:
        self.state.gpr[index] = self.state.gpr[index] & ~0xFF00 | (value & 0xFF) << 8

    @property
    def al(self) -> int:
        """AL, 8 bits."""
        return self._low(0)

    @al.setter
    def al(self, value: int) -> None:
        self._set_low(0, value)

    @property
    def ah(self) -> int:
        """AH, 8 bits."""
        return self._high(0)

    @ah.setter
    def ah(self, value: int) -> None:
        self._set_high(0, value)

    @property
    def cl(self) -> int:
        """CL, 8 bits."""
        return self._low(1)

    @cl.setter
    def cl(self, value: int) -> None:
        self._set_low(1, value)

    @property
    def ch(self) -> int:
        """CH, 8 bits."""
        return self._high(1)

    @ch.setter
    def ch(self, value: int) -> None:
        self._set_high(1, value)

    @property
    def dl(self) -> int:
        """DL, 8 bits."""
        return self._low(2)

    @dl.setter
    def dl(self, value: int) -> None:
        self._set_low(2, value)

    @property
    def dh(self) -> int:
        """DH, 8 bits."""
        return self._high(2)

    @dh.setter
    def dh(self, value: int) -> None:
        self._set_high(2, value)

    @property
    def bl(self) -> int:
        """BL, 8 bits."""
        return self._low(3)

    @bl.setter
    def bl(self, value: int) -> None:
        self._set_low(3, value)

    @property
    def bh(self) -> int:
        """BH, 8 bits."""
        return self._high(3)

    @bh.setter
    def bh(self, value: int) -> None:
        self._set_high(3, value)

    def set_segment(self, index: Seg, selector: int) -> None:
        """Load a segment register as real mode and virtual-8086 mode do: limit and rights are kept."""
        segment = self.state.seg[index]
        segment.selector, segment.base, segment.unusable = selector, selector << 4, 0

    def carry(self, value: bool) -> None:
        """Return CF to the caller."""
        self._carry = value

    def zero(self, value: bool) -> None:
        """Return ZF to the caller."""
        self._zero = value

    def succeed(self, ah: int = 0) -> None:
        """Return CF clear and ``ah`` (8 bits)."""
        self.ah = ah
        self._carry = False

    def fail(self, ah: int) -> None:
        """Return CF set and the error code ``ah`` (8 bits)."""
        self.ah = ah
        self._carry = True

    def _stacked_flags(self) -> int:
        s = self.state
        return (s.esp if s.ss.big else s.sp) + 4 & 0xFFFF

    def finish(self) -> None:
        """Store CF and ZF into the caller's FLAGS and go to an IRET.

        Raises:
            PageFaultError: the stack page is not there (nothing has been changed).
        """
        if self._carry is not None or self._zero is not None:
            at = self._stacked_flags()
            flags = self.space.read_word(self.state.ss, at)
            for value, bit in ((self._carry, Eflags.CF), (self._zero, Eflags.ZF)):
                if value is not None:
                    flags = flags | bit if value else flags & ~bit
            self.space.write_word(self.state.ss, at, flags)
        self.go(rom.IRET)

    def go(self, offset: int) -> None:
        """Continue in the firmware's own code at F000:``offset``."""
        self.set_segment(Seg.CS, rom.SEGMENT)
        self.state.rip = offset
