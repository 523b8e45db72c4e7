import io
import json

import pytest

from dm.commands.explain import parse
from dm.machine.state import State
from dm.shim.pc_memory import PcMemory
from dm.shim.trace import Trace

CODE = bytes.fromhex("b80500 40 6681c078563412")  # mov ax,5; inc ax; add eax,12345678h


@pytest.fixture
def memory():
    memory = PcMemory(bytearray(2 << 20), a20=True)
    memory.write(0x1234, CODE)
    return memory


def at(eip):
    state = State.reset()
    state.cs.selector, state.cs.base, state.rip = 0x100, 0x1000, eip
    return state


def step(trace, memory, before, after):
    words = trace.before(at(before), memory)
    trace.after(words, at(after))
    return words


def test_lines_hold_the_instruction_and_the_state_after_it(memory):
    out = io.StringIO()
    trace = Trace(out, count=2)
    assert step(trace, memory, 0x234, 0x237) == "0100:00000234 mov ax,0x5"
    assert trace.wanted
    step(trace, memory, 0x237, 0x238)
    assert not trace.wanted
    assert trace.written == 2
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["state"]["rip"] for line in lines] == ["0x234", "0x237", "0x238"]
    steps = parse(out.getvalue())
    assert [s.instruction for s in steps] == ["", "0100:00000234 mov ax,0x5", "0100:00000237 inc ax"]
    assert steps[-1].state == at(0x238)


def test_nothing_is_written_before_the_start_address(memory):
    out = io.StringIO()
    trace = Trace(out, start=0x1237)
    assert step(trace, memory, 0x234, 0x237) == ""
    assert out.getvalue() == ""
    assert step(trace, memory, 0x237, 0x238) == "0100:00000237 inc ax"
    assert step(trace, memory, 0x238, 0x23F) == "0100:00000238 add eax,0x12345678", "and then goes on"


def test_default_size_is_that_of_the_code_segment(memory):
    state = at(0x234)
    state.cs.attributes |= 1 << 14
    assert Trace(io.StringIO()).before(state, memory) == "0100:00000234 mov eax,0x66400005"


def test_page_that_is_not_there(memory):
    state = at(0x234)
    state.cr0, state.cr3 = 0x80000001, 0x10000
    assert Trace(io.StringIO()).before(state, memory) == "0100:00000234 (not present)"
