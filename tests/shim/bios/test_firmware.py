import logging

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dm.machine.architecture import Eflags
from dm.machine.state import EventType
from dm.shim.bios import rom
from dm.shim.devices import rtc
from dm.shim.disk import DiskKind, drives


def test_reset_vector_jumps_to_post(bench):
    bench.pc.reset()
    assert bench.pc.memory_map.a20
    assert bench.memory.read(0xFFFFFFF0, 5) == bytes((0xEA, 0x5B, 0xE0, 0x00, 0xF0))


def test_boot_sector_is_started_as_a_bios_starts_it(bench, floppy_image):
    s = bench.state
    assert bench.memory.read(0x7C00, 512) == floppy_image[:512]
    assert (s.cs.selector, s.cs.base, s.eip) == (0, 0, 0x7C00)
    assert (s.ds.base, s.es.base, s.ss.base, s.esp) == (0, 0, 0, 0x7C00)
    assert s.edx == 0
    assert s.rflags & Eflags.IF


def test_hard_disk_boots_with_drive_80(disk_bench):
    assert disk_bench.state.edx == 0x80
    assert disk_bench.state.eip == 0x7C00


@pytest.mark.parametrize(("segment", "cs", "ip"), [(0, 0, 0x7C00), (0x2000, 0x2000, 0)])
def test_cd_boot_image_is_loaded_where_its_entry_says(make_bench, cd_image, segment, cs, ip):
    bench = make_bench(drives(cd_image(segment=segment, boot=b"BOOT" + bytes(3000) + b"END"), DiskKind.CD))
    bench.post()
    s = bench.state
    assert (s.cs.selector, s.eip, s.edx) == (cs, ip, 0xE0)
    at = s.cs.base + s.eip
    assert bench.memory.read(at, 4) == b"BOOT"
    assert bench.memory.read(at + 4 + 3000 - 4, 4) == bytes(4), "4 sectors of 512 bytes were asked for"


@pytest.mark.parametrize(
    ("image", "text"),
    [
        (bytearray(1474560), "No bootable device: the diskette's first sector does not end in 55 AA."),
        (None, "No bootable device."),
    ],
)
def test_nothing_to_boot_says_so_and_halts(make_bench, image, text):
    bench = make_bench(drives(image, DiskKind.FLOPPY) if image else [])
    bench.post()
    bench.run()
    assert bench.row(0) == text
    assert bench.pc.stuck


def test_a_diskette_without_signature_boots_where_it_is_not_asked_for(make_bench):
    bench = make_bench(drives(bytearray(1474560), DiskKind.FLOPPY), check_signature=False)
    bench.post()
    assert bench.state.eip == 0x7C00
    assert bench.pc.rtc.cmos[0x38] & 1


def test_vectors_are_distinct_entry_points_or_iret(bench):
    table = [bench.memory.read_int(v * 4, 4) for v in range(256)]
    services = [table[v] for v in (0x08, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19, 0x1A, 0x70)]
    assert len(set(services)) == len(services)
    assert table[0x1C] == table[0xFF] == rom.SEGMENT << 16 | rom.IRET
    assert bench.memory.read(0xF0000 + rom.IRET, 1) == b"\xcf"
    assert table[0x60:0x68] == [0] * 8


def test_bda_after_post(bench):
    assert bench.memory.read_int(0x400, 2) == 0x3F8
    assert bench.memory.read_int(0x413, 2) == 639
    assert bench.memory.read_int(0x44A, 2) == 80
    assert bench.memory.read_int(0x463, 2) == 0x3D4
    assert bench.memory.read(0x484, 1) == b"\x18"


@pytest.mark.parametrize("post", [False, True])
def test_cmos_describes_the_machine(make_bench, floppy_image, post):
    """Whether its own firmware has run or, as under a ROM of the user's, none."""
    bench = make_bench(drives(floppy_image, DiskKind.FLOPPY))
    if post:
        bench.post()
    cmos = bench.pc.rtc.cmos
    assert int.from_bytes(cmos[0x15:0x17], "little") == 640
    assert int.from_bytes(cmos[0x17:0x19], "little") == 31 * 1024
    assert int.from_bytes(cmos[0x34:0x36], "little") == 256
    assert int.from_bytes(cmos[0x30:0x32], "little") == 31 * 1024
    assert cmos[0x10] == 0x40
    assert cmos[0x14] == 0x21
    assert (cmos[0x3D], cmos[0x38]) == (0x01, 0)
    assert int.from_bytes(cmos[0x2E:0x30], "big") == sum(cmos[0x10:0x2E]) & 0xFFFF


@pytest.mark.parametrize("code", [0x05, 0x0A])
def test_shutdown_byte_resumes_at_40_67(bench, code):
    bench.memory.write_int(0x467, 4, 0x1234_0010)
    bench.memory.write(0xB8000, b"kept")
    bench.pc.rtc.write(rtc.SHUTDOWN, code)
    bench.pc.reset()
    bench.post()
    assert (bench.state.cs.selector, bench.state.cs.base, bench.state.eip) == (0x1234, 0x12340, 0x10)
    assert bench.memory.read(0xB8000, 4) == b"kept"
    bench.pc.reset()
    bench.post()
    assert bench.state.eip == 0x7C00, "the shutdown byte counts once"


def test_carry_goes_into_the_stacked_flags_and_nothing_else_changes(bench):
    bench.state.rflags = 0x0AD7 & ~1
    result = bench.interrupt(0x15, ax=0x5300)
    assert result.cf
    assert bench.memory.read_int(0x7004, 2) == 0x0AD7


def test_unexpected_hardware_interrupt_is_ended(bench):
    bench.outb(0x21, 0)
    bench.pc.pic.set_irq(5, True)
    assert bench.pc.pic.acknowledge() == 0x0D
    assert bench.interrupt(0x0D).returned
    assert bench.pc.pic.master.isr == 0


def test_unhandled_exception_is_named_once(bench, caplog):
    with caplog.at_level(logging.WARNING):
        bench.interrupt(0x06)
        bench.interrupt(0x06)
    assert [r.message for r in caplog.records] == ["unhandled interrupt 0x06, return address 1234:5678"]


def test_jump_to_no_entry_point_halts(bench, caplog):
    bench.enter(0xE057)
    assert bench.state.rip == rom.HALT
    assert "0xfe057" in caplog.text


def test_missing_page_faults_in_the_guest_and_the_call_can_be_made_again(bench):
    s = bench.state
    directory, table = 0x10000, 0x11000
    bench.memory.write_int(directory, 4, table | 7)
    for page in range(256):
        bench.memory.write_int(table + page * 4, 4, page << 12 | (7 if page != 6 else 0))
    s.cr3, s.cr0, s.cpl, s.rflags = directory, s.cr0 | 0x80000001, 3, s.rflags | 1 << 17
    result = bench.interrupt(0x15, eax=0xE820, ebx=0, ecx=20, edx=0x534D4150, es=0x600, di=0)
    assert not result.returned
    assert (s.inject_type, s.inject_vector, s.inject_error, s.cr2) == (EventType.EXCEPTION, 14, 6, 0x6000)
    assert (s.eax & 0xFFFF, s.ebx) == (0xE820, 0)
    s.inject_type = EventType.NONE
    bench.memory.write_int(table + 6 * 4, 4, 0x20000 | 7)
    bench.pc.firmware_call(0xF0000 + rom.vector_trap(0x15))
    assert s.rip == rom.IRET
    assert s.eax == 0x534D4150
    assert bench.memory.read_int(0x20008, 4) == 0x9FC00, "through the page table"


_WORD = st.integers(0, 0xFFFFFFFF) | st.integers(0, 0xFFFF) | st.sampled_from([0, 1, 0xFF, 0x534D4150, 0x55AA])


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    vector=st.sampled_from([0x08, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x1A, 0x70, 0x0D]),
    registers=st.fixed_dictionaries(dict.fromkeys(("eax", "ebx", "ecx", "edx", "esi", "edi", "ebp"), _WORD)),
    segments=st.tuples(st.integers(0x9000, 0xFFFF), st.integers(0x9000, 0xFFFF)),
)
def test_no_call_can_crash_the_firmware(bench, vector, registers, segments):
    """Whatever is asked, an answer comes: results go to display memory and above, so that the bench itself survives."""
    bench.pc.firmware._system._idle = lambda nanoseconds: bench.clock.advance(1 << 50)
    result = bench.interrupt(vector, ds=segments[0], es=segments[1], **registers)
    assert result.returned or result.rip == rom.YIELD or (vector == 0x16 and bench.state.cs.selector == rom.SEGMENT)
