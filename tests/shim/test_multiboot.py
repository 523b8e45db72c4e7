import struct

import pytest

from dm.machine.state import State
from dm.shim import multiboot
from dm.shim.multiboot import KernelImage, Piece
from dm.shim.pc_memory import MIB, PcMemory

REGIONS = [(0, 0x9F000, 1), (0x9F000, 0xA0000, 2), (MIB, 4 * MIB, 1)]


def header(flags=0, checksum=None):
    total = -(multiboot.HEADER_MAGIC + flags) & 0xFFFFFFFF
    return struct.pack("<III", multiboot.HEADER_MAGIC, flags, total if checksum is None else checksum)


def flat(*addresses, before=b"", after=b"code"):
    return before + header(0x10000) + struct.pack("<5I", *addresses) + after


def elf(kind=1, machine=3, offset=96, size=4, total=8, entry=0x2002):
    head = b"\x7fELF\1\1\1".ljust(16, b"\0")
    head += struct.pack("<HHIIIIIHHHHHH", 2, machine, 1, entry, 52, 0, 0, 52, 32, 1, 0, 0, 0)
    head += struct.pack("<8I", kind, offset, 0x2000, 0x5000, size, total, 7, 4)
    return head + header() + b"ABCD"


def test_header_is_found_on_multiples_of_4_in_the_first_8_kib():
    assert multiboot.find_header(bytes(8) + header()) == 8
    assert multiboot.find_header(bytes(2) + header()) is None
    assert multiboot.find_header(bytes(8180) + header()) == 8180
    assert multiboot.find_header(bytes(8184) + header()) is None, "only part of it is in there"
    assert multiboot.find_header(header(checksum=1)) is None
    assert multiboot.find_header(b"") is None


def test_address_fields():
    kernel = multiboot.parse(flat(MIB + 8, MIB, 0, 0, MIB + 40, before=b"12345678"), "a b")
    assert kernel.entry == MIB + 40
    assert kernel.command == "a b"
    (piece,) = kernel.pieces
    assert (piece.address, piece.size) == (MIB, 44)
    assert piece.data.startswith(b"12345678")
    assert piece.data.endswith(b"code")


def test_address_fields_with_ends():
    (piece,) = multiboot.parse(flat(MIB, MIB, MIB + 34, MIB + 0x100, MIB)).pieces
    assert (piece.data[-2:], piece.size) == (b"co", 0x100)


def test_elf_is_loaded_and_entered_at_physical_addresses():
    kernel = multiboot.parse(elf(offset=84 + 12))
    assert kernel.pieces == (Piece(0x5000, b"ABCD", 8),)
    assert kernel.entry == 0x5002


@pytest.mark.parametrize(
    ("image", "complaint"),
    [
        (bytes(100), "no Multiboot header"),
        (header(8), "flags 0x8"),
        (header(), "no ELF file either"),
        (header(0x10000), "ends inside the Multiboot header's address fields"),
        (flat(MIB, MIB + 4, 0, 0, 0), "does not contain"),
        (flat(MIB, MIB, MIB + 1000, 0, 0), "does not contain"),
        (flat(MIB + 4, MIB, 0, 0, 0), "does not contain"),
        (elf(machine=62), "not for 32-bit x86"),
        (elf(kind=2), "nothing to load"),
        (elf(size=400, total=400), "beyond its end"),
        (elf(size=4, total=2), "beyond its end"),
    ],
)
def test_damaged_files_say_why(image, complaint):
    with pytest.raises(ValueError, match=complaint):
        multiboot.parse(image)


@pytest.mark.parametrize("address", [0x9F000, 0xA0000, 4 * MIB - 4, 8 * MIB])
def test_kernel_must_fit_in_memory(address):
    kernel = KernelImage((Piece(address, b"", 8),), address)
    with pytest.raises(ValueError, match=f"loaded at {address:#x}"):
        kernel.check(REGIONS)


def test_start():
    memory, state = PcMemory(bytearray(4 * MIB), a20=True), State.reset()
    kernel = KernelImage((Piece(MIB, b"kernel", 16), Piece(0x1000, b"low", 3)), MIB + 2, "quiet")
    kernel.check(REGIONS)
    memory.write(MIB, b"x" * 16)
    kernel.start(memory, state, REGIONS)
    assert memory.read(MIB, 16) == b"kernel".ljust(16, b"\0")
    assert (state.eax, state.eip, state.cr0 & 0x80000001, state.rflags & 0x20200) == (0x2BADB002, MIB + 2, 1, 0)
    assert (state.cs.base, state.cs.limit, state.cs.attributes) == (0, 0xFFFFFFFF, 0xC09B)
    for segment in (state.ds, state.es, state.fs, state.gs, state.ss):
        assert (segment.base, segment.limit, segment.attributes, segment.unusable) == (0, 0xFFFFFFFF, 0xC093, 0)
    info = state.ebx
    assert info == 0x2000, "the first page is the kernel's"
    flags, lower, upper = struct.unpack("<III", memory.read(info, 12))
    assert (flags, lower, upper) == (0x1245, 0x9F000 >> 10, 3 << 10)
    assert memory.read(memory.read_int(info + 16, 4), 6) == b"quiet\0"
    assert memory.read(memory.read_int(info + 64, 4), 7) == b"x86-dm\0"
    length, at = struct.unpack("<II", memory.read(info + 44, 8))
    entries = [struct.unpack("<IQQI", memory.read(at + i, 24)) for i in range(0, length, 24)]
    assert entries == [(20, start, end - start, kind) for start, end, kind in REGIONS]


def test_firmware_starts_it(make_bench):
    from dm.shim.bios import rom
    from dm.shim.pc import Pc

    bench = make_bench([])
    kernel = KernelImage((Piece(MIB, b"\xf4", 1),), MIB)
    pc = Pc(bytearray(4 * MIB), [], bench.clock, kernel=kernel)
    pc.state.cs.selector, pc.state.cs.base, pc.state.rip = 0xF000, 0xF0000, rom.Trap.POST
    pc.firmware_call(0xF0000 + rom.Trap.POST)
    assert (pc.state.eip, pc.memory_map.a20, pc.memory.read(MIB, 1)) == (MIB, True, b"\xf4")
    with pytest.raises(ValueError, match="there is memory at"):
        Pc(bytearray(4 * MIB), [], bench.clock, kernel=KernelImage((Piece(4 * MIB, b"", 1),), 0))
