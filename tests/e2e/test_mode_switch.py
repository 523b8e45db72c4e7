"""The moments this project exists for, over the socket: in and out of protected mode with real-mode caches in force.

Code is given as bytes with its meaning beside it; addresses are linear.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from dm.machine.rules import Policy, failing
from dm.machine.state import Seg, Shadow, State
from dm.protocol.schema import DoneReason, Io, IoKind, Kind, Reason, Region
from dm.shim.answer import Answer
from dm.shim.client import Shim
from dm.shim.ram import Ram
from dm.shim.vcpu import Vcpu

SIZE = 1 << 20
GDT, TSS, STACK = 0x1000, 0x2000, 0x7000
CODE32, DATA32, TASK, DATA_BASED = 0x08, 0x10, 0x18, 0x20

SWITCH = bytes.fromhex(
    "0f20c0"  # mov eax, cr0
    "6683c801"  # or eax, 1
    "0f22c0"  # mov cr0, eax
)


def descriptor(base: int, limit: int, rights: int) -> bytes:
    """A descriptor; ``rights`` are its bits 40-55 with the limit's high nibble zero."""
    low = limit & 0xFFFF | (base & 0xFFFF) << 16
    high = base >> 16 & 0xFF | rights << 8 | (limit & 0xF0000) | base & 0xFF000000
    return low.to_bytes(4, "little") + high.to_bytes(4, "little")


@dataclass
class Machine:
    """A session with 1 MiB of RAM, a GDT, and one vCPU."""

    shim: Shim
    ram: Ram
    vcpu: Vcpu

    def put(self, address: int, data: bytes) -> None:
        self.ram.view[address : address + len(data)] = data

    def dword(self, address: int) -> int:
        return int.from_bytes(self.ram.view[address : address + 4], "little")


@pytest.fixture
def machine(endpoint: str) -> Iterator[Machine]:
    with Shim.connect(endpoint, name="mode-switch") as shim, Ram(SIZE) as ram:
        shim.set_map([Region(0, SIZE, Kind.RAM, shim.add_ram(ram))])
        machine = Machine(shim, ram, shim.create_vcpu(0))
        machine.put(GDT + CODE32, descriptor(0, 0xFFFFF, 0xC09A))
        machine.put(GDT + DATA32, descriptor(0, 0xFFFFF, 0xC092))
        machine.put(GDT + TASK, descriptor(TSS, 0x67, 0x89))
        machine.put(GDT + DATA_BASED, descriptor(0x30000, 0xFFFFF, 0xC092))
        yield machine


def real_mode(ip: int) -> State:
    """Real mode at 0:ip, all segments 0, GDT loaded, interrupts off."""
    state = State.reset()
    state.cs.selector, state.cs.base, state.rip = 0, 0, ip
    state.gdtr_base, state.gdtr_limit = GDT, 0x27
    state.esp = STACK
    return state


BTX = 0x600
BTX32 = 0x620


def btx(machine: Machine) -> State:
    """FreeBSD's BTX: DS holds selector 0 from real mode when 32-bit code reads through it."""
    machine.put(BTX, SWITCH + bytes.fromhex("ea20060800"))  # jmp 8:620h
    machine.put(
        BTX32,
        bytes.fromhex(
            "b910000000"  # mov ecx, 10h
            "8ed1"  # mov ss, cx
            "b118"  # mov cl, 18h
            "0f00d9"  # ltr cx
            "ff350c000000"  # push dword [0ch]
            "f4"  # hlt
        ),
    )
    machine.put(0xC, (0xCAFEF00D).to_bytes(4, "little"))
    return real_mode(BTX)


def test_btx_reads_linear_c_through_a_real_mode_ds(machine: Machine) -> None:
    state = btx(machine)
    done = machine.vcpu.run(state)
    assert done.reason is DoneReason.HALT
    assert machine.dword(STACK - 4) == 0xCAFEF00D
    assert (state.ds.selector, state.ds.base, state.ds.limit, state.ds.unusable) == (0, 0, 0xFFFF, 0)
    assert (state.ss.selector, state.ss.base, state.ss.limit, state.ss.attributes) == (DATA32, 0, 0xFFFFFFFF, 0xC093)
    assert (state.tr.selector, state.tr.base, state.tr.attributes) == (TASK, TSS, 0x8B)
    assert machine.ram.view[GDT + TASK + 5] == 0x8B, "LTR marks the descriptor busy in memory"
    assert machine.ram.view[GDT + DATA32 + 5] == 0x93, "loading sets the accessed bit in memory"
    assert (state.cpl, state.eip, done.instructions) == (0, BTX32 + 19, 10)


def test_btx_is_handed_back_after_the_far_jump(machine: Machine) -> None:
    """DS=0 as real mode left it is a good segment for VMX too: the far jump is all that entry waits for."""
    state = btx(machine)
    done = machine.vcpu.run(state, until="vmx", reason=Reason.INVALID_STATE, steps=2)
    assert done.reason is DoneReason.ENTERABLE, "one instruction in real mode, and the state is enterable again"
    done = machine.vcpu.run(state, steps=1)
    assert (done.reason, state.eip) == (DoneReason.BUDGET, BTX + 7)
    done = machine.vcpu.run(state, until="protected")
    assert (done.reason, state.eip, state.cs.selector) == (DoneReason.ENTERABLE, BTX32, CODE32)
    done = machine.vcpu.run(state)
    assert (done.reason, machine.dword(STACK - 4)) == (DoneReason.HALT, 0xCAFEF00D)


ENTRY = 0x800
ENTRY32 = 0x840


def linux_like(machine: Machine, ss: int) -> State:
    """[1] mov cr0, [2] ljmpl, then data segments one by one, [3] mov ss last."""
    machine.put(ENTRY, bytes.fromhex("0f22c066ea400800000800"))  # [1] mov cr0,eax; [2] jmp 8:00000840h
    machine.put(
        ENTRY32,
        bytes.fromhex(
            "b810000000"  # mov eax, 10h
            "8ed8"  # mov ds, ax
            "8ec0"  # mov es, ax
            "8ee0"  # mov fs, ax
            "8ee8"  # mov gs, ax
            "8ed0"  # [3] mov ss, ax
            "f4"
        ),
    )
    state = real_mode(ENTRY)
    state.eax = 0x60000011
    state.ss.selector, state.ss.base = ss, ss << 4
    # What such a loader finds in CS before it switches: a writable data type, as a VM86-style hypervisor leaves it.
    state.cs.attributes = 0x93
    return state


def test_entry_with_a_stack_segment_of_rpl_3_returns_after_mov_ss(machine: Machine) -> None:
    state = linux_like(machine, 0x9003)
    done = machine.vcpu.run(state, until="vmx", reason=Reason.FAILURE)
    assert done.reason is DoneReason.ENTERABLE
    assert state.eip == ENTRY32 + 15, "right behind [3]"
    assert state.shadow == Shadow.MOV_SS
    assert done.instructions == 8
    assert (state.ss.selector, state.cs.selector, state.cpl) == (DATA32, CODE32, 0)
    assert failing(state, Policy.VMX) == []


def test_entry_with_selectors_of_rpl_0_returns_at_the_far_jump(machine: Machine) -> None:
    state = linux_like(machine, 0x9000)
    done = machine.vcpu.run(state, until="vmx", reason=Reason.FAILURE)
    assert (done.reason, state.eip, done.instructions) == (DoneReason.ENTERABLE, ENTRY32, 2)
    assert (state.ss.selector, state.ss.base, state.ss.limit) == (0x9000, 0x90000, 0xFFFF)


@pytest.mark.parametrize(("ss", "steps"), [(0x9003, 8), (0x9000, 2)])
def test_the_rules_that_fail_at_each_step_are_reported(machine: Machine, ss: int, steps: int) -> None:
    state = linux_like(machine, ss)
    reported = []
    for _ in range(steps):
        done = machine.vcpu.run(state, steps=1, explain=True, until="vmx", reason=Reason.FAILURE)
        reported.append({f.rule for f in done.failing})
    assert "CS_TYPE" in reported[0], "[1]: CS still holds a data segment"
    assert all("CS_TYPE" not in names for names in reported[1:])
    if ss & 3:
        assert all({"SS_RPL", "SS_DPL"} <= names for names in reported[1:-1])
    assert reported[-1] == set()


def test_svm_takes_every_state_on_the_way(machine: Machine) -> None:
    """VMRUN has no segment rules: the mandatory instruction, and back."""
    state = linux_like(machine, 0x9003)
    for eip in (ENTRY + 3, ENTRY32, ENTRY32 + 5):
        done = machine.vcpu.run(state, until="svm", reason=Reason.FAILURE)
        assert (done.reason, state.eip, done.instructions) == (DoneReason.ENTERABLE, eip, 1)


def test_cpl_stays_0_between_mov_cr0_and_the_far_jump(machine: Machine) -> None:
    """CS.RPL is 3 in between, and privileged instructions run all the same."""
    machine.put(ENTRY - 3 + 0x30, bytes.fromhex("0f22c00f01e00f06ea40080800"))  # mov cr0; smsw ax; clts; jmp
    machine.put(ENTRY32, b"\xf4")
    state = real_mode(ENTRY - 3)
    state.cs.selector, state.cs.base = 3, 0x30
    state.eax = 0x60000011
    done = machine.vcpu.run(state)
    assert (done.reason, state.eip, state.cpl, state.ax) == (DoneReason.HALT, ENTRY32 + 1, 0, 0x11)


def collect(events: list[tuple[IoKind, int, bytes]], reply: bytes = b"") -> object:
    def on_io(io: Io) -> Answer:
        events.append((io.kind, io.address, io.data))
        return Answer(reply if io.kind is IoKind.MMIO_READ else b"")

    return on_io


def test_mmio_through_a_big_real_mode_segment(machine: Machine) -> None:
    """DS has a 4 GiB limit left from protected mode; the address is that of the local APIC's page."""
    machine.put(
        0x900, bytes.fromhex("67668b0d3000e0fe67c60510030008aaf4")
    )  # mov ecx,[fee00030h]; mov byte [8000310h],aa
    state = real_mode(0x900)
    state.ds.limit, state.ds.attributes = 0xFFFFFFFF, 0x8F93
    events: list[tuple[IoKind, int, bytes]] = []
    done = machine.vcpu.run(state, on_io=collect(events, b"\x78\x56\x34\x12"))  # type: ignore[arg-type]
    assert done.reason is DoneReason.HALT
    assert events == [(IoKind.MMIO_READ, 0xFEE00030, b""), (IoKind.MMIO_WRITE, 0x08000310, b"\xaa")]
    assert state.ecx == 0x12345678


def test_mmio_through_a_protected_mode_segment_with_a_base(machine: Machine) -> None:
    machine.put(0x920, bytes.fromhex("b8200000008ed8a340000e00f4"))  # mov eax,20h; mov ds,ax; mov [0e0040h],eax
    state = real_mode(0x920)
    state.cr0 |= 1
    state.cs.selector, state.cs.limit, state.cs.attributes = CODE32, 0xFFFFFFFF, 0xC09B
    events: list[tuple[IoKind, int, bytes]] = []
    done = machine.vcpu.run(state, on_io=collect(events))  # type: ignore[arg-type]
    assert done.reason is DoneReason.HALT
    assert events == [(IoKind.MMIO_WRITE, 0x30000 + 0xE0040, b"\x20\0\0\0")]
    assert (state.ds.selector, state.ds.base) == (DATA_BASED, 0x30000)


def test_back_to_real_mode_keeps_the_big_limit(machine: Machine) -> None:
    """Big real mode the way loaders make it: load DS in protected mode, clear PE, and reload only the selector."""
    machine.put(
        0xA00,
        SWITCH
        + bytes.fromhex(
            "bb1000"  # mov bx, 10h
            "8edb"  # mov ds, bx
            "6683e0fe"  # and eax, ~1
            "0f22c0"  # mov cr0, eax
            "31db"  # xor bx, bx
            "8edb"  # mov ds, bx
            "67c7050000080055aaf4"  # mov word [80000h], aa55h
        ),
    )
    state = real_mode(0xA00)
    done = machine.vcpu.run(state)
    assert done.reason is DoneReason.HALT
    assert (state.ds.selector, state.ds.base, state.ds.limit) == (0, 0, 0xFFFFFFFF)
    assert machine.ram.view[0x80000:0x80002] == b"\x55\xaa"
    assert state.seg[Seg.CS].attributes == 0x9B
