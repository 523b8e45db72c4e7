import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dm.shim import eltorito
from dm.shim.disk import DiskKind, drives


def test_entry(cd_image):
    image = cd_image(sectors=7, segment=0x1234)
    assert eltorito.is_iso9660(image)
    assert eltorito.boot_entry(image) == eltorito.BootEntry(eltorito.NO_EMULATION, 0x1234, 7, 20)


def test_load_segment_0_means_7c0(cd_image):
    assert eltorito.boot_entry(cd_image()).load_segment == 0x7C0


def test_no_boot_record(cd_image):
    image = cd_image()
    image[17 * 2048] = 2
    assert eltorito.boot_entry(image) is None
    with pytest.raises(ValueError, match="no El Torito boot entry for x86"):
        drives(image, DiskKind.CD)


def test_no_descriptors_at_all():
    assert not eltorito.is_iso9660(bytearray(100))
    assert eltorito.boot_entry(bytearray(100)) is None


@pytest.mark.parametrize(
    ("at", "complaint"), [(0, "no validation entry"), (30, "no validation entry"), (4, "wrong checksum")]
)
def test_damaged_catalog_is_explained(cd_image, at, complaint):
    image = cd_image()
    image[19 * 2048 + at] ^= 0x40
    with pytest.raises(ValueError, match=complaint):
        eltorito.boot_entry(image)


def test_unknown_media_type(cd_image):
    with pytest.raises(ValueError, match="media type 7"):
        eltorito.boot_entry(cd_image(7))


def test_x86_entry_in_a_later_section(cd_image):
    image = cd_image()
    at = 19 * 2048
    initial = bytes(image[at + 32 : at + 64])
    efi = bytearray(initial)
    image[at + 32] = 0  # the initial entry does not boot
    image[at + 64 : at + 68] = b"\x90\xef\x01\x00"
    image[at + 96 : at + 128] = efi
    image[at + 128 : at + 132] = b"\x91\x00\x01\x00"
    wanted = bytearray(initial)
    wanted[8:12] = (99).to_bytes(4, "little")
    image[at + 160 : at + 192] = wanted
    assert eltorito.boot_entry(image).start == 99


def test_boot_image_beyond_the_cd(cd_image):
    image = cd_image()
    image[19 * 2048 + 40 : 19 * 2048 + 44] = b"\xff\xff\xff\x7f"
    with pytest.raises(ValueError, match="beyond the end"):
        drives(image, DiskKind.CD)


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=64, max_size=300))
def test_any_catalog_gives_an_entry_or_a_clear_error(catalog):
    image = bytearray(2048 * 24)
    image[17 * 2048 : 17 * 2048 + 7] = b"\x00CD001\x01"
    image[17 * 2048 + 7 : 17 * 2048 + 30] = b"EL TORITO SPECIFICATION"
    image[16 * 2048 : 16 * 2048 + 7] = b"\x01CD001\x01"
    image[17 * 2048 + 0x47] = 19
    fixed = bytearray(catalog)
    fixed[0], fixed[30:32] = 1, b"\x55\xaa"
    fixed[28:30] = b"\0\0"
    total = sum(int.from_bytes(fixed[i : i + 2], "little") for i in range(0, 32, 2))
    fixed[28:30] = (-total & 0xFFFF).to_bytes(2, "little")
    image[19 * 2048 : 19 * 2048 + len(fixed)] = fixed
    try:
        entry = eltorito.boot_entry(image)
    except ValueError as error:
        assert "El Torito" in str(error)
    else:
        assert entry is None or entry.media <= eltorito.HARD_DISK
