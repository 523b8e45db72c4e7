"""Ports, device memory, MSRs: questions, answers, and the instruction that is started over."""

import itertools

import pytest
from guest import CODE, Machine, make_engine, protected_mode, real_mode

from dm.engine.api import CpuConfig, CpuidEntry, ExitReason, MemoryMap, Region, RegionKind
from dm.engine.python_engine.host_tsc import host_tsc

MMIO = Region(0xA0000, 0x2000, RegionKind.MMIO)
IN, OUT = ExitReason.PORT_IN, ExitReason.PORT_OUT
READ, WRITE = ExitReason.MMIO_READ, ExitReason.MMIO_WRITE


def asked(end):
    return end.reason, end.address, end.size, end.count, end.data


@pytest.mark.parametrize(
    ("code", "size"), [("ec", 1), ("ed", 2), ("66ed", 4), ("e471", 1)], ids=["in al", "in ax", "in eax", "in imm"]
)
def test_in(vm, code, size):
    vm.load(code + "f4", edx=0x1F0, eax=0xAAAAAAAA)
    end = vm.run()
    assert asked(end) == (IN, 0x71 if code == "e471" else 0x1F0, size, 1, b"")
    assert end.steps == 0
    vm.engine.answer(b"\x11\x22\x33\x44"[:size])
    end = vm.run()
    assert (end.reason, end.steps) == (ExitReason.HALT, 2)
    assert vm.state.eax == int.from_bytes(b"\x11\x22\x33\x44"[:size] + b"\xaa" * (4 - size), "little")


def test_out(vm):
    vm.load("66ef f4", edx=0xCF8, eax=0x80001234)
    assert asked(vm.run()) == (OUT, 0xCF8, 4, 1, bytes.fromhex("34120080"))
    vm.engine.answer()
    assert vm.run().reason is ExitReason.HALT


def test_a_question_leaves_the_state_as_before_the_instruction(vm):
    vm.load("40 ec 40 f4", edx=0x60)
    assert vm.run().steps == 1
    s = vm.state
    assert (s.ax, s.eip) == (1, CODE + 1)


def test_answers_are_checked(vm):
    vm.load("ec f4", edx=0x60)
    with pytest.raises(ValueError, match="no question"):
        vm.engine.answer(b"x")
    vm.run()
    with pytest.raises(ValueError, match="open"):
        vm.run()
    with pytest.raises(ValueError, match=r"2 bytes, 1 "):
        vm.engine.answer(b"xy")
    with pytest.raises(ValueError, match="MSR"):
        vm.engine.answer(fault=True)
    with pytest.raises(ValueError, match="open"):
        vm.engine.inject(0, 32)
    vm.engine.answer(b"x")
    with pytest.raises(ValueError, match="no question"):
        vm.engine.answer(b"x")
    assert vm.run().reason is ExitReason.HALT


def test_a_new_state_abandons_the_question(vm):
    vm.load("ec f4", edx=0x60)
    vm.run()
    vm.load("f4")
    assert vm.run().reason is ExitReason.HALT


def test_an_answered_instruction_has_had_its_step(vm):
    vm.load("ec 40 40 f4", edx=0x60)
    vm.run(budget=1)
    vm.engine.answer(b"\5")
    end = vm.run(budget=0)
    assert (end.reason, end.steps, vm.state.ax) == (ExitReason.BUDGET, 1, 5)
    vm.load("ec 40 40 f4", edx=0x60)
    vm.run(budget=2)
    vm.engine.answer(b"\5")
    end = vm.run(budget=1)
    assert (end.reason, end.steps, vm.state.ax) == (ExitReason.BUDGET, 2, 6)


@pytest.mark.parametrize(("down", "start"), [(False, 0x8000), (True, 0x8006)])
def test_rep_insw_asks_for_all_at_once(vm, down, start):
    vm.load(("fd" if down else "fc") + "f36d f4", edx=0x1F0, ecx=4, edi=start)
    assert asked(vm.run()) == (IN, 0x1F0, 2, 4, b"")
    vm.engine.answer(bytes(range(8)))
    end = vm.run()
    assert (end.reason, end.steps, end.instructions, end.pages) == (ExitReason.HALT, 5, 2, (8,))
    order = bytes([6, 7, 4, 5, 2, 3, 0, 1]) if down else bytes(range(8))
    assert vm.ram[0x8000:0x8008] == order
    assert (vm.state.cx, vm.state.di) == (0, start + (-8 if down else 8) & 0xFFFF)


def test_rep_outsb_sends_all_at_once(vm):
    vm.ram[0x8000:0x8005] = b"hello"
    vm.load("f36e f4", edx=0xE9, ecx=5, esi=0x8000)
    assert asked(vm.run()) == (OUT, 0xE9, 1, 5, b"hello")
    vm.engine.answer()
    assert vm.run().steps == 6


def test_a_block_stops_at_pages_and_at_the_budget(vm):
    vm.load("f36c f4", edx=0x60, ecx=100, edi=0x8FF0)
    assert vm.run().count == 16
    vm.engine.answer(bytes(16))
    assert vm.run(budget=0).steps == 16
    assert vm.run(budget=7).count == 7
    vm.engine.answer(b"x" * 7)
    end = vm.run(budget=0)
    assert (end.reason, end.steps, vm.state.cx) == (ExitReason.BUDGET, 7, 77)


def test_a_block_into_what_is_not_writable_never_asks(vm):
    state = protected_mode()
    state.es.attributes = 0xC091
    vm.load("f36c f4", state)
    state = vm.state
    state.ecx, state.edi, state.edx = 4, 0x8000, 0x60
    state.idtr_limit = 0
    vm.engine.set_state(state)
    assert vm.run().reason is ExitReason.SHUTDOWN


@pytest.mark.parametrize("code", ["a00000", "a10000", "66a10000"], ids=["byte", "word", "dword"])
def test_device_reads(vm, code):
    vm.remap(MMIO)
    state = real_mode()
    state.ds.base, state.ds.selector = 0xA0000, 0xA000
    vm.load(code + "f4", state)
    size = {"a0": 1, "a1": 2, "66": 4}[code[:2]]
    assert asked(vm.run()) == (READ, 0xA0000, size, 1, b"")
    vm.engine.answer(bytes(range(1, 1 + size)))
    vm.run()
    assert vm.state.eax == int.from_bytes(bytes(range(1, 1 + size)), "little")


def test_a_read_modify_write_asks_twice_and_reads_once(vm):
    vm.remap(MMIO)
    state = real_mode()
    state.ds.base = 0xA0000
    vm.load("8006100041 f4", state)  # add byte [10h],41h
    assert asked(vm.run()) == (READ, 0xA0010, 1, 1, b"")
    vm.engine.answer(b"\x20")
    assert asked(vm.run()) == (WRITE, 0xA0010, 1, 1, b"\x61")
    vm.engine.answer()
    assert vm.run().steps == 2


def test_a_push_to_a_device_moves_the_stack_once(vm):
    vm.remap(MMIO)
    state = real_mode()
    state.ss.base, state.esp, state.eax = 0xA0000, 0x100, 0x1234
    vm.load("50 f4", state)
    assert asked(vm.run()) == (WRITE, 0xA00FE, 2, 1, b"\x34\x12")
    assert vm.state.sp == 0x100
    vm.engine.answer()
    vm.run()
    assert vm.state.sp == 0xFE


def test_pusha_to_a_device_writes_each_register_once(vm):
    vm.remap(MMIO)
    state = real_mode()
    state.ss.base, state.esp = 0xA0000, 0x100
    for n in range(8):
        if n != 4:
            state.gpr[n] = 0x1100 + n
    vm.load("60 f4", state)
    writes = [end for end in vm.until_halt() if end.reason is WRITE]
    values = [0x1100, 0x1101, 0x1102, 0x1103, 0x100, 0x1105, 0x1106, 0x1107]
    assert [(w.address, int.from_bytes(w.data, "little")) for w in writes] == [
        (0xA00FE - 2 * n, value) for n, value in enumerate(values)
    ]


def test_movs_from_device_to_device(vm):
    vm.remap(MMIO)
    state = real_mode()
    state.ds.base = state.es.base = 0xA0000
    state.ecx, state.esi, state.edi = 3, 0x10, 0x1010
    vm.load("f3a4 f4", state)
    data = itertools.count(0x41)
    ends = vm.until_halt(lambda end: bytes([next(data)]))
    assert [(e.reason, e.address, e.data) for e in ends[:-1]] == [
        step for n in range(3) for step in ((READ, 0xA0010 + n, b""), (WRITE, 0xA1010 + n, bytes([0x41 + n])))
    ]
    assert sum(e.steps for e in ends) == 4


def test_an_access_split_between_memory_and_a_device(vm):
    vm.remap(MMIO)
    vm.ram[0x9FFFE:0xA0000] = b"\x11\x22"
    state = real_mode()
    state.ds.base = 0x9FFFE
    vm.load("66a10000 66a30000 f4", state)
    ends = vm.until_halt(lambda end: b"\x33\x44"[: end.size])
    assert [asked(e) for e in ends[:-1]] == [(READ, 0xA0000, 2, 1, b""), (WRITE, 0xA0000, 2, 1, b"\x33\x44")]
    assert (vm.state.eax, vm.ram[0x9FFFE:0xA0000]) == (0x44332211, b"\x11\x22")
    state.ds.base = 0x9FFFF
    vm.load("66a10000 f4", state)  # three bytes are no access: one by one
    ends = vm.until_halt(lambda end: bytes([end.address & 0xFF]))
    assert [(e.address, e.size) for e in ends[:-1]] == [(0xA0000, 1), (0xA0001, 1), (0xA0002, 1)]
    assert vm.state.eax == 0x02010022


def test_holes_are_asked_and_rom_swallows_nothing_silently(vm):
    rom = bytearray(b"\x5a" * 0x1000)
    vm.remap(Region(0xA0000, 0x1000, RegionKind.ROM, rom))
    state = real_mode()
    state.ds.base = 0xA0000
    vm.load("a00000 a20100 f4", state)
    end = vm.run()
    assert asked(end) == (WRITE, 0xA0001, 1, 1, b"\x5a")
    vm.engine.answer()
    assert vm.run().reason is ExitReason.HALT
    assert rom == b"\x5a" * 0x1000
    vm.engine.set_map(MemoryMap(99, (Region(0, 0x9000, RegionKind.RAM, vm.ram),)))
    vm.engine.set_state(state)
    assert asked(vm.run()) == (READ, 0xA0000, 1, 1, b"")


def test_coalesced_writes_are_posted_in_order_and_reads_are_asked(vm):
    vm.remap(Region(0xA0000, 0x1000, RegionKind.COALESCED))
    state = real_mode()
    state.ds.base, state.eax = 0xA0000, 0x4241
    vm.load("a20000 a30200 a00400 f4", state)
    end = vm.run()
    assert (asked(end), end.posted) == ((READ, 0xA0004, 1, 1, b""), ((0xA0000, b"A"), (0xA0002, b"AB")))
    vm.engine.answer(b"\0")
    assert vm.run().posted == ()


def test_posted_writes_do_not_pile_up_without_bound(vm):
    vm.remap(Region(0xA0000, 0x1000, RegionKind.COALESCED))
    state = real_mode()
    state.ds.base = 0xA0000
    vm.load("a20000 ebfb", state)
    end = vm.run(budget=100000)
    assert end.reason is ExitReason.KICKED
    assert 100 < len(end.posted) < 4096


@pytest.mark.parametrize("code", ["a00000", "a20000", "fe060000", "8f060000"])
def test_what_only_the_hypervisor_has_ends_the_run_before_the_instruction(vm, code):
    vm.remap(Region(0xA0000, 0x1000, RegionKind.HYPERVISOR))
    state = real_mode()
    state.ds.base = 0xA0000
    vm.load("40" + code + "f4", state)
    end = vm.run()
    assert (end.reason, end.address, end.steps) == (ExitReason.HYPERVISOR, 0xA0000, 1)
    assert (vm.state.eip, vm.state.sp) == (CODE + 1, 0x7000)


def test_fetching_from_firmware_ends_the_run_reading_it_does_not(vm):
    vm.remap(Region(0xF0000, 0x1000, RegionKind.FIRMWARE, bytearray(b"\x77" * 0x1000)))
    state = real_mode()
    state.ds.base = 0xF0000
    vm.load("a00000 ea340100f0", state)
    end = vm.run()
    assert (end.reason, end.address, end.steps) == (ExitReason.FIRMWARE, 0xF0134, 2)
    assert (vm.state.cs.selector, vm.state.eip, vm.state.ax) == (0xF000, 0x134, 0x77)


def test_code_on_a_device_is_fetched_byte_by_byte(vm):
    vm.remap(MMIO)
    state = real_mode(0)
    state.cs.base = 0xA0000
    vm.load("90", state)
    code = bytes.fromhex("b83412 f4")
    ends = vm.until_halt(lambda end: code[end.address - 0xA0000 :][:1])
    assert [(e.address, e.size) for e in ends[:-1]] == [(0xA0000 + n, 1) for n in range(4)]
    assert vm.state.ax == 0x1234


def test_memory_that_changes_meanwhile_does_not_change_a_replay(vm):
    vm.remap(MMIO)
    state = real_mode()
    state.es.base = 0xA0000
    state.esi, state.ecx = 0x8000, 1
    vm.ram[0x8000] = 0x41
    vm.load("a4 f4", state)  # movsb [es:di],[si]
    assert asked(vm.run()) == (WRITE, 0xA0000, 1, 1, b"A")
    vm.ram[0x8000] = 0x42  # another CPU
    vm.ram[CODE] = 0xF4
    vm.engine.answer()
    assert vm.run().reason is ExitReason.HALT
    assert (vm.state.si, vm.state.di) == (0x8001, 1)


def test_a_map_may_change_between_question_and_answer(vm):
    vm.remap(MMIO)
    state = real_mode()
    state.ds.base = 0xA0000
    vm.load("a00000 a00000 f4", state)
    vm.run()
    vm.ram[0xA0000] = 0x77
    vm.remap()
    vm.engine.answer(b"\x55")
    assert vm.run().reason is ExitReason.HALT
    assert vm.state.ax == 0x77  # the second read finds the new memory


@pytest.mark.parametrize("refused", [False, True])
def test_an_msr_outside_the_state(vm, refused):
    vm.load("0f32 f4", ecx=0x8B, eax=1, edx=1)
    assert asked(vm.run()) == (ExitReason.MSR_READ, 0x8B, 8, 1, b"")
    vm.engine.answer(b"" if refused else bytes(range(8)), fault=refused)
    vm.run()
    s = vm.state
    assert (vm.fault(), s.eax, s.edx) == ((13, 1, 1) if refused else (None, 0x03020100, 0x07060504))


def test_wrmsr_is_asked_once(vm):
    vm.load("0f30 f4", ecx=0x8B, eax=0x11, edx=0x22)
    ends = vm.until_halt()
    assert [e.reason for e in ends] == [ExitReason.MSR_WRITE, ExitReason.HALT]
    assert (ends[0].address, ends[0].data) == (0x8B, b"\x11\0\0\0\x22\0\0\0")


def test_mmio_names_what_the_first_instruction_touches(vm):
    vm.remap(MMIO)
    state = real_mode()
    state.ds.base = 0xA0000
    vm.load("a00300 f4", state)
    before = vm.state
    end = vm.run(mmio=0xA0004)
    assert (end.reason, end.steps, vm.state) == (ExitReason.MMIO_MISMATCH, 0, before)
    assert vm.run(mmio=0xA0003).reason is READ
    vm.load("a20080 f4", real_mode(), eax=1)
    assert vm.run(mmio=0xA0003).reason is ExitReason.MMIO_MISMATCH
    assert (vm.ram[0x8000], vm.state.eip) == (0, CODE)
    vm.load("0f0b")
    assert (vm.run(mmio=0xA0003).reason, vm.state.eip) == (ExitReason.MMIO_MISMATCH, CODE)


def test_mmio_is_met_by_a_write_and_inside_a_wider_access(vm):
    vm.remap(MMIO)
    state = real_mode()
    state.ds.base = 0xA0000
    vm.load("66a30400 f4", state)
    assert asked(vm.run(mmio=0xA0006)) == (WRITE, 0xA0004, 4, 1, b"\0\0\0\0")
    vm.engine.answer()
    assert vm.run().reason is ExitReason.HALT


def test_given_code_wins_over_memory_once(vm):
    vm.load("b80100 f4")
    end = vm.run(code=bytes.fromhex("b80200"))
    assert (end.reason, vm.state.ax) == (ExitReason.HALT, 2)
    vm.load("b80100 f4")
    vm.run(code=b"\xb9")  # the rest comes from memory
    assert (vm.state.ax, vm.state.cx) == (0, 1)
    with pytest.raises(ValueError, match="code has 16 bytes"):
        vm.run(code=bytes(16))


def test_a20_off_folds_odd_megabytes(vm):
    vm.remap(a20=False)
    state = real_mode()
    state.ds.base, state.ds.selector = 0xFFFF0, 0xFFFF
    vm.ram[0x8000] = 0x66
    vm.load("a01080 f4", state)  # FFFF:8010 = 108000h -> 8000h
    vm.run()
    assert vm.state.ax == 0x66


def test_pages_written_are_reported_once_per_run(vm):
    vm.load("a20080 a20190 a20080 ec a20080 f4", edx=0x60)
    assert vm.run().pages == (8, 9)
    vm.engine.answer(b"\0")
    assert vm.run().pages == (8,)
    assert vm.run().pages == ()


def test_virtual_time_ticks_with_each_reading_and_replays_the_same(vm):
    state = real_mode()
    state.tsc = 0x1_0000_0000
    vm.load("0f31 89c3 0f31 f4", state)
    vm.run()
    s = vm.state
    assert (s.edx, s.bx, s.ax, s.tsc) == (1, 1, 2, 0x1_0000_0002)


def test_real_time_goes_on_from_the_value_handed_over(vm):
    state = real_mode()
    state.tsc, state.tsc_host = 1 << 40, host_tsc()
    vm.load("0f31 6689c6 6689d7 0f31 f4", state)
    vm.run()
    s = vm.state
    first, second = s.edi << 32 | s.esi, s.edx << 32 | s.eax
    assert 1 << 40 <= first <= second < (1 << 40) + (1 << 36)
    assert (s.tsc, s.tsc_host) == (state.tsc, state.tsc_host)


def test_cpuid_comes_from_the_table(engine_name):
    table = (
        CpuidEntry(0, 0, 7, 0x756E6547, 0x6C65746E, 0x49656E69),
        CpuidEntry(1, 0, 0x673, 1, 2, 0x01FBFBFF),
        CpuidEntry(7, 0, 0, 0x80, 0, 0),
    )
    vm = Machine(make_engine(engine_name, CpuConfig(cpuid=table)))
    for leaf, subleaf, expected in [(0, 0, 7), (1, 5, 0x673), (7, 0, 0), (7, 3, 0), (0x55, 0, 0), (0x80000000, 0, 0)]:
        vm.load("0fa2 f4", eax=leaf, ecx=subleaf)
        vm.run()
        assert vm.state.eax == expected, hex(leaf)
    vm.load("0fa2 f4", eax=7)
    vm.run()
    assert vm.state.ebx == 0x80
    vm.engine.close()
