"""Where AMD's parts and Intel's differ, where they were thought to, and what they make of what is undefined.

Measured on both; each test runs on both engines, in ring 3 of the world of the recorded sets.  Order of the tests:
what is the same, what is Intel's alone, what the manual leaves undefined.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from dataclasses import dataclass

import pytest
from system_machine import SS, System

from dm.engine import create
from dm.engine.api import CpuConfig, Engine, RunRequest
from dm.engine.parts import part
from dm.isa import undefined
from dm.isa.map import coverage
from dm.isa.map.decode import TooLong, decode
from dm.isa.map.forms import ROWS
from dm.vectors import hwamd
from dm.vectors.case import RecordedFault
from dm.vectors.world_memory import WorldMemory

ENGINES = ("native", "python")
INTEL, AMD, AMD_1A = "x86-64", "amd-x86-64", "AMD of family 1Ah"
VENDORS = (INTEL, AMD)

#: LDT entries: code of 64 KiB, 16- and 32-bit; data of 8 KiB, 32- and 16-bit; the same read-only; code that ends early.
CODE16, CODE32, DATA, DATA16, READ_ONLY, SHORT_CODE, OWN, OTHER = range(1, 9)
LDT = (
    (CODE16, 0x30000, 0xFFFF, 0, 2, 0, 0, 0),
    (CODE32, 0x30000, 0xFFFF, 1, 2, 0, 0, 0),
    (DATA, 0, 0x1FFF, 1, 0, 0, 0, 0),
    (DATA16, 0, 0x1FFF, 0, 0, 0, 0, 0),
    (READ_ONLY, 0, 0x1FFF, 1, 0, 1, 0, 0),
    (SHORT_CODE, 0x30000, 0x2FF, 1, 2, 0, 0, 0),
)
EIP, STACK = 0x200, 0x1000
GP, UD, SSF, AC, BR = 13, 6, 12, 17, 5
CF, PF, AF, ZF, SF, OF = undefined.CF, undefined.PF, undefined.AF, undefined.ZF, undefined.SF, undefined.OF
ALL = CF | PF | AF | ZF | SF | OF


def selector(entry: int) -> int:
    """Return the selector of an LDT entry."""
    return entry << 3 | 7 if entry else 0


def up_to(limit: int, big: int = 1, base: int = 0) -> tuple[int, ...]:
    """Return entry OWN: writable data with this last offset."""
    return (OWN, base, limit, big, 0, 0, 0, 0)


def above(limit: int, big: int = 1) -> tuple[int, ...]:
    """Return entry OWN: expand-down data, whose first offset is that after ``limit``."""
    return (OWN, 0, limit, big, 1, 0, 0, 0)


def config(cpu: str) -> CpuConfig:
    """Return a part of one of the vendors."""
    if cpu != AMD_1A:
        return part(cpu)
    rows = tuple(dataclasses.replace(row, eax=0xB00F21) if row.leaf == 1 else row for row in part(AMD).cpuid)
    return CpuConfig(rows)


@functools.cache
def machine(engine: str, cpu: str) -> tuple[Engine, hwamd.RingThree, WorldMemory]:
    """Return an engine with its world; kept, so that what one test leaves behind would show in the next."""
    world = hwamd.RingThree(config(cpu))
    memory = WorldMemory(world.pieces)
    made = create(engine, world.cpu)
    made.set_map(memory.map())
    return made, world, memory


@dataclass
class Result:
    """What came of an instruction: the exception, registers by name, and what it has written to data."""

    fault: RecordedFault | None
    regs: dict[str, int]
    written: dict[int, bytes]

    @property
    def flags(self) -> int:
        """The arithmetic flags."""
        return self.regs["eflags"] & ALL


def run(
    engine: str,
    cpu: str,
    code: str,
    *,
    code32: bool = True,
    entry: tuple[int, ...] = (),
    data: dict[int, bytes] | None = None,
    flags: int = 0,
    steps: int = 0,
    **registers: int,
) -> Result:
    """Run one instruction in ring 3.

    Args:
        engine: ``native`` or ``python``.
        cpu: the part.
        code: hexadecimal bytes at EIP; what follows a ``;`` is ignored.
        code32: size of the code segment.
        entry: the LDT's entry OWN.
        data: memory before, by offset in data segments.
        flags: arithmetic flags, or AC, before.
        steps: only so many REP iterations.
        registers: general registers and EIP, and segments by LDT entry.  By default segments are DATA, ESP is STACK.
    """
    made, world, memory = machine(engine, cpu)
    names = (*hwamd.GPR, *hwamd.SEG)
    eip = registers.pop("eip", EIP)
    assert registers.keys() <= set(names)
    gpr = [registers.get(name, STACK if name == "esp" else 0) for name in hwamd.GPR]
    segs = [selector(registers.get(name, CODE32 if name == "cs" and code32 else CODE16 if name == "cs" else DATA))
            for name in hwamd.SEG]  # fmt: skip
    ldt = {e[0]: hwamd.segment(*e) for e in (*LDT, *([entry] if entry else []))}
    patches = [[offset, bytes_] for offset, bytes_ in {**dict.fromkeys(range(0x400, 0x2000, 0x100), bytes(0x100)),
                                                     **(data or {})}.items()]  # fmt: skip
    row = [int(code32), bytes.fromhex(code.split(";")[0]), gpr, segs, eip, flags | 2, patches, 0, {}, {}, eip, 2, [],
           None, 0]  # fmt: skip
    case = hwamd.case("", 0, row, [ldt])
    try:
        memory.load(case.patches)
        made.set_state(case.state)
        before = memory.read(hwamd.ARENA, 0x2000)
        if steps:
            made.run(RunRequest(budget=steps))
            state = made.get_state()
            return Result(None, {"eflags": state.eflags, "ecx": state.ecx, "eip": state.eip}, {})
        outcome = world.run(made, memory, case)
        with contextlib.suppress(TooLong):
            decoded = decode(case.code + bytes(15), code32)
            coverage.executed(decoded, coverage.mode_of(case.state), completed=outcome.fault is None)
        after = memory.read(hwamd.ARENA, 0x2000)
    finally:
        memory.reset()
    written = {at: after[at : at + 1] for at in range(0x2000) if after[at] != before[at]}
    return Result(outcome.fault, dict(outcome.registers), _joined(written))


def _joined(pieces: dict[int, bytes]) -> dict[int, bytes]:
    out: dict[int, bytes] = {}
    for at in sorted(pieces):
        previous = next((start for start, text in out.items() if start + len(text) == at), None)
        if previous is None:
            out[at] = pieces[at]
        else:
            out[previous] += pieces[at]
    return out


def little(*values: int, size: int = 4) -> bytes:
    """Return numbers as they lie in memory."""
    return b"".join(value.to_bytes(size, "little") for value in values)


both_engines = pytest.mark.parametrize("engine", ENGINES)
all_vendors = pytest.mark.parametrize("cpu", VENDORS)


# ------------------------------------------------------------------------------------------ the same on both


@both_engines
@all_vendors
def test_1_lar_shows_the_limit_as_it_stands(engine: str, cpu: str) -> None:
    entry = (OWN, 0, 0xFFFFF, 1, 0, 0, 1, 0)
    found = run(engine, cpu, "0f02c3 ; lar eax,ebx", entry=entry, ebx=selector(OWN))
    assert found.regs["eax"] == 0x00DFF300


@both_engines
@all_vendors
@pytest.mark.parametrize("source", [0, 2, 3, 7])
def test_2_arpl_without_a_change_does_not_write(engine: str, cpu: str, source: int) -> None:
    data = {0x500: b"\x07\x00"}
    found = run(engine, cpu, "6308 ; arpl [eax],cx", ds=READ_ONLY, eax=0x500, ecx=source, data=data, flags=ALL)
    assert (found.fault, found.flags) == (None, ALL ^ ZF)


@both_engines
@all_vendors
def test_2_arpl_writes_when_it_raises_the_rpl(engine: str, cpu: str) -> None:
    code = "6308 ; arpl [eax],cx"
    data = {0x500: b"\x04\x00"}
    assert run(engine, cpu, code, ds=READ_ONLY, eax=0x500, ecx=3, data=data).fault == RecordedFault(GP, 0)
    found = run(engine, cpu, code, eax=0x500, ecx=3, data=data)
    assert (found.fault, found.written, found.flags & ZF) == (None, {0x500: b"\x07"}, ZF)


FAR_CALL = "9a 00030000 " + little(selector(SHORT_CODE), size=2).hex()


@both_engines
@all_vendors
def test_3_a_far_call_beyond_the_limit_leaves_its_frame(engine: str, cpu: str) -> None:
    found = run(engine, cpu, FAR_CALL)
    assert (found.fault, found.regs["esp"]) == (RecordedFault(GP, 0), STACK)
    assert found.written == {STACK - 8: b"\x07\x02", STACK - 4: bytes([selector(CODE32)])}


@both_engines
@all_vendors
def test_3_a_far_call_keeps_cs_when_eip_cannot_be_pushed(engine: str, cpu: str) -> None:
    found = run(engine, cpu, FAR_CALL, entry=above(0xFFB), ss=OWN)
    assert (found.fault, found.regs["esp"]) == (RecordedFault(SSF, 0), STACK)
    assert found.written == {STACK - 4: bytes([selector(CODE32)])}


@both_engines
@all_vendors
def test_3_a_bad_selector_is_seen_before_any_push(engine: str, cpu: str) -> None:
    found = run(engine, cpu, "9a 00030000 1300 ; data of level 0", entry=above(0xFFF), ss=OWN)
    assert found.fault == RecordedFault(GP, 0x10)
    assert found.written == {}


@both_engines
@all_vendors
def test_4_pusha_keeps_what_it_has_written(engine: str, cpu: str) -> None:
    registers = {"eax": 0xA0A0A0A0, "ecx": 0xC1C1C1C1, "edx": 0xD2D2D2D2, "ebx": 0xB3B3B3B3}
    found = run(engine, cpu, "60", entry=above(STACK - 13), ss=OWN, **registers)
    assert (found.fault, found.regs["esp"]) == (RecordedFault(SSF, 0), STACK)
    assert found.written == {STACK - 12: little(0xD2D2D2D2, 0xC1C1C1C1, 0xA0A0A0A0)}


@both_engines
@all_vendors
def test_4_pusha_wraps_with_an_odd_stack_pointer(engine: str, cpu: str) -> None:
    found = run(engine, cpu, "6660 ; pushaw", entry=up_to(0xFFFF, big=0), ss=OWN, esp=5, eax=0xA5A6, ecx=0xC5C6)
    assert (found.fault, found.regs["esp"]) == (RecordedFault(SSF, 0), 5)
    assert found.written == {1: little(0xC5C6, 0xA5A6, size=2)}


@both_engines
@all_vendors
def test_5_popa_keeps_the_registers_popped(engine: str, cpu: str) -> None:
    data = {STACK: little(0xD1, 0x51, 0xB1)}
    found = run(engine, cpu, "61", entry=up_to(STACK + 11), ss=OWN, data=data, ebx=0xB3, edi=1, esi=2, ebp=3)
    regs = found.regs
    assert found.fault == RecordedFault(SSF, 0)
    assert [regs[name] for name in ("edi", "esi", "ebp", "ebx", "esp")] == [0xD1, 0x51, 0xB1, 0xB3, STACK]


@both_engines
@all_vendors
def test_6_enter_keeps_what_it_has_written(engine: str, cpu: str) -> None:
    """Level 2 copies the frame pointer below a BP that is outside; later the probe of the new top fails."""
    found = run(engine, cpu, "c8 000002 ; enter 0,2", ebp=0x5000)
    assert (found.fault, found.regs["esp"], found.regs["ebp"]) == (RecordedFault(SSF, 0), STACK, 0x5000)
    assert found.written == {STACK - 3: b"\x50"}
    found = run(engine, cpu, "c8 000801 ; enter 800h,1", entry=above(0x7FF), ss=OWN, ebp=0x1234)
    assert (found.fault, found.regs["esp"], found.regs["ebp"]) == (RecordedFault(SSF, 0), STACK, 0x1234)
    assert found.written == {STACK - 8: b"\xfc\x0f", STACK - 4: b"\x34\x12"}


# ------------------------------------------------------------------------------------------ Intel's alone


@both_engines
@pytest.mark.parametrize("code", ["e8 00000100 ; call", "ffd3 ; call ebx"])
def test_7_a_near_call_beyond_the_limit(engine: str, code: str) -> None:
    back = little(EIP + len(bytes.fromhex(code.split(";")[0])))
    for cpu, written in ((INTEL, {STACK - 4: back[:2]}), (AMD, {})):
        found = run(engine, cpu, code, ebx=0x10000)
        assert (found.fault, found.regs["esp"], found.written) == (RecordedFault(GP, 0), STACK, written), cpu


@both_engines
@all_vendors
def test_7_a_near_call_looks_at_the_stack_first(engine: str, cpu: str) -> None:
    assert run(engine, cpu, "e8 00000100", entry=above(0xFFF), ss=OWN).fault == RecordedFault(SSF, 0)


@both_engines
@all_vendors
@pytest.mark.parametrize("code", ["e9 00000100", "ffe3", "c3", "0f8400000100", "e27f"])
def test_7_other_near_transfers_write_nothing(engine: str, cpu: str, code: str) -> None:
    data = {STACK: little(0x10000)}
    cs = SHORT_CODE if code == "e27f" else CODE32
    found = run(engine, cpu, code if code != "e27f" else "e27f", ebx=0x10000, ecx=5, flags=ZF, data=data, cs=cs)
    fault = RecordedFault(GP, 0) if cs == CODE32 else None
    assert (found.fault, found.written, found.regs["esp"]) == (fault, {}, STACK)


@both_engines
@pytest.mark.parametrize(("code", "step"), [("f3a6", 1), ("f3a7", 4), ("f2ae", 1), ("f2af", 4)])
def test_8_flags_of_a_repeated_comparison_that_faults(engine: str, code: str, step: int) -> None:
    """The third element is beyond the limit; the two before are equal (REPE) or differ (REPNE)."""
    data = {0x1000: bytes(16)}
    eax = 0x11111111
    for cpu, flags in ((INTEL, CF | OF | AF), (AMD, ZF | PF if code[:2] == "f3" else PF)):
        found = run(
            engine, cpu, code, entry=up_to(0x1000 + 2 * step - 1), es=OWN, data=data, eax=eax, ecx=5, esi=0x1800,
            edi=0x1000, flags=CF | OF | AF,
        )  # fmt: skip
        assert found.fault == RecordedFault(GP, 0)
        assert (found.regs["ecx"], found.regs["edi"]) == (3, 0x1000 + 2 * step)
        assert found.regs["esi"] == (0x1800 + 2 * step if code[2] == "a" and code[3] in "67" else 0x1800)
        assert found.flags == flags, cpu


@both_engines
def test_8_flags_between_two_iterations_and_at_the_end(engine: str) -> None:
    data = {0x1000: b"\1\1\1\2", 0x1100: b"\1\1\1\1"}
    for cpu, between in ((INTEL, CF | OF | AF), (AMD, ZF | PF)):
        registers = {"ecx": 9, "esi": 0x1100, "edi": 0x1000, "flags": CF | OF | AF}
        for steps in (1, 2, 3):
            found = run(engine, cpu, "f3a6", data=data, steps=steps, **registers)
            assert (found.flags, found.regs["ecx"]) == (between, 9 - steps), cpu
        whole = run(engine, cpu, "f3a6", data=data, **registers)
        assert (whole.flags, whole.regs["ecx"]) == (CF | PF | AF | SF, 5)  # 1 - 2
        assert run(engine, cpu, "f3a6", data=data, **{**registers, "ecx": 3}).flags == ZF | PF
        assert run(engine, cpu, "f3a6", data=data, **{**registers, "ecx": 0}).flags == CF | OF | AF


@both_engines
@pytest.mark.parametrize("code", ["a6", "a7", "66a7", "f3a6", "f2a6", "f3a7", "f2a7", "67a6"])
def test_9_which_operand_cmps_reads_first(engine: str, code: str) -> None:
    """ES is null, SS:ESI beyond the limit."""
    amd = SSF if code == "f3a6" else GP
    for cpu, vector in ((INTEL, GP), (AMD, amd), (AMD_1A, SSF)):
        found = run(engine, cpu, "36" + code, es=0, ecx=2, esi=0x4000, edi=0x1000)
        assert found.fault == RecordedFault(vector, 0), cpu


@both_engines
@all_vendors
def test_9_movs_reads_its_source_first(engine: str, cpu: str) -> None:
    assert run(engine, cpu, "36a4", es=0, esi=0x4000, edi=0x1000).fault == RecordedFault(SSF, 0)


@both_engines
@pytest.mark.parametrize("code", ["07", "1f", "0fa1", "0fa9"])
def test_10_a_segment_register_popped_by_a_32_bit_operand(engine: str, code: str) -> None:
    at = {STACK: little(selector(DATA))}
    for cpu, fault in ((INTEL, None), (AMD, RecordedFault(SSF, 0))):
        found = run(engine, cpu, code, entry=up_to(STACK + 1), ss=OWN, data=at)
        assert found.fault == fault, cpu
        assert found.regs["esp"] == (STACK if fault else STACK + 4)
    aligned = {STACK + 2: little(selector(DATA))}
    for cpu, fault in ((INTEL, None), (AMD, RecordedFault(AC, 0))):
        assert run(engine, cpu, code, esp=STACK + 2, flags=1 << 18, data=aligned).fault == fault, cpu


@both_engines
@pytest.mark.parametrize("code", ["06", "0e", "16", "1e", "0fa0", "0fa8"])
def test_10_a_segment_register_pushed_by_a_32_bit_operand(engine: str, code: str) -> None:
    at = {STACK - 4: b"\xff" * 4}
    for cpu, kept in ((INTEL, b"\0\xff\xff"), (AMD, bytes(3))):
        found = run(engine, cpu, code, data=at, es=DATA, ds=DATA, fs=DATA, gs=DATA)
        slot = b"\xff" * 4
        for where, text in found.written.items():
            slot = slot[: where - STACK + 4] + text + slot[where - STACK + 4 + len(text) :]
        assert (slot[1:], found.regs["esp"]) == (kept, STACK - 4), cpu
    for cpu, fault in ((INTEL, None), (AMD, RecordedFault(SSF, 0))):
        # The upper half would lie beyond the limit.
        assert run(engine, cpu, code, entry=up_to(STACK - 3), ss=OWN).fault == fault, cpu


def frame(*, eip: int = 0x300, cs: int = CODE32, flags: int | None = None) -> bytes:
    """Return the frame of a far return."""
    return little(eip, selector(cs) | 0xABCD0000, *(() if flags is None else (flags,)))


@both_engines
def test_11_far_returns_read_cs_as_a_word(engine: str) -> None:
    for code, entry in (("cb", up_to(STACK + 5)), ("ca1000", up_to(STACK + 5))):
        for cpu, fault in ((INTEL, None), (AMD, RecordedFault(SSF, 0))):
            found = run(engine, cpu, code, entry=entry, ss=OWN, data={STACK: frame()})
            assert found.fault == fault, (code, cpu)
            assert found.regs["eip"] == (EIP if fault else 0x300)
    wrong = {STACK: little(0x300, 0x1C)}
    for cpu, fault in ((INTEL, RecordedFault(GP, 0x1C)), (AMD, RecordedFault(SSF, 0))):
        assert run(engine, cpu, "cb", entry=up_to(STACK + 5), ss=OWN, data=wrong).fault == fault, cpu


@both_engines
@all_vendors
def test_11_all_slots_are_read_before_the_descriptor(engine: str, cpu: str) -> None:
    wrong = {STACK: little(0x300, 0x1C, 2)}
    assert run(engine, cpu, "cf", entry=up_to(STACK + 9), ss=OWN, data=wrong).fault == RecordedFault(SSF, 0)
    assert run(engine, cpu, "cb", entry=up_to(STACK + 3), ss=OWN, data=wrong).fault == RecordedFault(SSF, 0)
    assert run(engine, cpu, "cf", data=wrong).fault == RecordedFault(GP, 0x1C)


@both_engines
def test_11_a_return_inwards_does_not_look_at_the_outer_frame(engine: str) -> None:
    """AMD's parts read ESP and SS before they look at CS."""
    inwards = {STACK: little(0x300, 0x10, 2)}
    for code, size in (("cb", 8), ("cf", 12)):
        for cpu, fault in ((INTEL, RecordedFault(GP, 0x10)), (AMD, RecordedFault(SSF, 0))):
            found = run(engine, cpu, code, entry=up_to(STACK + size - 1), ss=OWN, data=inwards)
            assert found.fault == fault, (code, cpu)


@both_engines
@all_vendors
def test_11_a_far_call_writes_cs_zero_extended(engine: str, cpu: str) -> None:
    code = "9a 00030000 " + little(selector(CODE32), size=2).hex()
    found = run(engine, cpu, code, data={STACK - 8: b"\xff" * 8})
    assert found.written == {STACK - 8: little(EIP + 7) + little(selector(CODE32))}


@both_engines
def test_12_enter_with_a_32_bit_operand_on_a_16_bit_stack(engine: str) -> None:
    entry = up_to(0xFFFF, big=0)
    for cpu, frame_pointer in ((INTEL, 0x7FFFFFFC), (AMD, 0x8000FFFC), ("80386", 0x8000FFFC)):
        found = run(engine, cpu, "c8 100000 ; enter 10h,0", entry=entry, ss=OWN, esp=0x80000000, ebp=0x12345678)
        assert (found.fault, found.regs["ebp"], found.regs["esp"]) == (None, frame_pointer, 0x8000FFEC), cpu
        word = run(engine, cpu, "66c8 100000", entry=entry, ss=OWN, esp=0x80000000, ebp=0x12345678)
        assert (word.regs["ebp"], word.regs["esp"]) == (0x1234FFFE, 0x8000FFEE), cpu


#: Opcodes that raise #UD behind a ModRM byte, on Intel's parts.
WITH_MODRM = (
    *(f"0f{op:02x}" for op in (0x39, *range(0x3B, 0x40), 0x7A, 0x7B, 0xA6, 0xA7, 0xB8, 0xB9, 0xFF)),
    *("0f380c", "0f38ff", "0f3a00", "0f3aff"),
)
WITHOUT = tuple(f"0f{op:02x}" for op in (0x04, 0x0A, 0x0B, 0x0C, 0x24, 0x26, 0x36))


@both_engines
@pytest.mark.parametrize("code", WITH_MODRM)
def test_13_undefined_opcodes_fetch_what_follows_modrm(engine: str, code: str) -> None:
    """The last byte of the displacement, or of the immediate of 0F 3A, lies beyond the limit of CS: #GP(0)."""
    whole = bytes.fromhex(code + "8044332211" + "00" * code.startswith("0f3a"))
    assert run(engine, INTEL, whole.hex()).fault == RecordedFault(UD)
    assert run(engine, INTEL, whole[:-1].hex(), eip=0x10001 - len(whole)).fault == RecordedFault(GP, 0)
    for size, fault in ((15, RecordedFault(UD)), (16, RecordedFault(GP, 0))):
        assert run(engine, INTEL, (b"\x66" * (size - len(whole)) + whole).hex()).fault == fault


@both_engines
@all_vendors
@pytest.mark.parametrize("code", WITHOUT)
def test_13_undefined_opcodes_without_modrm(engine: str, cpu: str, code: str) -> None:
    assert run(engine, cpu, code, eip=0x10000 - len(code) // 2).fault == RecordedFault(UD)


@both_engines
@pytest.mark.parametrize(
    ("code", "zf", "intel", "amd"),
    [
        ("e110", 1, True, True),  # LOOPE
        ("f3e110", 1, True, True),
        ("f2e110", 1, True, False),  # the opposite prefix turns AMD's condition round
        ("f2e110", 0, False, True),
        ("e010", 0, True, True),  # LOOPNE
        ("f2e010", 0, True, True),
        ("f3e010", 0, True, False),
        ("f3e010", 1, False, True),
    ],
)
def test_14_repeat_prefixes_before_loops(engine: str, code: str, zf: int, intel: bool, amd: bool) -> None:
    for cpu, jumps in ((INTEL, intel), (AMD, amd)):
        found = run(engine, cpu, code, ecx=5, flags=zf * ZF)
        assert (found.regs["eip"], found.regs["ecx"]) == (EIP + len(code) // 2 + 0x10 * jumps, 4)


@both_engines
@pytest.mark.parametrize("size", [4, 2])
def test_15_bound_looks_at_the_lower_bound_first(engine: str, size: int) -> None:
    code = ("" if size == 4 else "66") + "6208 ; bound ecx,[eax]"
    lower = {STACK: little(10, size=size)}
    entry = up_to(STACK + size - 1)
    for cpu, fault in ((INTEL, RecordedFault(BR)), (AMD, RecordedFault(GP, 0))):
        assert run(engine, cpu, code, entry=entry, ds=OWN, eax=STACK, ecx=9, data=lower).fault == fault, cpu
        assert run(engine, cpu, code, entry=entry, ds=OWN, eax=STACK, ecx=10, data=lower).fault == RecordedFault(
            GP, 0
        ), cpu


@both_engines
@all_vendors
@pytest.mark.parametrize("code", ["0f05", "0f07"])
def test_16_syscall_and_sysret_without_sce(engine: str, cpu: str, code: str) -> None:
    """AMD's parts have them in legacy mode (tests/isa/test_sysenter.py), where EFER.SCE is set."""
    assert run(engine, cpu, code).fault == RecordedFault(UD)


@both_engines
@all_vendors
@pytest.mark.parametrize("code", [f"0f{op:02x}0500400000" for op in (0x0D, *range(0x18, 0x20))])
def test_17_hints_do_not_touch_memory(engine: str, cpu: str, code: str) -> None:
    found = run(engine, cpu, code, ds=0)
    assert (found.fault, found.regs["eip"]) == (None, EIP + 7)


@both_engines
@all_vendors
@pytest.mark.parametrize("code", ["8fc8", "c6c800", "c7c800000000", "fed0", "fff8", "ffd8", "ffe8", "0f0b"])
def test_17_what_is_undefined(engine: str, cpu: str, code: str) -> None:
    assert run(engine, cpu, code).fault == RecordedFault(UD)


# ------------------------------------------------------------------------------------------ order of reads, ring 0


def order_of_reads(code: str, size: int) -> list[int]:
    """Return the offsets from SP that an instruction reads, in order, at level 0."""
    m = System()
    seen: list[int] = []
    load = m.any_load

    def watch(width: int, seg: int, offset: int) -> int:
        if seg == SS:
            seen.append((offset - 0x7000) // size)
        return load(width, seg, offset)

    m.any_load = watch  # type: ignore[method-assign]
    m.put(0x7000, 0x9000, size)
    m.put(0x7000 + size, 8, 2)
    m.put(0x7000 + 2 * size, 2, size)
    m.run(bytes.fromhex(code))
    assert m.eip == 0x9000
    return seen


@pytest.mark.parametrize(("prefix", "size"), [("", 4), ("66", 2)])
def test_far_returns_read_their_frame_from_its_end(prefix: str, size: int) -> None:
    """Which element faults first shows in #SS against #AC, and in CR2."""
    assert order_of_reads(prefix + "cb", size) == [1, 0]
    assert order_of_reads(prefix + "cf", size) == [2, 1, 0]


# ------------------------------------------------------------------------------------------ undefined

#: Code, registers, flags before, arithmetic flags after: Intel's, AMD's.  A flag that is defined is in both.
UNDEFINED = [
    ("21c8 ; and eax,ecx", {"eax": 1, "ecx": 3}, ALL, 0, 0),
    ("d1e0 ; shl eax,1", {"eax": 1}, 0, 0, AF),
    ("c1e002 ; shl eax,2", {"eax": 0x40000000}, 0, CF | ZF | PF | OF, CF | ZF | PF | AF | OF),
    ("c1e002 ; shl eax,2", {"eax": 0x60000000}, 0, CF | SF | PF | OF, CF | SF | PF | AF),
    ("c1e802 ; shr eax,2", {"eax": 0x80000000}, 0, OF | PF, AF | PF),
    ("c1f802 ; sar eax,2", {"eax": 0x80000000}, OF, SF | PF, SF | PF | AF),
    ("c1c002 ; rol eax,2", {"eax": 0x40000000}, 0, CF, CF | OF),
    ("c1c002 ; rol eax,2", {"eax": 0x40000000}, OF, CF | OF, CF | OF),
    ("d3c0 ; rol eax,cl", {"eax": 0x20000000, "ecx": 3}, OF, CF, CF | OF),
    ("d3d0 ; rcl eax,cl", {"eax": 0x40000000, "ecx": 2}, 0, CF | OF, CF | OF),
    ("d3d8 ; rcr eax,cl", {"eax": 0, "ecx": 2}, CF, OF, OF),
    ("d3d8 ; rcr eax,cl", {"eax": 0, "ecx": 3}, CF, OF, 0),
    ("0fa4c802 ; shld eax,ecx,2", {"eax": 0x40000000, "ecx": 1}, 0, CF | ZF | PF | OF, CF | ZF | PF | AF | OF),
    ("0facc802 ; shrd eax,ecx,2", {"eax": 0x10, "ecx": 1}, 0, OF, AF | OF),
    ("f7e1 ; mul ecx", {"eax": 0, "ecx": 5}, ZF | AF | SF, PF, ZF | AF | SF),
    ("0fafc1 ; imul eax,ecx", {"eax": 0x10000, "ecx": 0x10000}, SF, CF | OF | PF, CF | OF | SF),
    ("f7f1 ; div ecx", {"eax": 7, "ecx": 2}, ALL, ALL, None),
    ("27 ; daa", {"eax": 0x7A}, 0, AF | SF, AF | SF | OF),
    ("37 ; aaa", {"eax": 0x0A}, OF | SF, CF | AF | ZF | PF, None),
    ("d40a ; aam", {"eax": 11}, ALL, 0, 0),
    ("d50a ; aad", {"eax": 0x19FF}, 0, CF | SF | AF | PF, CF | SF | AF | PF),
    ("0fa3c8 ; bt eax,ecx", {"eax": 1}, ALL, ALL, ALL),
    ("0fbcc1 ; bsf eax,ecx", {"ecx": 1}, ALL, PF, PF),
    ("0fbcc1 ; bsf eax,ecx", {"ecx": 2}, ALL, 0, 0),
    ("0fbdc1 ; bsr eax,ecx", {"eax": 0x12345678}, ALL, ZF | PF, ZF | PF),
]


@both_engines
@pytest.mark.parametrize(("code", "registers", "before", "intel", "amd"), UNDEFINED)
def test_undefined_flags(
    engine: str, code: str, registers: dict[str, int], before: int, intel: int, amd: int | None
) -> None:
    for cpu, flags in ((INTEL, intel), (AMD, amd)):
        if flags is not None:
            assert hex(run(engine, cpu, code, flags=before, **registers).flags) == hex(flags), (code, cpu)


@both_engines
def test_undefined_overflow_of_rotating_memory_by_an_immediate(engine: str) -> None:
    """Other than of a register Intel's parts set it as a rotation by 1 does."""
    for cpu, flags in ((INTEL, OF), (AMD, 0)):
        found = run(engine, cpu, "c10500100000 02 ; rol dword [1000h],2", data={0x1000: little(0x60000000)})
        assert found.flags & OF == flags, cpu


@both_engines
def test_undefined_results(engine: str) -> None:
    for cpu in VENDORS:
        shld = run(engine, cpu, "660fa4c81c ; shld ax,cx,28", eax=0x1234, ecx=0xABCD).regs["eax"]
        shrd = run(engine, cpu, "660facc81c ; shrd ax,cx,28", eax=0x5678, ecx=0xABCD).regs["eax"]
        string = 0x1234ABCD1234 if cpu == INTEL else 0x1234ABCDABCD
        assert shld == string << 28 >> 32 & 0xFFFF
        string = 0x5678ABCD5678 if cpu == INTEL else 0xABCDABCD5678
        assert shrd == string >> 28 & 0xFFFF
        assert run(engine, cpu, "660fc8 ; bswap ax", eax=0x12345678).regs["eax"] == 0x12340000
        assert run(engine, cpu, "660fbcc1 ; bsf ax,cx", eax=0x12345678, ecx=0x10000).regs["eax"] == 0x12345678


def test_the_table_names_instructions_that_exist() -> None:
    names = {row.mnemonic for row in ROWS}
    for row in undefined.TABLE:
        assert set(row.names) <= names
        assert row.flags or row.result
        assert row.intel
        assert row.amd
        assert row.modelled in (undefined.BOTH, "Intel's")


@pytest.mark.parametrize(
    ("code", "cl", "mask"),
    [
        ("21c8", 0, AF),
        ("c1e002", 0, AF | OF),
        ("d1e0", 7, AF),
        ("d3e0", 0, 0),
        ("d2e0", 9, AF | OF | CF),
        ("c0e008", 0, AF | OF | CF),
        ("d3c0", 2, OF),
        ("c4e270f2c1", 0, AF | PF),  # ANDN
        ("c4e278f7c1", 0, AF | SF | PF),  # BEXTR
        ("c4e278f3c9", 0, AF | PF),  # BLSR
        ("f30fbcc1", 0, OF | SF | AF | PF),
        ("0fbcc1", 0, OF | SF | AF | PF | CF),
        ("40", 0, 0),
        ("27", 0, OF),
        ("d6", 0, 0),
    ],
)
def test_masks_of_undefined_flags(code: str, cl: int, mask: int) -> None:
    assert hex(undefined.flags(decode(bytes.fromhex(code) + bytes(8), True), cl)) == hex(mask)
