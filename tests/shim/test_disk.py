import pytest

from dm.shim.disk import FLOPPIES, Geometry, Kind, detect, disk_geometry, drives, open_image


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
    assert detect(image) is Kind.FLOPPY
    (drive,) = drives(image, Kind.FLOPPY)
    assert (drive.number, drive.sectors) == (0, size // 512)


def test_a_cd_counts_as_cd_even_when_it_is_a_hybrid(cd_image):
    image = cd_image()
    image[510:512] = b"\x55\xaa"
    assert detect(image) is Kind.CD
    assert drives(image, Kind.DISK)[0].number == 0x80


def test_anything_else_is_a_hard_disk():
    assert detect(bytearray(5000)) is Kind.DISK
    (drive,) = drives(bytearray(5000), Kind.DISK)
    assert drive.sectors == 10
    assert drive.read(9, 1) == bytes(512), "the last, partial sector ends in zeros"
    assert drive.read(10, 1) is None
    assert drive.read(9, 2) is None


def test_writing_into_a_partial_sector_keeps_what_fits():
    image = bytearray(700)
    (drive,) = drives(image, Kind.DISK)
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
    ("kind", "complaint"), [(Kind.FLOPPY, "no diskette; diskettes have 163840"), (Kind.CD, "no ISO 9660")]
)
def test_wrong_kinds_are_explained(kind, complaint):
    with pytest.raises(ValueError, match=complaint):
        drives(bytearray(4096), kind)


def test_hard_disk_emulation_takes_geometry_from_the_partition(cd_image):
    mbr = bytearray(512)
    mbr[510:512] = b"\x55\xaa"
    mbr[0x1BE : 0x1BE + 8] = bytes((0x80, 1, 1, 0, 6, 3, 0x11, 9))
    emulated, cd = drives(cd_image(4, boot=bytes(mbr)), Kind.CD)
    assert (emulated.number, cd.number) == (0x80, 0xE0)
    assert emulated.geometry == Geometry(10, 4, 17)
    assert emulated.read(0, 1) == bytes(mbr)
    assert emulated.sectors == 680
    with pytest.raises(ValueError, match="no first partition"):
        drives(cd_image(4), Kind.CD)


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
