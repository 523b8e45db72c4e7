"""The escape key: the one that begins a command to x86-dm, so that all others of the terminal reach the guest."""

from __future__ import annotations

from enum import Enum
from typing import Final

#: Ctrl-], as in telnet and virsh; QEMU's Ctrl-A is "start of line" in shells and GRUB.
DEFAULT: Final = 0x1D
#: Ctrl-Z suspends without it, as in every program.
_SUSPEND: Final = 0x1A


class EscapeCommand(Enum):
    """A command of the user to x86-dm itself."""

    SUSPEND = "z"
    LEAVE = "qx."
    REDRAW = "r"
    HELP = "h?"


def parse(text: str) -> int:
    r"""Return the control character of a key written ``ctrl-a`` or ``^A``.

    Raises:
        ValueError: it is none of Ctrl-A to Ctrl-Z, Ctrl-\, Ctrl-], Ctrl-^ and Ctrl-_, or one with another meaning.
    """
    letter = text.lower().removeprefix("ctrl-").removeprefix("^").upper()
    code = ord(letter) - 0x40 if len(letter) == 1 and len(text) > 1 else 0
    if not 0 < code < 0x20 or letter in "HIJMZ[":  # Backspace, Tab, Enter, Enter, suspend, Escape
        raise ValueError(f"{text}: a control key like ctrl-] or ctrl-a is needed, none of ctrl-h, i, j, m, z and [")
    return code


def spelt(code: int) -> str:
    """Return a control character as people say it: ``Ctrl-]``."""
    return f"Ctrl-{chr(code + 0x40)}"


def usage(code: int) -> str:
    """Return one line about the commands."""
    key = spelt(code)
    return f"{key} q quits, {key} r redraws, {key} {key} or another control key sends that; Ctrl-Z suspends"


class Escape:
    """Splits what the user types into keys for the guest and commands."""

    def __init__(self, code: int) -> None:
        self.code = code
        self._begun = False

    def feed(self, data: bytes) -> tuple[bytes, list[EscapeCommand]]:
        """Return the guest's part of ``data``, and the commands in it; a command may continue in the next piece."""
        guest, commands = bytearray(), []
        for byte in data:
            if not self._begun:
                if byte == self.code:
                    self._begun = True
                elif byte == _SUSPEND:
                    commands.append(EscapeCommand.SUSPEND)
                else:
                    guest.append(byte)
                continue
            self._begun = False
            if byte < 0x20:
                guest.append(byte)
            else:
                word = chr(byte).lower()
                commands.append(next((c for c in EscapeCommand if word in c.value), EscapeCommand.HELP))
        return bytes(guest), commands
