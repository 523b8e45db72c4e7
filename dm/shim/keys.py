"""US keyboard: what a key is called, sends and means.

Scan codes are set 1 (IBM PC/AT Technical Reference, "Keyboard"); an ``E0h`` prefix is kept as ``0xE0xx``.  Meanings are
what INT 16h returns: scan code in the high byte, character in the low one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

_ROWS = (
    (0x02, "1234567890-=", "!@#$%^&*()_+"),
    (0x10, "qwertyuiop[]", "QWERTYUIOP{}"),
    (0x1E, "asdfghjkl;'`", 'ASDFGHJKL:"~'),
    (0x2B, "\\zxcvbnm,./", "|ZXCVBNM<>?"),
)

LEFT_SHIFT, RIGHT_SHIFT, CONTROL, ALT, CAPS_LOCK, NUM_LOCK, SCROLL_LOCK = 0x2A, 0x36, 0x1D, 0x38, 0x3A, 0x45, 0x46
ENTER, ESCAPE, BACKSPACE, TAB, SPACE = 0x1C, 0x01, 0x0E, 0x0F, 0x39

#: (plain, shifted) character of each printing key.
PRINTING: dict[int, tuple[str, str]] = {
    first + i: (low, high)
    for first, lows, highs in _ROWS
    for i, (low, high) in enumerate(zip(lows, highs, strict=True))
}
PRINTING[SPACE] = (" ", " ")

#: Named keys of ``--keys`` (in angle brackets) and their scan codes.
NAMED: dict[str, int] = {
    "enter": ENTER, "esc": ESCAPE, "tab": TAB, "backspace": BACKSPACE, "space": SPACE,
    "up": 0xE048, "down": 0xE050, "left": 0xE04B, "right": 0xE04D, "home": 0xE047, "end": 0xE04F,
    "pageup": 0xE049, "pagedown": 0xE051, "insert": 0xE052, "delete": 0xE053,
    **{f"f{n}": 0x3A + n for n in range(1, 11)}, "f11": 0x57, "f12": 0x58,
}  # fmt: skip

_CHARACTER: dict[str, tuple[int, bool]] = {
    char: (code, shifted) for code, pair in PRINTING.items() for char, shifted in ((pair[1], True), (pair[0], False))
}
_ESCAPES = {"n": "\r", "r": "\r", "t": "\t", "e": "\x1b", "\\": "\\"}
_CONTROLS = {"\n": ENTER, "\r": ENTER, "\t": TAB, "\b": BACKSPACE, "\x7f": BACKSPACE, "\x1b": ESCAPE}

#: Control characters of keys that are no letters: Ctrl-@ (Ctrl-2), Ctrl-\\, Ctrl-], Ctrl-^ (Ctrl-6), Ctrl-_ (Ctrl--).
_CONTROL_SIGNS = {"\0": "2", "\x1c": "\\", "\x1d": "]", "\x1e": "6", "\x1f": "-"}

# INT 16h words of keys that print nothing: plain, shift, control, alt (IBM PC/AT BIOS; enhanced keys as on 101 keys).
_SPECIAL: dict[int, tuple[int, int, int, int]] = {
    ESCAPE: (0x011B, 0x011B, 0x011B, 0x0100),
    BACKSPACE: (0x0E08, 0x0E08, 0x0E7F, 0x0E00),
    TAB: (0x0F09, 0x0F00, 0x9400, 0xA500),
    ENTER: (0x1C0D, 0x1C0D, 0x1C0A, 0x1C00),
    0xE01C: (0xE00D, 0xE00D, 0xE00A, 0xA600),
    0xE035: (0xE02F, 0xE02F, 0x9500, 0xA400),
    SPACE: (0x3920, 0x3920, 0x3920, 0x3920),
    0x37: (0x372A, 0x372A, 0x9600, 0x3700),
    0x4A: (0x4A2D, 0x4A2D, 0x8E00, 0x4A00),
    0x4E: (0x4E2B, 0x4E2B, 0x9000, 0x4E00),
    0x57: (0x8500, 0x8700, 0x8900, 0x8B00),
    0x58: (0x8600, 0x8800, 0x8A00, 0x8C00),
    **{0x3A + n: (0x3A00 + n * 256, 0x5300 + n * 256, 0x5D00 + n * 256, 0x6700 + n * 256) for n in range(1, 11)},
}
# Cursor keys: the keypad codes, what control makes of them, and the keypad's digits under Num Lock.
_CURSOR_CONTROL = {
    0x47: 0x77, 0x48: 0x8D, 0x49: 0x84, 0x4B: 0x73, 0x4C: 0x8F, 0x4D: 0x74, 0x4F: 0x75, 0x50: 0x91, 0x51: 0x76,
    0x52: 0x92, 0x53: 0x93,
}  # fmt: skip
_CURSOR_ALT = {
    0x47: 0x97, 0x48: 0x98, 0x49: 0x99, 0x4B: 0x9B, 0x4D: 0x9D, 0x4F: 0x9F, 0x50: 0xA0, 0x51: 0xA1, 0x52: 0xA2,
    0x53: 0xA3,
}  # fmt: skip
_KEYPAD_DIGITS = dict(
    zip((0x47, 0x48, 0x49, 0x4B, 0x4C, 0x4D, 0x4F, 0x50, 0x51, 0x52, 0x53), b"7894561230.", strict=True)
)


def meaning(code: int, *, shift: bool, control: bool, alt: bool, caps: bool, num: bool) -> int | None:
    """Return the INT 16h word of a key pressed with these modifiers, None when the key produces nothing.

    ``code`` is a set 1 make code, ``0xE0xx`` for a grey key.
    """
    if code in _SPECIAL:
        return _SPECIAL[code][3 if alt else 2 if control else 1 if shift else 0]
    if code in PRINTING:
        plain, shifted = PRINTING[code]
        if alt:
            return (code + 0x76 if code <= 0x0D else code) << 8
        if control:
            char = {"2": 0, "6": 0x1E, "-": 0x1F}.get(plain)
            if char is None:
                if not plain.isalpha() and plain not in "[]\\":
                    return None
                char = ord(plain) & 0x1F
            return code << 8 | char
        upper = shift != caps if plain.isalpha() else shift
        return code << 8 | ord(shifted if upper else plain)
    scan = code & 0xFF
    if scan in _KEYPAD_DIGITS:
        grey = code >= 0xE000
        if alt:
            return _CURSOR_ALT[scan] << 8 if grey else None
        if control:
            return _CURSOR_CONTROL[scan] << 8 | (0xE0 if grey else 0)
        if grey:
            return scan << 8 | 0xE0
        return scan << 8 | _KEYPAD_DIGITS[scan] if shift != num else scan << 8 | (0xF0 if scan == 0x4C else 0)
    return None


def _make(code: int) -> bytes:
    return bytes((0xE0, code & 0x7F)) if code >= 0xE000 else bytes((code,))


def _break(code: int) -> bytes:
    return bytes((0xE0, code & 0x7F | 0x80)) if code >= 0xE000 else bytes((code | 0x80,))


def press(code: int, *, shift: bool = False, control: bool = False, alt: bool = False) -> bytes:
    """Return the set 1 bytes of pressing and releasing a key with modifiers held."""
    held = [c for c, on in ((LEFT_SHIFT, shift), (CONTROL, control), (ALT, alt)) if on]
    return b"".join(map(_make, held)) + _make(code) + _break(code) + b"".join(map(_break, reversed(held)))


def type_character(char: str) -> bytes:
    """Return the set 1 bytes that type one character on a US keyboard.

    Raises:
        ValueError: no key types it.
    """
    if char in _CONTROLS:
        return press(_CONTROLS[char])
    if char in _CHARACTER:
        code, shifted = _CHARACTER[char]
        return press(code, shift=shifted)
    if "\x01" <= char <= "\x1a":
        return press(_CHARACTER[chr(ord(char) + 0x60)][0], control=True)
    if char in _CONTROL_SIGNS:
        return press(_CHARACTER[_CONTROL_SIGNS[char]][0], control=True)
    raise ValueError(f"no key of a US keyboard types {char!r}")


def parse(text: str) -> list[bytes]:
    r"""Return one string of set 1 bytes for each key of a ``--keys`` text.

    The text is typed literally; ``\n``, ``\t``, ``\e`` and ``\\`` are escapes, ``<up>``, ``<f10>``, ``<ctrl-c>``,
    ``<alt-x>`` and the like name keys, ``<<`` is a less-than sign.

    Raises:
        ValueError: naming the key or escape that does not exist.
    """
    return list(_parse(iter(text)))


def unescape(text: str) -> str:
    r"""Return ``text`` with ``\n`` and ``\r`` (both a carriage return), ``\t``, ``\e`` and ``\\`` replaced.

    Raises:
        ValueError: naming the escape that does not exist.
    """
    chars = iter(text)
    return "".join(_escape(next(chars, "")) if char == "\\" else char for char in chars)


def _escape(name: str) -> str:
    if name not in _ESCAPES:
        raise ValueError(f"unknown escape \\{name}; known are \\n \\r \\t \\e \\\\")
    return _ESCAPES[name]


def _parse(chars: Iterator[str]) -> Iterator[bytes]:
    for char in chars:
        if char == "\\":
            yield type_character(_escape(next(chars, "")))
        elif char == "<":
            name = "".join(_until(chars, ">"))
            yield type_character("<") if name == "<" else _named(name)
        else:
            yield type_character(char)


def _until(chars: Iterable[str], end: str) -> Iterator[str]:
    for i, char in enumerate(chars):
        if char == end:
            return
        yield char
        if i == 0 and char == "<":
            return
    raise ValueError(f"keys: '<' opens a key name that no '{end}' closes; type '<<' for a less-than sign")


def _named(name: str) -> bytes:
    *modifiers, key = name.lower().split("-") if len(name) > 1 else [name]
    known = {"ctrl", "alt", "shift"}
    if not set(modifiers) <= known:
        raise ValueError(f"keys: <{name}> has a modifier that is none of ctrl, alt, shift")
    code = NAMED.get(key) or (_CHARACTER[key][0] if key in _CHARACTER else None)
    if code is None:
        raise ValueError(f"keys: no key is called <{name}>; known are {', '.join(sorted(NAMED))} and characters")
    return press(code, shift="shift" in modifiers, control="ctrl" in modifiers, alt="alt" in modifiers)
