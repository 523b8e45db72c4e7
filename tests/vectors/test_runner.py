"""The runner and its worlds, on an engine small enough to be right by inspection."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from dm.engine.api import CpuConfig, Engine
from dm.machine.state import Segment, State
from dm.vectors.case import Case, RecordedFault, Unimplemented, World
from dm.vectors.differences import DIFFERENCES, Difference
from dm.vectors.hwamd import ARENA, RingThree
from dm.vectors.real_mode import RealMode, initial_state, probe
from dm.vectors.runner import run_case
from dm.vectors.world_memory import Patch, WorldMemory

Tiny = Callable[..., Callable[[CpuConfig], Engine]]


def real(code: bytes, registers: Mapping[str, int], changes: tuple[Patch, ...] = (), **fields: Any) -> Case:
    state = initial_state([0x1FF, 0, 0, 0, 0, 0, 0, 0], [0, 0x1000, 0, 0x3000, 0, 0], 0x20, 2)
    return Case(
        "xx", 0, "", code, state, ((0x10020, code),), {n: (v, 0xFFFF) for n, v in registers.items()}, changes, **fields
    )


def ring3(code: bytes, registers: Mapping[str, int], changes: tuple[Patch, ...] = (), **fields: Any) -> Case:
    flat = Segment(7, ARENA, 0x3FFFF, 0xC0F3)
    state = replace(
        State.reset(),
        gpr=[0x1FF, 3, 0, 0, 0x500, 0, 0, 0x200],
        seg=[flat, Segment(15, ARENA, 0x3FFFF, 0x40FB), *[flat] * 4, Segment(), Segment(0x18, 0x400, 0x67, 0x8B)],
        rip=0x100, rflags=0x202, cpl=3, cr0=0x33, idtr_base=0x800, idtr_limit=0x7FF,
    )  # fmt: skip
    masked = {n: (v, 0xFFFFFFFF) for n, v in registers.items()}
    return Case("xx", 0, "", code, state, ((ARENA + 0x100, code),), masked, changes, **fields)


def lines(world: World, make: Callable[[CpuConfig], Engine], case: Case, known: Difference | None = None) -> list[str]:
    memory = WorldMemory(world.pieces)
    engine = make(world.cpu)
    engine.set_map(memory.map())
    first = run_case(engine, world, memory, case, known)
    assert run_case(engine, world, memory, case, known) == first, "a case left something behind"
    return first


REAL, RING3 = RealMode(CpuConfig()), RingThree(CpuConfig())
INC = real(b"\x40\xf4", {"ax": 0x200, "ip": 0x22})


def test_a_case_that_ends_as_on_hardware_passes(tiny: Tiny) -> None:
    assert lines(REAL, tiny(), INC) == []


def test_every_register_that_differs_is_named(tiny: Tiny) -> None:
    case = real(b"\x40\xf4", {"ax": 0x1FF, "bx": 1, "ip": 0x22})
    assert lines(REAL, tiny(), case) == ["ax: 200, hardware: 1ff", "bx: 0, hardware: 1"]


def test_bits_outside_the_mask_do_not_count(tiny: Tiny) -> None:
    assert lines(REAL, tiny(), replace(INC, registers={"ax": (0x1FF, 0xFC00)})) == []
    assert lines(REAL, tiny(), replace(INC, registers={"ax": (0x1FF, 0xFF00)})) == ["ax: 200, hardware: 100"]


def test_a_stray_store_is_found(tiny: Tiny) -> None:
    assert lines(REAL, tiny("store"), INC) == ["[30010]: 21, hardware: 00"]


def test_a_missing_store_is_found(tiny: Tiny) -> None:
    case = real(b"\x40\xf4", {}, ((0x500, b"\x12\x34"),))
    assert lines(REAL, tiny(), case) == ["[500]: 00, hardware: 12", "[501]: 00, hardware: 34"]


def test_many_wrong_bytes_are_counted(tiny: Tiny) -> None:
    found = lines(REAL, tiny(), real(b"\x40\xf4", {}, ((0x500, b"\1" * 20),)))
    assert len(found) == 9
    assert found[-1] == "and 12 more bytes of memory"


def test_ports_read_as_all_ones(tiny: Tiny) -> None:
    assert lines(REAL, tiny(), real(b"\xe4\x60\xf4", {"ax": 0x1FF, "ip": 0x23})) == []
    assert lines(REAL, tiny(), real(b"\x40\xe4\x60\xf4", {"ax": 0x2FF, "ip": 0x24})) == []


def test_an_end_without_halt_fails(tiny: Tiny) -> None:
    assert lines(REAL, tiny("budget"), INC) == ["ended with budget at 0x0"]


@pytest.mark.parametrize(("world", "case"), [(REAL, real(b"\x0f\x0b", {})), (RING3, ring3(b"\x0f\x0b", {}))])
def test_what_an_engine_cannot_run_is_neither_right_nor_wrong(tiny: Tiny, world: World, case: Case) -> None:
    with pytest.raises(Unimplemented, match="opcode 0f"):
        lines(world, tiny(), case)


def test_an_engine_that_raises_fails_the_case_only(tiny: Tiny) -> None:
    assert lines(REAL, tiny("raise"), INC) == ["raised ValueError: no such register"]


def test_probed_vectors_are_told_apart(tiny: Tiny) -> None:
    case = real(b"\x40\xf4", {"ax": 0}, fault=RecordedFault(6), vector_only=True)
    patches = case.patches + probe(case.state, case.patches)
    assert lines(REAL, tiny(), replace(case, patches=patches)) == ["fault: none, hardware: vector 6"]
    # what delivery of vector 6 comes to: on at the handler's HLT
    state = replace(case.state, rip=6, seg=[*case.state.seg])
    state.seg[1] = Segment(0x40, 0x400, 0xFFFF, 0x93)
    assert lines(REAL, tiny(), replace(case, state=state, patches=patches)) == []
    wrong = replace(case, state=state, patches=patches, fault=RecordedFault(13))
    assert lines(REAL, tiny(), wrong) == ["fault: vector 6, hardware: vector 13"]


def test_ring_three_stops_after_one_instruction(tiny: Tiny) -> None:
    assert lines(RING3, tiny(), ring3(b"\x40\x40", {"eax": 0x200, "eip": 0x101, "cs": 15})) == []


def test_ring_three_runs_a_rep_to_its_end(tiny: Tiny) -> None:
    case = ring3(b"\xf3\xaa\x40", {"eax": 0x1FF, "ecx": 0, "edi": 0x203, "eip": 0x102}, ((ARENA + 0x200, b"\xff" * 3),))
    assert lines(RING3, tiny(), case) == []


def test_ring_three_reads_a_fault_off_the_stack(tiny: Tiny) -> None:
    registers = {"eip": 0x100, "cs": 15, "esp": 0x500, "ss": 7, "eflags": 0x202}
    assert lines(RING3, tiny(), ring3(b"\xf4", registers, fault=RecordedFault(13, 0))) == []
    assert lines(RING3, tiny("error"), ring3(b"\xf4", registers, fault=RecordedFault(13, 0))) == [
        "fault: vector 13, error code 0x4, hardware: vector 13, error code 0x0"
    ]
    assert lines(RING3, tiny(), ring3(b"\xf4", registers)) == ["fault: vector 13, error code 0x0, hardware: none"]
    assert "hardware: vector 6" in lines(RING3, tiny(), ring3(b"\x40", {"eip": 0x101}, fault=RecordedFault(6)))[0]


def row(**what: Any) -> Difference:
    return Difference(frozenset({"hw286"}), "4[0-7]", lambda case: case.index == 0, "AMD", "test", **what)


def test_a_reviewed_difference_speaks_about_its_own_cases_only() -> None:
    case = replace(INC, opcode="40")
    assert row().applies("hw286", case)
    assert not row().applies("moo", case)
    assert not row().applies("hw286", replace(case, opcode="140"))
    assert not row().applies("hw286", replace(case, index=1))


def test_a_reviewed_difference_takes_out_its_own_mask_only(tiny: Tiny) -> None:
    pushed = {0x500: 0xFF, 0x501: 0xFF}
    case = real(b"\x40\xf4", {"flags": 0x86, "ax": 0x1FF}, ((0x500, b"\x84\x08"),), memory_masks=pushed)
    everything = ["ax: 200, hardware: 1ff", "[500]: 00, hardware: 84", "[501]: 00, hardware: 08"]
    assert lines(REAL, tiny(), case) == ["flags: 2, hardware: 86", *everything]
    assert lines(REAL, tiny(), case, row(flags=0x80)) == [
        "flags: 2, hardware: 6", "ax: 200, hardware: 1ff", "[500]: 00, hardware: 84", "[501]: 00, hardware: 08"
    ]  # fmt: skip
    assert lines(REAL, tiny(), case, row(flags=0x884)) == everything[:1]
    assert lines(REAL, tiny(), case, row(memory=True)) == ["flags: 2, hardware: 86", "ax: 200, hardware: 1ff"]
    assert lines(REAL, tiny(), case, row(everything=True)) == []
    assert lines(RING3, tiny(), ring3(b"\xf4", {"esp": 0}), row(fault=True)) == ["esp: 500, hardware: 0"]


def test_each_reviewed_difference_names_what_and_why() -> None:
    for row in DIFFERENCES:
        assert row.formats <= {"hw286", "hwamd", "moo"}, row
        assert row.flags or row.memory or row.fault or row.everything, row
        assert row.vendor, row
        assert len(row.reason) > 10, row
        assert not any(row.applies(form, replace(INC, opcode="no such opcode")) for form in row.formats), row
