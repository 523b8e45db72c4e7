"""Random programs of what makes runs hard to cut: devices, code that writes itself, breakpoints, wraps at 4 GiB.

Cutting a run into pieces, and running it on the other engine, gives the same state, memory, device accesses and steps.
"""

from __future__ import annotations

import random

import pytest
from guest import CODE, Machine, make_engine, protected_mode, real_mode

from dm.engine.api import QUESTIONS, ExitReason, Region, RegionKind
from dm.machine.state import GROUPS, State, get_group

DEVICE, TOP = 0xA0000, 0xFFFFF000
STEPS = 60
SEEDS = 240
TF, DF = 1 << 8, 1 << 10


class Device:
    """Answers each element read by its number, and notes every element, so that blocks and single ones are the same."""

    def __init__(self) -> None:
        self.seen: list[tuple[object, ...]] = []

    def __call__(self, end) -> bytes:
        if end.reason is ExitReason.MEMORY_COPY:
            raise AssertionError("not asked for")
        data = b""
        for k in range(end.count):
            at = end.address if end.reason.startswith("port") else end.address + (-k if end.down else k) * end.size
            if end.reason in (ExitReason.PORT_IN, ExitReason.MMIO_READ):
                element = bytes((0x90 if len(self.seen) & 1 else 0xF3 + len(self.seen)) & 0xFF for _ in range(end.size))
                data += element
            else:
                element = end.data[k * end.size : (k + 1) * end.size]
            self.seen.append((end.reason, at, end.size, element))
        return data


def _string(r: random.Random) -> bytes:
    prefix = r.choice((b"\xf3", b"\xf3", b"\xf2", b"")) + r.choice((b"", b"", b"\x66"))
    return prefix + bytes([r.choice((0x6C, 0x6D, 0x6E, 0xA4, 0xA4, 0xA5, 0xAA, 0xAB, 0xAC, 0xA6, 0xAE))])


def program(r: random.Random, wide: bool) -> bytes:
    out = bytearray()
    for _ in range(r.randint(2, 7)):
        match r.randrange(8):
            case 0 | 1 | 2:
                out += _string(r)
            case 3:
                out += bytes([0xB9]) + r.randrange(1, 30).to_bytes(4 if wide else 2, "little")
            case 4:  # DI or SI near this code, or into the device
                to = r.choice((CODE + len(out) + r.randrange(-6, 14), CODE + r.randrange(40), DEVICE + r.randrange(64)))
                out += bytes([r.choice((0xBF, 0xBE))]) + (to & (0xFFFFFFFF if wide else 0xFFFF)).to_bytes(
                    4 if wide else 2, "little"
                )
            case 5:  # a byte of this program
                at = CODE + r.randrange(40)
                out += b"\xc6\x05" + at.to_bytes(4, "little") if wide else b"\xc6\x06" + at.to_bytes(2, "little")
                out += bytes([r.choice((0x90, 0xF3, 0xAA, 0x40, r.getrandbits(8)))])
            case 6:
                out += r.choice((b"\x40", b"\x90", b"\xfd", b"\xfc", b"\xeb\x00", b"\xe2\xfe", b"\x8e\xd1", b"\xcc"))
            case _:  # around 4 GiB, or the last bytes of a segment
                at = 0xFFF - r.randrange(5) if wide else 0xFFFF - r.randrange(5)
                out += bytes([r.choice((0xA1, 0xA3, 0xA0))]) + at.to_bytes(4 if wide else 2, "little")
    return bytes(out) + b"\xeb" + (256 - len(out) - 2 & 0xFF).to_bytes(1, "little") + b"\xf4"


def start(r: random.Random, wide: bool) -> State:
    s = protected_mode() if wide else real_mode()
    s.ecx, s.edx, s.eax = r.randrange(1, 40), 0x60, r.getrandbits(32)
    s.esi = r.choice((DEVICE, DEVICE + 8, 0x5000, CODE)) & (0xFFFFFFFF if wide else 0xFFFF)
    s.edi = r.choice((CODE - 4 + r.randrange(24), DEVICE, 0x5000, 0x5FF8)) & (0xFFFFFFFF if wide else 0xFFFF)
    s.rflags |= DF * (r.random() < 0.2) | TF * (r.random() < 0.15)
    if not wide:
        s.ds.base = r.choice((0, 0, DEVICE))
        if r.random() < 0.2:
            s.es.base = DEVICE
    if wide:
        s.ds.base = r.choice((0, 0, 0xFFFFF000))
        s.idtr_base, s.idtr_limit, s.gdtr_base, s.gdtr_limit = 0x3000, 0x7FF, 0x2000, 0x1F
        s.cs.selector, s.ss.selector = 8, 0x10
    if r.random() < 0.4:
        s.dr = [r.choice((0, 1, CODE + r.randrange(24), 0x1001, 0xFFFFFFFE, DEVICE, 0x60)) for _ in range(4)]
        kinds = [r.choice((0, 0, 1, 3, 2)) | r.choice((0, 1, 3)) << 2 for _ in range(4)]
        s.dr7 = 0x400 | r.getrandbits(8) | sum((kind & 3 and kind) << (16 + 4 * n) for n, kind in enumerate(kinds))
        s.cr4 |= 8 * r.getrandbits(1)
    if r.random() < 0.1:
        s.nmi_pending, s.debugctl = 1, r.choice((0, 2))
    if r.random() < 0.15:
        s.debugctl = 2
    return s


def execute(engine_name: str, seed: int, cuts: random.Random | None) -> tuple[object, ...]:
    """Run a program STEPS steps, in one piece or cut; return everything that can be seen of it."""
    r = random.Random(seed)
    wide = r.random() < 0.5
    vm = Machine(make_engine(engine_name))
    top = bytearray(0x1000)
    vm.remap(Region(DEVICE, 0x10000, RegionKind.MMIO), Region(TOP, 0x1000, RegionKind.RAM, top))
    handler = r.choice((b"\xcf", b"\x40\xcf", b"\xf4"))
    for vector in range(256):
        at = 0x1000 + 4 * vector
        vm.ram[4 * vector : 4 * vector + 4] = at.to_bytes(4, "little")
        vm.ram[at : at + len(handler)] = handler
        gate = (at & 0xFFFF) | 8 << 16 | 0x8E << 40
        vm.ram[0x3000 + 8 * vector : 0x3008 + 8 * vector] = gate.to_bytes(8, "little")
    vm.ram[0x2008:0x2018] = bytes.fromhex("ffff0000009bcf00 ffff00000093cf00")
    code = program(r, wide)
    vm.load(code, start(r, wide))
    device = Device()
    left, steps, paid, ends = STEPS, 0, 0, []
    while left > 0:
        piece = left if cuts is None else min(left, cuts.choice((1, 1, 2, 3, 7)))
        while True:
            end = vm.run(budget=max(piece, 0))
            steps += end.steps
            left -= end.steps - paid
            piece -= end.steps - paid
            paid = 0
            if end.reason not in QUESTIONS:
                break
            paid = end.count  # before its steps are reported
            left, piece = left - paid, piece - paid
            vm.engine.answer(device(end))
        if end.reason not in (ExitReason.BUDGET, ExitReason.KICKED):
            ends.append((end.reason, end.detail))
            break
    state = vm.state
    seen = {group: get_group(state, group) for group in GROUPS}
    vm.engine.close()
    return steps, ends, seen, bytes(vm.ram), bytes(top), device.seen, code.hex(" ")


@pytest.mark.parametrize("part", range(8))
def test_neither_cuts_nor_the_engine_change_anything(part: int) -> None:
    for seed in range(part * SEEDS // 8, (part + 1) * SEEDS // 8):
        whole = execute("native", seed, None)
        for name in ("native", "python"):
            for cuts in (None, random.Random(seed), random.Random(-seed)):
                got = execute(name, seed, cuts)
                for what, a, b in zip(("steps", "ends", "state", "memory", "top", "device"), whole, got, strict=False):
                    assert a == b, (what, seed, name, cuts is not None, whole[-1], _first(a, b))


def _first(a: object, b: object) -> object:
    if isinstance(a, bytes) and isinstance(b, bytes):
        return [(hex(n), x, y) for n, (x, y) in enumerate(zip(a, b, strict=True)) if x != y][:4]
    if isinstance(a, dict) and isinstance(b, dict):
        return {key: (a[key], b[key]) for key in a if a[key] != b[key]}
    return a, b


BLOCKS = [
    (b"\xf3\x6c\xf4", -2),
    (b"\xf3\x6c\xf4", 0),
    (b"\xf3\x6c\xf4", -11),
    (b"\xf3\xa4\xf4", -3),
    (b"\xf3\xa5\xf4", -4),
]


@pytest.mark.parametrize("budget", [1, 2, 1 << 40])
@pytest.mark.parametrize(("code", "before"), BLOCKS)
def test_a_block_ends_with_the_element_that_changes_its_own_instruction(engine_name, code, before, budget) -> None:
    """REP INSB or MOVS from a device over itself: what was read is what runs next."""
    vm = Machine(make_engine(engine_name))
    vm.remap(Region(DEVICE, 0x10000, RegionKind.MMIO))
    state = real_mode(ecx=12, edi=CODE + before, edx=0x60)
    state.ds.base = DEVICE
    vm.load(code, state)
    device = Device()
    steps = 0
    while (end := vm.run(budget=budget)).reason is not ExitReason.HALT:
        steps += end.steps
        if end.reason is not ExitReason.BUDGET:
            vm.engine.answer(b"\x90" * (end.size * end.count * (end.reason is not ExitReason.MMIO_WRITE)))
            device(end)
        assert steps < 200
    # Up to the first element over the instruction, which is NOP and a single string instruction from then on.
    unit = 2 if code[1] == 0xA5 else 1
    first = -before // unit + 1 if before < 0 else 1
    assert len(device.seen) - first in (0, 1)
    vm.engine.close()


def test_a_block_from_a_device_does_not_mind_decoded_code(engine_name) -> None:
    """REP MOVSB into a page that has been executed from: one question, as for any other page."""
    vm = Machine(make_engine(engine_name))
    vm.remap(Region(DEVICE, 0x10000, RegionKind.MMIO))
    vm.ram[0x6000:0x6003] = b"\x90\x90\xc3"
    state = real_mode(ecx=8, edi=0x6000)
    state.ds.base = DEVICE
    vm.load(b"\xe8" + (0x6000 - CODE - 3 & 0xFFFF).to_bytes(2, "little") + b"\xf3\xa4" + b"\xe8"
            + (0x6000 - CODE - 8 & 0xFFFF).to_bytes(2, "little") + b"\xf4", state)  # fmt: skip
    end = vm.run()
    assert (end.reason, end.count) == (ExitReason.MMIO_READ, 8)
    vm.engine.answer(b"\x40\x40\xc3" + bytes(5))
    assert vm.run().reason is ExitReason.HALT
    assert vm.state.eax & 0xFFFF == 2
    vm.engine.close()


def test_rf_is_clear_after_a_rep_that_overwrote_itself(engine_name) -> None:
    vm = Machine(make_engine(engine_name))
    vm.load("f3aa 90 90 f4", real_mode(ecx=4, edi=CODE, eax=0x90))
    assert vm.run(budget=40).reason is ExitReason.HALT
    assert not vm.state.rflags >> 16 & 1
    vm.engine.close()
