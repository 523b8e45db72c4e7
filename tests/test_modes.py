"""Which test shows what of the modes, events and privilege rules that are promised, and of what peers get wrong.

A test is named as ``file::function`` or ``file::Class::function``, a check of a guest that also runs under Bochs
(``e2e/test_bochs.py``) as ``guest.asm: its name``.  Guests and ``engine/`` run on both engines.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
GUESTS = TESTS / "e2e" / "bochs"

SHOWN = {
    # Modes
    "real mode": [
        "debug.asm: real: int 30",
        "debug.asm: real: word at ffff",
        "isa/test_transfer.py::TestRealMode::test_call_and_return",
    ],
    "big real mode": [
        "debug.asm: big real mode: 4 GiB segment stays",
        "engine/test_accesses.py::test_a_four_gigabyte_limit_reaches_above_64_kib_in_real_mode",
        "e2e/test_mode_switch.py::test_mmio_through_a_big_real_mode_segment",
    ],
    "virtual-8086 mode": ["vm86.asm: vm: hlt", "vm86.asm: vm: call far and back", "vm86.asm: back again"],
    "VME and the redirection bitmap": [
        "vm86.asm: int, redirected",
        "vm86.asm: int, to the monitor",
        "vm86.asm: redirection bitmap beyond the tss",
    ],
    "VIF and VIP": [
        "vm86.asm: sti",
        "vm86.asm: popf",
        "engine/test_injected.py::test_vif_and_vip_fault_before_the_first_instruction",
    ],
    "protected-mode virtual interrupts": [
        "vm86.asm: pvi: cli",
        "isa/test_events.py::TestBoundary::test_vif_and_vip_together",
    ],
    "16-bit protected mode": [
        "gates.asm: 16-bit return to level 3",
        "debug.asm: protected, 16-bit: address arithmetic",
    ],
    "all four rings": [
        "gates.asm: call gate to level 1 and back",
        "gates.asm: to level 2",
        "gates.asm: popf at level 1 with iopl 1",
    ],
    "protection on, segments of real mode": [
        "debug.asm: protection on, segments of real mode still there",
        "debug.asm: btx: selector 0 is no null segment before it is loaded",
        "e2e/test_mode_switch.py::test_cpl_stays_0_between_mov_cr0_and_the_far_jump",
    ],
    "code whose base is not selector * 16": ["debug.asm: code with a base that is not selector * 16"],
    "compatibility mode": [
        "long.asm: compatibility mode: accesses",
        "long.asm: compatibility mode: 16-bit code, segments with a base",
    ],
    "compatibility mode: events": [
        "engine/test_compatibility.py::test_event_into_64_bit_code",
        "events64.asm: handler's segment",
        "isa/test_ia32e.py::TestEvents::test_refused",
    ],
    "compatibility mode: transfers": [
        "isa/test_ia32e.py::TestTransfers::test_to_64_bit_code",
        "events64.asm: call gate",
        "events64.asm: outer iret",
        "isa/test_ia32e.py::TestCallGates::test_refused",
    ],
    "compatibility mode: LDT and TSS descriptors": [
        "long.asm: compatibility mode: lldt and ltr",
        "isa/test_ia32e.py::TestSystemRegisters::test_lldt_takes_8_bytes",
    ],
    # Segments
    "loads of every type, level, presence": ["segments.asm: load ds", "segments.asm: load ss"],
    "LAR LSL VERR VERW over every type": [
        "segments.asm: lar lsl verr verw",
        "long.asm: compatibility mode: lar lsl verr verw",
    ],
    "ARPL": ["segments.asm: arpl"],
    "LLDT and LTR over every type": ["segments.asm: lldt", "segments.asm: ltr"],
    "limits, expand-down": ["segments.asm: byte", "segments.asm: double", "segments.asm: expand-down stack"],
    "types: read-only, execute-only": [
        "segments.asm: write to read-only data",
        "segments.asm: read of execute-only code",
    ],
    "null segments, RPL of a null SS": ["segments.asm: null ds", "segments.asm: null ss at level 3"],
    "#SS through BP and ESP": ["segments.asm: stack limit", "segments.asm: stack limit through ebp"],
    "CS limit, fifteen bytes": ["segments.asm: instruction across the limit", "segments.asm: sixteen bytes"],
    "privileged instructions": ["segments.asm: level 3: hlt", "segments.asm: level 3: mov dr0"],
    # Transfers
    "far JMP and CALL to every type": ["segments.asm: jmp far", "segments.asm: call far"],
    "call gates 16 and 32 with parameters": [
        "gates.asm: call gate from level 3",
        "gates.asm: call gate with 31 parameters",
    ],
    "inner stacks that will not do": [
        "gates.asm: null stack",
        "gates.asm: room on the inner stack",
        "gates.asm: 16-bit tss",
    ],
    "conforming code": ["gates.asm: call gate to conforming code stays at level 3", "gates.asm: target of a call gate"],
    "inner and outer returns": [
        "gates.asm: return to code",
        "gates.asm: return to stack",
        "gates.asm: return with parameters to level 3",
    ],
    "segments made null by a return": ["gates.asm: return of the inner level makes segments null"],
    # Events
    "interrupt and trap gates 16 and 32": [
        "gates.asm: int",
        "gates.asm: int from level 3",
        "gates.asm: fault with an error code from level 3",
    ],
    "task gates": ["task.asm: fault goes to a task, with an error code", "task.asm: event's task gate to a descriptor"],
    "IRET in every form": [
        "gates.asm: to level 3",
        "vm86.asm: iretd",
        "vm86.asm: iret to virtual-8086 mode, upper halves",
    ],
    "error codes: EXT and IDT": [
        "gates.asm: fault whose handler is absent",
        "engine/test_injected.py::test_error_codes_say_that_the_event_was_external",
    ],
    "event injection": [
        "engine/test_injected.py::test_external_interrupt",
        "engine/test_injected.py::test_external_interrupt_through_a_task_gate",
    ],
    "injection in virtual-8086 mode": ["engine/test_injected.py::test_external_interrupt_in_virtual_8086_mode"],
    "#DF": [
        "debug.asm: double fault: gp in gp",
        "debug.asm: no double fault: np in ud",
        "paging.asm: np in the delivery of a page fault",
    ],
    "shutdown": [
        "debug.asm: triple fault by a short table",
        "debug.asm: real: triple fault",
        "engine/test_contract.py::test_triple_fault_is_shutdown",
    ],
    "NMI blocking": [
        "engine/test_injected.py::test_nmis_are_blocked_until_iret",
        "isa/test_events.py::TestIret::test_unblocks_nmi_even_if_it_faults",
    ],
    "real-mode vectors: IDTR base and limit": [
        "debug.asm: real: interrupt table elsewhere",
        "debug.asm: real: short interrupt table",
    ],
    # Tasks
    "task switches 16 and 32 in every direction": ["task.asm: switch", "task.asm: switch and back"],
    "busy bits and NT": ["task.asm: iret to a task", "task.asm: jmp to itself"],
    "T flag of the TSS": ["task.asm: trap flag of the tss", "task.asm: tf in the new task"],
    "LDT and CR3 of the new task": [
        "task.asm: segment in the new task's local table",
        "paging.asm: pae and a task switch",
    ],
    "checks of the new task": [
        "task.asm: null cs",
        "task.asm: absent ss",
        "task.asm: eip beyond the limit",
        "task.asm: old tss too small",
    ],
    "virtual-8086 tasks": ["task.asm: virtual-8086 task", "task.asm: and back to the virtual-8086 task"],
    # Input and output
    "I/O permission bitmap": ["gates.asm: io bitmap", "gates.asm: io bitmap's last byte", "vm86.asm: vm: io bitmap"],
    "IOPL": ["gates.asm: io by iopl", "gates.asm: iret at level 3 keeps iopl and if"],
    # Debugging
    "TF": ["debug.asm: tf over rep", "debug.asm: tf over int", "debug.asm: tf into level 3"],
    "RF": ["debug.asm: instruction breakpoint with rf", "isa/test_events.py::TestDelivery::test_fault_image_has_rf"],
    "DR0-3 on execution": ["debug.asm: instruction breakpoint", "debug.asm: instruction breakpoint on rep"],
    "DR0-3 on data": ["debug.asm: data breakpoint of size, at", "debug.asm: data breakpoint on a frame"],
    "DR0-3 on ports": ["debug.asm: i/o breakpoint", "debug.asm: i/o breakpoint on rep outsb"],
    "GD": ["debug.asm: gd", "debug.asm: gd is clear in the handler"],
    "ICEBP": ["debug.asm: icebp with tf", "gates.asm: int1 through a gate of level 0"],
    "MOV SS and STI shadows": [
        "debug.asm: tf over mov ss",
        "debug.asm: data breakpoint and mov ss",
        "engine/test_run.py::test_the_interrupt_window",
    ],
    # Paging
    "rights, WP, accessed and dirty bits": ["paging.asm: read", "paging.asm: write", "paging.asm: fetch"],
    "page-crossing accesses": ["paging.asm: crossing write", "paging.asm: instruction across a page that is absent"],
    "PSE": ["paging.asm: 4 MiB page", "paging.asm: 4 MiB page, bit 21"],
    "PAE": ["paging.asm: pae", "paging.asm: pae: bit of a pdpte", "paging.asm: pae: low bit of a 2 MiB page"],
    "NX": ["long.asm: pae with nx", "long.asm: nx bit without nxe"],
    "SMEP and SMAP": [
        "isa/test_paging.py::Test32Bit::test_supervisor_access_to_user_pages",
        "engine/test_regressions.py::test_smap_holds_for_descriptor_tables_with_ac_set",
    ],
    "tables and TSS are supervisor accesses": [
        "paging.asm: descriptor table of a supervisor's page at level 3",
        "paging.asm: absent tss, io bitmap",
    ],
    "flushing, global pages": ["paging.asm: invlpg", "paging.asm: global page and cr4"],
    # What peers get wrong
    "KVM: event frames when SS has a base": [
        "gates.asm: call gate from a 16-bit stack",
        "isa/test_events.py::TestGates::test_frame_goes_through_the_base_of_ss",
    ],
    "KVM: BOUND, ENTER with levels": ["segments.asm: bound above", "segments.asm: enter level "],
    "KVM: AAA AAS DAA": ["isa/test_bcd.py::test_case"],
    "KVM: #UD instructions": ["segments.asm: ud2", "segments.asm: les register"],
    "KVM: A20": ["engine/test_contract.py::test_a20_masks_physical_addresses"],
    "KVM: TF across MOV SS": ["debug.asm: tf over mov ss", "debug.asm: real: tf and mov ss"],
    "Xen: exceptions with PE set": ["gates.asm: fault with an error code from level 3"],
    "Xen: DPL and RPL stay as they are": [
        "engine/test_contract.py::test_any_state_comes_back_unchanged_after_zero_steps"
    ],
    "Unicorn: LOCK": ["segments.asm: lock nop", "segments.asm: lock add register", "segments.asm: lock cmp"],
    "Unicorn: OF of RCL and RCR": ["isa/test_shift.py::test_case"],
    "Unicorn: F6 /1 and F7 /1": ["isa/test_logic.py::test_case"],
}


@cache
def functions(path: Path) -> set[str]:
    """Names of the tests in a file, as ``function`` or ``Class::function``."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.ClassDef):
            names |= {f"{node.name}::{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return names


@pytest.mark.parametrize("what", SHOWN)
def test_what_is_promised_has_its_tests(what: str) -> None:
    for name in SHOWN[what]:
        guest, _, check = name.partition(".asm: ")
        if check:
            assert f'"{check}"' in (GUESTS / f"{guest}.asm").read_text(), name
        else:
            file, _, function = name.partition("::")
            assert function in functions(TESTS / file), name
