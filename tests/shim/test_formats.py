import gzip
import struct

import pytest

from dm.shim import disk, multiboot
from dm.shim.formats import foreign, foreign_elf


@pytest.mark.parametrize(
    ("data", "what", "right"),
    [
        (b"QFI\xfb" + struct.pack(">I", 3), "a qcow2 image", "qemu-img convert -O raw x.img x.img.raw"),
        (b"QFI\xfb" + struct.pack(">I", 1), "a qcow image", "qemu-img convert"),
        (b"KDMV\1\0\0\0", "a VMDK image", "qemu-img convert"),
        (b"vhdxfile", "a VHDX image", "qemu-img convert"),
        (
            b"<<< Oracle VM VirtualBox Disk Image >>>\n".ljust(0x40, b"\0") + b"\x7f\x10\xda\xbe",
            "a VDI image",
            "convert",
        ),
        (gzip.compress(b"image", mtime=0), "compressed by gzip", "gunzip -k x.img"),
        (b"\xfd7zXZ\0", "compressed by xz", "xz -dk x.img"),
        (b"\x28\xb5\x2f\xfd", "compressed by zstd", "zstd -d x.img"),
        (b"PK\3\4", "a zip archive", "unzip x.img"),
        (bytes(257) + b"ustar\0", "a tar archive", "tar -xf x.img"),
    ],
)
def test_other_formats_are_named_with_what_would_be_right(data, what, right):
    said = foreign(data.ljust(4096, b"\0"), "x.img")
    assert said.startswith(what)
    assert right in said


@pytest.mark.parametrize(
    "data", [b"", bytes(4096), b"\x1f\x8b", b"\xeb\x3c\x90", b"\x1f\x8b\x08".ljust(510, b"\0") + b"\x55\xaa"]
)
def test_raw_images_are_left_alone(data):
    assert foreign(data, "x") is None
    assert foreign_elf(data) is None


@pytest.mark.parametrize(("kind", "words"), [(1, "a 32-bit ELF"), (2, "a 64-bit ELF"), (7, "a damaged ELF")])
def test_elf_files_that_are_no_kernels(kind, words):
    said = foreign_elf(b"\x7fELF" + bytes([kind, 1]) + bytes(100))
    assert said.startswith(words)
    assert "without a Multiboot header" in said


def test_a_64_bit_kernel_is_told_what_would_load():
    header = struct.pack("<III", multiboot.HEADER_MAGIC, 0, -multiboot.HEADER_MAGIC & 0xFFFFFFFF)
    with pytest.raises(ValueError, match="a 64-bit ELF file; Multiboot kernels are loaded from 32-bit ones"):
        multiboot.parse(b"\x7fELF\x02\x01".ljust(64, b"\0") + header)


def test_an_image_far_larger_than_memory_is_mapped(tmp_path):
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    image = disk.open_image(path)
    assert len(image) == 1 << 40
    image[(1 << 40) - 1] = 1
    assert image[-1:] == b"\1"
    image.close()
    with path.open("rb") as file:
        file.seek(-1, 2)
        assert file.read() == b"\0", "what the guest writes is gone at the end"
