"""INT 16h keyboard services and the keyboard's interrupt (IBM PC/AT Technical Reference)."""

from __future__ import annotations

from collections.abc import Callable

from dm.machine.architecture import Eflags
from dm.shim import keys
from dm.shim.bios import rom, services
from dm.shim.bios.bda import Bda
from dm.shim.bios.call import BiosCall
from dm.shim.pc_memory import BIOS

# BDA 40:17 and 40:18 bits of each shifting key; grey keys have their own bits in the second byte.
_SHIFTS = {keys.RIGHT_SHIFT: 1, keys.LEFT_SHIFT: 2, keys.CONTROL: 4, keys.ALT: 8}
_SHIFTS2 = {keys.CONTROL: 1, keys.ALT: 2}
_TOGGLES = {keys.SCROLL_LOCK: 0x10, keys.NUM_LOCK: 0x20, keys.CAPS_LOCK: 0x40}
_KEYPAD = {0x47: 7, 0x48: 8, 0x49: 9, 0x4B: 4, 0x4C: 5, 0x4D: 6, 0x4F: 1, 0x50: 2, 0x51: 3, 0x52: 0}

# A guest that asks for a key or the time again and again, with fewer instructions in between, is only waiting.
_WORK = 2000
#: Calls until the next rest of a guest that waits, and the rests in nanoseconds: short at first, in case it ends soon.
_WAITING_POLLS, _RESTS = 2, (5_000_000,) * 8 + (60_000_000,)


class Keyboard:
    """Keyboard services over the type-ahead buffer.

    ``asked`` says that the guest reads the keyboard.
    """

    def __init__(
        self,
        bda: Bda,
        end_of_interrupt: Callable[[int], None],
        reset: Callable[[], None],
        idle: Callable[[int], None],
        work: Callable[[], int],
    ) -> None:
        """Prepare.

        Args:
            bda: the data area.
            end_of_interrupt: tells the interrupt controller.
            reset: resets the machine.
            idle: lets the host sleep up to that many nanoseconds, or until an interrupt is pending.
            work: returns how many instructions the guest has executed.
        """
        self._bda, self._eoi, self._reset, self._idle, self._work = bda, end_of_interrupt, reset, idle, work
        self._rests = 0
        self._last_work = 0
        self._polls = services.PATIENCE

    @property
    def asked(self) -> bool:
        """Whether the guest has asked for a key in vain since POST."""
        return self._bda.memory.read_int(BIOS + services.ASKED, 1) != 0

    # --- INT 16h: what the ROM does not handle

    def service(self, call: BiosCall) -> None:
        """Answer one INT 16h."""
        if call.ah == 0x05:
            call.al = 0 if self._bda.put_key(call.state.cx) else 1
        elif call.ah == 0x09:
            call.al = 0x20  # AH=10h-12h are there
        call.finish()

    def rest(self, call: BiosCall) -> None:
        """Let the host sleep when the guest does nothing but ask for a key or the time; the ROM has answered it."""
        work = self._work()
        if work - self._last_work < _WORK * self._polls:
            self._idle(_RESTS[min(self._rests, len(_RESTS) - 1)])
            self._rests += 1
            self._polls = _WAITING_POLLS
        else:
            self._rests, self._polls = 0, services.PATIENCE
        self._last_work = work
        self._bda.memory.write_int(BIOS + services.POLLS, 2, self._polls)
        call.finish()

    # --- INT 9, entered after the guest's INT 15h AH=4Fh hook has seen the scan code in AL

    def key(self, call: BiosCall) -> None:
        """Take the scan code in AL if CF is set, send the EOI, and leave through ``pop ax; iret``."""
        if call.state.rflags & Eflags.CF:
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
