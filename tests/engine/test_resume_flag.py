"""RF in the image that an event pushes (SDM vol. 3B, 17.3.1.1), and in the state between two iterations of REP."""

import pytest
from guest import CODE, HANDLERS, IDT, load_protected, pushed

from dm.engine.api import ExitReason
from dm.machine.state import EventType

RF = 1 << 16


@pytest.mark.parametrize("opcode", ["f3a4", "f3a5", "f3ab", "f2ac", "f366a5", "f367aa", "f3a6", "f2af"])
def test_it_is_set_between_iterations_only(vm, opcode):
    load_protected(vm, opcode + "90 f4", ecx=4, esi=0x8000, edi=0x9000, eax=1 if opcode == "f2af" else 0)
    for done, rf in enumerate((0, RF, RF, RF, 0, 0)):
        assert (vm.state.rflags & RF, vm.state.ecx) == (rf, max(4 - done, 0))
        vm.run(budget=1)


def test_it_goes_to_another_engine_and_back(vm):
    load_protected(vm, "f3a4 90 f4", ecx=9, esi=0x8000, edi=0x9000)
    vm.run(budget=2)
    state = vm.state
    assert state.rflags & RF
    vm.engine.set_state(state)
    assert vm.run(budget=0).reason is ExitReason.BUDGET
    assert vm.state == state
    vm.run(budget=7)
    assert (vm.state.ecx, vm.state.rflags & RF, vm.state.eip) == (0, 0, CODE + 2)


@pytest.mark.parametrize(("done", "rf"), [(0, 0), (1, RF), (3, RF), (4, 0), (5, 0)])
def test_an_interrupt_between_iterations_pushes_it(vm, done, rf):
    load_protected(vm, "f3a4 90 f4", ecx=4, esi=0x8000, edi=0x9000, rflags=0x202)
    vm.run(budget=done)
    vm.engine.inject(EventType.EXTERNAL, 0x21)
    assert vm.run().reason is ExitReason.HALT
    assert pushed(vm) == (0x21, 0x202 | rf)
    assert vm.state.rflags & RF == 0


def test_single_step_traps_of_all_iterations_but_the_last_push_it(vm):
    load_protected(vm, "f3a4 90 ebfe", ecx=3, esi=0x8000, edi=0x9000, rflags=0x102)
    log, handler = 0x6000, 0x3800
    # push eax; push ebx; mov eax,[esp+16]; mov ebx,[log]; mov [ebx],eax; add dword [log],4; pop ebx; pop eax; iretd
    vm.ram[handler : handler + 24] = bytes.fromhex("5053 8b442410 8b1d00600000 8903 83050060000004 5b58cf")
    vm.ram[IDT + 8 : IDT + 10] = handler.to_bytes(2, "little")
    vm.ram[log : log + 4] = (log + 4).to_bytes(4, "little")
    vm.run(budget=60)
    images = [int.from_bytes(vm.ram[log + 4 * n : log + 4 * n + 4], "little") for n in range(1, 5)]
    assert images == [0x102 | RF, 0x102 | RF, 0x102, 0x102]


def test_a_breakpoint_on_a_repeated_instruction_strikes_before_the_first_iteration_only(vm):
    load_protected(vm, "90 f3a4 f4", ecx=5, esi=0x8000, edi=0x9000, dr=[CODE + 1, 0, 0, 0], dr7=0x402)
    vm.run()
    assert pushed(vm) == (1, 2)  # an instruction breakpoint is the fault that does not set it
    assert vm.state.ecx == 5
    # IRETD with RF set in the image: the handler's way past it
    load_protected(vm, "90 f3a4 f4", ecx=5, esi=0x8000, edi=0x9000, dr=[CODE + 1, 0, 0, 0], dr7=0x402)
    vm.ram[HANDLERS + 1 : HANDLERS + 9] = bytes.fromhex("814c240800000100")  # or dword [esp + 8], RF
    vm.ram[HANDLERS + 9] = 0xCF
    vm.run()
    assert (vm.state.eip, vm.state.ecx, vm.state.dr6 & 0xF) == (CODE + 4, 0, 1)


def test_a_breakpoint_strikes_again_after_an_interrupt_only_if_the_image_lost_it(vm):
    """An interrupt in the middle saves RF, its IRETD brings it back: no second breakpoint on the instruction."""
    load_protected(vm, "f3a4 f4", ecx=5, esi=0x8000, edi=0x9000, dr=[CODE, 0, 0, 0], dr7=0x402, rflags=0x10002)
    vm.ram[HANDLERS + 0x21] = 0xCF
    vm.run(budget=2)
    vm.engine.inject(EventType.EXTERNAL, 0x21)
    vm.run()
    assert (vm.state.eip, vm.state.ecx) == (CODE + 3, 0)
    assert vm.state.dr6 & 0xF == 0


@pytest.mark.parametrize(
    ("code", "vector"),
    [
        ("0f0b", 6),  # UD2
        ("f7f1", 0),  # DIV by 0
        ("8ed8", 13),  # MOV DS with a selector beyond the GDT
        ("0f23c0", 1),  # MOV DR0 with DR7.GD: general detect is a fault
    ],
)
def test_faults_push_it(vm, code, vector):
    load_protected(vm, code, eax=0x500, dr7=0x2400 if vector == 1 else 0x400)
    vm.run()
    assert pushed(vm) == (vector, 2 | RF)


@pytest.mark.parametrize(("code", "vector"), [("cd40", 0x40), ("cc", 3), ("ce", 4), ("f1", 1)])
def test_software_interrupts_and_traps_do_not(vm, code, vector):
    load_protected(vm, code, rflags=0x10802 if vector == 4 else 0x10002)
    vm.run()
    assert pushed(vm) == (vector, 0x802 if vector == 4 else 2)


def test_a_data_breakpoint_inside_rep_is_a_trap_that_pushes_it(vm):
    load_protected(vm, "f3aa f4", ecx=4, edi=0x9000, dr=[0x9001, 0, 0, 0], dr7=0x10402)  # write, one byte
    vm.run()
    assert pushed(vm) == (1, 2 | RF)
    assert (vm.state.ecx, vm.state.dr6 & 0xF) == (2, 1)


def test_a_fault_after_iterations_keeps_them(vm):
    load_protected(vm, "f3aa f4", ecx=4, edi=0x9000)
    state = vm.state
    state.es.limit = 0x9001
    vm.engine.set_state(state)
    vm.run()
    assert pushed(vm) == (13, 2 | RF)
    assert (vm.state.ecx, vm.state.edi) == (2, 0x9002)


def test_one_instruction_clears_it(vm):
    load_protected(vm, "90 90 f4", rflags=0x10002)
    vm.run(budget=0)
    assert vm.state.rflags & RF
    vm.run(budget=1)
    assert vm.state.rflags & RF == 0
