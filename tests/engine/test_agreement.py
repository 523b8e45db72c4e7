"""The two engines agree bit for bit: states, memory, exits, on random code in random states."""

import functools
import random

import pytest
from guest import RAM, Machine, make_engine, protected_mode, real_mode

from dm.engine.api import CpuConfig, ExitReason, Region, RegionKind
from dm.machine.state import EventType, State

#: Addresses that programs like to touch: the ends of segments and pages, tables, devices.
_PLACES = (0, 4, 0x7F, 0x80, 0x600, 0x1000, 0x7000, 0x7C00, 0x8FFE, 0x8FFF, 0xFFFC, 0xFFFE, 0xFFFF, 0x9FFFF, 0xA0000)
_VALUES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_PREFIXES = (0x66, 0x67, 0xF2, 0xF3, 0xF0, 0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65)


def _number(r, width=32):
    pick = r.random()
    value = r.choice(_PLACES) if pick < 0.4 else r.choice(_VALUES) if pick < 0.6 else r.getrandbits(r.randint(1, width))
    return value & (1 << width) - 1


def _code(r):
    """A few random instructions: any opcode, often with prefixes."""
    out = bytearray()
    for _ in range(r.randint(1, 6)):
        while r.random() < 0.25:
            out.append(r.choice(_PREFIXES))
        if r.random() < 0.25:
            out.append(0x0F)
        out.append(r.getrandbits(8))
        out += bytes(r.choice((r.getrandbits(8), 0, 0xFF, 0xC0 | r.getrandbits(6))) for _ in range(r.randint(0, 6)))
    return bytes(out)


def _state(r):
    """A random state, not always one that a CPU could reach."""
    at = r.choice((0x7C00, 0x7C00, 0x7FFA, 0x8FF8, 0xFFF0))
    kind = r.random()
    s = real_mode(at) if kind < 0.5 else protected_mode(at, cpl=r.choice((0, 0, 3)))
    for n in range(8):
        s.gpr[n] = _number(r, 64)
    s.esp = r.choice((0x7000, 0x7000, 0x7001, 2, 1, 0, 0x8FFF, _number(r)))
    s.rflags = 2 | r.getrandbits(12) & 0xCD5 | r.choice((0, 0x200)) | r.choice((0, 0x3000)) | (r.random() < 0.1) << 8
    if r.random() < 0.1:
        s.rflags |= r.choice((0x4000, 0x10000, 0x40000, 0x20000, 0x200000))
    if kind < 0.5:
        for seg in s.seg[:6]:
            if seg is not s.cs and r.random() < 0.6:
                seg.selector = r.choice((0, 0x40, 0x7C0, 0x9000, 0xFFFF, r.getrandbits(16)))
                seg.base = seg.selector << 4
            if seg is not s.cs and r.random() < 0.1:
                seg.limit = r.choice((0xFFFFFFFF, 0xFFF, 0x7FFF))
    else:
        for seg in s.seg[:6]:
            if r.random() < 0.3:
                seg.limit = r.choice((0xFFFF, 0x8FFF, 0xFFFFF, 0x7FFFFFFF))
            if r.random() < 0.1 and seg is not s.cs:
                seg.attributes = r.choice((0x0093, 0xC091, 0xC097, 0x4097, 0xC09B, 0xC099, 0xC013, 0xC0F3))
            if r.random() < 0.05 and seg is not s.cs and seg is not s.ss:
                seg.unusable, seg.selector = 1, 0
        if r.random() < 0.3:
            s.cs.attributes ^= 0x4000
        if s.rflags & 0x20000:
            s.cpl = 3
            for seg in s.seg[:6]:
                seg.base, seg.limit, seg.attributes, seg.unusable = seg.selector << 4, 0xFFFF, 0xF3, 0
        s.gdtr_base, s.gdtr_limit = 0x2000, 0x7F
        s.idtr_base, s.idtr_limit = r.choice((0x3000, 0x3000, 0)), r.choice((0x7FF, 0x3F, 0xFFFF))
        s.tr.base, s.tr.limit, s.tr.attributes, s.tr.selector = 0x5000, r.choice((0x67, 0x1067, 0x20)), 0x8B, 0x58
        if r.random() < 0.35:  # paging
            s.cr3, s.cr0 = 0x20000, s.cr0 | 1 << 31 | r.choice((0, 1 << 16))
            s.cr4 = r.choice((0, 0x10, 0x80))
    if r.random() < 0.07:
        s.dr7 = 0x400 | r.getrandbits(8) | r.getrandbits(16) << 16
        s.dr = [_number(r) for _ in range(4)]
        s.cr4 |= r.choice((0, 8))
    if r.random() < 0.05:
        s.inject_type, s.inject_vector = r.choice((0, 2, 3, 4)), r.getrandbits(6)
        s.inject_has_error = int(s.inject_type == EventType.EXCEPTION and s.inject_vector in (8, 10, 11, 12, 13, 14))
    if r.random() < 0.05:
        s.shadow = r.choice((1, 2))
    s.nmi_pending = int(r.random() < 0.03)
    if r.random() < 0.2:
        s.cr0 |= r.choice((4, 8, 0x40000, 0x20, 2))
    return s


def _descriptor(r):
    base, limit = r.choice((0, 0, 0x7000, 0xFFF00000)), r.choice((0xFFFFF, 0xFFFF, 0xFFF, 0))
    kind = r.choice((0x93, 0x9B, 0xF3, 0xFB, 0x92, 0x9F, 0x97, 0x99, 0x82, 0x89, 0x8B, 0x81, 0x83, 0x85, 0x84, 0x8C, 0))
    if kind & 0x1F in (4, 5, 12):
        offset, selector = _number(r), r.choice((8, 0x10, 0x18, 0x58, 0x43))
        return offset & 0xFFFF | selector << 16 | kind << 40 | (offset >> 16) << 48
    attributes = kind | r.choice((0xC000, 0x4000, 0, 0x8000))
    return limit & 0xFFFF | (base & 0xFFFFFF) << 16 | attributes << 40 | (limit >> 16) << 48 | (base >> 24) << 56


@functools.cache
def _tables(number):
    """Memory with vectors, descriptors, gates, a TSS and page tables, one of a few kinds."""
    r = random.Random(number)
    ram = bytearray(RAM)
    for vector in range(256):
        target = r.choice((0x1000 + vector, 0x1000 + vector, _number(r)))
        ram[4 * vector : 4 * vector + 4] = target.to_bytes(4, "little")
    ram[0x1000:0x1100] = b"\xf4" * 256
    for n in range(16):
        at = 0x2000 + 8 * n
        ram[at : at + 8] = _descriptor(r).to_bytes(8, "little")
    ram[0x2008:0x2018] = bytes.fromhex("ffff0000009bcf00 ffff00000093cf00")
    ram[0x2058:0x2060] = bytes.fromhex("67000050008b0000")
    for n in range(256):
        gate = r.choice((0x8E, 0x8F, 0xEE, 0x86, 0x87, 0xEF, 0x85, 0))
        entry = 0x1000 + n | (0x58 if gate == 0x85 else 8) << 16 | gate << 40
        ram[0x3000 + 8 * n : 0x3008 + 8 * n] = entry.to_bytes(8, "little")
    ram[0x5000:0x5080] = bytes(r.choice((0, 0, 8, 0x10, 0x70, r.getrandbits(8))) for _ in range(0x80))
    ram[0x5004:0x500A] = (0x6F00).to_bytes(4, "little") + (0x10).to_bytes(2, "little")
    # One directory entry for everything, its table: mostly identity.  Accessed bits are set already: when they are set
    # for a fetch that may or may not come is an engine's own business.
    for n in range(256):
        entry = n << 12 | r.choice((0x27, 0x27, 0x27, 0x27, 0x67, 0x23, 0x25, 0x21, 0))
        ram[0x21000 + 4 * n : 0x21004 + 4 * n] = entry.to_bytes(4, "little")
    ram[0x20000:0x20004] = (0x21027).to_bytes(4, "little")
    return bytes(ram)


def _memory(r, code, state):
    ram = bytearray(_tables(r.randrange(32)))
    for n in range(1, 16):
        if r.random() < 0.2:
            ram[0x2010 + 8 * n : 0x2018 + 8 * n] = _descriptor(r).to_bytes(8, "little")
    for place in (0x6F00, 0x6FF0, 0x8000, 0x8FF0, 0xFFE0):
        ram[place : place + 32] = bytes(r.choice((0, 8, 0x10, r.getrandbits(8))) for _ in range(32))
    at = state.cs.base + state.eip
    ram[at : at + len(code)] = code
    return ram


def _run(machine, seed):
    """Everything that can be seen of one random case: a list of texts."""
    r = random.Random(seed)
    code, state = _code(r), _state(r)
    memory = _memory(r, code, state)
    machine.ram[:] = memory
    backed = {RegionKind.ROM, RegionKind.FIRMWARE}
    kind = r.choice((RegionKind.MMIO, RegionKind.COALESCED, RegionKind.HYPERVISOR, *sorted(backed)))
    backing = bytearray(b"\x90" * 8192) if kind in backed else None
    place = r.choice((0xA0000, 0xA0000, 0x9000, 0x8000))
    machine.remap(Region(place, 0x2000, kind, backing), a20=r.random() < 0.8)
    machine.engine.set_state(state)
    seen = [f"code {code.hex()} {kind.name}"]
    options = {"window": r.random() < 0.1, "progress": r.random() < 0.1}
    if r.random() < 0.03:
        options["code"] = _code(r)[:15]
    if r.random() < 0.03:
        options["mmio"] = place + r.choice((0, 0xFFF))
    for _ in range(20):
        end = machine.run(budget=r.choice((1, 3, 30)), **options)
        options = {}
        seen.append(repr(end))
        seen.append(repr(machine.engine.get_state()))
        if end.reason in (ExitReason.PORT_IN, ExitReason.MMIO_READ, ExitReason.MSR_READ):
            if end.reason is ExitReason.MSR_READ and r.random() < 0.3:
                machine.engine.answer(fault=True)
            else:
                machine.engine.answer(r.randbytes(end.size * end.count))
        elif end.reason in (ExitReason.PORT_OUT, ExitReason.MMIO_WRITE, ExitReason.MSR_WRITE):
            machine.engine.answer()
        elif end.reason is not ExitReason.BUDGET:
            break
    pages = [n for n in range(0, RAM, 4096) if machine.ram[n : n + 4096] != memory[n : n + 4096]]
    changed = [n for p in pages for n in range(p, p + 4096, 16) if machine.ram[n : n + 16] != memory[n : n + 16]]
    seen += [f"{n:x}: {machine.ram[n : n + 16].hex()}" for n in changed]
    seen.append(repr(machine.engine.last_fault))
    return seen


def compare(machines, seed):
    """Return what differs, engine by engine; empty when they agree."""
    first, second = (_run(machine, seed) for machine in machines)
    if first == second:
        return []
    out = [f"seed {seed}, {first[0]}"]
    for a, b in zip(first, second, strict=False):
        if a != b:
            out += [f"native: {a}", f"python: {b}"]
            break
    return out


@pytest.mark.parametrize("part", range(8))
def test_random_code_in_random_states(both, part):
    """1,600 cases; a failing one is named by its seed."""
    wrong = [lines for seed in range(part * 200, part * 200 + 200) if (lines := compare(both, seed))]
    assert not wrong, "\n".join("\n".join(lines) for lines in wrong[:3])


def test_the_default_state_agrees():
    states = []
    for name in ("native", "python"):
        engine = make_engine(name, CpuConfig())
        states.append(engine.get_state())
        engine.close()
    assert states[0] == states[1] == State.reset()


def test_the_comparison_sees_a_difference(both, monkeypatch):
    monkeypatch.setattr(both[1], "remap", lambda *regions, a20=True: Machine.remap(both[1], a20=True))
    assert any(compare(both, seed) for seed in range(60))
