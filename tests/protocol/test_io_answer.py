"""Message ``io-answer``: data, faults, maps, windows, and what stops a run."""

import pytest
from live import CODE, DEVICE, MAP, VIDEO, real_mode

from dm.protocol.schema import Done, DoneReason, ErrorClass, Io, IoKind, Kind, Region, Stop


def test_an_msr_may_fault(vm):
    vm.load("66b978563412 0f32 f4")
    _, done = vm.finish(vm.answer(vm.emulate(), fault=True))
    assert (done.reason, vm.state.rip) == (DoneReason.HALT, 0x100D + 1)
    assert int.from_bytes(vm.ram.view[0x6FFA:0x6FFC], "little") == CODE + 6  # RDMSR has not happened


def test_the_map_may_change_between_the_read_and_the_write_of_one_instruction(vm):
    """INC of a byte: its read goes to a device, whose answer puts RAM there; its write goes to that RAM."""
    vm.load("fe060000 f4")
    io = vm.emulate(real_mode(ds=DEVICE))
    assert io.kind is IoKind.MMIO_READ
    regions = [MAP[0], Region(DEVICE, 0x1000, Kind.RAM, 1, DEVICE), MAP[2]]
    seen, done = vm.finish(vm.answer(io, data=b"\x07", map=vm.map(regions)))
    assert (seen, done.reason, vm.ram.view[DEVICE]) == ([], DoneReason.HALT, 8)


def test_a_map_that_takes_ram_away_asks_for_the_write(vm):
    vm.load("a4 f4")  # movsb from the device to RAM at 2000h
    io = vm.emulate(real_mode(ds=DEVICE, esi=0, edi=0x2000))
    regions = [Region(0, 0x2000, Kind.RAM, 1), Region(0x3000, DEVICE - 0x3000, Kind.RAM, 1, 0x3000), *MAP[1:]]
    seen, _ = vm.finish(vm.answer(io, data=b"\x55", map=vm.map(regions)))
    assert [(io.kind, io.address, io.data) for io in seen] == [(IoKind.MMIO_WRITE, 0x2000, b"\x55")]


def test_code_behind_a_map_change_comes_from_the_new_map(vm):
    """PAM: the port write shows other memory below the program counter."""
    vm.load("e6b2 f4")  # out b2h; hlt
    vm.ram.view[0x27C02:0x27C04] = b"\x40\xf4"  # inc ax; hlt
    regions = [
        Region(0, 0x7000, Kind.RAM, 1),
        Region(0x7000, 0x1000, Kind.ROM, 1, 0x27000),
        Region(0x8000, DEVICE - 0x8000, Kind.RAM, 1, 0x8000),
    ]
    _, done = vm.finish(vm.answer(vm.emulate(), map=vm.map(regions)))
    assert (done.reason, vm.state.eax, vm.state.rip) == (DoneReason.HALT, 1, CODE + 4)


def test_a20(vm):
    vm.load("e692 a00000 e692 a00000 f4")
    ds = 0x100000
    vm.ram.view[0] = 0x11
    io = vm.emulate(real_mode(ds=ds))
    io = vm.answer(io, map=vm.map(a20=False))  # 100000h is 0 now
    assert (io.kind, io.data) == (IoKind.PORT_OUT, b"\x11")
    seen, _ = vm.finish(vm.answer(io, map=vm.map(a20=True)), lambda io: b"\x99")
    assert [(io.kind, io.address) for io in seen] == [(IoKind.MMIO_READ, ds)]
    assert vm.state.eax & 0xFF == 0x99


@pytest.mark.parametrize("stop", [Stop.RESET, Stop.INIT, Stop.NMI, Stop.SMI, Stop.KICK])
def test_a_stop_ends_the_run_behind_its_instruction(vm, stop):
    vm.load("e680 40 f4")
    done = vm.answer(vm.emulate(), stop=stop)
    assert isinstance(done, Done)
    assert (done.reason, done.stop) == (DoneReason.KICKED if stop is Stop.KICK else DoneReason.STOPPED, stop)
    assert (done.instructions, done.state["general"][8]) == (1, CODE + 2)


@pytest.mark.parametrize(
    ("code", "es", "ds"),
    [("f36c", 0, 0), ("f36e", 0, 0), ("f3a4", DEVICE, 0), ("f3a4", 0, DEVICE), ("f3aa", DEVICE, 0)],
)
def test_a_stop_ends_a_repeated_instruction_between_iterations(vm, code, es, ds):
    """INS, OUTS, MOVS to and from a device, STOS: what has been asked for is moved, no more."""
    vm.load(code)
    io = vm.emulate(real_mode(ecx=0x1800, esi=0x4000, edi=0x4000, edx=0x60, es=es, ds=ds))
    reads = io.kind in (IoKind.PORT_IN, IoKind.MMIO_READ)
    done = vm.answer(io, data=bytes(io.count) if reads else b"", stop=Stop.SMI)
    assert isinstance(done, Done), done
    assert 1 < io.count < 0x1800
    assert (done.reason, done.stop, done.steps, done.instructions) == (DoneReason.STOPPED, Stop.SMI, io.count, 0)
    assert done.state["general"][1] == 0x1800 - io.count
    assert done.state["general"][8:9] in ([], [CODE])  # RIP has not moved


def test_both_questions_of_an_instruction_come_before_a_stop_takes_effect(vm):
    vm.load("fe060000 f4")
    io = vm.answer(vm.emulate(real_mode(ds=DEVICE)), data=b"\x01", stop=Stop.RESET)
    assert (io.kind, io.data) == (IoKind.MMIO_WRITE, b"\x02")
    done = vm.answer(io)
    assert (done.reason, done.stop, done.instructions) == (DoneReason.STOPPED, Stop.RESET, 1)


def test_a_spurious_acknowledge_delivers_nothing(vm):
    vm.load("90 fb 90 90 f4")
    io = vm.emulate(window=True, acknowledge=True)
    _, done = vm.finish(vm.answer(io))
    assert (done.reason, vm.state.rip) == (DoneReason.HALT, CODE + 5)


def test_an_answer_may_open_the_window(vm):
    vm.load("fb e680 90 90 f4")
    done = vm.answer(vm.emulate(), window=True)
    assert (done.reason, done.state["general"][8]) == (DoneReason.INTERRUPT_WINDOW, CODE + 3)


@pytest.mark.parametrize(
    ("fields", "field", "text"),
    [
        ({"data": b"12"}, "data", "data has 2 bytes"),
        ({"fault": True}, "fault", "fault answers port-in"),
        ({"data": b"1", "registers": [1] * 8}, "registers", "registers has 8 values"),
    ],
)
def test_a_wrong_answer_leaves_the_question_open(vm, fields, field, text):
    vm.load("e460 f4")
    io = vm.emulate()
    error = vm.refused(vm.answer(io, **fields))
    assert (error.error, error.field) == (ErrorClass.BAD_ANSWER, field)
    assert text in error.text
    _, done = vm.finish(vm.answer(io, data=b"\x01"))
    assert (done.reason, vm.state.eax & 0xFF) == (DoneReason.HALT, 1)


def test_a_wrong_map_leaves_the_question_open(vm):
    vm.load("e460 f4")
    io = vm.emulate()
    crossed = vm.map([MAP[1], MAP[0]])
    assert vm.refused(vm.answer(io, data=b"\x01", map=crossed)).error is ErrorClass.BAD_MEMORY
    _, done = vm.finish(vm.answer(io, data=b"\x01"))
    assert done.reason is DoneReason.HALT
    vm.generation -= 1


def test_an_answer_that_comes_twice_counts_once(vm):
    vm.load("e460 e461 f4")
    io = vm.emulate()
    vm.vcpu.send(vm.message(io, data=b"\x01"))
    vm.vcpu.send(vm.message(io, data=b"\x02"))
    second = vm.vcpu.receive()
    assert isinstance(second, Io)
    assert (second.io, second.address) == (2, 0x61)
    vm.finish(vm.answer(second, data=b"\x03"))
    assert vm.vcpu.silent()


def test_an_answer_to_a_question_that_was_never_asked_is_refused(vm):
    vm.load("e460 f4")
    io = vm.emulate()
    wrong = vm.message(io, data=b"\x01")
    wrong.io = 7
    assert vm.refused(vm.vcpu.ask(wrong)).error is ErrorClass.BAD_ANSWER
    vm.finish(vm.answer(io, data=b"\x01"))


def test_the_video_region_is_no_ram_behind_the_daemons_back(vm):
    """What was posted is the shim's to keep: the daemon asks when it is read."""
    vm.load("c606000041 f4")
    vm.finish(vm.emulate(real_mode(ds=VIDEO)))
    seen, _ = vm.run("a00000 f4", lambda io: b"\x42", real_mode(ds=VIDEO))
    assert (len(seen), vm.state.eax & 0xFF) == (1, 0x42)
