"""How the native engine's machine is spelled in C: cells in struct cpu, operands in struct insn."""

from __future__ import annotations

from typing import Final

from dm.isa.map.forms import Row
from dm.microcode import Field, MicrocodeError, Value
from dm.microcode.print_c import CTarget

#: Members of struct cpu that are no part of the architectural state.
_ENGINE_CELLS: Final = frozenset({"features", "more_features", "vendor", "model", "delivering"})


class Target(CTarget):
    """How the native engine's machine is spelled."""

    def __init__(self, row: Row | None = None) -> None:
        self.row = row

    def read(self, cell: Field, index: Value | None, index_text: str) -> str:
        """Expression for a cell; general registers are byte offsets in records, numbers elsewhere."""
        if cell.view:
            return f"{cell.name.upper()}({self._register(cell.width, index, index_text)})"
        where = "cpu->" if cell.name in _ENGINE_CELLS else "cpu->a."
        if "." in cell.name:
            array, part = cell.name.split(".", 1)
            return f"{where}{array}[{index_text}].{part}"
        return f"{where}{cell.name}[{index_text}]" if cell.count else f"{where}{cell.name}"

    def _register(self, width: int, index: Value | None, text: str) -> str:
        assert index is not None
        if index.op == "const":
            n = index.const
            return str((n & 3) * 8 + (n >> 2) if width == 8 else n * 8)
        if index.op == "arg" and index.m.is_handler:
            kind = self._class(index.name)
            if kind is None or (kind == "g8") != (width == 8):
                raise MicrocodeError(f"{index.m.name}: operand {index.name} does not name a {width}-bit register")
            return f"i->{index.name}"
        return f"(({text} & 3) * 8 + ({text} >> 2 & 1))" if width == 8 else f"({text} * 8)"

    def _class(self, name: str) -> str | None:
        assert self.row is not None
        if name in ("base", "index"):
            return "g"
        kind = {"reg": self.row.reg_class, "rm": self.row.rm_class, "imm2": self.row.imm2_class}.get(name)
        return None if kind == "plain" else kind

    def operand(self, name: str, width: int) -> str:
        """Expression for an operand of the record, as a number."""
        if name == "this_eip":
            return "(cpu->block_eip + i->offset)"
        if name == "next_eip":
            return "(cpu->block_eip + i->next)"
        kind = self._class(name)
        if kind == "g8":
            return f"(i->{name} >> 3 | (i->{name} & 1u) << 2)"
        return f"(i->{name} >> 3)" if kind == "g" else f"i->{name}"
