"""BMI1 and BMI2: ANDN BEXTR BLSI BLSMSK BLSR BZHI MULX PDEP PEXT RORX SARX SHLX SHRX, and the VEX prefix around them.

Every case is executed in 16- and 32-bit code; tests/engine/test_vex.py has both engines do it.
"""

from __future__ import annotations

import pytest
from machine import Machine, Values, execute, fails

from dm.isa import features
from dm.machine.state import Seg

ALL = (1 << len(features.TABLE)) - 1
ARITHMETIC = {"cf": 1, "of": 1, "sf": 1, "zf": 1, "af": 1, "pf": 1}
UNCHANGED = dict(ARITHMETIC)


def flags(**set_: int) -> Values:
    """Return CF, OF, SF and ZF: 0 but for those named."""
    return {"cf": 0, "of": 0, "sf": 0, "zf": 0, **set_}


#: Code with a register source (rm ECX unless said), registers, results.  EBX is in vvvv, EAX in reg.
CASES: list[tuple[str, Values, Values]] = [
    ("c4e260f2c1 ; andn eax,ebx,ecx", {"ebx": 0x0F0F0F0F, "ecx": 0x812345F0}, {"eax": 0x802040F0, **flags(sf=1)}),
    ("c4e260f2c1 ; andn eax,ebx,ecx", {"ebx": 0xFFFF0000, "ecx": 0x12340000}, {"eax": 0, **flags(zf=1)}),
    ("c4e260f7c1 ; bextr eax,ecx,ebx", {"ebx": 0xABCD0C08, "ecx": 0x12345678}, {"eax": 0x456, **flags()}),
    ("c4e260f7c1 ; bextr beyond the end", {"ebx": 0x1018, "ecx": 0xA2345678}, {"eax": 0xA2, **flags()}),
    ("c4e260f7c1 ; bextr all", {"ebx": 0xFF00, "ecx": 0xA2345678}, {"eax": 0xA2345678, "af": 0, **flags()}),
    ("c4e260f7c1 ; bextr from 32 on", {"ebx": 0x0820, "ecx": 0xFFFFFFFF}, {"eax": 0, **flags(zf=1)}),
    ("c4e260f7c1 ; bextr nothing", {"ebx": 0x0004, "ecx": 0xFFFFFFFF}, {"eax": 0, **flags(zf=1)}),
    ("c4e260f3d9 ; blsi ebx,ecx", {"ecx": 0x12345600}, {"ebx": 0x200, **flags(cf=1)}),
    ("c4e260f3d9 ; blsi ebx,ecx", {"ebx": 5, "ecx": 0}, {"ebx": 0, **flags(zf=1)}),
    ("c4e260f3d9 ; blsi ebx,ecx", {"ecx": 0x80000000}, {"ebx": 0x80000000, **flags(cf=1, sf=1)}),
    ("c4e260f3d1 ; blsmsk ebx,ecx", {"ecx": 0x12345600}, {"ebx": 0x3FF, **flags()}),
    ("c4e260f3d1 ; blsmsk ebx,ecx", {"ecx": 0}, {"ebx": 0xFFFFFFFF, **flags(cf=1, sf=1)}),
    ("c4e260f3c9 ; blsr ebx,ecx", {"ecx": 0x92345600}, {"ebx": 0x92345400, **flags(sf=1)}),
    ("c4e260f3c9 ; blsr ebx,ecx", {"ecx": 0x100}, {"ebx": 0, **flags(zf=1)}),
    ("c4e260f3c9 ; blsr ebx,ecx", {"ebx": 5, "ecx": 0}, {"ebx": 0, **flags(zf=1, cf=1)}),
    ("c4e260f5c1 ; bzhi eax,ecx,ebx", {"ebx": 0xFFFFFF0C, "ecx": 0x92345678}, {"eax": 0x678, **flags()}),
    ("c4e260f5c1 ; bzhi eax,ecx,ebx", {"ebx": 0, "ecx": 0x92345678}, {"eax": 0, **flags(zf=1)}),
    ("c4e260f5c1 ; bzhi by 31", {"ebx": 31, "ecx": 0xFFFFFFFF}, {"eax": 0x7FFFFFFF, **flags()}),
    ("c4e260f5c1 ; bzhi by 32", {"ebx": 32, "ecx": 0x92345678}, {"eax": 0x92345678, **flags(cf=1, sf=1)}),
    ("c4e263f6c1 ; mulx eax,ebx,ecx", {"edx": 0xFFFFFFFF, "ecx": 0xFFFFFFFE},
     {"eax": 0xFFFFFFFD, "ebx": 2, **UNCHANGED}),
    ("c4e27bf6c1 ; mulx eax,eax,ecx has the high half", {"edx": 0x80000000, "ecx": 6}, {"eax": 3, **UNCHANGED}),
    ("c4e263f5c1 ; pdep eax,ebx,ecx", {"ebx": 0x5A5, "ecx": 0xF0F000F0}, {"eax": 0x50A00050, **UNCHANGED}),
    ("c4e263f5c1 ; pdep by all ones", {"ebx": 0x92345678, "ecx": 0xFFFFFFFF}, {"eax": 0x92345678, **UNCHANGED}),
    ("c4e263f5c1 ; pdep by 0", {"ebx": 0x92345678, "ecx": 0}, {"eax": 0, **UNCHANGED}),
    ("c4e262f5c1 ; pext eax,ebx,ecx", {"ebx": 0x5BACDEF5, "ecx": 0xF0F000F0}, {"eax": 0x5AF, **UNCHANGED}),
    ("c4e262f5c1 ; pext by the top", {"ebx": 0x80000000, "ecx": 0x80000000}, {"eax": 1, **UNCHANGED}),
    ("c4e37bf0c104 ; rorx eax,ecx,4", {"ecx": 0x12345678}, {"eax": 0x81234567, **UNCHANGED}),
    ("c4e37bf0c120 ; rorx by 32 is by 0", {"ecx": 0x12345678}, {"eax": 0x12345678, **UNCHANGED}),
    ("c4e262f7c1 ; sarx eax,ecx,ebx", {"ebx": 0xFFFFFFE4, "ecx": 0x92345678}, {"eax": 0xF9234567, **UNCHANGED}),
    ("c4e261f7c1 ; shlx eax,ecx,ebx", {"ebx": 0x24, "ecx": 0x92345678}, {"eax": 0x23456780, **UNCHANGED}),
    ("c4e263f7c1 ; shrx eax,ecx,ebx", {"ebx": 0x3F, "ecx": 0x92345678}, {"eax": 1, **UNCHANGED}),
    # W, B and vvvv[3] are ignored
    ("c4e2e0f2c1 ; W=1", {"ebx": 1, "ecx": 3}, {"eax": 2, **flags()}),
    ("c4c220f2c1 ; B, vvvv[3] inverted", {"ebx": 1, "ecx": 3}, {"eax": 2, **flags()}),
    ("6467c4e260f2c1 ; segment and address size", {"ebx": 1, "ecx": 3}, {"eax": 2, **flags()}),
]  # fmt: skip
#: One of each instruction.
EACH = list({case[0].split()[2]: case for case in CASES[:31]}.values())
ADDRESS = 0x1000


def in_memory(case: tuple[str, Values, Values], address32: bool) -> tuple[str, Values, Values]:
    """Return a case with its source in memory instead of ECX."""
    code, before, after = case
    raw = bytearray.fromhex(code.split(";")[0])
    at = raw.index(0xC4) + 4
    raw[at : at + 1] = bytes([raw[at] & 0x38 | (5 if address32 else 6)]) + ADDRESS.to_bytes(
        4 if address32 else 2, "little"
    )
    values = {name: value for name, value in before.items() if name != "ecx"}
    source = before["ecx"]
    assert isinstance(source, int)
    return raw.hex(), {**values, ADDRESS: source.to_bytes(4, "little")}, after


def machine(code32: bool) -> Machine:
    """Return a machine in protected mode whose CPUID has everything."""
    m = Machine().protect(3)
    m.code32, m.features = code32, ALL
    return m


@pytest.mark.parametrize("code32", [False, True])
@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_case(case: tuple[str, Values, Values], code32: bool) -> None:
    code, before, after = case
    execute(code, {**ARITHMETIC, **before}, after, machine(code32))


@pytest.mark.parametrize("address32", [False, True])
@pytest.mark.parametrize("code32", [False, True])
@pytest.mark.parametrize("case", EACH, ids=[case[0] for case in EACH])
def test_memory_form(case: tuple[str, Values, Values], code32: bool, address32: bool) -> None:
    code, before, after = in_memory(case, address32)
    execute("67" * (code32 != address32) + code, {**ARITHMETIC, **before}, after, machine(code32))


def test_each_is_there() -> None:
    names = "andn bextr blsi blsmsk blsr bzhi mulx pdep pext rorx sarx shlx shrx".split()
    assert sorted(case[0].split()[2] for case in EACH) == names


@pytest.mark.parametrize("case", EACH, ids=[case[0] for case in EACH])
def test_undefined(case: tuple[str, Values, Values]) -> None:
    """#UD in real and virtual-8086 mode and without the feature; with VEX.L, LOCK, 66, F2 or F3."""
    code = case[0].split()[0]
    real = Machine()
    real.features = ALL
    fails(code, 6, "NOT_PROTECTED_MODE", m=real)
    vm86 = Machine().virtual_8086()
    vm86.features = ALL
    fails(code, 6, "NOT_PROTECTED_MODE", m=vm86)
    feature = "bmi1" if case[0].split()[2] in ("andn", "bextr", "blsi", "blsmsk", "blsr") else "bmi2"
    lacking = machine(True)
    lacking.features = ALL & ~(1 << list(features.TABLE).index(feature))
    fails(code, 6, "NO_FEATURE", m=lacking)
    long = bytearray.fromhex(code)
    long[2] |= 4
    for wrong in (long.hex(), *(prefix + code for prefix in ("f0", "66", "f2", "f3"))):
        fails(wrong, 6, "UNDEFINED", m=machine(True))


@pytest.mark.parametrize("code", ["c4e373f0c104", "c4e33bf0c104", "c4e260f3c1", "c4e260f3e1"])
def test_other_encodings_are_undefined(code: str) -> None:
    """RORX with a register in vvvv, the rest of group 17."""
    fails(code, 6, "UNDEFINED", m=machine(True))


@pytest.mark.parametrize("code", ["c4e161f7c1", "c5e0f2c1"])
def test_other_maps_and_the_short_prefix_are_avx(code: str) -> None:
    lacking = machine(True)
    lacking.features = lacking.more_features = 0
    fails(code, 6, "NO_FEATURE", m=lacking)


@pytest.mark.parametrize("case", EACH, ids=[case[0] for case in EACH])
def test_a_fault_leaves_everything_as_it_was(case: tuple[str, Values, Values]) -> None:
    code, before, _ = in_memory(case, True)
    m = machine(True)
    m.seg.limit[Seg.DS] = ADDRESS + 2
    m.seg.attributes[Seg.DS] = 0x40F3
    fails(code, 13, "SEGMENT_LIMIT", {**ARITHMETIC, **before}, m)
