"""Random worlds: memory with tables, code and devices, a state in any mode; and a machine that lives in one.

A world is named by its mode, a seed and the seeds of its instructions, so that a failing one shrinks by leaving
instructions out.  Answers to questions depend on the question alone, and stale translations cannot arise (page tables
are reached through one page that only the instruction pair "store, INVLPG" uses): so what a world does is a function
of the world, however it is cut into runs.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass, field

from dm.engine import create
from dm.engine.api import QUESTIONS, CpuConfig, CpuidEntry, Exit, ExitReason, MemoryMap, Region, RegionKind, RunRequest
from dm.isa import features
from dm.machine.state import EventType, State

RAM = 0x140000
DEVICE, DEVICE_SIZE = 0xA0000, 0x2000
ROM, FIRMWARE = 0xC0000, 0xF0000
CODE = 0xC000
HANDLERS, GDT, LDT, IDT, TSS = 0x1000, 0x2000, 0x2800, 0x3000, 0x4000
TASKS = (0x6800, 0x6900, 0x6A00)  # 32-bit, 16-bit, one that runs VM86 code
#: Page tables: the two levels of 32-bit paging, then directory and table of PAE.  They are seen at linear ALIAS only.
DIRECTORY, TABLE, POINTERS, PAE_DIRECTORY, PAE_TABLE = 0x20000, 0x21000, 0x22000, 0x23000, 0x24000
ALIAS = 0x1F0000

MODES = (
    "real", "big-real", "vm86", "pm16-0", "pm16-3", "pm32-0", "pm32-1", "pm32-3", "between", "scrambled",
)  # fmt: skip

# Selectors of the GDT's fixed entries.
CODE32, DATA32, CODE16, DATA16 = 0x08, 0x10, 0x18, 0x20
USER_CODE32, USER_DATA32, USER_CODE16, USER_DATA16 = 0x2B, 0x33, 0x3B, 0x43
LDTR, TR, TASK32, TASK16, TASK_VM = 0x48, 0x50, 0x58, 0x60, 0x68
CALL32, CALL16, TASK_GATE, RING1_CODE, RING1_DATA = 0x70, 0x78, 0x80, 0x89, 0x91
FIXED = 19
_SELECTORS = (
    0, 3, CODE32, DATA32, CODE16, DATA16, USER_CODE32, USER_DATA32, USER_CODE16, USER_DATA16, TASK32, TASK16, TASK_VM,
    CALL32, CALL16, TASK_GATE, RING1_CODE, RING1_DATA, TR, LDTR, 4, 12, 0x17, 0xA0, 0xA8, 0xB3, 0x1F8, 0x200,
)  # fmt: skip
_PLACES = (0, 4, 0x7F, 0x600, 0x1000, 0x7800, 0x8FFE, 0x9000, 0x9FFE, 0xAFFF, CODE, 0xFFFC, 0xFFFE, 0xFFFF, 0xA0000)
_VALUES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_PREFIXES = (0x66, 0x67, 0xF2, 0xF3, 0xF0, 0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65)
_TWO_BYTE = (
    *range(0x0E), 0x18, 0x1F, 0x20, 0x21, 0x22, 0x23, 0x30, 0x31, 0x32, 0x34, 0x35, 0x38, *range(0x40, 0x50),
    *range(0x80, 0x90), *range(0x90, 0xA0), *range(0xA0, 0xC2), *range(0xC7, 0xD0), 0xFF,
)  # fmt: skip

#: CPUID tables by name.  No random numbers (two engines draw different ones) and no long mode.
_RICH = (
    "vme de pse tsc msr pae cx8 sep mtrr pge cmov pat pse36 clflush movbe popcnt sse4.2 bmi1 smep bmi2 adx smap umip "
    "syscall nx rdtscp cr8_legacy lzcnt prefetchw apic mce fsgsbase"
).split()


def _table(vendor: bytes, names: list[str]) -> tuple[CpuidEntry, ...]:
    rows = {(0, 0): [7, *(int.from_bytes(vendor[n : n + 4], "little") for n in (0, 8, 4))]}
    rows |= {(1, 0): [0x673, 0, 0, 0], (7, 0): [0] * 4, (0x80000000, 0): [0x80000001, 0, 0, 0]}
    rows[0x80000001, 0] = [0] * 4
    for name in names:
        leaf, subleaf, register, bit = features.TABLE[name]
        rows[leaf, subleaf][register] |= 1 << bit
    return tuple(CpuidEntry(*key, *values) for key, values in rows.items())


CONFIGS = {
    "p6": CpuConfig(),
    "rich": CpuConfig(_table(b"GenuineIntel", _RICH), copies=True),
    "amd": CpuConfig(_table(b"AuthenticAMD", _RICH)),
}


def descriptor(base: int, limit: int, attributes: int) -> bytes:
    """A segment descriptor; ``limit`` is the 20-bit field, ``attributes`` descriptor bits 40-55."""
    value = limit & 0xFFFF | (base & 0xFFFFFF) << 16 | attributes << 40 | (limit >> 16) << 48 | (base >> 24) << 56
    return value.to_bytes(8, "little")


def gate(selector: int, offset: int, access: int, count: int = 0) -> bytes:
    """A gate descriptor."""
    value = offset & 0xFFFF | selector << 16 | count << 32 | access << 40 | (offset >> 16) << 48
    return value.to_bytes(8, "little")


@dataclass(frozen=True)
class World:
    """``instructions`` are seeds; ``sane`` keeps vectors, tables and stacks such that faults are delivered.

    ``edges`` name what makes it an uncommon one: see :data:`edges.EDGES`.
    """

    mode: str
    seed: int
    instructions: tuple[int, ...]
    paging: str = ""  # "", "32" or "pae"
    sane: bool = False
    edges: tuple[str, ...] = ()

    @classmethod
    def random(cls, seed: int) -> World:
        """One world of its own for each seed."""
        r = random.Random(seed)
        instructions = tuple(r.getrandbits(32) for _ in range(r.randint(1, 14)))
        return cls(r.choice(MODES), r.getrandbits(32), instructions, r.choice(("", "", "32", "pae")))


# Code


def _number(r: random.Random, width: int = 32) -> int:
    pick = r.random()
    value = r.choice(_PLACES) if pick < 0.4 else r.choice(_VALUES) if pick < 0.6 else r.getrandbits(r.randint(1, width))
    return value & (1 << width) - 1


def _le(value: int, size: int) -> bytes:
    return (value & (1 << 8 * size) - 1).to_bytes(size, "little")


class _Writer:
    """Instructions for code of 16 or 32 bits; ``wide`` and ``narrow`` add what gives that operand size."""

    def __init__(self, bits: int) -> None:
        self.bits = bits
        self.word = bits // 8

    def wide(self, code: bytes) -> bytes:
        return code if self.bits == 32 else b"\x66" + code

    def narrow(self, code: bytes) -> bytes:
        return code if self.bits == 16 else b"\x66" + code

    def load(self, register: int, value: int) -> bytes:
        """MOV r32, imm32."""
        return self.wide(bytes([0xB8 + register]) + _le(value, 4))

    def at(self, reg: int, address: int) -> bytes:
        """ModRM and displacement of [address]."""
        return bytes([reg << 3 | (5 if self.bits == 32 else 6)]) + _le(address, self.word)

    def store(self, address: int, value: int) -> bytes:
        """MOV dword [address], imm32."""
        return self.wide(b"\xc7" + self.at(0, address) + _le(value, 4))


def _any(r: random.Random) -> bytes:
    """Any opcode, any prefixes."""
    out = bytearray()
    while r.random() < 0.25:
        out.append(r.choice(_PREFIXES))
    if r.random() < 0.3:
        out += bytes([0x0F, r.choice(_TWO_BYTE) if r.random() < 0.9 else r.getrandbits(8)])
    else:
        out.append(r.getrandbits(8))
    out += bytes(r.choice((r.getrandbits(8), 0, 0xFF, 0xC0 | r.getrandbits(6))) for _ in range(r.randint(0, 6)))
    return bytes(out)


def _memory_operand(r: random.Random, w: _Writer) -> bytes:
    opcode = r.choice((0x00, 0x01, 0x10, 0x21, 0x29, 0x31, 0x39, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8B, 0xF6))
    prefix = r.choice((b"", b"", b"\x66", b"\xf0", b"\x26", b"\x36", b"\x64"))
    tail = _le(_number(r), 1) if opcode == 0xF6 else b""
    place = r.choice((*_PLACES, DEVICE, DEVICE + 1, ROM, 0x9FFF, 0xA1FFE, FIRMWARE))
    return prefix + bytes([opcode]) + w.at(r.choice((0, 2, 3)) if opcode == 0xF6 else r.getrandbits(3), place) + tail


def _string(r: random.Random, w: _Writer) -> bytes:
    opcode = r.choice((0xA4, 0xA5, 0xA6, 0xA7, 0xAA, 0xAB, 0xAC, 0xAD, 0xAE, 0xAF, 0x6C, 0x6D, 0x6E, 0x6F))
    setup = b""
    for register, choices in ((1, (0, 1, 3, 17, 200)), (6, _PLACES), (7, (*_PLACES, DEVICE))):
        if r.random() < 0.7:
            setup += w.load(register, r.choice(choices))
    flag = r.choice((b"", b"\xfc", b"\xfd"))
    return setup + flag + r.choice((b"", b"\x66", b"\x67")) + r.choice((b"\xf3", b"\xf2", b"")) + bytes([opcode])


def _control_register(r: random.Random, w: _Writer) -> bytes:
    pick = r.randrange(5)
    if pick == 0:  # PE on or off, and most often a far jump after it
        code = b"\x0f\x20\xc0" + w.wide(b"\x35" + _le(r.choice((1, 1, 1, 0x80000000, 0x80000001, 0x10000)), 4))
        return code + b"\x0f\x22\xc0" + (_far_jump(r, w) if r.random() < 0.4 else b"")
    if pick == 1:
        return b"\x0f\x01" + bytes([r.choice((0xE0, 0xF0)) | r.getrandbits(3)])  # SMSW, LMSW
    if pick == 2:
        return b"\x0f\x20\xd8\x0f\x22\xd8"  # flush
    if pick == 3:
        bit = 1 << r.choice((0, 1, 2, 3, 4, 5, 7, 8, 11, 20, 21))
        return b"\x0f\x20\xe0" + w.wide(b"\x35" + _le(bit, 4)) + b"\x0f\x22\xe0"
    return b"\x0f\x06"


def _far_jump(r: random.Random, w: _Writer) -> bytes:
    offset = r.choice((CODE, CODE + 0x40, CODE + r.getrandbits(6), HANDLERS, _number(r, 16)))
    selector = r.choice((0, CODE // 16, *_SELECTORS))
    return bytes([r.choice((0xEA, 0x9A))]) + _le(offset, w.word) + _le(selector, 2)


def _segment(r: random.Random, w: _Writer) -> bytes:
    pick = r.randrange(6)
    selector = r.choice((0x40, 0x7C0, 0x900, *_SELECTORS))
    if pick < 3:
        return w.load(0, selector) + b"\x8e" + bytes([0xC0 | r.choice((0, 2, 3, 4, 5)) << 3])
    if pick == 3:  # LLDT, LTR, VERR, VERW, SLDT, STR
        return w.load(0, selector) + b"\x0f\x00" + bytes([0xC0 | r.randrange(6) << 3])
    if pick == 4:  # LAR, LSL, ARPL
        return w.load(0, selector) + r.choice((b"\x0f\x02\xd8", b"\x0f\x03\xd8", b"\x63\xc3"))
    return w.load(0, selector) + b"\x50" + r.choice((b"\x07", b"\x17", b"\x1f", b"\x0f\xa1", b"\x0f\xa9"))


def _interrupt(r: random.Random, w: _Writer) -> bytes:
    pick = r.randrange(7)
    if pick < 2:
        return b"\xcd" + bytes([r.choice((3, 4, 8, 13, 14, 0x20, 0x21, 0x30, 0x80, r.getrandbits(8)))])
    if pick == 2:
        return r.choice((b"\xcc", b"\xce", b"\xf1", b"\x0f\x0b"))
    frame = b"".join(
        w.wide(b"\x68" + _le(value, 4))
        for value in (
            r.choice((0x7800, 0x8800)), r.choice((USER_DATA32, USER_DATA16, DATA32)),
            2 | r.getrandbits(12) & 0xCD5 | r.choice((0, 0x200, 0x100, 0x4000, 0x20000, 0x10000, 0x3000)),
            r.choice((CODE32, CODE16, USER_CODE32, USER_CODE16, CODE // 16, *_SELECTORS)), CODE + r.getrandbits(5),
        )
    )  # fmt: skip
    return frame + (w.wide(b"\xcf") if r.random() < 0.8 else b"\xcb")


def _flags(r: random.Random, w: _Writer) -> bytes:
    bits = r.getrandbits(12) & 0xCD5 | r.choice((0, 0x100, 0x200, 0x4000, 0x10000, 0x40000, 0x3000, 0x80000))
    push = w.wide(b"\x68" + _le(bits | 2, 4)) + w.wide(b"\x9d")
    return r.choice((push, push, push, b"\xfa", b"\xfb", b"\xf5", b"\xf8", b"\xf9", b"\x9c", b"\x9e", b"\x9f"))


def _port(r: random.Random, w: _Writer) -> bytes:
    direct = bytes([r.choice((0xE4, 0xE5, 0xE6, 0xE7)), r.choice((0x60, 0x20, 0x92, r.getrandbits(8)))])
    return r.choice((b"", b"\x66")) + r.choice((direct, bytes([r.choice((0xEC, 0xED, 0xEE, 0xEF))])))


def _modify(r: random.Random, w: _Writer) -> bytes:
    """Store into code, near or far, or into its own page by a string instruction."""
    target = CODE + r.choice((r.getrandbits(5), r.getrandbits(7)))
    if r.random() < 0.2:
        return w.load(7, target) + w.load(1, r.choice((1, 4, 30))) + b"\xb0\x90" + r.choice((b"\xaa", b"\xf3\xaa"))
    return b"\xc6" + w.at(0, target) + bytes([r.choice((0x90, 0x40, 0xF4, 0xCC, r.getrandbits(8)))])


def _page_edit(r: random.Random, w: _Writer) -> bytes:
    """Change the entry of a data page, then INVLPG; reachable where segments are flat."""
    page = r.choice((9, 0xA, 0xB, 0xA0, 0x40))
    flags = r.choice((0x67, 0x67, 0x27, 0x65, 0x63, 0x61, 0, 0x167))
    size = r.choice((4, 8))
    prefix = b"" if w.bits == 32 else b"\x67"
    address = _le(ALIAS + size * page, 4)
    store = w.wide(prefix + b"\xc7\x05" + address + _le(r.choice((page, 9)) << 12 | flags, 4))
    return store + prefix + b"\x0f\x01\x3d" + _le(page << 12, 4)


def _system(r: random.Random, w: _Writer) -> bytes:
    pick = r.randrange(10)
    if pick == 0:
        number = r.choice((0x10, 0x1B, 0x174, 0x175, 0x176, 0x1D9, 0x277, 0xC0000080, 0xC0000081, 0x8B, 0x1A0, 0x250))
        return w.load(1, number) + r.choice((b"\x0f\x32", b"\x0f\x30"))
    if pick == 1:
        return r.choice((b"\x0f\x34", b"\x0f\x35", b"\x0f\x05", b"\x0f\x07"))
    if pick == 2:
        return w.load(0, r.choice((0, 1, 7, 0x80000001, 0x40000000))) + b"\x0f\xa2"
    if pick == 3:
        return b"\x0f\x31"
    if pick == 4:
        register = bytes([0xC0 | r.getrandbits(3) << 3])
        value = w.load(0, r.choice((*_PLACES, CODE + r.getrandbits(5), 0x400, 0x4FF, 0x30403, 0xD0303, 0x2400)))
        return value + b"\x0f" + r.choice((b"\x23", b"\x23", b"\x21")) + register
    if pick == 5:
        return r.choice((b"\xf4", b"\x0f\x08", b"\x0f\x09"))
    if pick == 6:
        return b"\x0f\x01" + w.at(r.choice((0, 1, 2, 3, 4, 6)), r.choice((0x9000, 0x600, 0x8FFE)))
    if pick == 7:
        return r.choice((b"", b"\xf0")) + b"\x0f\xc7" + w.at(1, r.choice((0x9000, 0x8FFC, DEVICE, 0x9001)))
    if pick == 8:
        return b"\xc8" + _le(_number(r, 16) & 0xFF, 2) + bytes([r.choice((0, 1, 2, 5, 31))])
    return r.choice((b"\x62", b"\xc4", b"\xc5", b"\x0f\xb2", b"\x0f\xb4")) + w.at(r.getrandbits(3), 0x9000)


def _branch(r: random.Random, w: _Writer) -> bytes:
    back = bytes([r.choice((0xFE, 0xF0, 0xE0, 2, 5, 0x10))])
    conditional = bytes([r.choice((*range(0x70, 0x80), 0xE0, 0xE1, 0xE2, 0xE3, 0xEB))]) + back
    call = b"\xe8" + _le(r.choice((0, 1, -16, 0x20)), w.word) + r.choice((b"", b"\xc3"))
    indirect = w.load(0, CODE + r.getrandbits(6)) + r.choice((b"\xff\xe0", b"\xff\xd0"))
    return r.choice((conditional, conditional, call, indirect, b"\xc3", b"\xc2\x04\x00", b"\xcb"))


_KINDS = (
    (_any, 30), (_memory_operand, 14), (_string, 9), (_control_register, 7), (_far_jump, 5), (_segment, 9),
    (_interrupt, 8), (_flags, 6), (_port, 5), (_modify, 6), (_page_edit, 4), (_system, 10), (_branch, 8),
)  # fmt: skip


def instruction(seed: int, bits: int) -> bytes:
    """The instructions (one, or a few that belong together) of one seed."""
    r = random.Random(seed)
    kind = r.choices([k for k, _ in _KINDS], [weight for _, weight in _KINDS])[0]
    code: bytes = _any(r) if kind is _any else kind(r, _Writer(bits))  # type: ignore[operator]
    return code


# Memory

_SKIP16 = bytes.fromhex("5589e5ff46025dcf")
_HANDLERS32 = [bytes.fromhex(h) for h in ("f4", "cf", "83c404cf", "83042401cf", "59ff0424cf", "e460cf", "fbf4")]
_HANDLERS16 = [bytes.fromhex(h) for h in ("f4", "cf", "83c402cf", "e460cf", "fbf4")] + [_SKIP16]


def _random_descriptor(r: random.Random) -> bytes:
    access = r.choice(
        (0x93, 0x9B, 0xF3, 0xFB, 0x92, 0x9F, 0x97, 0x99, 0x82, 0x89, 0x8B, 0x81, 0x83, 0x85, 0x84, 0x8C, 0xEC, 0x13, 0)
    )
    if access & 0x1F in (4, 5, 12):
        selector = r.choice((CODE32, CODE16, RING1_CODE, TASK32, TASK_VM, USER_CODE32))
        return gate(selector, r.choice((CODE, HANDLERS, _number(r))), access, r.choice((0, 0, 1, 3, 31)))
    base, limit = r.choice((0, 0, 0x7000, 0xFFF00000, 0x9000)), r.choice((0xFFFFF, 0xFFFF, 0xFFF, 0))
    return descriptor(base, limit, access | r.choice((0xC000, 0x4000, 0, 0x8000)))


def _task(r: random.Random, *, vm: bool) -> bytes:
    """A 32-bit TSS's contents."""
    data = bytearray(0x68)
    fields = {4: 0x7A00, 8: DATA32, 0xC: 0x7C00, 0x10: RING1_DATA, 0x1C: 0, 0x20: CODE + r.getrandbits(5)}
    fields |= {0x24: 2 | (0x20000 if vm else 0) | r.choice((0, 0x200, 0x100)), 0x38: 0x7700, 0x60: r.choice((0, LDTR))}
    for n, offset in enumerate(range(0x48, 0x60, 4)):
        usual = 0 if vm else CODE32 if n == 1 else DATA32
        fields[offset] = usual if r.random() < 0.85 else r.choice(_SELECTORS)
    fields[0x64] = r.choice((0, 0, 0, 1))
    for offset, value in fields.items():
        data[offset : offset + 4] = _le(value, 4)
    return bytes(data)


def _memory(world: World, r: random.Random) -> bytearray:
    ram = bytearray(RAM)

    def put(at: int, data: bytes) -> None:
        ram[at : at + len(data)] = data

    def usually(chance: float) -> bool:
        return world.sane or r.random() < chance

    narrow = world.mode in ("real", "big-real")
    handlers = _HANDLERS16 if narrow else _HANDLERS32
    for vector in range(256):
        at = HANDLERS + 8 * vector
        put(4 * vector, _le(at if usually(0.97) else _number(r), 4))
        put(at, b"\x90\xf4" if world.sane else r.choice(handlers))
        access = (
            r.choice((0x8E, 0x8F, 0xEE, 0xEF)) if usually(0.85) else r.choice((0x86, 0x87, 0xE6, 0x85, 0xE5, 0, 0x0E))
        )
        selector = CODE32 if usually(0.93) else r.choice(_SELECTORS)
        if access & 0x1F == 5:
            selector = r.choice((TASK32, TASK16, TASK_VM))
        put(IDT + 8 * vector, gate(selector, at, access))
    for table, count in ((GDT, 64), (LDT, 32)):
        for n in range(1, count):
            put(table + 8 * n, _random_descriptor(r))
    fixed = {
        CODE32: descriptor(0, 0xFFFFF, 0xC09B), DATA32: descriptor(0, 0xFFFFF, 0xC093),
        CODE16: descriptor(0, 0xFFFF, 0x009B), DATA16: descriptor(0, 0xFFFF, 0x0093),
        USER_CODE32: descriptor(0, 0xFFFFF, 0xC0FB), USER_DATA32: descriptor(0, 0xFFFFF, 0xC0F3),
        USER_CODE16: descriptor(0, 0xFFFF, 0x00FB), USER_DATA16: descriptor(0, 0xFFFF, 0x00F3),
        LDTR: descriptor(LDT, 0xFF, 0x0082), TR: descriptor(TSS, 0x20A8, 0x008B),
        TASK32: descriptor(TASKS[0], 0x67, 0x0089), TASK16: descriptor(TASKS[1], 0x2B, 0x0081),
        TASK_VM: descriptor(TASKS[2], 0x67, 0x00E9), CALL32: gate(CODE32, CODE + 8, 0xEC, 2),
        CALL16: gate(CODE16, CODE, 0xE4, 1), TASK_GATE: gate(TASK32, 0, 0xE5),
        RING1_CODE: descriptor(0, 0xFFFFF, 0xC0BB), RING1_DATA: descriptor(0, 0xFFFFF, 0xC0B3),
    }  # fmt: skip
    for selector, data in fixed.items():
        if usually(0.985):
            put(GDT + (selector & ~7), data)
    put(TSS, _task(r, vm=False))
    put(TSS + 0x66, _le(0x88, 2))
    put(TSS + 0x68, bytes(r.choice((0, 0, 0xFF, r.getrandbits(8))) for _ in range(0x20)))  # redirection
    put(TSS + 0x88, bytes(r.choice((0, 0, 0, r.getrandbits(8))) for _ in range(0x100)))  # I/O permission
    put(TASKS[0], _task(r, vm=False))
    put(TASKS[2], _task(r, vm=True))
    words = [0, 0x7A00, DATA16, 0x7C00, RING1_DATA, 0, 0, CODE, 2, *range(4), 0x7700, 0, 0, 0]
    put(TASKS[1], b"".join(_le(v, 2) for v in (*words, DATA16, CODE16, DATA16, DATA16, LDTR)))
    for place in (0x77E0, 0x79E0, 0x87E0, 0x8FF0, 0x9000, 0xAFF0, 0xFFE0):
        put(place, bytes(r.choice((0, 8, 0x10, 0xC0, r.getrandbits(8))) for _ in range(48)))
    _page_tables(world, r, put)
    return ram


def _page_tables(world: World, r: random.Random, put) -> None:  # type: ignore[no-untyped-def]
    # Accessed bits are set from the start: whether a fetch that may not come sets them is an engine's own business.
    def flags(n: int) -> int:
        if world.sane or n in (1, 2, 3, 4, 6, 7, 8):
            return 0x67
        return r.choice((0x67,) * 12 + (0x27, 0x167, 0x65, 0x63, 0x61, 0))

    pages = [(n << 12 | flags(n)) for n in range(512)]
    for n in range(0x20, 0x30):  # the tables themselves
        pages[n] = 0
    for table, size in ((TABLE, 4), (PAE_TABLE, 8)):
        own = list(pages)
        own[ALIAS >> 12] = table | 0x67
        put(table, b"".join(_le(entry | (1 << 63 if size == 8 and r.random() < 0.03 else 0), size) for entry in own))
    for directory, table, size, high in ((DIRECTORY, TABLE, 4, 0x300), (PAE_DIRECTORY, PAE_TABLE, 8, 0x100)):
        put(directory, _le(table | 0x67, size))
        put(directory + size, _le(0xE7 | r.choice((0, 0x100)), size))  # a large page
        put(directory + size * high, _le(table | r.choice((0x67, 0x67, 0x63, 0x65)), size))
    for n in range(4):
        put(POINTERS + 8 * n, _le(PAE_DIRECTORY | 1 if n in (0, 3) else r.choice((0, 0, PAE_DIRECTORY | 1)), 8))


# State


def _flat(s: State, bits: int, cpl: int) -> None:
    code = {0: (CODE16, CODE32), 1: (RING1_CODE,) * 2, 3: (USER_CODE16, USER_CODE32)}[cpl][bits == 32]
    data = {0: (DATA16, DATA32), 1: (RING1_DATA,) * 2, 3: (USER_DATA16, USER_DATA32)}[cpl][bits == 32]
    limit, size = (0xFFFFFFFF, 0xC000) if bits == 32 else (0xFFFF, 0)
    for seg in s.seg[:6]:
        seg.selector, seg.base, seg.limit, seg.attributes, seg.unusable = data, 0, limit, 0x93 | cpl << 5 | size, 0
    s.cs.selector, s.cs.attributes = code, 0x9B | cpl << 5 | size
    s.cpl, s.cr0 = cpl, 0x11


def _scramble(r: random.Random, s: State) -> None:
    """Anything that fits the widths, around code that can run."""
    for seg in s.seg:
        if seg is s.cs:
            continue
        seg.selector, seg.base, seg.limit = r.getrandbits(16), _number(r, 64), _number(r)
        seg.attributes, seg.unusable = r.getrandbits(16), int(r.random() < 0.2)
    s.cs.selector, s.cs.attributes = r.getrandbits(16), r.getrandbits(16)
    s.cs.limit = r.choice((0xFFFF, 0xFFFFFFFF, _number(r)))
    s.cr0, s.cr2, s.cr3, s.cr4 = r.getrandbits(31) | r.choice((0, 0, 1 << 31)), r.getrandbits(64), DIRECTORY, _number(r)
    s.cr8, s.efer, s.cpl = _number(r, 64), r.choice((0, 1, 0x800)), r.getrandbits(2)
    s.rflags = r.choice((r.getrandbits(22) | 2, r.getrandbits(64), 2))
    s.rip |= r.choice((0, 0, r.getrandbits(64) << 32 & (1 << 64) - 1))
    s.dr, s.dr6, s.dr7 = [_number(r, 64) for _ in range(4)], _number(r, 64), _number(r, 64)
    s.pdpte = [r.choice((0, PAE_DIRECTORY | 1, r.getrandbits(64))) for _ in range(4)]
    s.shadow, s.nmi_blocked, s.nmi_pending = r.getrandbits(2), r.getrandbits(1), r.getrandbits(1)
    s.activity = r.choice((0, 0, 0, 0, 1, 2, 3, r.getrandbits(8)))
    s.pending_debug = r.choice((0, 0, _number(r, 64)))
    s.inject_type = r.choice((255, 255, 255, r.getrandbits(8), r.getrandbits(3)))
    s.inject_vector, s.inject_error, s.inject_length = r.getrandbits(8), _number(r), r.getrandbits(8)
    s.inject_has_error, s.inject_has_payload, s.inject_payload = r.getrandbits(1), r.getrandbits(1), _number(r, 64)
    s.smm = r.getrandbits(1)
    s.gdtr_base, s.idtr_base = _number(r, 64), _number(r, 64)
    s.sysenter_cs, s.sysenter_eip, s.sysenter_esp = _number(r, 64), _number(r, 64), _number(r, 64)
    s.fxsave = r.randbytes(512)


def _state(world: World, r: random.Random) -> State:
    s = State.reset()
    s.cr0, s.idtr_base, s.idtr_limit = 0x10, 0, 0x3FF
    s.rip, s.cs.selector, s.cs.base, s.cs.limit, s.cs.attributes = CODE, 0, 0, 0xFFFF, 0x9B
    if world.mode in ("real", "big-real") and r.random() < 0.4:
        s.rip, s.cs.selector, s.cs.base = 0, CODE // 16, CODE
    for n in range(8):
        s.gpr[n] = _number(r, 64)
    s.rflags = 2 | r.getrandbits(12) & 0xCD5 | r.choice((0, 0x200)) | r.choice((0, 0x3000))
    if r.random() < 0.1:
        s.rflags |= r.choice((0x100, 0x4000, 0x10000, 0x40000, 0x80000, 0x200000))
    s.tsc = r.getrandbits(64)
    s.efer = r.choice((0, 0x800))
    s.cr4 = r.choice((0, 0x10, 0x80, 0x90, 1, 2))
    s.sysenter_cs, s.sysenter_eip, s.sysenter_esp = CODE32, CODE, 0x7A00
    s.gdtr_base, s.gdtr_limit = GDT, 0x1FF
    if world.mode.startswith("pm") or world.mode in ("vm86", "between", "scrambled"):
        bits, cpl = {"pm16-0": (16, 0), "pm16-3": (16, 3), "pm32-1": (32, 1), "pm32-3": (32, 3)}.get(
            world.mode, (32, 0)
        )
        _flat(s, bits, cpl)
        s.idtr_base, s.idtr_limit = IDT, 0x7FF if world.sane or r.random() < 0.9 else r.choice((0x3F, 0xFFFF, 0))
        s.tr.selector, s.tr.base, s.tr.attributes = TR, TSS, 0x8B
        s.tr.limit = 0x20A8 if world.sane else r.choice((0x20A8, 0x20A8, 0x67, 0x188, 0x20))
        s.ldtr.selector, s.ldtr.base, s.ldtr.limit, s.ldtr.attributes = LDTR, LDT, 0xFF, 0x82
    if world.mode == "vm86":
        s.cpl, s.rflags = 3, s.rflags | 0x20000
        for seg in s.seg[:6]:
            seg.selector = 0 if seg is s.cs or seg is s.ss else r.choice((0, 0x40, 0x900, 0xFFFF))
            seg.base, seg.limit, seg.attributes, seg.unusable = seg.selector << 4, 0xFFFF, 0xF3, 0
    elif world.mode in ("real", "big-real"):
        for seg in s.seg[:6]:
            if seg is not s.cs and r.random() < 0.5 and not (world.sane and seg is s.ss):
                seg.selector = r.choice((0, 0x40, 0x900, 0x9000, 0xFFFF, r.getrandbits(16)))
            if seg is not s.cs:
                seg.base = seg.selector << 4
            if world.mode == "big-real" and seg is not s.cs:
                seg.limit, seg.attributes = 0xFFFFFFFF, r.choice((0x93, 0xC093, 0x8093))
    elif not world.sane:
        for seg in s.seg[:6]:
            if r.random() < 0.15 and seg is not s.cs:
                seg.attributes = r.choice((0x0093, 0xC091, 0xC097, 0x4097, 0xC09B, 0xC099, 0xC013, 0xC0F3))
            if r.random() < 0.15 and seg is not s.cs:
                seg.limit = r.choice((0x8FFF, 0xFFFFF, 0x7FFFFFFF))
            if r.random() < 0.05 and seg is not s.cs and seg is not s.ss:
                seg.unusable, seg.selector = 1, 0
    s.esp = 0x7800 if s.cpl == 0 else 0x8800
    if not world.sane and r.random() < 0.15:
        s.esp = r.choice((0x7801, 2, 1, 0, 0x8FFF, _number(r)))
    if world.paging and world.mode not in ("real", "big-real"):
        s.cr0 |= 1 << 31 | r.choice((0, 1 << 16))
        if world.paging == "pae":
            s.cr4, s.cr3 = s.cr4 | 0x20, POINTERS
        else:
            s.cr4, s.cr3 = s.cr4 & ~0x20, DIRECTORY
    else:
        s.cr3 = r.choice((DIRECTORY, DIRECTORY, POINTERS))
    s.pdpte = [PAE_DIRECTORY | 1, 0, 0, PAE_DIRECTORY | 1]
    if world.mode == "between":
        if r.random() < 0.5:  # PE=1 with what real mode had loaded
            for seg in s.seg[:6]:
                seg.selector, seg.base, seg.limit, seg.attributes, seg.unusable = 0, 0, 0xFFFF, 0x93, 0
            s.cs.selector, s.cs.base = 0, 0
        else:  # PE=0 with what protected mode had loaded
            s.cr0 &= ~0x80000001
    if world.mode == "scrambled":
        _scramble(r, s)
    elif not world.sane:
        if r.random() < 0.1:
            s.dr7 = 0x400 | r.getrandbits(8) | r.getrandbits(16) << 16 | r.choice((0, 0, 0x2000))
            s.dr, s.cr4 = [r.choice((CODE + r.getrandbits(4), _number(r))) for _ in range(4)], s.cr4 | r.choice((0, 8))
        if r.random() < 0.06:
            s.inject_type, s.inject_vector = r.choice((0, 2, 3, 4, 5, 6)), r.getrandbits(6)
            s.inject_has_error = int(
                s.inject_type == EventType.EXCEPTION and s.inject_vector in (8, 10, 11, 12, 13, 14)
            )
            s.inject_length = r.choice((0, 1, 2))
        s.shadow = r.choice((1, 2)) if r.random() < 0.06 else 0
        s.nmi_pending = int(r.random() < 0.04)
        if r.random() < 0.2:
            s.cr0 |= r.choice((4, 8, 0x40000, 0x20, 2))
    return s


@dataclass
class Built:
    """What a world is made of."""

    ram: bytearray
    state: State
    code: list[bytes]
    kind: RegionKind
    a20: bool
    config: str
    #: Pages that are no RAM but ROM, or a device that holds what RAM would: by number.
    special: dict[int, RegionKind] = field(default_factory=dict)
    #: Memory below 4 GiB.
    top: bytes = b""


def build(world: World) -> Built:
    """Make memory and state of a world."""
    r = random.Random(world.seed)
    ram = _memory(world, r)
    state = _state(world, r)
    bits = 32 if world.mode.startswith("pm32") or (world.mode == "between" and state.cs.attributes & 0x4000) else 16
    code = [instruction(seed, bits) for seed in world.instructions]
    kind = r.choice((RegionKind.MMIO, RegionKind.MMIO, RegionKind.COALESCED, RegionKind.HYPERVISOR, RegionKind.ROM))
    made = Built(ram, state, code, kind, r.random() < 0.85, r.choice(list(CONFIGS)))
    if world.edges:
        import edges

        edges.apply(world, made, bits)
    text = b"".join(made.code) + b"\xf4"
    start = state.eip + state.cs.base & 0xFFFFFFFF if world.edges else CODE
    ram[start : start + len(text)] = text
    return made


# A machine in a world

_READS = (ExitReason.PORT_IN, ExitReason.MMIO_READ, ExitReason.MSR_READ)


def _given(reason: ExitReason, address: int, size: int) -> bytes:
    """What one access reads."""
    key = f"{reason} {address} {size}".encode()
    return (zlib.crc32(key) * 0x9E3779B97F4A7C15 % (1 << 64)).to_bytes(8, "little")[:size]


def _places(end: Exit, first: int) -> list[int]:
    """Where the elements of a question are: a port's all in one place."""
    step = 0 if end.reason in (ExitReason.PORT_IN, ExitReason.PORT_OUT) else -end.size if end.down else end.size
    return [first + n * step for n in range(end.count)]


def answer_to(end: Exit) -> tuple[bytes, bool]:
    """The answer to a question, a function of the single accesses alone: (data, fault)."""
    key = f"{end.reason} {end.address} {end.size}".encode()
    refused = end.reason in (ExitReason.MSR_READ, ExitReason.MSR_WRITE) and zlib.crc32(key) % 4 == 0
    if end.reason not in _READS or refused:
        return b"", refused
    return b"".join(_given(end.reason, at, end.size) for at in _places(end, end.address)), False


class Machine:
    """An engine in a world, with its own copy of the memory."""

    WAKES = 2

    def __init__(self, engine_name: str, world: World, *, engine=None, built: Built | None = None) -> None:  # type: ignore[no-untyped-def]
        built = built or build(world)
        self.name, self.config = engine_name, CONFIGS[built.config]
        self.engine = engine or create(engine_name, self.config)
        self.kind, self.a20 = built.kind, built.a20
        self.ram, self.first = bytearray(built.ram), built.ram
        self.special, self.top = built.special, bytearray(built.top)
        self.rom = bytearray(b"\x90" * 0x1FF0 + b"\xf4" * 16)
        self.generation = 0
        self.steps = self.instructions = 0
        self.wakes = self.WAKES
        self.ended: Exit | None = None
        #: What a device and the shim have seen, in order, element by element.
        self.seen: list[tuple[object, ...]] = []
        self.flushed = False
        self.written: set[int] = set()
        self.pending = False  # an answered question: the step that asked is paid
        self.asleep = False  # an interrupt is due before the next run
        self.remap()
        self.engine.set_state(built.state)

    def remap(self) -> None:
        """Set the same map again, as a new generation."""
        self.generation += 1
        backed = self.rom if self.kind is RegionKind.ROM else None
        kinds = RegionKind
        regions = [
            Region(DEVICE, DEVICE_SIZE, self.kind, backed),
            Region(ROM, 0x2000, kinds.ROM, self.rom),
            Region(FIRMWARE, 0x2000, kinds.FIRMWARE, self.rom),
        ]
        for page, kind in self.special.items():
            memory = self.ram if kind is kinds.ROM else None
            regions.append(Region(page << 12, 0x1000, kind, memory, page << 12 if memory else 0))
        regions.sort(key=lambda region: region.gpa)
        at = 0
        for region in (*regions, Region(RAM, 0x1000, kinds.MMIO)):
            if at < region.gpa:
                regions.append(Region(at, region.gpa - at, kinds.RAM, self.ram, at))
            at = region.gpa + region.size
        if self.top:
            regions.append(Region((1 << 32) - len(self.top), len(self.top), kinds.RAM, self.top))
        regions.sort(key=lambda region: region.gpa)
        self.engine.set_map(MemoryMap(self.generation, tuple(regions), self.a20))

    def restart(self) -> None:
        """Go on in a new engine, with what the old one's state says."""
        state = self.engine.get_state()
        self.engine.close()
        self.engine = create(self.name, self.config)
        self.remap()
        self.engine.set_state(state)
        self.pending = False

    def run(self, budget: int, **options) -> Exit:  # type: ignore[no-untyped-def]
        """Run once; keep what was seen.  A question is left open."""
        if self.asleep:
            self.asleep = False
            self.wakes -= 1
            self.engine.inject(EventType.EXTERNAL, 0x21 + self.wakes)
        end = self.engine.run(RunRequest(budget=budget, **options))
        self.pending = False
        self.steps += end.steps
        self.instructions += end.instructions
        self.flushed |= end.tlb_flush
        self.written.update(end.pages)
        self.seen += [("posted", *p) for p in end.posted]
        if end.reason is ExitReason.MEMORY_COPY:
            for source, target in zip(_places(end, end.address), _places(end, end.target), strict=True):
                self.seen.append((ExitReason.MMIO_READ, source, end.size, b"\0" * end.size))
                data = _given(ExitReason.MMIO_READ, source, end.size)
                posted = DEVICE <= target < DEVICE + DEVICE_SIZE and self.kind is RegionKind.COALESCED
                write: tuple[object, ...] = (ExitReason.MMIO_WRITE, target, end.size, data)
                self.seen.append(("posted", target, data) if posted else write)
        elif end.reason in QUESTIONS:
            data = end.data or b"\0" * end.size * end.count
            for n, at in enumerate(_places(end, end.address)):
                self.seen.append((end.reason, at, end.size, data[n * end.size : (n + 1) * end.size]))
        return end

    def answer(self, end: Exit) -> None:
        """Answer the question that ``end`` is."""
        data, fault = answer_to(end)
        if end.address >> 12 in self.special and end.reason in (ExitReason.MMIO_READ, ExitReason.MMIO_WRITE):
            data = self._special(end)
        self.engine.answer(data, fault=fault)
        self.pending = True

    def _special(self, end: Exit) -> bytes:
        """A device that holds what RAM would: a page of tables, of data or of code.  ROM takes no writes."""
        places = _places(end, end.address)
        if end.reason is ExitReason.MMIO_READ:
            return b"".join(bytes(self.ram[at : at + end.size]) for at in places)
        for n, at in enumerate(places):
            if self.special[at >> 12] is not RegionKind.ROM:
                self.ram[at : at + end.size] = end.data[n * end.size : (n + 1) * end.size]
                self.written.add(at >> 12)
        return b""

    def settle(self, end: Exit) -> None:
        """Do what is due after an exit: answer, wake from HLT (twice), or note that this is the end."""
        if end.reason in QUESTIONS:
            self.answer(end)
        elif end.reason is ExitReason.HALT and self.wakes and self._wakeable():
            self.asleep = True
        elif end.reason not in (ExitReason.BUDGET, ExitReason.KICKED):
            self.ended = end

    def _wakeable(self) -> bool:
        state = self.engine.get_state()
        return bool(state.rflags & 0x200) and not state.shadow and state.inject_type == 255 and state.activity == 1

    def advance(self, target: int) -> None:
        """Go to ``target`` steps in all, or to the end; REP of a port may go beyond in one step."""
        while self.ended is None and (self.steps < target or self.pending):
            self.settle(self.run(max(0, target - self.steps - self.pending)))

    def changed(self) -> list[str]:
        """Memory that differs from the beginning, 16 bytes a line."""
        out = []
        for page in range(0, RAM, 4096):
            if self.ram[page : page + 4096] != self.first[page : page + 4096]:
                for n in range(page, page + 4096, 16):
                    if self.ram[n : n + 16] != self.first[n : n + 16]:
                        out.append(f"{n:x}: {self.ram[n : n + 16].hex()}")
        return out

    def digest(self) -> int:
        """A checksum of the memory that has been reported as written."""
        out = 0
        for page in sorted(self.written):
            at = page * 4096
            if self.ram[at : at + 4096] != self.first[at : at + 4096]:
                out = zlib.crc32(self.ram[at : at + 4096], out ^ page)
        return out

    def close(self) -> None:
        """Free the engine."""
        self.engine.close()


def show(world: World) -> str:
    """A world in words, for a failing test."""
    built = build(world)
    code = "\n    ".join(c.hex(" ") for c in built.code)
    differ = compare(State.reset(), built.state)
    return f"{world!r}\n{built.config} {built.kind.name} a20={built.a20}\n    {code}\nfrom reset: {differ}"


def compare(first: State, second: State) -> str:
    """How two states differ, field by field; empty when they do not."""
    out = []
    for name in State.__dataclass_fields__:
        a, b = getattr(first, name), getattr(second, name)
        if a != b:
            out.append(f"{name}: {a} != {b}" if name != "fxsave" else name)
    return "; ".join(out)
