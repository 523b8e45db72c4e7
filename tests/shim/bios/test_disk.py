import pytest

from dm.shim.disk import DiskKind, Drive, drives


def number(bench, address):
    return bench.memory.read_int(address, 4)


def test_reset_and_status(bench):
    assert not bench.interrupt(0x13, ax=0, dx=0).cf
    assert bench.interrupt(0x13, ax=0, dx=1).cf
    result = bench.interrupt(0x13, ax=0x0100, dx=0)
    assert (result.cf, result.ah) == (True, 1)


@pytest.mark.parametrize(("cylinder", "head", "sector", "lba"), [(0, 0, 2, 1), (0, 1, 1, 18), (79, 1, 18, 2879)])
def test_read_by_cylinder_head_sector(bench, cylinder, head, sector, lba):
    result = bench.interrupt(0x13, ax=0x0201, cx=cylinder << 8 | sector, dx=head << 8, es=0x800, bx=0x100)
    assert (result.cf, result.ah, result.al) == (False, 0, 1)
    assert number(bench, 0x8100) == lba


def test_read_runs_on_into_the_next_track(bench):
    result = bench.interrupt(0x13, ax=0x0214, cx=0x0011, dx=0, es=0x800, bx=0)
    assert not result.cf
    assert [number(bench, 0x8000 + 512 * i) for i in (0, 19)] == [16, 35]


@pytest.mark.parametrize(("cx", "dx"), [(0x0013, 0), (0x5001, 0), (0x0001, 0x0200), (0x0000, 0)])
def test_addresses_that_do_not_exist(bench, cx, dx):
    result = bench.interrupt(0x13, ax=0x0201, cx=cx, dx=dx, es=0x800, bx=0)
    assert (result.cf, result.ah, result.al) == (True, 4, 0)
    assert number(bench, 0x8000) == 0


def test_read_beyond_the_end_transfers_nothing(bench):
    result = bench.interrupt(0x13, ax=0x0202, cx=0x4F12, dx=0x0100, es=0x800, bx=0)
    assert (result.cf, result.ah) == (True, 4)


@pytest.mark.parametrize("count", [0, 129, 255])
def test_impossible_counts(bench, count):
    assert bench.interrupt(0x13, ax=0x0200 | count, cx=1, dx=0, es=0x800, bx=0).ah == 1


def test_write_and_verify(bench, floppy_image):
    bench.memory.write(0x8000, b"written!")
    assert not bench.interrupt(0x13, ax=0x0301, cx=0x0005, dx=0, es=0x800, bx=0).cf
    assert floppy_image[4 * 512 : 4 * 512 + 8] == b"written!"
    assert not bench.interrupt(0x13, ax=0x0401, cx=0x0005, dx=0).cf
    assert bench.pc.disks.sectors_written == 1


def test_format_fills_a_track(bench, floppy_image):
    assert not bench.interrupt(0x13, ax=0x0512, cx=0x0201, dx=0x0100, es=0x800, bx=0).cf
    first = (2 * 2 + 1) * 18 * 512
    assert floppy_image[first : first + 18 * 512] == b"\xf6" * (18 * 512)
    assert floppy_image[first + 18 * 512] != 0xF6


def test_buffer_may_end_beyond_the_segment(bench):
    assert not bench.interrupt(0x13, ax=0x0202, cx=2, dx=0, es=0x1000, bx=0xFE00).cf
    assert number(bench, 0x1FE00) == 1
    assert number(bench, 0x20000) == 2


def test_floppy_parameters(bench):
    result = bench.interrupt(0x13, ax=0x0800, dx=0)
    assert (result.ch, result.cl, result.dh, result.dl, result.bl) == (79, 18, 1, 1, 4)
    assert bench.memory.read((result.es << 4) + result.di + 4, 1) == b"\x12"
    result = bench.interrupt(0x13, ax=0x0800, dx=1)
    assert (result.cf, result.dl, result.cx) == (False, 1, 0)


def test_disk_parameters_and_type(disk_bench):
    drive = disk_bench.pc.disks.drives[0]
    result = disk_bench.interrupt(0x13, ax=0x0800, dx=0x80)
    assert (result.dh, result.cl & 0x3F, result.dl) == (15, 63, 1)
    assert result.ch | (result.cl & 0xC0) << 2 == drive.geometry.cylinders - 1
    result = disk_bench.interrupt(0x13, ax=0x1500, dx=0x80)
    assert (result.cf, result.ah) == (False, 3)
    assert result.cx << 16 | result.dx == (8 << 20) // 512
    assert disk_bench.interrupt(0x13, ax=0x1500, dx=0x81).ah == 0


def packet(bench, sector, count, *, size=16, buffer=0x1000_0000, at=0x6000):
    data = bytes((size, 0)) + count.to_bytes(2, "little") + buffer.to_bytes(4, "little") + sector.to_bytes(8, "little")
    bench.memory.write(at, data)


def test_extensions_present_for_disks_only(disk_bench, bench):
    result = disk_bench.interrupt(0x13, ax=0x4100, bx=0x55AA, dx=0x80)
    assert (result.cf, result.bx, result.cx, result.ah) == (False, 0xAA55, 5, 0x21)
    assert bench.interrupt(0x13, ax=0x4100, bx=0x55AA, dx=0).cf
    assert disk_bench.interrupt(0x13, ax=0x4100, bx=0, dx=0x80).cf


def test_extended_read_and_write(disk_bench):
    packet(disk_bench, 1000, 3)
    assert not disk_bench.interrupt(0x13, ax=0x4200, dx=0x80, ds=0x600, si=0).cf
    assert [number(disk_bench, 0x10000 + 512 * i) for i in range(3)] == [1000, 1001, 1002]
    packet(disk_bench, 5, 1)
    assert not disk_bench.interrupt(0x13, ax=0x4300, dx=0x80, ds=0x600, si=0).cf
    assert disk_bench.pc.disks.drives[0].read(5, 1)[:4] == (1000).to_bytes(4, "little")


@pytest.mark.parametrize(("sector", "count"), [((8 << 20) // 512, 1), (0xFFFFFFFFFFFFFFFF, 1), (16383, 2)])
def test_extended_read_beyond_the_end(disk_bench, sector, count):
    packet(disk_bench, sector, count)
    result = disk_bench.interrupt(0x13, ax=0x4200, dx=0x80, ds=0x600, si=0)
    assert (result.cf, result.ah) == (True, 4)
    assert disk_bench.memory.read_int(0x6002, 2) == 0, "blocks moved"


@pytest.mark.parametrize(("size", "count"), [(15, 1), (16, 128)])
def test_bad_packets(disk_bench, size, count):
    packet(disk_bench, 0, count, size=size)
    assert disk_bench.interrupt(0x13, ax=0x4200, dx=0x80, ds=0x600, si=0).ah == 1


def test_extended_parameters(disk_bench):
    disk_bench.memory.write_int(0x6000, 2, 30)
    assert not disk_bench.interrupt(0x13, ax=0x4800, dx=0x80, ds=0x600, si=0).cf
    table = disk_bench.memory.read(0x6000, 30)
    assert int.from_bytes(table[16:24], "little") == (8 << 20) // 512
    assert int.from_bytes(table[24:26], "little") == 512
    disk_bench.memory.write_int(0x6000, 2, 25)
    assert disk_bench.interrupt(0x13, ax=0x4800, dx=0x80, ds=0x600, si=0).cf


def test_cd_sectors_have_2048_bytes(make_bench, cd_image):
    bench = make_bench(drives(cd_image(boot=b"BOOT" + bytes(2044) + b"NEXT"), DiskKind.CD))
    bench.post()
    packet(bench, 21, 1)
    assert not bench.interrupt(0x13, ax=0x4200, dx=0xE0, ds=0x600, si=0).cf
    assert bench.memory.read(0x10000, 4) == b"NEXT"
    packet(bench, 21, 1)
    assert bench.interrupt(0x13, ax=0x4300, dx=0xE0, ds=0x600, si=0).ah == 3, "a CD cannot be written"
    bench.memory.write_int(0x6000, 2, 26)
    bench.interrupt(0x13, ax=0x4800, dx=0xE0, ds=0x600, si=0)
    assert bench.memory.read_int(0x6018, 2) == 2048
    assert bench.interrupt(0x13, ax=0x0201, cx=1, dx=0xE0, es=0x800, bx=0).cf
    assert bench.interrupt(0x13, ax=0x0800, dx=0xE0).cf


def test_el_torito_status_packet(make_bench, cd_image):
    bench = make_bench(drives(cd_image(), DiskKind.CD))
    bench.post()
    assert not bench.interrupt(0x13, ax=0x4B01, dx=0xE0, ds=0x600, si=0).cf
    table = bench.memory.read(0x6000, 0x13)
    assert table[:4] == b"\x13\x00\xe0\x00"
    assert int.from_bytes(table[4:8], "little") == 20
    assert int.from_bytes(table[12:14], "little") == 0x7C0
    assert int.from_bytes(table[14:16], "little") == 4


def test_ending_floppy_emulation(make_bench, cd_image):
    boot = bytes(510) + b"\x55\xaa" + b"sector two"
    bench = make_bench(drives(cd_image(2, boot=boot), DiskKind.CD))
    bench.post()
    assert not bench.interrupt(0x13, ax=0x0201, cx=2, dx=0, es=0x800, bx=0).cf
    assert bench.memory.read(0x8000, 10) == b"sector two"
    assert bench.interrupt(0x13, ax=0x0301, cx=2, dx=0, es=0x800, bx=0).ah == 3
    assert not bench.interrupt(0x13, ax=0x4B00, dx=0, ds=0x600, si=0).cf
    assert bench.memory.read(0x6000, 3) == b"\x13\x02\x00"
    assert bench.interrupt(0x13, ax=0x0201, cx=2, dx=0, es=0x800, bx=0).cf, "the diskette is gone"
    assert not bench.interrupt(0x13, ax=0x4100, bx=0x55AA, dx=0xE0).cf


def test_no_el_torito_status_on_plain_disks(disk_bench):
    assert disk_bench.interrupt(0x13, ax=0x4B01, dx=0x80, ds=0x600, si=0).cf


def test_every_function_returns_with_an_error_or_a_result(bench, disk_bench):
    for machine, drive in ((bench, 0), (disk_bench, 0x80), (bench, 0x42)):
        for function in range(256):
            result = machine.interrupt(0x13, ax=function << 8 | 0xFF, bx=0, cx=0, dx=0xFF00 | drive, ds=0x600, si=0)
            assert result.returned
            if function > 0x50:
                assert (result.cf, result.ah) == (True, 1)


def test_drive_list_is_not_the_callers(floppy_image):
    from dm.shim.bios.bda import Bda
    from dm.shim.bios.disk import DiskServices
    from dm.shim.pc_memory import PcMemory

    mine: list[Drive] = drives(floppy_image, DiskKind.FLOPPY)
    services = DiskServices(Bda(PcMemory(bytearray(2 << 20))), mine)
    services.drives.clear()
    assert len(mine) == 1
