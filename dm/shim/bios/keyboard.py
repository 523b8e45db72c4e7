"""INT 16h keyboard services and the keyboard's interrupt (IBM PC/AT Technical Reference)."""

from __future__ import annotations

from collections.abc import Callable

from dm.shim import keys
from dm.shim.bios import rom
from dm.shim.bios.bda import Bda
from dm.shim.bios.call import CF, Call
from dm.shim.clock import Clock

# BDA 40:17 and 40:18 bits of each shifting key; grey keys have their own bits in the second byte.
_SHIFTS = {keys.RIGHT_SHIFT: 1, keys.LEFT_SHIFT: 2, keys.CONTROL: 4, keys.ALT: 8}
_SHIFTS2 = {keys.CONTROL: 1, keys.ALT: 2}
_TOGGLES = {keys.SCROLL_LOCK: 0x10, keys.NUM_LOCK: 0x20, keys.CAPS_LOCK: 0x40}
_KEYPAD = {0x47: 7, 0x48: 8, 0x49: 9, 0x4B: 4, 0x4C: 5, 0x4D: 6, 0x4F: 1, 0x50: 2, 0x51: 3, 0x52: 0}

# A guest that asks for a key more than 32 times in a row, each within a millisecond, only waits.
_BUSY_POLL, _PATIENCE, _REST = 1_000_000, 32, 10_000_000


class Keyboard:
    """Keyboard services over the type-ahead buffer.

    ``waiting`` counts calls that found no key, so that whoever types can tell that the guest listens.
    """

    def __init__(
        self,
        bda: Bda,
        end_of_interrupt: Callable[[int], None],
        reset: Callable[[], None],
        clock: Clock,
        idle: Callable[[int], None],
    ) -> None:
        """``idle`` lets the host sleep up to that many nanoseconds, or until an interrupt is pending."""
        self._bda, self._eoi, self._reset, self._clock, self._idle = bda, end_of_interrupt, reset, clock, idle
        self.waiting = 0
        self._polls = 0
        self._last_poll = -_BUSY_POLL

    # --- INT 16h

    def service(self, call: Call) -> None:
        """Answer one INT 16h; AH=00h/10h without a key waits in the guest, with interrupts on."""
        function = call.ah
        if function in (0x00, 0x10):
            word = self._peek(function >= 0x10)
            if word is None:
                self.waiting += 1
                call.go(rom.WAIT_KEY)
                return
            self._bda.take_key()
            call.state.ax = word
        elif function in (0x01, 0x11):
            word = self._peek(function >= 0x10)
            call.zero(word is None)
            if word is None:
                self.waiting += 1
                self._rest()
            else:
                call.state.ax = word
        elif function in (0x02, 0x12):
            flags, more = self._bda.shift_flags, self._bda.shift_flags2
            call.al = flags
            if function == 0x12:
                right = self._bda.keyboard_mode
                call.ah = more & 0x73 | (right & 4) | (right & 8) | (more & 4) << 5
        elif function == 0x05:
            call.al = 0 if self._bda.put_key(call.state.cx) else 1
        elif function == 0x09:
            call.al = 0x20  # AH=10h-12h are there
        call.finish()

    def _rest(self) -> None:
        """Let the host sleep when the guest does nothing but ask for a key."""
        now = self._clock.now()
        self._polls = self._polls + 1 if now - self._last_poll < _BUSY_POLL else 0
        if self._polls > _PATIENCE:
            self._idle(_REST)
        self._last_poll = self._clock.now()

    def _peek(self, enhanced: bool) -> int | None:
        """Return the next word as AH=01h (False) or AH=11h (True) shows it; the old calls skip new keys."""
        while (word := self._bda.peek_key()) is not None:
            if enhanced:
                return word & 0xFF00 if word & 0xFF == 0xF0 and word >> 8 else word
            if word & 0xFF == 0xE0 and word >> 8:
                return word & 0xFF00  # grey cursor key as its keypad twin
            if word >> 8 == 0xE0:
                return 0x1C00 | word & 0xFF if word & 0xFF in (0x0D, 0x0A) else 0x352F
            if word & 0xFF == 0xF0 or (word & 0xFF == 0 and word >> 8 > 0x84):
                self._bda.take_key()
                continue
            return word
        return None

    # --- INT 9, entered after the guest's INT 15h AH=4Fh hook has seen the scan code in AL

    def key(self, call: Call) -> None:
        """Take the scan code in AL if CF is set, send the EOI, and leave through ``pop ax; iret``."""
        if call.state.rflags & CF:
            self._scan_code(call.al)
        self._eoi(1)
        call.go(rom.KEY_DONE)

    def _scan_code(self, code: int) -> None:
        bda = self._bda
        if code in (0xE0, 0xE1):
            bda.keyboard_mode |= 2 if code == 0xE0 else 1
            return
        if code in (0xFA, 0xFE, 0xEE):
            return  # the keyboard's own answers
        mode = bda.keyboard_mode
        bda.keyboard_mode = mode & ~3
        if mode & 1 and code & 0x7F == keys.CONTROL:
            bda.keyboard_mode |= 1  # Pause is E1 1D 45: the prefix holds for both
            return
        if mode & 1:
            return
        grey, scan = bool(mode & 2), code & 0x7F
        if scan in _SHIFTS:
            if not (grey and scan in (keys.LEFT_SHIFT, keys.RIGHT_SHIFT)):  # E0 2A: a fake shift
                self._shift(scan, grey, not code & 0x80)
        elif scan in _TOGGLES and not grey:
            self._toggle(scan, not code & 0x80)
        elif not code & 0x80:
            self._press(scan, grey)

    def _shift(self, scan: int, grey: bool, down: bool) -> None:
        bda, bit = self._bda, _SHIFTS[scan]
        if scan in _SHIFTS2:
            one = _SHIFTS2[scan]
            if grey:
                right = 4 if scan == keys.CONTROL else 8
                bda.keyboard_mode = bda.keyboard_mode & ~right | (right if down else 0)
            else:
                bda.shift_flags2 = bda.shift_flags2 & ~one | (one if down else 0)
            right_held = bda.keyboard_mode & (4 if scan == keys.CONTROL else 8)
            down = bool(right_held or bda.shift_flags2 & one)
        bda.shift_flags = bda.shift_flags & ~bit | (bit if down else 0)
        if scan == keys.ALT and not down and bda.alt_digits:
            digits, bda.alt_digits = bda.alt_digits, 0
            bda.put_key(digits)

    def _toggle(self, scan: int, down: bool) -> None:
        bda, bit = self._bda, _TOGGLES[scan]
        if down and not bda.shift_flags2 & bit:
            bda.shift_flags ^= bit
        bda.shift_flags2 = bda.shift_flags2 & ~bit | (bit if down else 0)

    def _press(self, scan: int, grey: bool) -> None:
        bda, flags = self._bda, self._bda.shift_flags
        control, alt = bool(flags & 4), bool(flags & 8)
        if control and alt and scan == 0x53:
            bda.reset_flag = 0x1234
            self._reset()
            return
        if control and grey and scan == 0x46:  # Ctrl-Break
            bda.break_flag |= 0x80
            bda.key_head = bda.key_tail = bda.key_start
            bda.put_key(0)
            return
        if alt and not grey and scan in _KEYPAD:
            bda.alt_digits = bda.alt_digits * 10 + _KEYPAD[scan]
            return
        word = keys.meaning(
            0xE000 | scan if grey else scan,
            shift=bool(flags & 3),
            control=control,
            alt=alt,
            caps=bool(flags & 0x40),
            num=bool(flags & 0x20),
        )
        if word is not None:
            bda.put_key(word)
