"""POPA, PUSHA and ENTER that fault half way: what was moved stays, on Intel's parts and on AMD's (measured)."""

import pytest
from guest import HLT, Machine, make_engine, real_mode

from dm.engine.api import CpuConfig
from dm.engine.parts import part

VENDORS = pytest.mark.parametrize("config", [part("amd"), CpuConfig()], ids=["amd", "intel"])


@pytest.fixture
def machine(engine_name, config):
    engine = make_engine(engine_name, config)
    yield Machine(engine)
    engine.close()


@VENDORS
def test_popa_faults_at_the_slot_of_sp(machine):
    """Words at FFF9, FFFB, FFFD fit; that of SP at FFFF wraps in the middle."""
    machine.ram[0xFFF9:0xFFFF] = bytes.fromhex("111122223333")
    machine.load(b"\x61" + HLT, real_mode(sp=0xFFF9, edi=1, esi=2, ebp=3, ebx=4))
    machine.until_halt()
    state = machine.state
    assert machine.fault() == 12
    assert (state.di, state.si, state.bp) == (0x1111, 0x2222, 0x3333)
    assert (state.bx, state.sp) == (4, 0xFFF9 - 6)


@VENDORS
def test_pusha_keeps_what_it_pushed(machine):
    """Expand-down above 7: the words at 0Eh to 8 fit, the next does not."""
    machine.ram[0x8000:0x8010] = bytes(16)
    state = real_mode(sp=0x10, eax=0x1111, ecx=0x2222, edx=0x3333, ebx=0x4444)
    state.ss.selector, state.ss.base, state.ss.attributes, state.ss.limit = 0x800, 0x8000, 0x97, 0x7  # expand-down
    machine.load(b"\x60" + HLT, state)
    end = machine.run(budget=1)
    assert end.instructions == 0
    # The exception's own frame has covered the other three.
    assert bytes(machine.ram[0x8008:0x800A]) == b"\x44\x44"
