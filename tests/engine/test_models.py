"""CpuConfig.model: an 80286 or 80386 refuses (#UD) what later parts brought, on both engines."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from guest import CODE, Machine, load_protected, make_engine, pushed

sys.path.insert(0, str(Path(__file__).parents[1] / "isa"))

from encode import vex

from dm.engine.api import CpuConfig, ExitReason
from dm.isa.features import MODELS
from dm.isa.lineage import Lineage
from dm.isa.map.decode import decode, variants
from dm.isa.map.forms import MAPS, ROWS, Row

PARTS = ("80286", "80386", "p6")
PART = {"80286": Lineage.I80286, "80386": Lineage.I80386, "p6": Lineage.INTEL}
#: Bytes, and the first part that runs them.
BROUGHT = [
    ("c1e002 ; shl ax,2", "80286"),
    ("c8000000 ; enter 0,0", "80286"),
    ("6a01 ; push 1", "80286"),
    ("0f01e0 ; smsw ax", "80286"),
    ("0f06 ; clts", "80286"),
    ("6690 ; operand size", "80386"),
    ("6790 ; address size", "80386"),
    ("648b07 ; mov ax,fs:[bx]", "80386"),
    ("65a00000 ; mov al,gs:[0]", "80386"),
    ("0f20c0 ; mov eax,cr0", "80386"),
    ("0f21c0 ; mov eax,dr0", "80386"),
    ("0f840000 ; jz near", "80386"),
    ("0f94c0 ; setz al", "80386"),
    ("0fa0 ; push fs", "80386"),
    ("0fa3c8 ; bt ax,cx", "80386"),
    ("0fa4c801 ; shld ax,cx,1", "80386"),
    ("0fafc1 ; imul ax,cx", "80386"),
    ("0fb6c1 ; movzx ax,cl", "80386"),
    ("0fbac001 ; the rest of group 8 is #UD", ""),
    ("0fbae001 ; bt ax,1", "80386"),
    ("0fbcc1 ; bsf ax,cx", "80386"),
    ("f30fbcc1 ; tzcnt, which is bsf", "80386"),
    ("0fbec1 ; movsx ax,cl", "80386"),
    ("0f09 ; wbinvd", "p6"),
    ("0f0107 ; the sgdt of 80286", "80286"),
    ("0f013e0000 ; invlpg [0]", "p6"),
    ("0fb0c1 ; cmpxchg cl,al", "p6"),
    ("0fc0c1 ; xadd cl,al", "p6"),
    ("0fc8 ; bswap ax", "p6"),
    ("0fa2 ; cpuid", "p6"),
    ("0f31 ; rdtsc", "p6"),
    ("0f20e0 ; mov eax,cr4", "p6"),
    ("0f40c1 ; cmovo ax,cx", "p6"),
    ("0f1f00 ; nop", "p6"),
    ("0fc70f ; cmpxchg8b [bx]", "p6"),
    ("0f0b ; ud2", ""),
]


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(("code", "since"), BROUGHT)
def test_what_a_part_does_not_have_is_undefined(engine_name: str, part: str, code: str, since: str) -> None:
    vm = Machine(make_engine(engine_name, CpuConfig(model=part)))
    before = bytes.fromhex(code.split(";")[0])
    vm.load(before + b"\xf4", bx=0x2000)
    vm.ram[CODE + len(before)] = 0xF4
    exits = vm.until_halt()
    known = bool(since) and MODELS[part] >= MODELS[since]
    assert vm.fault() == (None if known else 6), (code, part)
    assert exits[-1].reason is ExitReason.HALT
    if not known:
        frame = vm.state.esp
        assert int.from_bytes(vm.ram[frame : frame + 2], "little") == CODE
    vm.engine.close()


def _bytes(row: Row) -> bytes:
    """Return the row's opcode with a register or memory operand that it takes."""
    prefix = {"66": b"\x66", "F3": b"\xf3", "F2": b"\xf2"}.get(row.prefix, b"")
    code = vex(row, 0) if row.vex else prefix + bytes.fromhex(MAPS[row.map])
    code += bytes([row.opcode])
    if row.third >= 0:
        return code + bytes([row.third])
    return code + bytes([(0xC0 if row.mod in ("r", "R") else 0) | max(row.reg, 0) << 3]) if row.mod else code


@pytest.mark.parametrize("part", PARTS)
def test_every_row_is_decoded_from_its_part_on(part: str) -> None:
    for row in ROWS:
        if "undefined" in row.attributes or (row.prefix == "66" and part == "80286"):
            continue
        found = decode(_bytes(row) + bytes(12), False, PART[part]).row
        known = found is not None and "undefined" not in found.attributes  # VEX was LES of a register
        if row.on(PART[part]):
            assert found is row or row.plus, row.text
        elif known:
            assert any(other.on(PART[part]) for other in ROWS if other.text == found.text), row.text
            assert found.opcode == row.opcode, row.text


@pytest.mark.parametrize("part", ["80286", "80386"])
def test_every_newer_row_is_undefined_when_it_runs(engine_name: str, part: str) -> None:
    """In ring 0 of flat protected mode, where nothing else refuses it; the 80286, which has none, in real mode."""
    vm = Machine(make_engine(engine_name, CpuConfig(model=part)))
    newer = [row for row in ROWS if row.since > MODELS[part] and row.map and "undefined" not in row.attributes]
    newer = [row for row in newer if not (row.mnemonic == "SYSCALL" and part == "80286")]  # LOADALL, there
    assert len(newer) > 100
    assert all(variants(row) for row in newer)
    for row in newer:
        if part == "80286":
            vm.load(_bytes(row) + bytes(10))
            assert (vm.run(budget=2).instructions, vm.fault()) == (1, 6), row.text
            continue
        load_protected(vm, _bytes(row) + bytes(10))
        end = vm.run(budget=2)
        assert (end.instructions, pushed(vm)[0]) == (1, 6), row.text
    vm.engine.close()
