"""The x87 registers: in an FXSAVE image from ST(0) on (SDM vol. 1, 10.5.1.1), in engines as they lie in the part."""

from __future__ import annotations

from typing import Final

#: Of the image: the status word, whose bits 11-13 are the number of ST(0), and the eight registers.
_STATUS_AT: Final = 2
_REGISTERS: Final = 32
_SIZE: Final = 16


def top(image: bytes | bytearray) -> int:
    """Return the number of the register that is ST(0)."""
    return image[_STATUS_AT + 1] >> 3 & 7


def _rotated(image: bytes | bytearray, by: int) -> bytearray:
    at = by % 8 * _SIZE
    registers = image[_REGISTERS : _REGISTERS + 8 * _SIZE]
    out = bytearray(image)
    out[_REGISTERS : _REGISTERS + 8 * _SIZE] = registers[at:] + registers[:at]
    return out


def from_image(image: bytes) -> bytearray:
    """Return an image of 512 bytes with the registers from R0 on."""
    return _rotated(image, -top(image))


def to_image(cells: bytearray) -> bytes:
    """Return the image of :func:`from_image` again."""
    return bytes(_rotated(cells, top(cells)))
