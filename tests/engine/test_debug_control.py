"""IA32_DEBUGCTL.BTF, rows of MOV SS, NMI in shutdown, breakpoints in their own handler: on both engines."""

from __future__ import annotations

import pytest
from guest import CODE, Machine, load_protected, make_engine, real_mode

from dm.engine.api import CpuConfig, CpuidEntry, ExitReason
from dm.isa.parts import PARTS
from dm.machine.state import Activity, EventType

TF, BS, BTF, LBR = 1 << 8, 1 << 14, 2, 1
STACK = 0x7000


@pytest.fixture
def vm(engine_name: str):
    machine = Machine(make_engine(engine_name))
    yield machine
    machine.engine.close()


def traps(vm: Machine, code: str, *, debugctl: int, cpu: str = "intel", **registers: int) -> list[int]:
    """Run with TF set until HLT; the #DB handler notes nothing and returns.  Returns the offsets trapped at."""
    part = PARTS[cpu]
    vm.engine.close()
    vm.engine = make_engine(vm.name, CpuConfig(tuple(CpuidEntry(*key, *row) for key, row in part.cpuid.items())))
    vm.remap()
    state = real_mode(debugctl=debugctl, **registers)
    state.rflags |= TF
    vm.load(code, state)
    found = []
    for _ in range(40):
        vm.run(budget=1)
        state = vm.state
        if state.activity == Activity.HALTED and vm.fault() == 1:
            frame = state.esp
            found.append(int.from_bytes(vm.ram[frame : frame + 2], "little") - CODE)
            back = real_mode(CODE + found[-1], debugctl=debugctl, esp=frame + 6)
            back.gpr[:4] = state.gpr[:4]
            back.rflags = int.from_bytes(vm.ram[frame + 4 : frame + 6], "little")
            assert state.debugctl & (BTF | LBR) == 0
            assert state.dr6 & BS
            vm.engine.set_state(back)
        elif state.activity == Activity.HALTED:
            break
    return found


def test_tf_traps_each_instruction_without_btf(vm: Machine) -> None:
    assert traps(vm, "40 40 eb00 7500 f4", debugctl=0) == [1, 2, 4, 6]  # and behind HLT


def test_btf_traps_behind_branches_only(vm: Machine) -> None:
    """A jump, one that is not made (ZF=0 after INC), LOOP, CALL, RET; INC between them (SDM vol. 3B, 17.4.3)."""
    assert traps(vm, "40 eb00 40 7400 40 7500 f4", debugctl=BTF | LBR) == [3, 9]
    assert traps(vm, "e80100 f4 c3", debugctl=BTF) == [4, 3]
    assert traps(vm, "ea057c0000 40 f4", debugctl=BTF) == [5]  # far, to the next instruction
    assert traps(vm, "e2fe f4", debugctl=BTF, ecx=3) == [0, 0]


def test_repeated_strings_are_no_branches(vm: Machine) -> None:
    assert traps(vm, "f3aa eb00 f4", debugctl=BTF, ecx=4, edi=0x6000) == [4]


@pytest.mark.parametrize(("cpu", "expected"), [("intel", [4, 5]), ("amd", [6, 7])])
def test_a_row_of_mov_ss(vm: Machine, cpu: str, expected: list[int]) -> None:
    """Only the first is promised a shadow: Intel's parts trap behind the second, AMD's shadow each (measured)."""
    got = traps(vm, "8ed1 8ed1 40 40 f4" if cpu == "intel" else "8ed1 8ed1 8ed1 f4", debugctl=0, cpu=cpu)
    if cpu == "intel":
        assert got[0] == 4
    else:
        assert got == [7] or got == []  # behind HLT, if at all


@pytest.mark.parametrize("code", ["8ed1 8ed1 8ed1 f4", "17 17 17 f4"])
def test_an_nmi_is_held_back_by_the_first_load_of_ss_only(vm: Machine, code: str) -> None:
    state = real_mode()
    state.nmi_pending, state.shadow = 1, 2
    vm.load(code, state)
    vm.run(budget=2)
    at = vm.state.esp
    assert int.from_bytes(vm.ram[at : at + 2], "little") == CODE + (2 if code.startswith("8e") else 1)


def test_an_nmi_leaves_shutdown(vm: Machine) -> None:
    state = real_mode(activity=int(Activity.SHUTDOWN))
    vm.load("f4", state)
    assert vm.run(budget=5).reason is ExitReason.SHUTDOWN
    state.nmi_pending = 1
    vm.load("f4", state)
    assert vm.run(budget=5).reason is ExitReason.HALT
    assert (vm.fault(), vm.state.nmi_blocked, vm.state.activity) == (2, 1, Activity.HALTED)
    state.nmi_blocked = 1
    vm.load("f4", state)
    assert vm.run(budget=5).reason is ExitReason.SHUTDOWN
    assert vm.state.nmi_pending == 1
    vm.engine.set_state(real_mode(activity=int(Activity.SHUTDOWN)))
    vm.engine.inject(EventType.NMI, 2)
    assert vm.run(budget=5).reason is ExitReason.HALT
    vm.engine.set_state(real_mode(activity=int(Activity.SHUTDOWN)))
    vm.engine.inject(EventType.EXTERNAL, 0x20)
    assert vm.run(budget=5).reason is ExitReason.SHUTDOWN


@pytest.mark.parametrize("cut", [1, 3, 10])
def test_a_breakpoint_inside_its_own_handler(vm: Machine, cut: int) -> None:
    """Ten steps push the same number of frames however the run is cut."""
    load_protected(vm, "9090f4", dr7=0x401, esp=0x8000)
    state = vm.state
    state.dr[0] = 0x3001  # the handler of #DB
    state.rflags |= TF
    vm.engine.set_state(state)
    done = 0
    while done < 10:
        done += vm.run(budget=min(cut, 10 - done)).steps
    assert done == 10
    assert (0x8000 - vm.state.esp) // 12 == 10


def test_a_wrapping_read_meets_a_breakpoint_at_0(vm: Machine) -> None:
    """MOV EAX at linear FFFFFFFEh: its last two bytes are at 0 and 1."""
    for dr0, expected in ((0, 1), (1, 1), (2, 0), (0xFFFFFFFE, 1), (0xFFFFFFFD, 0), (1 << 32, 0)):
        load_protected(vm, "a1fe000000 90 f4", dr7=0x401 | 3 << 16)
        state = vm.state
        state.dr[0], state.ds.base = dr0, 0xFFFFFF00
        vm.engine.set_state(state)
        while (end := vm.run(budget=5)).reason is ExitReason.MMIO_READ:
            vm.engine.answer(bytes(end.size))
        state = vm.state
        assert state.eip == (0x3002 if expected else CODE + 7), hex(dr0)
        assert state.dr6 & 15 == expected


def test_cr4_cet_is_left_to_the_hypervisor(vm: Machine) -> None:
    load_protected(vm, "90f4", cr4=1 << 23)
    end = vm.run(budget=5)
    assert (end.reason, end.detail, end.steps) == (ExitReason.UNSUPPORTED, "CET", 0)


@pytest.mark.parametrize("code", ["0f01c1", "0f01d9"])
def test_calls_of_the_hypervisor_end_the_run_before_them(vm: Machine, code: str) -> None:
    cpu = "intel" if code == "0f01c1" else "amd"
    rows = tuple(CpuidEntry(*key, *row) for key, row in PARTS[cpu].cpuid.items())
    vm.engine.close()
    vm.engine = make_engine(vm.name, CpuConfig(rows))
    vm.remap()
    vm.load("40" + code + "f4")
    end = vm.run(budget=9)
    name = "VMCALL" if cpu == "intel" else "VMMCALL"
    assert (end.reason, end.address, end.detail, end.instructions) == (ExitReason.HYPERVISOR, 0, name, 1)
    assert vm.state.eip == CODE + 1
