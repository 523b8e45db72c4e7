"""Runs an image of :mod:`dm.bench.image` in Unicorn: ``python peer_unicorn.py IMAGE``; standard output is port E9h.

It ends with HLT.  Unicorn starts where it is told, so the far jump at the reset vector is left out.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any, Final

_DEVICE: Final = 0xE0000
_ROM: Final = 0xF0000


def main(path: str) -> None:
    """Run to HLT."""
    # By name: type checkers need not have it.
    unicorn: Any = importlib.import_module("unicorn")
    x86_const: Any = importlib.import_module("unicorn.x86_const")
    machine = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_16)
    machine.mem_map(0, _DEVICE)
    machine.mem_map(_ROM, 0x10000)
    machine.mem_write(_ROM, Path(path).read_bytes())
    register = [0]

    def read(_machine: Any, _offset: int, _size: int, _data: Any) -> int:
        return register[0]

    def write(_machine: Any, _offset: int, _size: int, value: int, _data: Any) -> None:
        register[0] = value & 0xFF

    def out(_machine: Any, port: int, _size: int, value: int, _data: Any) -> None:
        if port == 0xE9:
            os.write(1, bytes([value & 0xFF]))

    machine.mmio_map(_DEVICE, _ROM - _DEVICE, read, None, write, None)
    machine.hook_add(unicorn.UC_HOOK_INSN, out, None, 1, 0, x86_const.UC_X86_INS_OUT)
    machine.reg_write(x86_const.UC_X86_REG_CS, _ROM >> 4)
    machine.emu_start(_ROM, 0xFFFFFFFF)


if __name__ == "__main__":
    main(sys.argv[1])
