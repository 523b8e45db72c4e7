import pytest

from dm.shim.disk import FLOPPIES, DiskKind, Geometry, detect, disk_geometry, drives, open_image


def test_geometry_numbers_sectors():
    g = Geometry(80, 2, 18)
    assert g.lba(0, 0, 1) == 0
    assert g.lba(1, 1, 18) == 71
    assert [g.lba(*a) for a in ((80, 0, 1), (0, 2, 1), (0, 0, 0), (0, 0, 19))] == [None] * 4


@pytest.mark.parametrize("size", sorted(FLOPPIES))
def test_diskettes_are_known_by_size(size):
    _, g = FLOPPIES[size]
    assert g.cylinders * g.heads * g.sectors * 512 == size
    image = bytearray(size)
    assert detect(image) is DiskKind.FLOPPY
    (drive,) = drives(image, DiskKind.FLOPPY)
    assert (drive.number, drive.sectors) == (0, size // 512)


def test_a_cd_counts_as_cd_even_when_it_is_a_hybrid(cd_image):
    image = cd_image()
    image[510:512] = b"\x55\xaa"
    assert detect(image) is DiskKind.CD
    assert drives(image, DiskKind.DISK)[0].number == 0x80


def test_anything_else_is_a_hard_disk():
    assert detect(bytearray(5000)) is DiskKind.DISK
    (drive,) = drives(bytearray(5000), DiskKind.DISK)
    assert drive.sectors == 10
    assert drive.read(9, 1) == bytes(512), "the last, partial sector ends in zeros"
    assert drive.read(10, 1) is None
    assert drive.read(9, 2) is None


def test_writing_into_a_partial_sector_keeps_what_fits():
    image = bytearray(700)
    (drive,) = drives(image, DiskKind.DISK)
    assert drive.write(1, b"x" * 512)
    assert len(image) == 700
    assert image[512:] == b"x" * 188
    assert not drive.write(2, b"x" * 512)


@pytest.mark.parametrize(
    ("sectors", "heads"), [(100, 16), (1024 * 16 * 63, 16), (1024 * 16 * 63 + 1, 32), (1 << 23, 255), (1 << 30, 255)]
)
def test_disk_translation(sectors, heads):
    g = disk_geometry(sectors)
    assert g.heads == heads
    assert 1 <= g.cylinders <= 1024


@pytest.mark.parametrize(
    ("kind", "size", "complaint"),
    [(DiskKind.FLOPPY, 2949121, "no diskette; diskettes have up to 163840"), (DiskKind.CD, 4096, "no ISO 9660")],
)
def test_wrong_kinds_are_explained(kind, size, complaint):
    with pytest.raises(ValueError, match=complaint):
        drives(bytearray(size), kind)


def test_a_boot_sector_alone_is_a_diskette_cut_short_where_asked_for():
    image = bytearray(b"x" * 512)
    assert detect(image) is DiskKind.DISK
    (drive,) = drives(image, DiskKind.FLOPPY)
    assert (drive.geometry, drive.sectors) == (Geometry(80, 2, 18), 2880)
    assert drive.read(0, 2) == b"x" * 512 + bytes(512)


def bpb(total, sectors, heads, media=0xF0):
    head = bytearray(512)
    head[0:3] = b"\xeb\x3c\x90"
    head[11:13] = (512).to_bytes(2, "little")
    head[19:21], head[21] = total.to_bytes(2, "little"), media
    head[24:26], head[26:28] = sectors.to_bytes(2, "little"), heads.to_bytes(2, "little")
    return head


def test_an_unusual_diskette_is_known_by_its_parameter_block():
    total = 83 * 2 * 20
    image = bpb(total, 20, 2).ljust(total * 512, b"\0")
    assert detect(image) is DiskKind.FLOPPY
    (drive,) = drives(image, DiskKind.FLOPPY)
    assert (drive.floppy_type, drive.geometry, drive.sectors) == (4, Geometry(83, 2, 20), total)


@pytest.mark.parametrize("change", [{"media": 0xF8}, {"sectors": 63}, {"heads": 16}, {"total": 3319}])
def test_other_parameter_blocks_are_a_hard_disks(change):
    image = bpb(**{"total": 3320, "sectors": 20, "heads": 2} | change).ljust(3320 * 512, b"\0")
    assert detect(image) is DiskKind.DISK


def test_hard_disk_emulation_takes_geometry_from_the_partition(cd_image):
    mbr = bytearray(512)
    mbr[510:512] = b"\x55\xaa"
    mbr[0x1BE : 0x1BE + 8] = bytes((0x80, 1, 1, 0, 6, 3, 0x11, 9))
    emulated, cd = drives(cd_image(4, boot=bytes(mbr)), DiskKind.CD)
    assert (emulated.number, cd.number) == (0x80, 0xE0)
    assert emulated.geometry == Geometry(10, 4, 17)
    assert emulated.read(0, 1) == bytes(mbr)
    assert emulated.sectors == 680
    with pytest.raises(ValueError, match="no first partition"):
        drives(cd_image(4), DiskKind.CD)


def test_without_write_the_file_stays(write_image):
    path = write_image(bytes(1024))
    with open_image(path) as image:
        image[0:4] = b"lost"
    assert path.read_bytes() == bytes(1024)
    with open_image(path, write=True) as image:
        image[0:4] = b"kept"
    assert path.read_bytes()[:4] == b"kept"


def test_unusable_files_are_named(write_image, tmp_path):
    with pytest.raises(ValueError, match="is empty"):
        open_image(write_image(b""))
    with pytest.raises(FileNotFoundError):
        open_image(tmp_path / "missing")
    with pytest.raises(OSError, match="directory"):
        open_image(tmp_path)
