"""A small machine for the tests of both engines: one megabyte of RAM, real mode or flat protected mode, a program."""

import pytest

from dm.engine import create, native_status
from dm.engine.api import ExitReason, MemoryMap, Region, RegionKind, RunRequest
from dm.machine.state import State

RAM = 0x100000
CODE = 0x7C00
HLT = b"\xf4"
#: Where load_protected keeps its tables.
GDT, IDT, HANDLERS = 0x800, 0x2000, 0x3000


def make_engine(name, config=None):
    """An engine by name; skips where the native one is not built from these sources."""
    if name == "native" and not native_status()[0]:
        pytest.skip(native_status()[1])
    return create(name, config)


def real_mode(ip=CODE, **registers):
    """State after reset at 0000:ip, all segments 0, the IVT at 0."""
    s = State.reset()
    s.cr0, s.idtr_base, s.idtr_limit = 0x10, 0, 0x3FF
    s.cs.selector, s.cs.base, s.rip = 0, 0, ip
    s.esp = 0x7000
    for name, value in registers.items():
        setattr(s, name, value)
    return s


def protected_mode(eip=CODE, *, cpl=0, **registers):
    """Flat 32-bit protected mode without a GDT in memory."""
    s = real_mode(eip, **registers)
    s.cr0, s.cpl = 0x11, cpl
    for n, seg in enumerate(s.seg[:6]):
        seg.selector, seg.base, seg.limit = 8 * n + 8 | cpl, 0, 0xFFFFFFFF
        seg.attributes = 0xC093 | cpl << 5
    s.cs.attributes = 0xC09B | cpl << 5
    return s


class Machine:
    """An engine with memory; ``ram`` may be poked at any time."""

    def __init__(self, engine):
        self.engine = engine
        self.name = engine.name
        self.ram = bytearray(RAM)
        self.regions = [Region(0, RAM, RegionKind.RAM, self.ram)]
        self.a20 = True
        self.generation = 0
        for vector in range(256):  # handlers that halt, each at its own address 0:1000+vector
            self.ram[4 * vector : 4 * vector + 4] = (0x1000 + vector).to_bytes(4, "little")
        self.ram[0x1000:0x1100] = HLT * 256
        self.remap()

    def remap(self, *regions, a20=True):
        """Set the map to RAM and ``regions`` (which cut RAM short where they overlap)."""
        self.generation += 1
        ram = []
        at = 0
        for r in sorted(regions, key=lambda r: r.gpa):
            if at < r.gpa and at < RAM:
                ram.append(Region(at, min(r.gpa, RAM) - at, RegionKind.RAM, self.ram, at))
            at = max(at, r.gpa + r.size)
        if at < RAM:
            ram.append(Region(at, RAM - at, RegionKind.RAM, self.ram, at))
        self.engine.set_map(MemoryMap(self.generation, tuple(sorted([*ram, *regions], key=lambda r: r.gpa)), a20))

    def load(self, code, state=None, at=CODE, **registers):
        """Put code (bytes or hex) into memory and set the state (default: real mode there)."""
        code = bytes.fromhex(code) if isinstance(code, str) else code
        self.ram[at : at + len(code)] = code
        self.engine.set_state(state if state is not None else real_mode(at, **registers))

    def run(self, **options):
        return self.engine.run(RunRequest(**options))

    def until_halt(self, answers=None, **options):
        """Run to HLT; questions are answered by ``answers(exit) -> bytes`` (default: all ones).  Returns all exits."""
        exits = []
        while True:
            end = self.engine.run(RunRequest(**options))
            exits.append(end)
            if end.reason in (ExitReason.HALT, ExitReason.SHUTDOWN, ExitReason.UNSUPPORTED):
                assert end.reason is ExitReason.HALT, end
                return exits
            reads = end.reason in (ExitReason.PORT_IN, ExitReason.MMIO_READ, ExitReason.MSR_READ)
            self.engine.answer((answers(end) if answers else b"\xff" * end.size * end.count) if reads else b"")

    @property
    def state(self):
        return self.engine.get_state()

    def fault(self):
        """Vector of the exception whose handler has halted, None when the program's own HLT has."""
        at = self.state.eip - 1
        return at - 0x1000 if 0x1000 <= at < 0x1100 else None


def _descriptor(limit_low, access, flags):
    return (limit_low | access << 40 | flags << 48).to_bytes(8, "little")


def load_protected(vm, code, **registers):
    """Load a program for flat 32-bit ring 0 with an IDT of interrupt gates whose handlers halt."""
    vm.ram[GDT + 8 : GDT + 24] = _descriptor(0xFFFF, 0x9B, 0xCF) + _descriptor(0xFFFF, 0x93, 0xCF)
    for vector in range(256):
        gate = (HANDLERS + vector & 0xFFFF) | 8 << 16 | 0x8E << 40
        vm.ram[IDT + 8 * vector : IDT + 8 * vector + 8] = gate.to_bytes(8, "little")
        vm.ram[HANDLERS + vector] = 0xF4
    state = protected_mode(**registers)
    state.gdtr_base, state.gdtr_limit, state.idtr_base, state.idtr_limit = GDT, 0x17, IDT, 0x7FF
    state.cs.selector, state.ss.selector = 8, 0x10
    vm.load(code, state)


def pushed(vm):
    """Return (vector, image) of the event whose handler has halted; its frame is on top of the stack."""
    state = vm.state
    vector = state.eip - 1 - HANDLERS
    at = state.esp + (4 if vector in (8, 10, 11, 12, 13, 14, 17) else 0) + 8
    return vector, int.from_bytes(vm.ram[at : at + 4], "little")
