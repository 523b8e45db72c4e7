"""How the native engine's machine is spelled in C: cells in struct cpu, operands in struct insn."""

from __future__ import annotations

from typing import Final

from dm.isa.cells import FXSAVE
from dm.isa.map.forms import Row
from dm.isa.map.operands import GENERAL
from dm.microcode import Field, MicrocodeError, Value
from dm.microcode.print_c import CTarget

#: Members of struct cpu that are no part of the architectural state.
_ENGINE_CELLS: Final = frozenset(
    {"features", "more_features", "vendor", "model", "delivering", "reached", "reached_first"}
)


class Target(CTarget):
    """How the native engine's machine is spelled."""

    def __init__(self, row: Row | None = None) -> None:
        self.row = row

    def read(self, cell: Field, index: Value | None, index_text: str) -> str:
        """Expression for a cell."""
        if cell.view == FXSAVE.name:
            return f"{cell.name.upper()}({index_text})"
        if cell.view:
            return f"{cell.name.upper()}({self._register(cell.width, index, index_text)})"
        where = "cpu->" if cell.name in _ENGINE_CELLS else "cpu->a."
        if "." in cell.name:
            array, part = cell.name.split(".", 1)
            return f"{where}{array}[{index_text}].{part}"
        return f"{where}{cell.name}[{index_text}]" if cell.count else f"{where}{cell.name}"

    def _register(self, width: int, index: Value | None, text: str) -> str:
        """Index of a general register: its number, that of a byte register its byte in them; records hold it so."""
        assert index is not None
        if index.op == "arg" and index.m.is_handler:
            if index.name not in ("base", "index"):
                assert self.row is not None
                form = self.row.register(index.name)
                if form is None or form.registers is not GENERAL or form.is_byte_register != (width == 8):
                    raise MicrocodeError(f"{self.row}: operand {index.name} does not name a {width}-bit register")
            return f"i->{index.name}"
        if width != 8:
            return text
        return str(byte_index(index.const)) if index.op == "const" else f"(({text} & 3) * 8 + ({text} >> 2 & 1))"

    def operand(self, name: str, width: int) -> str:
        """Expression for an operand of the record."""
        if name == "this_eip":
            return "(cpu->block_eip + i->offset)"
        if name == "next_eip":
            return "(cpu->block_eip + i->next)"
        if name == "modrm":
            return "i->rm"
        return f"i->{name}"


def byte_index(number: int) -> int:
    """Return which byte of the general registers (8 bytes each) is byte register ``number``, AL to BH."""
    return (number & 3) * 8 + (number >> 2)
