"""Memory accesses: limits, pages, accessed and dirty bits, alignment, and code that changes under the engine."""

import random

import pytest
from guest import CODE, protected_mode, real_mode

from dm.engine.api import ExitReason


def paged(vm, *, cpl=0, wp=False, entries=None, **registers):
    """Protected mode with identity paging below 1 MiB; ``entries``: page number -> page-table entry."""
    vm.ram[0x20000:0x22000] = bytes(0x2000)
    vm.ram[0x20000:0x20004] = (0x21007).to_bytes(4, "little")
    for n in range(256):
        vm.ram[0x21000 + 4 * n : 0x21004 + 4 * n] = ((entries or {}).get(n, n << 12 | 7)).to_bytes(4, "little")
    state = protected_mode(cpl=cpl, **registers)
    state.cr3, state.cr0 = 0x20000, state.cr0 | 1 << 31 | wp << 16
    state.gdtr_base, state.gdtr_limit = 0x2000, 0x7F
    state.idtr_base, state.idtr_limit = 0x3000, 0x7FF
    vm.ram[0x2008:0x2018] = bytes.fromhex("ffff0000009bcf00 ffff00000093cf00")
    for n in range(256):
        gate = 0x1000 + n | 8 << 16 | 0x8E << 40
        vm.ram[0x3000 + 8 * n : 0x3008 + 8 * n] = gate.to_bytes(8, "little")
    state.tr.base, state.tr.limit, state.tr.attributes = 0x5000, 0x67, 0x8B
    vm.ram[0x5004:0x500A] = (0x6F00).to_bytes(4, "little") + (0x10).to_bytes(2, "little")
    return state


def entry(vm, page):
    return int.from_bytes(vm.ram[0x21000 + 4 * page : 0x21004 + 4 * page], "little")


@pytest.mark.parametrize(("offset", "ok"), [(0xFFFE, True), (0xFFFF, False)])
@pytest.mark.parametrize("code", ["8b07", "8907", "0107"], ids=["load", "store", "change"])
def test_a_word_at_the_end_of_a_segment(vm, code, offset, ok):
    vm.load(code + "f4", ebx=offset)
    vm.run()
    assert vm.fault() == (None if ok else 13)


def test_through_bp_it_is_a_stack_fault(vm):
    vm.load("8b4600 f4", ebp=0xFFFF)
    vm.run()
    assert vm.fault() == 12


def test_a_four_gigabyte_limit_reaches_above_64_kib_in_real_mode(vm):
    state = real_mode()
    state.ds.limit = 0xFFFFFFFF
    vm.ram[0x54321] = 0x99
    state.ebx = 0x54321
    vm.load("678a03 f4", state)
    vm.run()
    assert (vm.fault(), vm.state.ax) == (None, 0x99)


@pytest.mark.parametrize(
    ("attributes", "limit", "offset", "ok"),
    [
        (0xC097, 0xFFF, 0x1000, True),
        (0xC097, 0xFFF, 0xFFF, False),
        (0x8097, 0xFFF, 0xFFFF, True),
        (0x8097, 0xFFF, 0x10000, False),
        (0xC091, 0xFFFFF, 0x8000, False),  # read-only
        (0xC013, 0xFFFFF, 0x8000, False),  # not present
        (0xC09B, 0xFFFFF, 0x8000, False),  # code
        (0xC093, 0x7FFF, 0x8000, False),
    ],
)
def test_writes_through_every_kind_of_segment(vm, attributes, limit, offset, ok):
    state = paged(vm)
    state.cr0 &= 0x7FFFFFFF
    state.ds.attributes, state.ds.limit, state.ebx = attributes, limit, offset
    vm.load("c60355 f4", state)
    vm.run()
    assert vm.fault() == (None if ok else 13)
    assert vm.ram[offset] == (0x55 if ok else vm.ram[offset])


def test_a_null_segment_faults(vm):
    state = paged(vm)
    state.es.unusable = 1
    vm.load("268a03 f4", state)
    vm.run()
    assert vm.fault() == 13


@pytest.mark.parametrize("at", [0x8FFD, 0x8FFE, 0x8FFF, 0x9000])
@pytest.mark.parametrize("code", ["8b0b 890d00a00000", "890b", "010b", "f00fc10b", "870b"])
def test_accesses_across_pages(vm, at, code):
    """Page 8 and 9 are neighbours for the guest, not in memory."""
    state = paged(vm, entries={8: 0x8007, 9: 0x40007})
    state.ebx, state.ecx = at, 0x01020304
    image = bytearray(range(0x10, 0x20))
    vm.ram[0x8FF8:0x9000], vm.ram[0x40000:0x40008] = image[:8], image[8:]
    vm.ram[0x9000:0x9008] = b"\xee" * 8
    vm.load(code + "f4", state)
    assert vm.run().reason is ExitReason.HALT
    n = at - 0x8FF8
    old = int.from_bytes(image[n : n + 4], "little")
    new = {"89": 0x01020304, "01": old + 0x01020304, "f0": old + 0x01020304, "87": 0x01020304}.get(code[:2], old)
    image[n : n + 4] = new.to_bytes(4, "little")
    assert vm.ram[0x8FF8:0x9000] + vm.ram[0x40000:0x40008] == image
    assert vm.ram[0x9000:0x9008] == b"\xee" * 8
    if code.startswith("8b"):
        assert int.from_bytes(vm.ram[0xA000:0xA004], "little") == old


@pytest.mark.parametrize(("second", "error"), [(0, 2), (0x9005, 3)], ids=["absent", "read-only"])
def test_a_store_that_faults_in_its_second_page_changes_nothing(vm, second, error):
    state = paged(vm, wp=True, entries={9: second})
    state.ebx, state.ecx = 0x8FFE, 0xFFFFFFFF
    vm.load("890b", state)
    vm.run()
    s = vm.state
    assert (vm.fault(), s.cr2) == (14, 0x9000)
    assert int.from_bytes(vm.ram[s.esp : s.esp + 4], "little") == error
    assert vm.ram[0x8FFE:0x9002] == bytes(4)


@pytest.mark.parametrize(("code", "accessed", "dirty"), [("8a03", 1, 0), ("8803", 1, 1), ("0003", 1, 1), ("90", 0, 0)])
def test_accessed_and_dirty_bits(vm, code, accessed, dirty):
    state = paged(vm)
    state.ebx = 0x9000
    vm.load(code + "f4", state)
    end = vm.run()
    assert (entry(vm, 9) >> 5 & 1, entry(vm, 9) >> 6 & 1) == (accessed, dirty)
    assert entry(vm, 7) & 0x60 == 0x20  # code is only read
    assert 0x21 in end.pages
    assert (9 in end.pages) == bool(dirty)


def test_a_read_before_a_write_still_sets_the_dirty_bit(vm):
    state = paged(vm)
    state.ebx = 0x9000
    vm.load("8a03 8a03 8803 f4", state)
    vm.run()
    assert entry(vm, 9) & 0x60 == 0x60


@pytest.mark.parametrize(
    ("cpl", "wp", "flags", "write", "error"),
    [(3, 0, 3, 0, 5), (3, 0, 5, 1, 7), (0, 0, 5, 1, None), (0, 1, 5, 1, 3), (3, 0, 7, 1, None), (3, 0, 0, 0, 4)],
)
def test_page_rights(vm, cpl, wp, flags, write, error):
    state = paged(vm, cpl=cpl, wp=wp, entries={9: 0x9000 | flags})
    state.ebx = 0x9000
    vm.load("8803" if write else "8a03", state)
    end = vm.run(budget=1)
    s = vm.state
    if error is None:
        assert (end.instructions, s.eip) == (1, CODE + 2)
    else:
        assert (s.eip, s.cr2) == (0x100E, 0x9000)
        assert int.from_bytes(vm.ram[s.esp : s.esp + 4], "little") == error


def test_a_translation_is_used_until_it_is_flushed(vm):
    state = paged(vm, entries={9: 0x40007})
    state.ebx, vm.ram[0x40000], vm.ram[0x41000] = 0x9000, 0x11, 0x22
    # mov al,[ebx]; mov dword [21024h],41007h; invlpg [ebx]; mov ah,[ebx]; hlt
    vm.load("8a03 c7052410020007100400 0f013b 8a23 f4", state)
    end = vm.run()
    assert (vm.state.ax, end.tlb_flush) == (0x2211, True)


def test_alignment_is_checked_only_at_cpl_3_with_am_and_ac(vm):
    for cpl, am, ac, faults in [(3, 1, 1, True), (3, 0, 1, False), (3, 1, 0, False), (0, 1, 1, False)]:
        state = paged(vm, cpl=cpl)
        state.cr0 |= am << 18
        state.rflags |= ac << 18
        state.ebx = 0x8001
        vm.load("8b0b", state)
        vm.run(budget=1)
        assert (vm.state.eip == 0x1011) == faults


def test_code_ends_at_the_limit(vm):
    state = real_mode(0xFFFE)
    vm.ram[0xFFFE:0x10000] = bytes.fromhex("4040")
    vm.load("", state)
    end = vm.run()
    assert (vm.fault(), vm.state.ax, end.instructions) == (13, 2, 3)
    assert int.from_bytes(vm.ram[0x7000 - 6 : 0x7000 - 4], "little") == 0  # IP of 10000h, cut to 16 bits


def test_an_instruction_across_the_limit_faults_before_it_runs(vm):
    state = real_mode(0xFFFE)
    vm.ram[0xFFFE:0x10000] = bytes.fromhex("b812")
    vm.load("", state)
    vm.run()
    assert (vm.fault(), vm.state.ax) == (13, 0)
    assert int.from_bytes(vm.ram[0x7000 - 6 : 0x7000 - 4], "little") == 0xFFFE


def test_an_instruction_across_pages(vm):
    state = paged(vm, entries={9: 0x40007})
    state.rip = 0x8FFD
    vm.ram[0x8FFD:0x9000], vm.ram[0x40000:0x40003] = bytes.fromhex("b81122"), bytes.fromhex("3344f4")
    vm.load("", state)
    vm.run()
    assert (vm.fault(), vm.state.eax) == (None, 0x44332211)
    vm.ram[0x40000] = 0x99
    vm.engine.set_state(state)
    vm.run()
    assert vm.state.eax == 0x44992211


def test_a_fetch_that_faults_in_the_second_page_names_it(vm):
    state = paged(vm, entries={9: 0})
    state.rip = 0x8FFD
    vm.ram[0x8FFD:0x9000] = bytes.fromhex("b81122")
    vm.load("", state)
    vm.run(budget=1)
    assert (vm.state.cr2, vm.state.eip) == (0x9000, 0x100E)


@pytest.mark.parametrize(("prefixes", "vector"), [(14, None), (15, 13)])
def test_fifteen_bytes_are_the_longest(vm, prefixes, vector):
    vm.load(b"\x26" * prefixes + b"\x90\xf4")
    vm.run()
    assert vm.fault() == vector


def test_a_program_may_change_the_next_instruction(vm):
    # mov byte [next+1],42h; mov al,11h; hlt
    vm.load("c606" + (CODE + 6).to_bytes(2, "little").hex() + "42 b011 f4")
    vm.run()
    assert vm.state.ax == 0x42


def test_a_loop_may_change_itself_each_time_round(vm):
    # mov cx,100; l: inc byte [l2+1]; l2: add ax,0 (imm8); loop l; hlt
    at = CODE + 3 + 4
    code = "b96400 fe06" + (at + 2).to_bytes(2, "little").hex() + "83c000 e2f7 f4"
    vm.load(code)
    vm.run()
    expected = sum(n - 256 if n > 127 else n for n in range(1, 101))
    assert vm.state.ax == expected & 0xFFFF


def test_code_on_the_stack_page_and_data_beside_code(vm):
    vm.load("b91e00 bc" + (CODE + 0x100).to_bytes(2, "little").hex() + "51 e80400 59 e2f9 f4 a3807d c3")
    assert vm.run().reason is ExitReason.HALT
    assert vm.state.cx == 0


def test_rep_stosb_over_its_own_code(vm):
    vm.load("b0f4 b90800 bf" + (CODE + 8).to_bytes(2, "little").hex() + "f3aa 90909090")
    vm.run()
    assert (vm.state.cx, vm.state.di, vm.state.eip) == (7, CODE + 9, CODE + 9)


def test_memory_changed_by_others_is_seen_by_the_next_run(vm):
    vm.load("b80100 ebfb")
    vm.run(budget=10)
    vm.ram[CODE + 1] = 2
    vm.run(budget=10)
    assert vm.state.ax == 2


@pytest.mark.parametrize("seed", range(6))
def test_running_in_pieces_is_running_at_once(vm, seed):
    """Any cut of a budget, with memory operands, pages, repeats and faults: the same end."""
    r = random.Random(seed)
    # A loop over memory that runs off the end of a segment: movs, rmw, push, and #GP in the end.
    code = bytes.fromhex("f3a4 0107 50 43 8a0f 66010f b90300 ebf0")
    state = real_mode(edi=0xFF00, esi=0x8000, ecx=9, ebx=0x8000)

    def start():
        vm.ram[0x6000:0x10000] = bytes(0xA000)
        vm.load(code, state)

    start()
    end = vm.run(budget=300)
    whole, memory = vm.state, bytes(vm.ram)
    start()
    left, steps = 300, 0
    while left:
        part = min(left, r.randint(1, 25))
        piece = vm.run(budget=part)
        steps += piece.steps
        left -= part
        if piece.reason is not ExitReason.BUDGET:
            break
    assert (steps, vm.state, bytes(vm.ram)) == (end.steps, whole, memory)


def test_a_far_call_that_faults_late_changes_nothing(vm):
    """CALL FAR pushes twice; the second push is beyond the limit."""
    state = real_mode(esp=3)
    state.ss.limit = 0xFFFE
    vm.ram[0:4] = b"\xaa" * 4
    vm.load("9a00000010", state)
    vm.run(budget=1)
    assert vm.engine.last_fault[0] in (8, 12, 13)
    assert vm.ram[1:3] == b"\xaa\xaa"
    assert vm.state.cs.selector == 0
