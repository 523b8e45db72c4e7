import pytest

from dm.machine.architecture import Eflags
from dm.machine.state import Activity, EventType, State
from dm.protocol.schema import Io, IoKind
from dm.shim import keys
from dm.shim.clock import SECOND


def ask(bench, kind, address=0, size=1, count=1, data=b""):
    return bench.pc.answer(
        Io(session=1, vcpu=0, epoch=1, seq=1, io=1, kind=kind, address=address, size=size, count=count, data=data)
    )


def test_starts_at_the_reset_vector_with_a20_open(make_bench):
    pc = make_bench([]).pc
    reset = State.reset()
    assert (pc.state.cs.base, pc.state.rip, pc.state.cr0) == (reset.cs.base, reset.rip, reset.cr0)
    assert pc.memory_map.a20
    assert pc.resets == 0


def test_ports_answer(bench):
    assert ask(bench, IoKind.PORT_IN, 0x64).data == b"\x10"
    assert ask(bench, IoKind.PORT_IN, 0xCF8, 4).data == b"\xff" * 4, "no PCI"
    ask(bench, IoKind.PORT_OUT, 0x3F8, data=b"s")
    ask(bench, IoKind.PORT_OUT, 0xE9, count=3, data=b"dbg")
    assert bench.sent == b"s"
    assert bench.debug == b"dbg"


def test_absent_memory_and_msrs(bench):
    assert ask(bench, IoKind.MMIO_READ, 0xA0000, 4, 3).data == b"\xff" * 12
    assert ask(bench, IoKind.MMIO_WRITE, 0xA0000, 4, data=b"1234").data == b""
    assert ask(bench, IoKind.MSR_READ, 0x123, 8).fault
    assert ask(bench, IoKind.MSR_WRITE, 0x123, 8, data=bytes(8)).fault


def test_a20_change_comes_back_with_the_answer(bench):
    answer = ask(bench, IoKind.PORT_OUT, 0x92, data=b"\x02")
    assert answer.memory is bench.pc.memory_map
    assert answer.memory.a20
    assert ask(bench, IoKind.PORT_OUT, 0x92, data=b"\x02").memory is None


def test_reset_ends_the_run(bench):
    assert not ask(bench, IoKind.PORT_OUT, 0x64, data=b"\xae").stop
    assert ask(bench, IoKind.PORT_OUT, 0x64, data=b"\xfe").stop


def test_interrupt_is_offered_and_acknowledged(bench):
    assert not ask(bench, IoKind.PORT_IN, 0x61).window
    bench.clock.advance(60_000_000)
    assert ask(bench, IoKind.PORT_IN, 0x61).window, "reading a port lets time pass"
    answer = ask(bench, IoKind.INTERRUPT_ACK)
    assert answer.data == b"\x08"
    assert not answer.window
    assert bench.pc.interrupts == 1


def test_an_interrupt_that_can_be_taken_begins_the_next_run(bench):
    s = bench.state
    s.rflags = 2
    bench.clock.advance(60_000_000)
    bench.pc.update()
    bench.pc.deliver()
    assert s.inject_type == EventType.NONE, "interrupts are off"
    s.rflags, s.shadow = Eflags.FIXED | Eflags.IF, 1
    bench.pc.deliver()
    assert s.inject_type == EventType.NONE, "the instruction after STI"
    s.shadow = 0
    bench.pc.deliver()
    assert (s.inject_type, s.inject_vector, s.inject_has_error) == (EventType.EXTERNAL, 8, 0)
    assert not bench.pc.interrupt_waits
    assert bench.pc.interrupts == 1


def test_halt_ends_with_an_interrupt(bench):
    s = bench.state
    s.activity, s.rflags = Activity.HALTED, Eflags.FIXED | Eflags.IF
    bench.pc.wake()
    assert bench.pc.waits
    assert not bench.pc.stuck
    bench.pc.keyboard.type([keys.type_character("x")])
    bench.pc.wake()
    assert not bench.pc.waits
    s.activity, s.rflags = Activity.HALTED, 2
    bench.pc.wake()
    assert bench.pc.stuck, "interrupts are off"


def test_next_event_is_the_timer_after_post(bench):
    first = bench.pc.next_event()
    assert 0 < first <= 65536 * SECOND // 1193182 + 1
    bench.clock.advance(first)
    bench.pc.update()
    assert bench.pc.interrupt_waits


@pytest.mark.parametrize("full", [True, False])
def test_reset_keeps_memory_and_only_a_full_one_the_devices_not(bench, full):
    bench.memory.write(0x8000, b"kept")
    imr = bench.inb(0x21)
    bench.outb(0x21, 0x55)
    assert imr != 0x55
    bench.pc.reset(full=full)
    assert bench.memory.read(0x8000, 4) == b"kept"
    assert bench.inb(0x21) == (0xFF if full else 0x55)
    assert bench.state.cs.base == 0xFFFF0000
    assert bench.pc.resets == 1


def test_debug_port_must_be_free():
    from dm.shim.clock import ManualClock
    from dm.shim.pc import Pc

    with pytest.raises(ValueError, match="0x60 is taken"):
        Pc(bytearray(2 << 20), [], ManualClock(), debug_port=0x60)
