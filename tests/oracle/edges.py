"""What makes a world an uncommon one: breakpoints, wraps, device pages, code that changes, tables in ROM and devices.

Each edge changes a world that :mod:`worlds` has built, and has instructions of its own that go where it is.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

import worlds
from worlds import CODE, DEVICE, GDT, IDT, LDT, TASKS, TSS, Built, World, _le, _Writer

from dm.engine.api import RegionKind
from dm.machine.architecture import Cr4, Dr7, Eflags

TOP = 0xFFFFF000
#: Where data accesses of the edges go: around the ends of pages, of 64 KiB, and of what is special.
PLACES = (0x8FFC, 0x8FFD, 0x8FFE, 0x8FFF, 0x9000, 0x9001, 0x9002, 0x9FFE, 0xAFFF, 0xFFFC, 0xFFFD, 0xFFFE, 0xFFFF, 0)
PORTS = (0x60, 0x61, 0x20, 0x92)
_KINDS = (RegionKind.ROM, RegionKind.MMIO)

#: Read-modify-writes that take LOCK, with a memory operand and what follows it.
_LOCKED = (
    (b"\x00", 0, 0), (b"\x01", 0, 0), (b"\x11", 0, 0), (b"\x29", 0, 0), (b"\x31", 0, 0), (b"\x86", 0, 0),
    (b"\x87", 0, 0), (b"\x0f\xb0", 0, 0), (b"\x0f\xb1", 0, 0), (b"\x0f\xc0", 0, 0), (b"\x0f\xc1", 0, 0),
    (b"\x0f\xc7", 1, 0), (b"\x0f\xab", 0, 0), (b"\x0f\xba", 5, 1), (b"\x0f\xb3", 0, 0), (b"\xfe", 0, 0),
    (b"\xff", 0, 0), (b"\xf6", 2, 0), (b"\xf7", 3, 0), (b"\x80", 4, 1), (b"\x83", 6, 1),
)  # fmt: skip


def _place(r: random.Random) -> int:
    return r.choice((*PLACES, *PLACES, DEVICE + 1, DEVICE + 0xFFF, CODE + r.getrandbits(6), GDT + 0x10, IDT + 0x86))


def _data(r: random.Random, w: _Writer) -> bytes:
    """A load, store or change of any width, at any alignment."""
    opcode = r.choice((0x00, 0x01, 0x09, 0x31, 0x38, 0x39, 0x84, 0x87, 0x88, 0x89, 0x8A, 0x8B, 0x8F, 0xFF))
    reg = 0 if opcode == 0x8F else 6 if opcode == 0xFF else r.getrandbits(3)
    return r.choice((b"", b"", b"\x66", b"\x26", b"\x36", b"\x64")) + bytes([opcode]) + w.at(reg, _place(r))


def _lock(r: random.Random, w: _Writer) -> bytes:
    """LOCK, mostly misaligned, across lines and pages, in memory and on devices."""
    opcode, reg, immediate = r.choice(_LOCKED)
    code = r.choice((b"", b"\x66")) + b"\xf0" * (r.random() < 0.85) + opcode
    if not reg and opcode not in (b"\xfe", b"\xff"):
        reg = r.getrandbits(3)
    return code + w.at(reg, _place(r)) + bytes([r.getrandbits(8)] * immediate)


def _port(r: random.Random, w: _Writer) -> bytes:
    direct = bytes([r.choice((0xE4, 0xE5, 0xE6, 0xE7)), r.choice(PORTS)])
    string = w.load(2, r.choice(PORTS)) + w.load(1, 3) + w.load(7, 0x9000) + w.load(6, 0x9000)
    return (
        r.choice((b"", b"\x66")) + direct
        if r.random() < 0.6
        else string + r.choice((b"\xf3\x6c", b"\x6d", b"\xf3\x6f"))
    )


def _string(r: random.Random, w: _Writer) -> bytes:
    """A string between memory, devices, code and the ends of segments, up and down."""
    ends = (*PLACES, DEVICE, DEVICE + 0xFFE, CODE + r.getrandbits(5), CODE - 8, 0x8FE0)
    to = CODE + r.getrandbits(6) if r.random() < 0.3 else r.choice(ends)
    setup = w.load(1, r.choice((1, 2, 3, 9, 40))) + w.load(6, r.choice(ends)) + w.load(7, to)
    setup += r.choice((b"\xfc", b"\xfc", b"\xfd")) + r.choice((b"", b"", b"\x66", b"\x67"))
    return setup + r.choice((b"\xf3", b"\xf3", b"")) + bytes([r.choice((0xA4, 0xA5, 0xAA, 0xAB, 0xAC, 0xA6, 0xAE))])


def _stack(r: random.Random, w: _Writer) -> bytes:
    """Pushes and pops around the ends of the stack's segment."""
    code = r.choice((b"\x50\x50", b"\x60", b"\x58", b"\x9c", b"\xe8" + _le(0, w.word), b"\xc8\x04\x00\x01", b"\x61"))
    return w.load(4, r.choice((0, 1, 2, 3, 5, 0x8002, 0x9001, 0xFFFF, 0xFFFE))) + r.choice((b"", b"\x66")) + code


def _modify(r: random.Random, w: _Writer) -> bytes:
    """A store into the code ahead or behind, also across the end of a page of code."""
    target = r.choice((CODE + r.getrandbits(6), 0xCFFE, 0xCFFF, CODE + r.getrandbits(4)))
    size = r.choice((1, 1, 2, 4))
    value = bytes(r.choice((0x90, 0x40, 0x43, 0xF3, 0xCC)) for _ in range(size))
    if size == 1:
        return b"\xc6" + w.at(0, target) + value
    return (w.narrow if size == 2 else w.wide)(b"\xc7" + w.at(0, target) + value)


def _watch(r: random.Random, w: _Writer) -> bytes:
    """Set up a breakpoint."""
    number = r.randrange(4)
    address = r.choice((*PLACES, *PORTS, CODE + r.getrandbits(5), TOP + 0xFFE))
    control = 1 << 2 * number | (r.getrandbits(4) << 4 * number) << 16 | 0x400
    code = w.load(0, address) + b"\x0f\x23" + bytes([0xC0 | number << 3])
    return code + w.load(0, control) + b"\x0f\x23\xf8"


def _table(r: random.Random, w: _Writer) -> bytes:
    """What reads descriptors, gates and tasks, and writes their bits."""
    return r.choice((worlds._segment, worlds._segment, worlds._interrupt, worlds._far_jump))(r, w)


def _breakpoints(built: Built, r: random.Random) -> None:
    """Data, I/O and instruction breakpoints from the start."""
    state = built.state
    state.cr4 |= Cr4.DE if r.random() < 0.8 else 0
    state.dr7 = Dr7.FIXED | r.getrandbits(8)
    for n in range(4):
        kind = r.choice((0, 1, 2, 3, 3))
        state.dr7 |= (kind | r.getrandbits(2) << 2) << (16 + 4 * n)
        at = {0: CODE + r.getrandbits(5), 2: r.choice(PORTS)}.get(kind, r.choice((*PLACES, 0x77FC, 0x7A00, GDT)))
        state.dr[n] = at | (r.random() < 0.05) << 32


def _wrap_16(built: Built, r: random.Random) -> None:
    """Segments of 64 KiB whose ends are near, and a stack pointer near 0."""
    state = built.state
    for seg in state.seg[:6]:
        if seg is not state.cs and r.random() < 0.6:
            seg.limit = r.choice((0xFFFF, 0xFFFF, 0xFFFE, 0x9000, 0x8FFF))
            if state.cr0 & 1 and r.random() < 0.2:
                seg.attributes, seg.limit = seg.attributes & 0x40E0 | 0x97, r.choice((0x8FFE, 0xFFF0, 0))  # expand-down
    if r.random() < 0.5:
        state.esp = r.choice((0, 1, 2, 4, 0xFFFF))


def _wrap_32(built: Built, r: random.Random) -> None:
    """Segments that go round at 4 GiB, with memory on both sides; paged too."""
    state = built.state
    built.top = random.Random(1).randbytes(0x1000)
    at = TOP >> 12 & 0x3FF
    built.ram[worlds.DIRECTORY + 4 * at : worlds.DIRECTORY + 4 * at + 4] = _le(worlds.TABLE | 0x67, 4)
    built.ram[worlds.TABLE + 4 * at : worlds.TABLE + 4 * at + 4] = _le(r.choice((TOP, 0x9000)) | 0x67, 4)
    for table in (worlds.PAE_DIRECTORY, worlds.PAE_TABLE):
        entry = worlds.PAE_TABLE if table == worlds.PAE_DIRECTORY else TOP
        built.ram[table + 8 * 0x1FF : table + 8 * 0x200] = _le(entry | 0x67, 8)
    for seg in state.seg[:6]:
        if seg is not state.cs and r.random() < 0.7:
            seg.base, seg.limit = r.choice((TOP - 0x8000, TOP - 0x9000 + 2, 0xFFFF7000, 0xFFFF8001)), 0xFFFFFFFF
    if r.random() < 0.5:  # breakpoints on both sides, one byte or more
        state.dr7 = Dr7.FIXED | 0x55
        for n in range(4):
            state.dr7 |= (r.choice((1, 3, 3)) | r.choice((0, 0, 1, 2, 3)) << 2) << (16 + 4 * n)
            state.dr[n] = r.choice((0, 1, 2, TOP + 0xFFC, TOP + 0xFFF))


def _device_pages(built: Built, r: random.Random) -> None:
    """Pages of data that are a device's, or the hypervisor's."""
    kinds = (RegionKind.MMIO, RegionKind.MMIO, RegionKind.COALESCED, RegionKind.HYPERVISOR, RegionKind.ROM)
    for page in r.sample((0x7, 0x8, 0x9, 0xA, 0xF), r.choice((1, 1, 2))):
        built.special[page] = r.choice(kinds)


def _code_pages(built: Built, r: random.Random) -> None:
    """Code at the end of a page, on a device, or in ROM."""
    state = built.state
    if r.random() < 0.5:
        move = r.choice((0xFF0, 0xFE0, 0xFF8))
        state.rip += move
    if r.random() < 0.3:
        built.special[0xC + (r.random() < 0.5)] = r.choice(_KINDS)
    if r.random() < 0.5:  # something for strings to read from
        built.special[9] = RegionKind.MMIO


def _tables(built: Built, r: random.Random) -> None:
    """Descriptor tables, tasks, vectors and page tables in ROM and on devices."""
    pages = (GDT >> 12, LDT >> 12, IDT >> 12, TSS >> 12, TASKS[0] >> 12, worlds.HANDLERS >> 12, 0)
    paging = [table >> 12 for table in (worlds.DIRECTORY, worlds.TABLE, worlds.PAE_DIRECTORY, worlds.PAE_TABLE)]
    for page in r.sample((*pages, *paging) if r.random() < 0.5 else paging, r.choice((1, 1, 2, 3))):
        built.special[page] = r.choice(_KINDS)


def _alignment(built: Built, r: random.Random) -> None:
    """#AC at level 3."""
    built.state.cr0 |= 1 << 18
    built.state.rflags |= Eflags.AC if r.random() < 0.8 else 0


Kind = Callable[[random.Random, _Writer], bytes]
#: By name: what changes the world (None: nothing), and the instructions that go there.
EDGES: Final[dict[str, tuple[Callable[[Built, random.Random], None] | None, tuple[Kind, ...]]]] = {
    "breakpoints": (_breakpoints, (_data, _port, _string, _watch, _stack)),
    "wrap16": (_wrap_16, (_data, _string, _stack)),
    "wrap32": (_wrap_32, (_data, _string, _lock)),
    "devices": (_device_pages, (_data, _string, _lock, _stack)),
    "code": (_code_pages, (_modify, _string, _data)),
    "lock": (None, (_lock,)),
    "alignment": (_alignment, (_lock, _data, _string)),
    "tables": (_tables, (_table, _stack)),
}


def _hide_page_tables(built: Built) -> None:
    """Leave no way to change an entry without INVLPG: then either translation would be right (SDM vol. 3A, 4.10.2)."""
    for table, size in ((worlds.TABLE, 4), (worlds.PAE_TABLE, 8)):
        at = table + size * (worlds.ALIAS >> 12)
        built.ram[at : at + size] = bytes(size)
    for directory, size in ((worlds.DIRECTORY, 4), (worlds.PAE_DIRECTORY, 8)):  # the large page
        built.ram[directory + size : directory + 2 * size] = bytes(size)


def random_world(seed: int) -> World:
    """One uncommon world for each seed."""
    r = random.Random(f"edge {seed}")
    instructions = tuple(r.getrandbits(32) for _ in range(r.randint(2, 12)))
    names = tuple(sorted(r.sample(sorted(EDGES), r.choice((1, 2, 3, 3)))))
    mode = r.choice([mode for mode in worlds.MODES if mode != "scrambled"])
    return World(mode, r.getrandbits(32), instructions, r.choice(("", "", "32", "pae")), r.random() < 0.6, names)


def apply(world: World, built: Built, bits: int) -> None:
    """Make a world that has been built an uncommon one: memory, state, map and code."""
    r = random.Random(~world.seed)
    kinds = [kind for name in world.edges for kind in EDGES[name][1]]
    _hide_page_tables(built)
    for name in world.edges:
        change = EDGES[name][0]
        if change is not None:
            change(built, r)
    for n, seed in enumerate(world.instructions):
        own = random.Random(~seed)
        if own.random() < 0.75:
            built.code[n] = own.choice(kinds)(own, _Writer(bits))
