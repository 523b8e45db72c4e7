import pytest

from dm.engine.api import RegionKind
from dm.machine.state import State
from dm.shim.clock import ManualClock
from dm.shim.devices.vga import Vga
from dm.shim.pc_memory import AddressSpace, PageFaultError, PcMemory

KIB, MIB = 1 << 10, 1 << 20


@pytest.fixture
def memory():
    ram = bytearray(4 * MIB)
    return PcMemory(ram, a20=True, display=Vga(ManualClock(), ram))


@pytest.mark.parametrize("size", [MIB, 2 * MIB + 1, 0])
def test_impossible_sizes_are_refused(size):
    with pytest.raises(ValueError, match="multiple of 4 KiB from 2 MiB"):
        PcMemory(bytearray(size))


def test_map_has_ram_rom_and_the_trap_page(memory):
    kinds = {r.gpa: r.kind for r in memory.memory_map(1).regions}
    assert kinds[0] == kinds[0xB8000] == kinds[0x100000] == RegionKind.RAM
    assert kinds[0xFE000] == RegionKind.FIRMWARE
    assert kinds[0xC0000] == kinds[0xFF000] == kinds[0xFFFF0000] == RegionKind.ROM
    assert 0xA0000 not in kinds


def test_holes_read_ones_and_rom_cannot_be_written(memory):
    memory.write(0xA0000, b"x")
    memory.write(0xF0000, b"x")
    memory.write(4 * MIB, b"x")
    assert memory.read(0xA0000, 2) == b"\xff\xff"
    assert memory.read(0xF0000, 1) == b"\0"
    assert memory.read(4 * MIB - 1, 2) == b"\0\xff"
    assert memory.read(0xD0000, 1) == b"\xff"


def test_text_memory_is_ram(memory):
    memory.write(0xB8000, b"hi")
    assert memory.ram[0xB8000:0xB8002] == b"hi"


def test_the_display_decides_what_its_addresses_are(memory):
    vga = memory.display
    vga.load(0xE3, bytes((3, 1, 15, 0, 6)), bytes(25), bytes(21), bytes((0, 0, 0, 0, 0, 0, 5, 15, 0xFF)))
    regions = {r.gpa: (r.size, r.kind) for r in memory.memory_map(2).regions}
    assert regions[0xA0000] == (0x10000, RegionKind.COALESCED)
    assert 0xB8000 not in regions
    memory.write(0xA1000, b"\x81")
    assert [plane[0x1000] for plane in vga.memory.planes] == [0x81] * 4
    assert memory.read(0xA1000, 2) == b"\x81\0"
    assert memory.read(0xB8000, 1) == b"\xff"


def test_firmware_has_a_page_to_work_in(memory):
    memory.write(0xF8000, b"work")
    assert memory.read(0xF8000, 4) == b"work"
    kinds = {r.gpa: (r.size, r.kind) for r in memory.memory_map(1).regions}
    assert kinds[0xF8000] == (4096, RegionKind.RAM)


def test_a20_masks_bit_20_only(memory):
    memory.write(0x500, b"low")
    memory.write(0x100500, b"high")
    memory.a20 = False
    assert memory.read(0x100500, 3) == b"low"
    assert memory.read(0x300500, 1) == memory.read(0x200500, 1)
    memory.write(0xFFFFF, b"zz")
    assert memory.read(0, 1) == b"z", "the byte after FFFFFh is byte 0"


def space(memory, **fields):
    state = State.reset()
    for name, value in fields.items():
        setattr(state, name, value)
    return AddressSpace(memory, state), state


def test_offsets_wrap_in_the_segment(memory):
    view, state = space(memory)
    state.es.base = 0x10000
    view.write(state.es, 0xFFFF, b"ab")
    assert memory.read(0x1FFFF, 1) == b"a"
    assert memory.read(0x10000, 1) == b"b"
    assert view.read(state.es, 0xFFFF, 2) == b"ab"
    assert view.read_linear(0x1FFFF, 2) == b"a\0"


def test_two_level_paging(memory):
    memory.write_int(0x100000, 4, 0x101007)
    memory.write_int(0x101000 + 5 * 4, 4, 0x200007)
    memory.write_int(0x101000 + 6 * 4, 4, 0x201005)
    view, state = space(memory, cr0=0x80000001, cr3=0x100000, cpl=3)
    view.write_linear(0x5000, b"x" * 4)
    assert memory.read(0x200000, 4) == b"xxxx"
    assert view.read_linear(0x5FFF, 2) == b"\0\0", "across pages"
    for linear, write, error in ((0x7000, False, 4), (0x7000, True, 6), (0x6000, True, 7)):
        with pytest.raises(PageFaultError) as fault:
            view.write_linear(linear, b"x") if write else view.read_linear(linear, 1)
        assert (fault.value.linear, fault.value.error) == (linear, error)
    state.cpl = 0
    view.write_linear(0x6000, b"k")
    assert memory.read(0x201000, 1) == b"k", "a supervisor may write a read-only page while CR0.WP is 0"
    with pytest.raises(PageFaultError):
        view.write_linear(0x5FFF, b"x" * 0x2000)
    assert memory.read(0x200FFF, 1) == b"\0", "nothing is written when a later page is missing"


def test_large_pages_and_pae(memory):
    memory.write_int(0x100000, 4, 0x83)
    view, _ = space(memory, cr0=0x80000001, cr3=0x100000, cr4=0x10)
    memory.write(0x234567, b"L")
    assert view.read_linear(0x234567, 1) == b"L"
    memory.write_int(0x102000 + 8, 8, 0x2000E7)
    pdpte = [0x102001, 0, 0, 0]
    view, _ = space(memory, cr0=0x80000001, cr4=0x20, pdpte=pdpte)
    memory.write(0x212345, b"P")
    assert view.read_linear(0x212345, 1) == b"P"
    with pytest.raises(PageFaultError):
        view.read_linear(0x40000000, 1)


@pytest.mark.parametrize("size", [64 * KIB, 256 * KIB])
def test_rom_of_the_users(size):
    rom = bytes(i >> 12 & 0xFF for i in range(size - 1)) + b"\x99"
    memory = PcMemory(bytearray(4 * MIB + size), a20=True, rom=rom)
    assert memory.size == 4 * MIB
    regions = memory.memory_map(1).regions
    assert RegionKind.FIRMWARE not in {r.kind for r in regions}
    top = regions[-1]
    assert (top.gpa, top.size, top.kind) == ((1 << 32) - size, size, RegionKind.ROM)
    assert bytes(top.memory[top.offset : top.offset + size]) == rom
    low = min(size, 128 * KIB)
    assert memory.read(MIB - low, low) == rom[-low:]
    assert memory.read(MIB - low - 1, 1) == b"\xff"
    memory.write(MIB - 1, b"\0")
    assert memory.read(MIB - 1, 1) == b"\0", "shadow RAM, as the map says"
    assert {r.kind for r in regions if r.gpa < MIB} == {RegionKind.RAM}
    memory.reset()
    assert memory.read(MIB - 1, 1) == b"\x99"
    for hole in (4 * MIB, 4 * MIB + size - 1, (1 << 32) - 1):
        memory.write(hole, b"\0")
    assert memory.ram[4 * MIB :] == rom
