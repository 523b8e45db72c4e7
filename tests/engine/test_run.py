"""The run loop of both engines: ends, budgets, events, single steps, kicks."""

import dataclasses
import threading

import pytest
from guest import CODE, make_engine, protected_mode, real_mode

from dm.engine.api import CpuConfig, Engine, ExitReason, RunRequest, Until
from dm.machine.state import Activity, EventType, State

LOOP = "b90500 01c8 49 75fb f4"  # mov cx,5; l: add ax,cx; dec cx; jnz l; hlt: 17 steps


def test_it_is_an_engine(engine_name):
    engine = make_engine(engine_name)
    assert isinstance(engine, Engine)
    assert engine.name == engine_name
    engine.close()
    for call in (engine.get_state, engine.run, engine.kick, engine.answer, lambda: engine.set_state(State.reset())):
        with pytest.raises(ValueError, match="closed"):
            call()


def test_a_program_runs_to_its_halt(vm):
    vm.load(LOOP)
    end = vm.run()
    assert (end.reason, end.steps, end.instructions) == (ExitReason.HALT, 17, 17)
    s = vm.state
    assert (s.ax, s.cx, s.eip, s.activity) == (15, 0, CODE + 9, Activity.HALTED)


def test_a_halted_machine_stays_halted(vm):
    vm.load("f4")
    vm.run()
    before = vm.state
    end = vm.run()
    assert (end.reason, end.steps) == (ExitReason.HALT, 0)
    assert vm.state == before


@pytest.mark.parametrize("state", [real_mode(), State.reset(), protected_mode(cpl=3)])
def test_zero_steps_are_lossless(vm, state):
    state = state.copy()
    state.gpr[3] = 0xFEDCBA9876543210
    state.rip |= 0x123400000000
    state.rflags = 0xFFFFFFFF_00208AD7 ^ 2  # reserved bits, none of them TF
    state.shadow = 1
    state.pending_debug = 0x4000
    state.inject_type, state.inject_vector = EventType.EXTERNAL, 0x21
    vm.load("90", state)
    end = vm.run(budget=0)
    assert (end.reason, end.steps) == (ExitReason.BUDGET, 0)
    assert vm.state == state


def test_upper_halves_of_registers_survive(vm):
    state = real_mode()
    state.gpr[0] = 0x1122334455667788
    vm.load("66b801000000 b402 f4", state)
    vm.run()
    assert vm.state.rax == 0x1122334400000201


@pytest.mark.parametrize("first", range(18))
def test_a_budget_may_be_split(vm, first):
    vm.load(LOOP)
    end = vm.run(budget=first)
    if first < 17:
        assert (end.reason, end.steps) == (ExitReason.BUDGET, first)
        second = vm.run(budget=17 - first)
        assert end.steps + second.steps == 17
    whole = vm.state
    vm.load(LOOP)
    vm.run(budget=17)
    assert vm.state == whole


def test_stopping_anywhere_and_looking_changes_nothing(vm):
    program = "fc be0080 bf0090 b90700 f3a5 e80100 f4 50 b0ff 0402 58 c3"
    vm.load(program)
    vm.ram[0x8000:0x800E] = bytes(range(14))
    vm.run()
    whole, memory = vm.state, bytes(vm.ram)
    vm.ram[0x9000:0x900E] = bytes(14)
    vm.load(program)
    for _ in range(100):
        if vm.run(budget=1).reason is ExitReason.HALT:
            break
        state = vm.state
        vm.engine.set_state(state)
        assert vm.state == state
    assert vm.state == whole
    assert bytes(vm.ram) == memory


def test_rep_iterations_are_steps(vm):
    vm.load("f3aa f4", ecx=10, edi=0x8000, eax=0x55)
    end = vm.run(budget=4)
    assert (end.steps, end.instructions) == (4, 0)
    s = vm.state
    assert (s.cx, s.di, s.eip) == (6, 0x8004, CODE)
    end = vm.run(budget=6)
    assert (end.steps, end.instructions) == (6, 1)
    assert bytes(vm.ram[0x7FFF:0x800B]) == b"\0" + b"\x55" * 10 + b"\0"


def test_rep_with_a_count_of_zero_does_nothing(vm):
    vm.load("f3aa f4", ecx=0x10000, edi=0x8000, eax=0x55)
    end = vm.run(budget=1)
    assert (end.steps, end.instructions, vm.state.eip) == (1, 1, CODE + 2)
    assert vm.ram[0x8000] == 0


def test_a_fault_is_a_step_and_is_delivered_with_it(vm):
    vm.load("31c9 f7f1 90")  # xor cx,cx; div cx
    end = vm.run(budget=2)
    assert (end.steps, end.instructions) == (2, 1)
    s = vm.state
    assert (s.eip, s.sp) == (0x1000, 0x7000 - 6)
    frame = [int.from_bytes(vm.ram[s.sp + n : s.sp + n + 2], "little") for n in (0, 2, 4)]
    assert frame[:2] == [CODE + 2, 0]
    assert vm.engine.last_fault[:2] == (0, 0)


def test_nested_faults_end_in_shutdown(vm):
    state = real_mode()
    state.idtr_limit = 0  # no vector table: #UD, #GP, #DF, shutdown
    vm.load("0f0b", state)
    end = vm.run()
    assert (end.reason, end.steps, end.instructions) == (ExitReason.SHUTDOWN, 1, 0)
    s = vm.state
    assert (s.activity, s.eip, s.sp) == (Activity.SHUTDOWN, CODE, 0x7000)
    assert vm.run().reason is ExitReason.SHUTDOWN


def test_an_endless_chain_of_faults_uses_up_the_budget(vm):
    vm.ram[6 * 4 : 6 * 4 + 4] = (CODE).to_bytes(4, "little")
    vm.load("0f0b")
    end = vm.run(budget=1000)
    assert (end.reason, end.steps, end.instructions) == (ExitReason.BUDGET, 1000, 0)


@pytest.mark.parametrize(
    ("event", "vector"), [(EventType.EXTERNAL, 0x33), (EventType.NMI, 2), (EventType.EXCEPTION, 13)]
)
def test_an_injected_event_comes_before_the_next_instruction(vm, event, vector):
    vm.load("b80100 f4")
    vm.engine.inject(event, vector)
    with pytest.raises(ValueError, match="pending already"):
        vm.engine.inject(event, vector)
    vm.until_halt()
    s = vm.state
    assert (vm.fault(), s.ax, s.inject_type, s.sp) == (vector, 0, EventType.NONE, 0x7000 - 6)
    assert s.nmi_blocked == (event is EventType.NMI)


def test_an_event_wakes_a_halted_machine(vm):
    vm.load("f4 b80500 f4")
    vm.run()
    vm.engine.inject(EventType.EXTERNAL, 0x40)
    vm.run()
    assert vm.fault() == 0x40
    assert int.from_bytes(vm.ram[0x7000 - 6 : 0x7000 - 4], "little") == CODE + 1


def test_injection_is_checked(vm):
    for bad in ({"vector": 256}, {"vector": 1, "error": 1 << 32}):
        with pytest.raises(ValueError):
            vm.engine.inject(EventType.EXCEPTION, **bad)
    with pytest.raises(ValueError, match="NONE"):
        vm.engine.inject(EventType.NONE, 1)


def test_a_pending_nmi_is_taken_once(vm):
    state = real_mode()
    state.nmi_pending = 1
    vm.load("40 f4", state)
    vm.run()
    s = vm.state
    assert (vm.fault(), s.ax, s.nmi_pending, s.nmi_blocked) == (2, 0, 0, 1)


def test_single_step_traps_after_each_instruction(vm):
    vm.load("40 40 f4", rflags=0x102)
    vm.run()
    s = vm.state
    assert (vm.fault(), s.ax, s.dr6 & 0x4000, s.pending_debug) == (1, 1, 0x4000, 0)
    assert int.from_bytes(vm.ram[s.sp : s.sp + 2], "little") == CODE + 1


def test_a_fault_discards_the_single_step_trap(vm):
    vm.load("0f0b", rflags=0x102)
    vm.run()
    assert (vm.fault(), vm.state.pending_debug) == (6, 0)


def test_mov_ss_puts_the_trap_off_by_one_instruction(vm):
    vm.load("8ed0 40 40 f4", rflags=0x102, eax=0)
    vm.run()
    s = vm.state
    assert (vm.fault(), s.ax) == (1, 1)
    assert int.from_bytes(vm.ram[s.sp : s.sp + 2], "little") == CODE + 3


def test_rep_traps_after_each_iteration(vm):
    vm.load("f3aa f4", rflags=0x102, ecx=3, edi=0x8000)
    vm.run()
    s = vm.state
    assert (vm.fault(), s.cx) == (1, 2)
    assert int.from_bytes(vm.ram[s.sp : s.sp + 2], "little") == CODE


def test_an_instruction_breakpoint_faults_and_resume_passes_it(vm):
    state = real_mode()
    state.dr[0], state.dr7 = CODE + 1, 0x401
    vm.load("40 40 40 f4", state)
    vm.run()
    s = vm.state
    assert (vm.fault(), s.ax, s.dr6 & 15) == (1, 1, 1)
    state = real_mode(CODE + 1)
    state.dr[0], state.dr7, state.rflags = CODE + 1, 0x401, 0x10002
    vm.engine.set_state(state)
    end = vm.run(budget=1)
    s = vm.state
    assert (end.reason, s.eip, s.rflags & 0x10000) == (ExitReason.BUDGET, CODE + 2, 0)


@pytest.mark.parametrize(("control", "code", "hit"), [(1, "a20080", True), (1, "a00080", False), (3, "a00080", True)])
def test_data_breakpoints_trap_behind_the_access(vm, control, code, hit):
    state = real_mode()
    state.dr[1], state.dr7 = 0x8000, 0x400 | 1 << 2 | control << 20
    vm.load(code + "40 f4", state)
    vm.run()
    s = vm.state
    assert vm.fault() == (1 if hit else None)
    assert s.dr6 & 15 == (2 if hit else 0)
    if hit:
        assert int.from_bytes(vm.ram[s.sp : s.sp + 2], "little") == CODE + 3


def test_the_interrupt_window(vm):
    vm.load("fb 40 40 f4")
    end = vm.run(window=True)
    assert (end.reason, end.steps, vm.state.ax) == (ExitReason.INTERRUPT_WINDOW, 2, 1)
    assert vm.run(window=True).steps == 0
    assert vm.run().reason is ExitReason.HALT


def test_the_window_opens_in_halt(vm):
    vm.load("f4", rflags=0x202)
    assert vm.run().reason is ExitReason.HALT
    assert vm.run(window=True).reason is ExitReason.INTERRUPT_WINDOW


def test_a_kick_before_a_run_ends_it_once(vm):
    vm.load("ebfe")
    vm.engine.kick()
    assert (vm.run(budget=10).reason, vm.run(budget=10).reason) == (ExitReason.KICKED, ExitReason.BUDGET)


@pytest.mark.parametrize("code", ["ebfe", "b9ffff f3ac ebf9", "fb fa ebfc"])
def test_a_kick_from_another_thread_ends_an_endless_loop(vm, code):
    vm.load(code)
    timer = threading.Timer(0.05, vm.engine.kick)
    timer.start()
    end = vm.run()
    timer.join()
    assert end.reason is ExitReason.KICKED
    assert end.steps > 0


def test_until_protected_stops_behind_the_far_jump(vm):
    # lgdt [0x600]; mov eax,cr0; or al,1; mov cr0,eax; jmp 8:target
    target = CODE + 18
    code = bytes.fromhex("0f01160006 0f20c0 0c01 0f22c0 ea") + target.to_bytes(2, "little") + bytes.fromhex("0800 90")
    vm.ram[0x600:0x606] = (15).to_bytes(2, "little") + (0x608).to_bytes(4, "little")
    vm.ram[0x608:0x618] = bytes(8) + bytes.fromhex("ffff0000009bcf00")
    vm.load(code + b"\xf4")
    end = vm.run(until=Until.PROTECTED)
    s = vm.state
    assert (end.reason, end.steps, s.cs.selector, s.cs.base, s.eip) == (ExitReason.ENTERABLE, 5, 8, 0, target)
    assert s.cs.attributes == 0xC09B
    end = vm.run(until=Until.PROTECTED)
    assert (end.reason, end.steps) == (ExitReason.ENTERABLE, 0)
    end = vm.run(until=Until.PROTECTED, progress=True)
    assert (end.reason, end.steps) == (ExitReason.ENTERABLE, 1)  # no later, however plain the instruction


def test_svm_takes_any_state_at_once(vm):
    vm.load("40 f4")
    assert (vm.run(until=Until.SVM).reason, vm.state.ax) == (ExitReason.ENTERABLE, 0)
    end = vm.run(until=Until.SVM, progress=True)
    assert (end.reason, end.steps, vm.state.ax) == (ExitReason.ENTERABLE, 1, 1)


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("budget", -1, "budget is -1, 0 to 2"),
        ("budget", (1 << 62) + 1, "budget is 4611686018427387905, 0 to 2"),
        ("code", bytes(16), "code has 16 bytes, at most 15"),
        ("mmio", -1, "mmio is -0x1, an address of 64 bits"),
        ("mmio", 1 << 64, "mmio is 0x10000000000000000, an address of 64 bits"),
        ("stop_at", 1 << 32, "stop_at is 0x100000000, a linear address of 32 bits"),
        ("until", "soon", "until is 'soon', a member of Until"),
    ],
)
def test_a_request_out_of_range_is_refused(field, value, text):
    with pytest.raises(ValueError, match=text):
        RunRequest(**{field: value})


def test_a_request_is_used_again_and_keeps_its_code(vm):
    code = bytearray.fromhex("40")
    request = RunRequest(budget=1, code=code)
    code[0] = 0xF4
    vm.load("f4")
    for _ in range(2):
        assert vm.engine.run(request).reason is ExitReason.BUDGET
        vm.engine.set_state(dataclasses.replace(vm.state, rip=CODE))
    assert vm.state.ax == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        request.budget = 2


@pytest.mark.parametrize(("field", "value"), [("rip", 1 << 64), ("cpl", 4), ("cr0", -1), ("shadow", 4)])
def test_a_state_that_does_not_fit_is_refused_whole(vm, field, value):
    vm.load("90")
    before = vm.state
    bad = real_mode()
    bad.gpr[0] = 77
    setattr(bad, field, value)
    with pytest.raises(ValueError, match=field):
        vm.engine.set_state(bad)
    assert vm.state == before


def test_an_unknown_model_is_refused(engine_name):
    with pytest.raises(ValueError, match="8086"):
        make_engine(engine_name, CpuConfig(model="8086"))


def test_unsupported_leaves_the_state_as_before_the_instruction(vm):
    vm.load("40 0f33", protected_mode(cpl=0))
    end = vm.run()
    assert (end.reason, end.detail) == (ExitReason.UNSUPPORTED, "RDPMC")
    s = vm.state
    assert (s.eax, s.eip) == (1, CODE + 1)
