"""``x86-dm boot --trace``: every instruction with the state after it, as ``x86-dm explain`` reads them."""

from __future__ import annotations

import json
from typing import Final, TextIO

from dm.isa.map.decode import NeedMore
from dm.isa.map.disassembler import Line, disassemble
from dm.machine.state import State
from dm.machine.text import to_json
from dm.shim.pc_memory import AddressSpace, PageFaultError, PcMemory

#: CS.D in the attributes of a segment.
_DEFAULT_32: Final = 1 << 14


class Trace:
    """Writes one JSON object per line: ``instruction`` in words, ``state`` after it.

    The first line is the state before the first instruction, with the instruction left empty.
    """

    def __init__(self, file: TextIO, *, start: int | None = None, count: int = 1000) -> None:
        """Prepare.

        Args:
            file: what to write to.
            start: linear address of the first instruction traced; None: the very first one.
            count: how many instructions.
        """
        self._file, self._start, self._left = file, start, count
        #: Instructions written.
        self.written = 0

    @property
    def wanted(self) -> bool:
        """Whether there is more to trace."""
        return self._left > 0

    @property
    def start(self) -> int | None:
        """Linear address at which it begins, None once it has begun: then the machine must single-step."""
        return self._start

    def before(self, state: State, memory: PcMemory) -> str:
        """Return the instruction at CS:EIP as text, or "" as long as the trace has not begun."""
        if self._start is not None:
            if (state.cs.base + state.eip) & 0xFFFFFFFF != self._start:
                return ""
            self._start = None
        if not self.written:
            self._write("", state)
        return _describe(state, memory)

    def after(self, words: str, state: State) -> None:
        """Write an instruction, described by :meth:`before`, with the state it has left."""
        if words:
            self._write(words, state)
            self.written += 1
            self._left -= 1
            if not self._left:
                self._file.flush()

    def _write(self, words: str, state: State) -> None:
        json.dump({"instruction": words, "state": to_json(state)}, self._file)
        self._file.write("\n")


def instruction(state: State, memory: PcMemory) -> Line | None:
    """Return the instruction at CS:EIP, None if it is not present."""
    space, code = AddressSpace(memory, state), b""
    linear = state.cs.base + state.eip
    try:
        # Byte by byte: the page after the instruction need not be present.
        while True:
            try:
                return disassemble(code, bool(state.cs.attributes & _DEFAULT_32), state.eip)
            except NeedMore:
                code += space.read_linear(linear + len(code), 1)
    except PageFaultError:
        return None


def _describe(state: State, memory: PcMemory) -> str:
    """Return "CS:EIP instruction", or says that it is not present."""
    line = instruction(state, memory)
    return f"{state.cs.selector:04x}:{state.eip:08x} {line.text if line else '(not present)'}"
