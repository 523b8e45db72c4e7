"""BMI1 and BMI2 on both engines: the cases of tests/isa/test_bmi.py, and the #UD that they may raise."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from guest import CODE, Machine, load_protected, make_engine, protected_mode, pushed

sys.path.insert(0, str(Path(__file__).parents[1] / "isa"))

from machine import FLAG_BITS, Values
from test_bmi import ADDRESS, CASES, EACH, in_memory

from dm.engine.api import CpuConfig, CpuidEntry
from dm.isa.parts import DEFAULT_CPUID
from dm.machine.state import Seg

UD, GP = 6, 13
REGISTERS = ("eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi")
#: CPUID leaf 7, EBX: bit 3 BMI1, bit 8 BMI2.
WITH = {**DEFAULT_CPUID, (0, 0): (7, *DEFAULT_CPUID[0, 0][1:]), (7, 0): (0, 0x108, 0, 0)}
FLAGS = 0x8D7


@pytest.fixture
def bmi(engine_name: str) -> Iterator[Machine]:
    """Yield a machine whose CPUID shows both."""
    config = CpuConfig(tuple(CpuidEntry(*key, *values) for key, values in WITH.items()))
    machine = Machine(make_engine(engine_name, config))
    yield machine
    machine.engine.close()


def prepare(vm: Machine, case: tuple[str, Values, Values], code32: bool) -> None:
    code, before, _ = case
    vm.ram[ADDRESS : ADDRESS + 4] = bytes(4)
    load_protected(vm, bytes.fromhex(code.split(";")[0]) + b"\xf4")
    state = protected_mode()
    state.cs.attributes = 0xC09B if code32 else 0x809B
    state.rflags = FLAGS
    for name, value in before.items():
        if isinstance(name, int):
            assert isinstance(value, bytes)
            vm.ram[name : name + 4] = value
        else:
            setattr(state, name, value)
    vm.engine.set_state(state)


def check(vm: Machine, case: tuple[str, Values, Values], code32: bool) -> None:
    """Run a case and compare all registers, and the flags that it names."""
    prepare(vm, case, code32)
    expected = [*vm.state.gpr]
    ram = bytes(vm.ram)
    for name, value in case[2].items():
        if name in REGISTERS:
            assert isinstance(value, int)
            expected[REGISTERS.index(str(name))] = value
    assert vm.run(budget=1).instructions == 1
    state = vm.state
    assert [*state.gpr] == expected
    assert {name: int(state.rflags & FLAG_BITS[name] != 0) for name in case[2] if name in FLAG_BITS} == {
        name: value for name, value in case[2].items() if name in FLAG_BITS
    }
    assert vm.ram == ram


@pytest.mark.parametrize("code32", [False, True])
def test_register_forms(bmi: Machine, code32: bool) -> None:
    for case in CASES:
        check(bmi, case, code32)


@pytest.mark.parametrize("code32", [False, True])
def test_memory_forms(bmi: Machine, code32: bool) -> None:
    for case in EACH:
        check(bmi, in_memory(case, code32), code32)


def test_a_fault_leaves_everything_as_it_was(bmi: Machine) -> None:
    for case in EACH:
        prepare(bmi, in_memory(case, True), True)
        state = bmi.state
        state.seg[Seg.DS].limit, state.seg[Seg.DS].attributes = ADDRESS + 2, 0x40F3
        state.idtr_base, state.idtr_limit, state.gdtr_base, state.gdtr_limit = 0x2000, 0x7FF, 0x800, 0x17
        bmi.engine.set_state(state)
        bmi.run(budget=2)
        assert bmi.engine.last_fault[:2] == (GP, 0)
        after = bmi.state
        assert [after.gpr[n] for n in range(8) if n != 4] == [state.gpr[n] for n in range(8) if n != 4]
        assert int.from_bytes(bmi.ram[after.esp + 12 : after.esp + 16], "little") & FLAGS == FLAGS


def test_undefined(bmi: Machine, vm: Machine) -> None:
    """#UD without the CPUID bits, in real mode, with L, with LOCK and with a mandatory prefix before VEX."""
    for case in EACH:
        code = bytes.fromhex(case[0].split(";")[0])
        long = code[:2] + bytes([code[2] | 4]) + code[3:]
        for machine, body in (
            (vm, code),
            (bmi, long),
            *((bmi, p + code) for p in (b"\xf0", b"\x66", b"\xf2", b"\xf3")),
        ):
            load_protected(machine, body + b"\xf4")
            machine.run(budget=2)
            assert pushed(machine)[0] == UD, (machine is bmi, body.hex())
        bmi.load(code)
        bmi.ram[4 * UD : 4 * UD + 4] = (0x1000 + UD).to_bytes(4, "little")
        bmi.until_halt()
        assert bmi.fault() == UD
        assert bmi.ram[CODE : CODE + len(code)] == code
