"""What ``x86-dm boot`` saves at its end: a picture of the screen, guest memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dm.shim.pc import Pc
from dm.shim.picture import picture
from dm.shim.png import png

_CHUNK: Final = 1 << 20
_TOP: Final = 1 << 32


@dataclass(frozen=True, slots=True)
class Dump:
    """A range of physical memory for ``file``: ``size`` bytes from ``start`` on; ``size`` None: to the end of RAM."""

    file: Path
    start: int = 0
    size: int | None = None


def parse_dump(text: str) -> Dump:
    """Read ``FILE[,START,LENGTH]``.

    Raises:
        ValueError: saying what would be right.
    """
    name, comma, rest = text.partition(",")
    if not name:
        raise ValueError(f"{text!r}: use FILE or FILE,START,LENGTH")
    if not comma:
        return Dump(Path(name))
    try:
        start, size = (int(word, 0) for word in rest.split(","))
    except ValueError:
        raise ValueError(f"{text!r}: use FILE or FILE,START,LENGTH, such as {name},0x7c00,512") from None
    if not (0 <= start < _TOP and 0 < size <= _TOP - start):
        raise ValueError(f"{text!r}: physical addresses from 0 to 0xffffffff exist, and LENGTH is above 0")
    return Dump(Path(name), start, size)


def check_writable(*files: Path | None) -> None:
    """Check before the boot that files can be written at its end; their contents stay.

    Raises:
        OSError: one cannot.
    """
    for file in files:
        if file is not None:
            file.open("ab").close()


def write_dump(pc: Pc, dump: Dump) -> None:
    """Write guest memory as it is; addresses without memory read all ones, and A20 masks nothing.

    Raises:
        OSError: the file cannot be written.
    """
    end = pc.memory.size if dump.size is None else dump.start + dump.size
    a20, pc.memory.a20 = pc.memory.a20, True
    try:
        with dump.file.open("wb") as file:
            for at in range(dump.start, end, _CHUNK):
                file.write(pc.memory.read(at, min(_CHUNK, end - at)))
    finally:
        pc.memory.a20 = a20


def write_screenshot(pc: Pc, file: Path) -> None:
    """Write what the VGA shows as a PNG file, a pixel for each dot.

    Raises:
        OSError: the file cannot be written.
    """
    shown = picture(pc.vga)
    file.write_bytes(png(shown.width, shown.height, shown.pixels))
