"""What a boot keeps: pictures, memory."""

from pathlib import Path

import pytest

from dm.shim.keep import Dump, check_writable, parse_dump, write_dump, write_screenshot


def test_dump_is_all_of_ram_or_a_range(bench, tmp_path):
    bench.memory.write(0x7C00, b"boot")
    bench.memory.ram[0x100000:0x100004] = b"high"
    bench.pc.memory.a20 = False
    file = tmp_path / "ram"
    write_dump(bench.pc, Dump(file))
    data = file.read_bytes()
    assert len(data) == bench.memory.size
    assert (data[0x7C00:0x7C04], data[0x100000:0x100004]) == (b"boot", b"high"), "A20 masks nothing here"
    assert data[0xA0000:0xA0002] == b"\xff\xff"
    write_dump(bench.pc, Dump(file, 0x7C01, 3))
    assert file.read_bytes() == b"oot"
    write_dump(bench.pc, Dump(file, 0xFFFFFFF0, 16))
    assert file.read_bytes()[:1] == b"\xea"
    assert not bench.pc.memory.a20


@pytest.mark.parametrize(
    ("text", "dump"),
    [("f", Dump(Path("f"))), ("a/b,0x7c00,512", Dump(Path("a/b"), 0x7C00, 512)),
     ("f,0,0x100000000", Dump(Path("f"), 0, 1 << 32))],
)  # fmt: skip
def test_dumps_are_read(text, dump):
    assert parse_dump(text) == dump


@pytest.mark.parametrize("text", ["", ",1,2", "f,1", "f,1,2,3", "f,x,1", "f,0,0", "f,-1,5", "f,0xffffffff,2"])
def test_wrong_dumps_are_refused_with_what_is_right(text):
    with pytest.raises(ValueError, match=r"use FILE|physical addresses"):
        parse_dump(text)


def test_files_are_tried_before_the_boot_and_kept(tmp_path):
    file = tmp_path / "kept"
    file.write_bytes(b"old")
    check_writable(file, None)
    assert file.read_bytes() == b"old"
    with pytest.raises(FileNotFoundError):
        check_writable(tmp_path / "missing" / "file")


def test_screenshot_is_a_png(bench, tmp_path):
    write_screenshot(bench.pc, tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes()[:16] == b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
