"""Message ``state-ports``, and ``registers`` in ``io`` and ``io-answer``."""

import pytest
from live import CODE, real_mode

from dm.protocol import schema
from dm.protocol.schema import DoneReason, ErrorClass, IoKind, Ok, PortRange

BACKDOOR = 0x5658


def name_ports(vm, *ranges):
    return vm.request(schema.StatePorts, ports=[PortRange(*one) for one in ranges])


@pytest.fixture
def backdoor(vm):
    assert isinstance(name_ports(vm, (BACKDOOR, BACKDOOR + 1)), Ok)
    return vm


def test_registers_travel_both_ways(backdoor):
    backdoor.load("66ed f4")  # in eax, dx
    state = real_mode(eax=0x564D5868, ecx=10, edx=BACKDOOR, ebx=1, esi=0xA5A5, rdi=0x1122334455667788)
    io = backdoor.emulate(state)
    assert (io.kind, io.registers) == (IoKind.PORT_IN, state.gpr)
    after = [*state.gpr]
    after[0], after[1], after[3], after[7] = 0xFFFFFFFFDEADBEEF, 4, 0x564D5868, 0x99
    _, done = backdoor.finish(backdoor.answer(io, data=b"\x06\x00\x00\x00", registers=after))
    got = backdoor.state
    assert (done.reason, done.instructions) == (DoneReason.HALT, 2)
    assert (got.rax, got.ecx, got.ebx, got.esi, got.rdi) == (0xFFFFFFFF00000006, 4, 0x564D5868, 0xA5A5, 0x99)


def test_the_change_comes_before_the_next_instruction(backdoor):
    backdoor.load("ec 891e0020 f4")  # in al, dx; mov [2000h], bx
    io = backdoor.emulate(real_mode(edx=BACKDOOR))
    after = [*io.registers]
    after[3] = 0xBEEF
    backdoor.finish(backdoor.answer(io, data=b"\x01", registers=after))
    assert backdoor.ram.view[0x2000:0x2002] == b"\xef\xbe"


def test_a_write_may_change_registers_too(backdoor):
    backdoor.load("ef f4")  # out dx, ax
    io = backdoor.emulate(real_mode(edx=BACKDOOR, eax=7))
    after = [*io.registers]
    after[0] = 0x55AA55AA
    backdoor.finish(backdoor.answer(io, registers=after))
    assert backdoor.state.eax == 0x55AA55AA


def test_of_string_io_what_the_instruction_changes_itself_stays(backdoor):
    backdoor.load("f36c f4")
    io = backdoor.emulate(real_mode(edx=BACKDOOR, ecx=4, edi=0x2000))
    assert (io.count, len(io.registers)) == (4, 8)
    after = [*io.registers]
    after[3] = 0x77
    backdoor.finish(backdoor.answer(io, data=b"abcd", registers=after))
    got = backdoor.state
    assert (got.ebx, got.ecx, got.edi) == (0x77, 0, 0x2004)
    assert backdoor.ram.view[0x2000:0x2004] == b"abcd"


def test_with_one_step_the_registers_are_in_the_done(backdoor):
    backdoor.load("ec 90 f4")
    io = backdoor.emulate(real_mode(edx=BACKDOOR), steps=1)
    after = [*io.registers]
    after[5] = 0x1234
    done = backdoor.answer(io, data=b"\x01", registers=after)
    assert (done.reason, done.steps) == (DoneReason.BUDGET, 1)
    assert (done.state["general"][5], done.state["general"][8]) == (0x1234, CODE + 1)


@pytest.mark.parametrize(("port", "asked"), [(0x60, 0), (BACKDOOR - 1, 8), (BACKDOOR - 2, 0), (BACKDOOR + 1, 8)])
def test_only_those_ports(backdoor, port, asked):
    """A word access that touches one of them counts."""
    seen, _ = backdoor.run("ed f4", None, real_mode(edx=port))
    assert len(seen[0].registers) == asked


def test_an_answer_with_too_few_is_refused(backdoor):
    backdoor.load("ec f4")
    io = backdoor.emulate(real_mode(edx=BACKDOOR))
    error = backdoor.refused(backdoor.answer(io, data=b"\x01", registers=[1, 2]))
    assert (error.error, error.field, error.expected) == (ErrorClass.BAD_ANSWER, "registers", "8 values")
    backdoor.finish(backdoor.answer(io, data=b"\x01"))


def test_it_replaces_what_was_said_before(backdoor):
    assert isinstance(name_ports(backdoor), Ok)
    seen, _ = backdoor.run("ec f4", None, real_mode(edx=BACKDOOR))
    assert seen[0].registers == []


def test_a_range_that_runs_backwards_is_refused(vm):
    error = name_ports(vm, (1, 2), (9, 8))
    assert (error.error, error.field) == (ErrorClass.BAD_MESSAGE, "ports[1].last")
