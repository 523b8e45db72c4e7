"""dm.Emulator: state, memory, runs, questions, events; over either engine."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

import pytest

import dm.machine.state
from dm import Answer, Emulator, EventType, ExitReason, MemoryMap, Region, RegionKind, State, Until
from dm.engine import native_status
from dm.shim import Kind, OwnDaemon, Ram, Shim
from dm.shim import Region as ShimRegion

RAM = 0x20000


@pytest.fixture(params=["native", "python"])
def engine(request):
    if request.param == "native" and not native_status()[0]:
        pytest.skip(native_status()[1])
    return request.param


def state(**registers):
    made = State.reset()
    made.cs.selector, made.cs.base, made.rip, made.esp = 0, 0, 0x7C00, 0x7000
    made.idtr_base, made.idtr_limit = 0, 0x3FF
    for name, value in registers.items():
        setattr(made, name, value)
    return made


@pytest.fixture
def vm(engine):
    with Emulator(RAM, state(), engine=engine) as made:
        yield made


@pytest.fixture(scope="module")
def client():
    """A vCPU in a daemon."""
    with OwnDaemon() as daemon, Ram(RAM) as ram, Shim.connect(daemon.endpoint) as shim:
        shim.set_map([ShimRegion(0, RAM, Kind.RAM, shim.add_ram(ram))])
        yield shim.create_vcpu(0)


def load(vm, code):
    vm.write(0x7C00, bytes.fromhex(code))


def test_names_are_there_and_lazy():
    code = "import sys, dm; assert 'dm.engine' not in sys.modules; dm.Emulator; assert 'dm.engine' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert set(dm.__all__) <= set(dir(dm))
    assert all(getattr(dm, name) is not None for name in dm.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Emulato'"):
        dm.Emulato  # noqa: B018


def test_the_names_of_the_client_are_there():
    import dm.shim

    assert all(getattr(dm.shim, name) is not None for name in dm.shim.__all__)
    assert set(dm.shim.__all__) <= set(dir(dm.shim))
    with pytest.raises(AttributeError):
        dm.shim.Shimm  # noqa: B018


def test_runs_to_halt(vm, engine):
    load(vm, "0402 f4")
    end = vm.run()
    assert (vm.engine, end.reason, end.instructions, vm.state.eax) == (engine, ExitReason.HALT, 2, 2)


def test_state_goes_in_and_out_unchanged(vm):
    given = state(rax=0x1122334455667788, cr2=0xDEAD, fxsave=bytes(range(256)) * 2)
    vm.state = given
    assert vm.run(budget=0).reason is ExitReason.BUDGET
    assert vm.state == given
    with pytest.raises(TypeError, match="state is dict"):
        vm.state = {}
    given.es.limit = 1 << 32
    with pytest.raises(ValueError, match=r"\.limit"):
        vm.state = given


def test_questions_one_by_one(vm):
    load(vm, "e460 e680 f4")
    asked = vm.run()
    assert vm.question is not None
    assert (asked.reason, asked.address, asked.size, asked.count) == (ExitReason.PORT_IN, 0x60, 1, 1)
    with pytest.raises(ValueError, match="port-in is open: answer it first"):
        vm.run()
    with pytest.raises(ValueError, match="2 bytes, 1 are needed"):
        vm.answer(b"12")
    vm.answer(b"\x1c")
    assert vm.question is None
    asked = vm.run()
    assert (asked.reason, asked.address, asked.data) == (ExitReason.PORT_OUT, 0x80, b"\x1c")
    vm.answer()
    assert vm.run().reason is ExitReason.HALT
    with pytest.raises(ValueError, match="no question is open"):
        vm.answer()


def test_a_new_state_abandons_a_question(vm):
    load(vm, "e460 f4")
    vm.run()
    vm.state = state(rip=0x7C02)
    assert vm.question is None
    assert vm.run().reason is ExitReason.HALT


@pytest.mark.parametrize(
    ("budget", "reason", "steps", "elements"), [(7, ExitReason.BUDGET, 7, 4), (99, ExitReason.HALT, 9, 5)]
)
def test_a_budget_counts_over_questions(vm, budget, reason, steps, elements):
    load(vm, "b90500 bf0020 ba6000 f36c f4")  # three moves, five INSB in one question, HLT
    seen = []
    end = vm.run(budget=budget, on_io=lambda io: seen.append(io.count) or bytes(io.size * io.count))
    assert (end.reason, end.steps, seen) == (reason, steps, [elements])


def test_two_questions_of_one_instruction_cost_one_step(vm):
    vm.memory = [Region(0, 0x10000, RegionKind.RAM, bytearray(0x10000))]
    cpu = state()
    cpu.ds.base = 0x20000
    vm.state = cpu
    load(vm, "8006000001 ebfe")  # add byte [0], 1 on a device: read and write
    seen = []

    def device(io):
        seen.append(io.reason)
        return b"\x41" if io.reason is ExitReason.MMIO_READ else None

    end = vm.run(budget=2, on_io=device)
    assert (end.reason, end.steps, seen) == (ExitReason.BUDGET, 2, [ExitReason.MMIO_READ, ExitReason.MMIO_WRITE])


def test_an_answer_stops_behind_its_instruction(vm):
    load(vm, "e460 90 f4")
    end = vm.run(on_io=lambda io: Answer(b"\x55", stop=True))
    assert (end.reason, end.steps, vm.state.rip, vm.state.eax) == (ExitReason.KICKED, 1, 0x7C02, 0x55)


def test_an_answer_may_change_the_map(vm):
    load(vm, "e460 a00000 f4")  # in al, 60h; mov al, [0]
    ds = vm.state
    ds.ds.base = 0x30000
    vm.state = ds
    more = bytearray(b"\x77" * 4096)
    bigger = MemoryMap(9, (*vm.memory.regions, Region(0x30000, 4096, RegionKind.RAM, more)))
    assert vm.run(on_io=lambda io: Answer(b"\0", memory=bigger)).reason is ExitReason.HALT
    assert vm.state.eax == 0x77
    assert vm.memory is bigger


def test_an_msr_may_be_refused(vm):
    load(vm, "66b934120000 0f32 f4")
    vm.write(13 * 4, bytes.fromhex("00100000"))
    vm.write(0x1000, b"\xf4")
    assert vm.run(on_io=lambda io: Answer(fault=True)).reason is ExitReason.HALT
    assert vm.state.rip == 0x1001


def test_what_the_function_raises_leaves_its_question_open(vm):
    load(vm, "e460 f4")

    def broken(io):
        raise OSError("no device")

    with pytest.raises(OSError, match="no device"):
        vm.run(on_io=broken)
    vm.answer(b"\x01")
    assert vm.run().reason is ExitReason.HALT


def test_until_and_progress(vm):
    load(vm, "90 f4")
    assert vm.run("vmx-ug").reason is ExitReason.ENTERABLE
    end = vm.run(Until.VMX_UG, progress=True)
    assert (end.reason, end.steps) == (ExitReason.ENTERABLE, 1)


def test_an_event_is_delivered_first(vm):
    vm.write(4 * 0x21, bytes.fromhex("00100000"))
    vm.write(0x1000, b"\xf4")
    vm.inject(EventType.EXTERNAL, 0x21)
    with pytest.raises(ValueError, match="an event is pending already"):
        vm.inject("external", 0x21)
    assert vm.run().reason is ExitReason.HALT
    assert vm.state.rip == 0x1001
    with pytest.raises(ValueError, match="event is 'irq', one of external, nmi"):
        vm.inject("irq", 1)


def test_the_window(vm):
    load(vm, "fb 90 90 f4")
    end = vm.run(window=True)
    assert (end.reason, vm.state.rip) == (ExitReason.INTERRUPT_WINDOW, 0x7C02)


def test_kick_from_another_thread(vm):
    load(vm, "ebfe")
    timer = threading.Timer(0.05, vm.kick)
    timer.start()
    assert vm.run().reason is ExitReason.KICKED
    timer.join()


def test_given_bytes_and_mmio(vm):
    vm.memory = [Region(0, 0x10000, RegionKind.RAM, bytearray(0x10000))]
    cpu = state()
    cpu.ds.base = 0x20000
    vm.state = cpu
    assert vm.run(mmio=0x30000, code=bytes.fromhex("a00000")).reason is ExitReason.MMIO_MISMATCH
    end = vm.run(mmio=0x20000, code=bytes.fromhex("a00000"))
    assert (end.reason, end.address) == (ExitReason.MMIO_READ, 0x20000)


def test_given_bytes_that_change_are_read_anew(vm):
    code = bytearray.fromhex("40")  # inc ax
    vm.run(budget=1, code=code)
    code[0] = 0x48  # dec ax
    vm.run(budget=1, code=code)
    assert vm.state.eax == 0


def test_reports_add_up_over_questions(vm):
    vm.memory = [
        Region(0xB8000, 0x1000, RegionKind.COALESCED),
        Region(0, 0x10000, RegionKind.RAM, bytearray(0x10000)),
    ]
    cpu = state(edi=0x2000)
    cpu.ds.base = 0xB8000
    vm.state = cpu
    load(vm, "c606000041 aa e680 c606010042 f4")
    end = vm.run(on_io=lambda io: None)
    assert end.posted == ((0xB8000, b"A"), (0xB8001, b"B"))
    assert end.pages == (2,)
    assert (end.steps, end.instructions) == (5, 5)


def test_memory_is_read_and_written(vm):
    vm.memory = [
        Region(0x1000, 0x1000, RegionKind.RAM, bytearray(0x1000)),
        Region(0x0, 0x1000, RegionKind.ROM, bytearray(0x2000), 0x1000),
    ]
    vm.write(0xFFE, b"abcd")
    assert vm.read(0xFFF, 2) == b"bc"
    with pytest.raises(ValueError, match="0x2000 cannot be read: no RAM, ROM or firmware"):
        vm.read(0x1FFF, 2)
    with pytest.raises(ValueError, match="0x2000 cannot be written"):
        vm.write(0x1FFF, b"xy")
    assert vm.read(0x1FFF, 1) == b"\0"


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"memory": 100}, ValueError, "0x64 bytes, a positive multiple of 4096"),
        ({"memory": [1]}, TypeError, "memory holds int"),
        ({"memory": [Region(1, 4096, RegionKind.MMIO)]}, ValueError, "must be multiples of 4096"),
        ({"state": 1}, TypeError, "state is int"),
        ({"engine": "x"}, ValueError, "engine 'x' is not known"),
        ({"model": "z80"}, ValueError, "z80"),
    ],
)
def test_wrong_arguments(arguments, error, text):
    with pytest.raises(error, match=text):
        Emulator(**arguments)


def test_wrong_budgets(vm):
    with pytest.raises(TypeError, match="budget is float"):
        vm.run(budget=1.5)
    with pytest.raises(ValueError, match="budget is -1"):
        vm.run(budget=-1)


def test_closed(engine):
    vm = Emulator(4096, engine=engine)
    vm.close()
    vm.close()
    with pytest.raises(ValueError, match="closed"):
        vm.run()


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (lambda s: setattr(s, "rip", 1 << 70), r"^rip is \d+, an integer below 2\*\*64 is needed"),
        (lambda s: setattr(s, "rip", -1), r"^rip is -1, an integer below 2\*\*64"),
        (lambda s: setattr(s, "cpl", 4), r"^cpl is 4, an integer below 2\*\*2"),
        (lambda s: setattr(s, "cr0", True), r"^cr0 is True, an integer below 2\*\*64"),
        (lambda s: setattr(s.tr, "limit", 1 << 32), r"^tr.limit is \d+, an integer below 2\*\*32"),
        (lambda s: setattr(s.cs, "base", "0"), r"^cs.base is '0', an integer below 2\*\*64"),
        (lambda s: s.mtrr_mask.__setitem__(7, 1.5), r"^mtrr_mask\[7\] is 1.5, an integer below 2\*\*64"),
        (lambda s: s.gpr.append(0), "^gpr has 9 values, 8 needed"),
        (lambda s: setattr(s, "seg", []), "^seg is .*, a list of 8 segments is needed"),
        (lambda s: setattr(s, "fxsave", bytearray(512)), "^fxsave is bytearray.*, 512 bytes are needed"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_alike_everywhere(vm, client, change, wrong):
    """By both engines and by the client of a daemon; nothing has changed."""
    before, bad = vm.state, state()
    change(bad)
    with pytest.raises(ValueError, match=wrong) as here:
        vm.state = bad
    assert vm.state == before
    with pytest.raises(ValueError, match=wrong.removeprefix("^")) as there:
        client.run(bad)
    assert str(here.value) in str(there.value)
    assert client.run(state(), steps=0).reason == "budget", "the vCPU is as good as before"


def test_names_of_the_tables_enumerations_are_numbers(vm):
    vm.state = state(activity=dm.machine.state.Activity.HALTED)
    assert type(vm.state.activity) is int
    assert vm.state.activity == 1


@pytest.mark.parametrize("budget", [None, 1 << 40])
def test_ctrl_c_ends_a_run_between_two_instructions(vm, budget):
    load(vm, "40 ebfd")  # inc ax; jmp $-1
    timer = threading.Timer(0.1, signal.raise_signal, (signal.SIGINT,))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            vm.run(budget=budget)
    finally:
        timer.join()
        signal.signal(signal.SIGINT, before)
    assert vm.state.rip in (0x7C00, 0x7C01)
    assert vm.run(budget=5).steps == 5, "it may go on"


def test_a_long_run_is_one_run(vm, monkeypatch):
    """It is made in pieces for the sake of signals, which nobody can tell from what comes back."""
    monkeypatch.setattr("dm.emulator._SLICE", 100)
    code = "6649 8805 75fa f4"  # dec ecx; mov [di], al; jnz $-4; hlt
    load(vm, code)
    vm.state = state(ecx=1000, edi=0x1000)
    end = vm.run(progress=True)
    assert (end.reason, end.instructions, end.pages) == (ExitReason.HALT, 3001, (1,))
    vm.state = state(ecx=1000)
    end = vm.run(budget=2000)
    assert (end.reason, end.steps) == (ExitReason.BUDGET, 2000)
    assert vm.state.ecx == 1000 - 667
    vm.state = state(ecx=1000)
    assert vm.run(budget=0).steps == 0


@pytest.mark.parametrize("budget", [-1, (1 << 62) + 1])
def test_an_impossible_budget(vm, budget):
    with pytest.raises(ValueError, match=r"budget is .*, 0 to 2\*\*62 is needed"):
        vm.run(budget=budget)
