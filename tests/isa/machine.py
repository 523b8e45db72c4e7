"""A small machine that runs one described instruction: printed Python, flat memory, the segment checks, no engine.

It stands in for an engine in the tests of descriptions only: no paging, no events; ports answer from a list.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from dm.isa import catalogue, features, flags
from dm.isa.insn import Variant, expand
from dm.isa.lineage import lineage
from dm.isa.map import coverage
from dm.isa.map.decode import decode, variants
from dm.isa.map.forms import ROWS, Row
from dm.isa.mechanisms import access
from dm.isa.parts import DEFAULT_CPUID
from dm.machine.architecture import Cr0, Eflags, Rights, System, position
from dm.machine.state import FIELDS, Seg
from dm.microcode import Microcode, Procedure
from dm.microcode.ir import Call, statements
from dm.microcode.print_python import RUNTIME, PythonPrinter, PythonTarget

assert catalogue.DESCRIPTIONS


class Fault(Exception):
    """An exception of the guest: vector, error code, cause."""

    def __init__(self, cause: str, vector: int, error: int, *operands: int) -> None:
        super().__init__(f"#{vector}({error:#x}) {cause} {[hex(o) for o in operands]}")
        self.cause, self.vector, self.error = cause, vector, error


class Unsupported(Exception):
    """Exit ``unsupported``."""


class Hypervisor(Exception):
    """Exit ``hypervisor`` of an instruction that is the hypervisor's."""


#: Single-bit flags by name.
FLAG_BITS = {
    flag.name.lower(): flag for flag in Eflags if flag.bit_count() == 1 and flag not in (Eflags.FIXED, Eflags.VM)
}
SEGMENTS = ("es", "cs", "ss", "ds", "fs", "gs")
_BYTES = ("al", "cl", "dl", "bl", "ah", "ch", "dh", "bh")
_WORDS = ("ax", "cx", "dx", "bx", "sp", "bp", "si", "di")


def _register(name: str) -> tuple[str, int]:
    if name in _BYTES:
        return "gpr8", _BYTES.index(name)
    if name in _WORDS:
        return "gpr16", _WORDS.index(name)
    return "gpr32", _WORDS.index(name.removeprefix("e"))


class _View:
    """General registers in 8 or 16 bits."""

    def __init__(self, gpr: list[int], width: int) -> None:
        self.gpr, self.width = gpr, width

    def _place(self, index: int) -> tuple[int, int]:
        return (index & 3, 8 if index > 3 else 0) if self.width == 8 else (index, 0)

    def __getitem__(self, index: int) -> int:
        number, low = self._place(index)
        return self.gpr[number] >> low & (1 << self.width) - 1

    def __setitem__(self, index: int, value: int) -> None:
        number, low = self._place(index)
        mask = (1 << self.width) - 1 << low
        self.gpr[number] = self.gpr[number] & ~mask | value << low


class _Wide:
    """General registers in 64 bits; the upper halves live here."""

    def __init__(self, gpr: list[int]) -> None:
        self.gpr, self.high = gpr, [0] * 9

    def __getitem__(self, index: int) -> int:
        return self.gpr[index] | self.high[index] << 32

    def __setitem__(self, index: int, value: int) -> None:
        self.high[index], self.gpr[index] = divmod(value, 1 << 32)


class _Bytes:
    """The FXSAVE image by words, doublewords or quadwords from any byte on."""

    def __init__(self, image: bytearray, width: int) -> None:
        self.image, self.size = image, width // 8

    def __getitem__(self, index: int) -> int:
        return int.from_bytes(self.image[index : index + self.size], "little")

    def __setitem__(self, index: int, value: int) -> None:
        self.image[index : index + self.size] = value.to_bytes(self.size, "little")


@dataclass
class Machine:
    """Registers, one stretch of memory and what ended the last instruction.

    By default real mode with all bases 0 and limits of 64 KiB, code at 8000h, stack at 7000h.  ``origin`` is the linear
    address of the first byte of memory.
    """

    memory: bytearray = field(default_factory=lambda: bytearray(0x20000))
    origin: int = 0
    code32: bool = False

    def __post_init__(self) -> None:
        for row in FIELDS:
            if "." not in row.name and row.name != "fxsave":
                setattr(self, row.name, [0] * row.count if row.count else 0)
        self.fxsave = bytearray(512)
        self.fxsave[0:2] = (0x37F).to_bytes(2, "little")
        self.fxsave16, self.fxsave32, self.fxsave64 = (_Bytes(self.fxsave, width) for width in (16, 32, 64))
        self.gpr32 = [0] * 9
        self.gpr8, self.gpr16 = _View(self.gpr32, 8), _View(self.gpr32, 16)
        self.gpr64 = _Wide(self.gpr32)
        self.gpr32[4] = 0x7000
        self.seg = SimpleNamespace(
            selector=[0] * 8, base=[0] * 8, limit=[0xFFFF] * 8, attributes=[int(Rights.DATA)] * 8, unusable=[0] * 8,
            read_end=[0] * 8, write_end=[0] * 8, change_end=[0] * 8,
        )  # fmt: skip
        self.seg.attributes[Seg.CS] = int(Rights.TEXT)
        self.eip = 0x8000
        self.fr, self.fc, self.flags = 1, 0, 0
        self.set_eflags(2)
        self.model, self.vendor, self.features = 6, 0, features.feature_mask(DEFAULT_CPUID)
        self.more_features = 0
        self.stack_mask, self.code_end = 0xFFFF, 0x10000
        self.reached, self.reached_first = [0, 0], 0
        self.delivering = self.shadow_next = 0
        self.keeping = False
        self.ports: list[int] = []
        self.log: list[tuple[Any, ...]] = []
        self.ended: tuple[Any, ...] = ()
        self._rmw: tuple[int, int] = (0, 0)

    # flags
    def set_eflags(self, word: int) -> None:
        """Load EFLAGS."""
        function("split_eflags", flags.split_eflags)(self, word)

    @property
    def eflags(self) -> int:
        """EFLAGS."""
        return int(function("join_eflags", flags.join_eflags)(self))

    # by name
    def __getitem__(self, name: str) -> int:
        if name in FLAG_BITS:
            return int(self.eflags & FLAG_BITS[name] != 0)
        if name in SEGMENTS:
            return int(self.seg.selector[SEGMENTS.index(name)])
        view, index = _register(name)
        return int(getattr(self, view)[index])

    def __setitem__(self, name: str, value: int) -> None:
        if name in FLAG_BITS:
            self.set_eflags(self.eflags & ~FLAG_BITS[name] | FLAG_BITS[name] * value)
        elif name in SEGMENTS:
            self.seg.selector[SEGMENTS.index(name)], self.seg.base[SEGMENTS.index(name)] = value, value << 4
        else:
            view, index = _register(name)
            getattr(self, view)[index] = value

    def protect(self, cpl: int = 0, iopl: int = 0) -> Machine:
        """Switch to flat 32-bit protected mode with a TSS at 18000h that has no I/O map; return self."""
        self.cr0, self.cpl, self.code32, self.stack_mask = Cr0.ET | Cr0.PE, cpl, True, 0xFFFFFFFF
        self.flags |= iopl << position(Eflags.IOPL)
        for seg in range(6):
            self.seg.selector[seg], self.seg.base[seg], self.seg.limit[seg] = 0x10 | cpl, 0, 0xFFFFFFFF
            self.seg.attributes[seg] = (
                Rights.FLAT | cpl << position(Rights.DPL) | (Rights.TEXT if seg == Seg.CS else Rights.DATA)
            )
        self.seg.selector[Seg.CS] = 8 | cpl
        self.seg.base[Seg.TR], self.seg.limit[Seg.TR], self.seg.attributes[Seg.TR] = (
            0x18000,
            0x67,
            Rights.P | System.TSS32_BUSY,
        )
        self.memory[0x18066:0x18068] = (0x68).to_bytes(2, "little")
        return self

    def virtual_8086(self, iopl: int = 0) -> Machine:
        """Switch to virtual-8086 mode with the TSS of :meth:`protect`; return self."""
        self.protect(3, iopl)
        self.code32, self.stack_mask = False, 0xFFFF
        self.flags |= Eflags.VM
        for seg in range(6):
            self.seg.selector[seg], self.seg.limit[seg], self.seg.attributes[seg] = 0, 0xFFFF, Rights.DATA | Rights.DPL
        return self

    # memory
    def _at(self, seg: int, offset: int, size: int, write: int) -> int:
        function("segment_check", access.segment_check)(self, seg, offset, size, write)
        return (self.seg.base[seg] + offset) & 0xFFFFFFFF

    def _read(self, linear: int, size: int) -> int:
        at = linear - self.origin
        return int.from_bytes(self.memory[at : at + size], "little")

    def _write(self, linear: int, size: int, value: int) -> None:
        at = linear - self.origin
        assert 0 <= at <= len(self.memory) - size, f"write outside memory: {linear:#x}"
        self.memory[at : at + size] = value.to_bytes(size, "little")

    def __getattr__(self, name: str) -> Callable[..., Any]:
        # load8 … rmw_locked_end64, port_in8 …: one method for each family
        family = name.rstrip("0123456789")
        if family == name or not hasattr(type(self), f"any_{family}"):
            raise AttributeError(name)
        return functools.partial(getattr(self, f"any_{family}"), int(name[len(family) :]) // 8)

    def any_load(self, size: int, seg: int, offset: int) -> int:
        """Primitive LOAD."""
        return self._read(self._at(seg, offset, size, 0), size)

    def any_store(self, size: int, seg: int, offset: int, value: int) -> None:
        """Primitive STORE."""
        self._write(self._at(seg, offset, size, 1), size, value)

    def any_rmw(self, size: int, seg: int, offset: int) -> int:
        """Primitive RMW."""
        linear = self._at(seg, offset, size, 1)
        self._rmw = linear, size
        return self._read(linear, size)

    def any_rmw_end(self, size: int, value: int) -> None:
        """Primitive RMW_END."""
        assert self._rmw[1] == size
        self._write(*self._rmw, value)

    def any_rmw_locked(self, size: int, seg: int, offset: int) -> int:
        """Primitive RMW_LOCKED."""
        self.log.append(("locked", size))
        return self.any_rmw(size, seg, offset)

    any_rmw_locked_end = any_rmw_end

    def any_load_system(self, size: int, linear: int) -> int:
        """Primitive LOAD_SYSTEM."""
        return self._read(linear, size)

    def or_system8(self, linear: int, mask: int) -> None:
        """Primitive OR_SYSTEM8."""
        self._write(linear, 1, self._read(linear, 1) | mask)

    def probe_write(self, seg: int, offset: int, size: int) -> None:
        """Primitive PROBE_WRITE."""
        self._at(seg, offset, size, 1)

    def probe_read(self, seg: int, offset: int, size: int) -> None:
        """Primitive PROBE_READ."""
        self._at(seg, offset, size, 0)

    # ports and the rest of the outside
    def any_port_in(self, size: int, port: int) -> int:
        """Primitive PORT_IN."""
        self.log.append(("in", port, size))
        return self.ports.pop(0)

    def any_port_out(self, size: int, port: int, value: int) -> None:
        """Primitive PORT_OUT."""
        self.log.append(("out", port, size, value))

    def any_port_in_block(self, size: int, port: int, offset: int, wanted: int, down: int, wide: int) -> int:
        """Primitive PORT_IN_BLOCK: at most two elements."""
        step, moved = -size if down else size, min(wanted, 2)
        for i in range(moved):
            self.any_store(size, Seg.ES, offset + i * step & (0xFFFFFFFF if wide else 0xFFFF), self.ports.pop(0))
        self.log.append(("in", port, size, moved))
        return moved

    def any_port_out_block(self, size: int, port: int, seg: int, offset: int, wanted: int, down: int, wide: int) -> int:
        """Primitive PORT_OUT_BLOCK: at most two elements."""
        step, moved = -size if down else size, min(wanted, 2)
        for i in range(moved):
            value = self.any_load(size, seg, offset + i * step & (0xFFFFFFFF if wide else 0xFFFF))
            self.log.append(("out", port, size, value))
        return moved

    def any_move_block(
        self, size: int, to_seg: int, to: int, from_seg: int, offset: int, wanted: int, down: int, wide: int
    ) -> int:
        """Primitive MOVE_BLOCK: there are no devices here."""
        return 0

    def any_fill_block(self, size: int, seg: int, offset: int, value: int, wanted: int, down: int, wide: int) -> int:
        """Primitive FILL_BLOCK, likewise."""
        return 0

    def any_read_block(self, size: int, seg: int, offset: int, wanted: int, down: int, wide: int) -> int:
        """Primitive READ_BLOCK, likewise."""
        return 0

    def cpuid_entry(self, leaf: int, subleaf: int, which: int) -> int:
        """Primitive CPUID_ENTRY."""
        row = DEFAULT_CPUID.get((leaf, subleaf))
        return row[which] | 1 << 32 if row else 0

    def commit(self) -> None:
        """Primitive COMMIT: nothing here is undone but a single instruction."""

    def keep(self) -> None:
        """Primitive KEEP."""
        self.keeping = True

    def tsc_read(self) -> int:
        """Primitive TSC_READ."""
        return 0x123456789ABCDEF0

    def random64(self) -> int:
        """Primitive RANDOM."""
        return 0xFEDCBA9876543210

    def fence(self) -> None:
        """Primitive FENCE."""
        self.log.append(("fence",))

    def segment_changed(self, seg: int) -> None:
        """Primitive SEGMENT_CHANGED."""
        function("derive_segment", access.derive_segment)(self, seg)

    # ends
    def next(self) -> None:
        """Terminator NEXT."""
        self.ended = ("next",)

    def jump(self, target: int) -> None:
        """Terminator JUMP."""
        self.ended = ("jump", target)

    def jump_indirect(self, target: int) -> None:
        """Terminator JUMP_INDIRECT."""
        self.ended = ("jump", target)

    def checkpoint(self) -> None:
        """Terminator CHECKPOINT."""
        self.ended = ("checkpoint",)

    #: Terminator TRANSFER.
    transfer = checkpoint

    def repeat(self, count: int) -> None:
        """Terminator REPEAT."""
        self.ended = ("repeat", count)

    def fault(self, cause: str, vector: int, error: int, *operands: int) -> None:
        """Terminator FAULT."""
        raise Fault(cause, vector, error, *operands)

    def hypervisor(self, what: str) -> None:
        """Terminator HYPERVISOR."""
        raise Hypervisor(what)

    def unsupported(self, what: str) -> None:
        """Terminator UNSUPPORTED."""
        raise Unsupported(what)

    @property
    def mode(self) -> str:
        """Name of the mode it is in."""
        limits = (self.seg.limit[seg] for seg in range(6) if seg != Seg.CS)
        return coverage.mode_name(self.cr0, self.flags, self.cpl, self.code32, limits)

    def step(self, code: bytes) -> None:
        """Execute the instruction at the start of ``code`` (one iteration of REP); EIP ends behind it or at the target.

        Raises:
            Fault: the guest's exception.
            Unsupported, Hypervisor: the exit.
        """
        decoded = decode(code, self.code32, lineage(self.model, self.vendor))
        if decoded.row is None:
            raise Fault("UNDEFINED", 6, 0)
        mode = self.mode
        saved, gpr, memory, fxsave = dict(self.__dict__), self.gpr32[:], bytes(self.memory), bytes(self.fxsave)
        names = ("seg", "reg", "rm", "base", "index", "scale", "disp", "imm", "imm2")
        following = (self.eip + decoded.length) & 0xFFFFFFFF
        record = SimpleNamespace(
            **{name: int(getattr(decoded, name)) for name in names},
            modrm=decoded.rm,
            next_eip=following,
            this_eip=self.eip,
        )
        try:
            handler(decoded.row, decoded.variant)(self, record)
        except (Fault, Unsupported, Hypervisor) as end:
            coverage.executed(decoded, mode, completed=False)
            # What engines do for forms with a late abort.
            keeping = self.keeping and isinstance(end, Fault)
            if keeping:
                gpr, memory = self.gpr32[:], bytes(self.memory)
            self.__dict__.update(saved)
            self.gpr32[:], self.memory[:], self.fxsave[:] = gpr, memory, fxsave
            if keeping:
                self.commit()
            raise
        coverage.executed(decoded, mode, completed=True)
        if self.ended[0] == "next":
            self.eip = following
        elif self.ended[0] == "jump":
            self.eip = self.ended[1]

    def run(self, code: bytes) -> Machine:
        """Execute one instruction to its end, REP included; return self."""
        self.step(code)
        while self.ended[0] == "repeat":
            self.step(code)
        return self


@functools.cache
def function(name: str, code: Microcode | Procedure) -> Callable[..., Any]:
    """Return printed code as a Python function; the procedures it calls come along."""
    body = code.code if isinstance(code, Procedure) else code
    scope: dict[str, Any] = dict(RUNTIME)
    for s in statements(body.root):
        if isinstance(s, Call) and isinstance(s.target, Procedure):
            scope[s.target.name] = function(s.target.name, s.target)
    exec(compile(PythonPrinter(PythonTarget()).function(body), name, "exec"), scope)
    made: Callable[..., Any] = scope[name]
    return made


@functools.cache
def handler(row: Row, variant: Variant) -> Callable[..., Any]:
    """Return one form of a row as a Python function of machine and record."""
    return function("insn", expand(row, variant, "insn"))


def forms(*mnemonics: str) -> list[tuple[Row, Variant]]:
    """Return every form of every row with one of these names."""
    return [(row, variant) for row in ROWS if row.mnemonic in mnemonics for variant in variants(row)]


Values = dict[str | int, int | bytes]


def execute(code: str, before: Values | None = None, after: Values | None = None, m: Machine | None = None) -> Machine:
    """Run one instruction and check everything it may have changed; return the machine.

    Args:
        code: hexadecimal bytes, with what follows after a ``;`` ignored.
        before: registers and flags by name, memory by linear address.
        after: the same, what must have changed.  General registers, segments, memory and FXSAVE image beyond it must
            be as before; flags are compared where named, EIP too, which otherwise has to be behind the instruction.
        m: machine to use, by default a fresh one in real mode.
    """
    m = m or Machine()
    put(m, before or {})
    expected = Machine(bytearray(m.memory))
    expected.gpr32[:], expected.fxsave[:] = m.gpr32, m.fxsave
    expected.seg.selector[:], expected.seg.base[:] = m.seg.selector, m.seg.base
    named = dict(after or {})
    eip = named.pop("eip", None)
    put(expected, named)
    given = bytes.fromhex(code.split(";")[0])
    following = m.eip + decode(given + bytes(15), m.code32).length
    start = m.eip
    m.run(given + bytes(15))
    assert [f"{r:08x}" for r in m.gpr32] == [f"{r:08x}" for r in expected.gpr32], code
    assert m.seg.selector == expected.seg.selector, code
    if m.memory != expected.memory:
        pairs = enumerate(zip(m.memory, expected.memory, strict=True))
        differing = [(hex(a), hex(x), hex(y)) for a, (x, y) in pairs if x != y]
        raise AssertionError(f"{code}: memory (address, is, should be) {differing[:8]}")
    assert m.fxsave == expected.fxsave, code
    for name in named:
        if name in FLAG_BITS:
            assert m[str(name)] == named[name], f"{code}: {name}, flags {m.eflags:#x}"
    assert m.eip == (following if eip is None else eip), f"{code}: started at {start:#x}"
    return m


def put(m: Machine, values: Values) -> None:
    """Set registers, flags and memory."""
    for name, value in values.items():
        if isinstance(name, int):
            assert isinstance(value, bytes)
            m.memory[name : name + len(value)] = value
        else:
            assert isinstance(value, int)
            m[name] = value


def fails(code: str, vector: int, cause: str, before: Values | None = None, m: Machine | None = None) -> None:
    """Run one instruction that must raise an exception and change nothing."""
    m = m or Machine()
    put(m, before or {})
    gpr, memory, word = m.gpr32[:], bytes(m.memory), m.eflags
    try:
        m.run(bytes.fromhex(code.split(";")[0]) + bytes(15))
    except Fault as fault:
        assert (fault.vector, fault.cause) == (vector, cause), code
        assert (m.gpr32, bytes(m.memory), m.eflags) == (gpr, memory, word), code
    else:
        raise AssertionError(f"{code}: no exception, {cause} expected")
