"""What prefixes may do, on both engines: 15 bytes at most, LOCK only where the manual has it."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest
from guest import CODE, Machine, load_protected, make_engine, pushed

sys.path.insert(0, str(Path(__file__).parents[1] / "isa"))

from encode import encode

from dm.engine.api import CpuConfig, CpuidEntry, ExitReason
from dm.isa.map.decode import decode, variants
from dm.isa.map.forms import ROWS
from dm.isa.parts import PARTS

GP, UD = 13, 6


@pytest.mark.parametrize("prefix", ["26", "66", "67", "f3", "f2", "64"])
@pytest.mark.parametrize(
    "code",
    ["90", "01d8", "8b00", "b8", "0fafc1", "0fba200f", "ea", "0f0b", "f4"],
    ids=["nop", "add", "mov", "mov imm", "imul", "bt", "jmpf", "ud2", "hlt"],
)
def test_fifteen_bytes_are_the_most(vm: Machine, prefix: str, code: str) -> None:
    """SDM vol. 3A, 6.15, interrupt 13: a longer instruction is #GP(0), whatever it is (#UD comes later)."""
    text = bytes.fromhex(code)
    whole = decode(bytes.fromhex(prefix) * 4 + text + bytes(11), True).length - 4
    for total in (15, 16, 17):
        body = bytes.fromhex(prefix) * (total - whole) + text + bytes(whole - len(text))
        assert len(body) == total
        load_protected(vm, body + b"\xf4", eax=0x600, ecx=2)
        vm.run(budget=2)
        if total > 15:
            assert (pushed(vm)[0], vm.engine.last_fault[:3]) == (GP, (GP, 0, "TOO_LONG"))
        else:
            assert vm.engine.last_fault[2] != "TOO_LONG"


def test_the_limit_goes_before_what_lies_behind_it(vm: Machine) -> None:
    """Fifteen prefixes at the end of the segment: too long, not beyond the limit, and no sixteenth byte is read."""
    load_protected(vm, b"\x66" * 15)
    state = vm.state
    state.cs.limit = CODE + 14
    vm.engine.set_state(state)
    vm.run(budget=1)
    assert vm.engine.last_fault[0] == GP


def test_lock_is_undefined_wherever_the_map_does_not_have_it(vm: Machine) -> None:
    """SDM vol. 2, LOCK: with a memory destination of some instructions only; anything else is #UD."""
    rng = random.Random(240)
    refused = 0
    for row in ROWS:
        for variant in variants(row):
            if variant.lock or variant.rep or (variant.osize == 16 and row.prefix in ("NP", "66")):
                continue
            text = encode(row, variant, True, rng)
            if text is None or ("lock" in row.attributes and (variant.memory or row.mod == "R")):
                continue
            load_protected(vm, b"\xf0" + text)
            end = vm.run(budget=2)
            assert (pushed(vm)[0], end.reason in (ExitReason.BUDGET, ExitReason.HALT)) == (UD, True), row.text
            assert vm.engine.last_fault[:2] == (UD, 0)
            refused += 1
    assert refused > 800


def test_lock_runs_where_the_map_has_it(vm: Machine) -> None:
    rng = random.Random(241)
    ran = 0
    for row in ROWS:
        for variant in variants(row):
            if not variant.lock or not variant.memory:
                continue
            text = encode(row, variant, True, rng)
            if text is None:
                continue
            # Positive in 16 bits too: bit tests go that far from their operand.
            load_protected(vm, text, **dict.fromkeys(("eax", "ebx", "ecx", "edx", "esi", "edi", "ebp"), 0x6000))
            end = vm.run(budget=1)
            assert (end.instructions, vm.state.eip) == (1, CODE + len(text)), row.text
            ran += 1
    assert ran > 150


#: Opcodes that are no instruction, whole bytes of an operand with a displacement; and where the vendors part.
WITH_MODRM = ["0f39", "0f3b", "0f3c", "0f3f", "0f7a", "0f7b", "0fa6", "0fa7", "0fb9", "0fff"]
WITHOUT = ["0f04", "0f0a", "0f0b", "0f0c", "0f24", "0f26", "0f36"]
ON_BOTH = ["0fb8", "0f380c", "0f38ff", "0f3a00", "0f3aff"]


@pytest.mark.parametrize("cpu", ["intel", "amd"])
@pytest.mark.parametrize("code", [*WITH_MODRM, *WITHOUT, *ON_BOTH])
def test_undefined_opcodes_fetch_what_their_part_fetches(engine_name: str, cpu: str, code: str) -> None:
    """#GP(0) of CS.limit before #UD where ModRM, SIB, displacement and immediate are fetched first (measured, both)."""
    vm = Machine(make_engine(engine_name, CpuConfig(tuple(CpuidEntry(*k, *v) for k, v in PARTS[cpu].cpuid.items()))))
    operands = code in ON_BOTH or (code in WITH_MODRM and cpu == "intel")
    tails = ["", "84", "8400", "8400000000"[:-2], "840000000000"[: 12 if "3a" in code[:4] else 0]]
    for tail in tails:
        text = bytes.fromhex(code + tail)
        whole = len(bytes.fromhex(code)) + (6 + code.startswith("0f3a") if operands else 0)
        load_protected(vm, text)
        state = vm.state
        state.cs.limit = CODE + len(text) - 1
        vm.engine.set_state(state)
        vm.run(budget=1)
        assert vm.engine.last_fault[0] == (UD if len(text) >= whole else GP), (code, tail)
    vm.engine.close()
