import fcntl
import mmap
import os

import pytest

from dm.engine import api
from dm.protocol import schema
from dm.protocol.codec import ProtocolError
from dm.protocol.schema import ErrorClass, Kind, Region
from dm.server.daemon.ram_files import check_sealed, open_below
from dm.server.memory.blocks import GuestMap, RamBlocks


@pytest.fixture
def memfd():
    fd = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 1 << 16)
    yield fd
    os.close(fd)


def refused(call, *arguments):
    with pytest.raises(ProtocolError) as caught:
        call(*arguments)
    assert caught.value.error in (ErrorClass.BAD_MEMORY, ErrorClass.LIMIT)
    assert caught.value.expected
    return str(caught.value)


def test_a_memfd_must_be_sealed_against_shrinking(memfd):
    assert "not sealed against shrinking" in refused(check_sealed, memfd)
    fcntl.fcntl(memfd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    check_sealed(memfd)


def test_a_memfd_must_be_writable(memfd):
    fcntl.fcntl(memfd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_WRITE)
    assert "sealed against writing" in refused(check_sealed, memfd)


def test_other_descriptors_are_no_memfd(tmp_path):
    for path in (tmp_path / "file", "/dev/null"):
        with open(path, "w+b") as file:
            assert "not a memfd" in refused(check_sealed, file.fileno())


class TestOpenBelow:
    def test_a_file_below_is_opened_for_writing(self, tmp_path):
        (tmp_path / "sub").mkdir()
        (tmp_path / "sub" / "ram").write_bytes(bytes(4096))
        fd = open_below(str(tmp_path), str(tmp_path / "sub" / "ram"))
        assert os.write(fd, b"x") == 1
        assert not os.get_inheritable(fd)
        os.close(fd)

    @pytest.mark.parametrize("path", ["relative", "../../etc/passwd", "", "/etc/passwd", "/proc/self/mem", "{}/../x"])
    def test_anything_else_is_refused(self, tmp_path, path):
        (tmp_path / "dir").mkdir()
        assert "path" in refused(open_below, str(tmp_path / "dir"), path.format(tmp_path / "dir"))

    def test_a_name_that_only_begins_alike_is_not_below(self, tmp_path):
        (tmp_path / "ram").mkdir()
        (tmp_path / "ram2").write_bytes(bytes(4096))
        assert "not below" in refused(open_below, str(tmp_path / "ram"), str(tmp_path / "ram2"))

    def test_links_that_lead_out_are_refused(self, tmp_path):
        inside, outside = tmp_path / "in", tmp_path / "out"
        inside.mkdir()
        outside.mkdir()
        (outside / "secret").write_bytes(bytes(4096))
        (inside / "link").symlink_to(outside / "secret")
        (inside / "dir").symlink_to(outside)
        assert "not below" in refused(open_below, str(inside), str(inside / "link"))
        assert "not below" in refused(open_below, str(inside), str(inside / "dir" / "secret"))

    def test_links_that_stay_inside_are_followed(self, tmp_path):
        (tmp_path / "ram").write_bytes(bytes(4096))
        (tmp_path / "link").symlink_to(tmp_path / "ram")
        os.close(open_below(str(tmp_path), str(tmp_path / "link")))

    def test_only_regular_files(self, tmp_path):
        os.mkfifo(tmp_path / "fifo")
        (tmp_path / "dir").mkdir()
        assert "not a regular file" in refused(open_below, str(tmp_path), str(tmp_path / "fifo"))
        assert "cannot be opened" in refused(open_below, str(tmp_path), str(tmp_path / "dir"))
        assert "cannot be opened" in refused(open_below, str(tmp_path), str(tmp_path / "missing"))

    def test_no_descriptor_is_left_behind(self, tmp_path):
        os.mkfifo(tmp_path / "fifo")
        before = os.listdir("/proc/self/fd")
        refused(open_below, str(tmp_path), str(tmp_path / "fifo"))
        assert len(os.listdir("/proc/self/fd")) == len(before)


class TestRamBlocks:
    def test_a_block_is_shared(self, memfd):
        blocks = RamBlocks()
        blocks.add(1, memfd, 1 << 16)
        built = blocks.build(schema.Map(1, [Region(0, 0x8000, Kind.RAM, 1, 0x4000)], False)).engine
        region = built.regions[0]
        assert (built.generation, built.a20, region.kind) == (1, False, api.RegionKind.RAM)
        with mmap.mmap(memfd, 1 << 16) as other:
            other[0x4000] = 0x5A
            assert region.memory[region.offset] == 0x5A

    def test_all_kinds(self, memfd):
        blocks = RamBlocks()
        blocks.add(1, memfd, 1 << 16)
        regions = [Region(n << 12, 4096, kind, 1, 0) for n, kind in enumerate(Kind)]
        built = blocks.build(schema.Map(1, regions, True)).engine
        assert [r.kind.name for r in built.regions] == [kind.name for kind in Kind]
        assert [r.memory is not None for r in built.regions] == [True, True, False, False, False, True]

    @pytest.mark.parametrize(
        ("number", "size", "text"),
        [
            (0, 4096, "ram 0 is reserved"),
            (1, 0, "size is 0x0"),
            (1, 100, "size is 0x64"),
            (1, 1 << 17, "file's 0x10000"),
        ],
    )
    def test_bad_blocks(self, memfd, number, size, text):
        assert text in refused(RamBlocks().add, number, memfd, size)

    def test_a_huge_size_is_refused(self, memfd):
        assert "size is" in refused(RamBlocks().add, 1, memfd, (1 << 64) - 4096)

    def test_a_number_is_used_once(self, memfd):
        blocks = RamBlocks()
        blocks.add(1, memfd, 4096)
        assert "ram 1 is in use" in refused(blocks.add, 1, memfd, 4096)

    def test_there_is_a_limit(self, memfd):
        blocks = RamBlocks()
        for number in range(schema.MAX_RAM_BLOCKS):
            blocks.add(number + 1, memfd, 4096)
        assert "at most 256" in refused(blocks.add, 1000, memfd, 4096)

    def test_what_cannot_be_mapped_is_refused(self):
        fd = os.open("/dev/null", os.O_RDWR)
        try:
            assert refused(RamBlocks().add, 1, fd, 4096)
        finally:
            os.close(fd)

    def test_remove(self, memfd):
        blocks = RamBlocks()
        blocks.add(1, memfd, 4096)
        used = blocks.build(schema.Map(1, [Region(0, 4096, Kind.RAM, 1)], True))
        assert "in use by the memory map" in refused(blocks.remove, 1, used)
        nothing = GuestMap(api.MemoryMap(2, ()), [])
        blocks.remove(1, nothing)
        assert "ram 1 is not known" in refused(blocks.remove, 1, nothing)

    @pytest.mark.parametrize(
        ("regions", "text"),
        [
            ([Region(0, 4096, Kind.RAM, 9)], "ram 9 is not known"),
            ([Region(1, 4096, Kind.MMIO)], "multiples of 4096"),
            ([Region(0, 8192, Kind.MMIO), Region(4096, 4096, Kind.MMIO)], "must not overlap"),
            ([Region(4096, 4096, Kind.MMIO), Region(0, 4096, Kind.MMIO)], "must be sorted"),
            ([Region((1 << 64) - 4096, 4096, Kind.MMIO)], "beyond 52 bits"),
            ([Region(0, 8192, Kind.RAM, 1)], "backing has 0x1000 bytes"),
            ([Region(0, 4096, Kind.RAM, 1, 4096)], "backing has 0x1000 bytes"),
            ([Region(0, 4096, Kind.RAM, 1, (1 << 64) - 4096)], "backing has 0x1000 bytes"),
        ],
    )
    def test_bad_maps(self, memfd, regions, text):
        blocks = RamBlocks()
        blocks.add(1, memfd, 4096)
        assert text in refused(blocks.build, schema.Map(1, regions, True))
