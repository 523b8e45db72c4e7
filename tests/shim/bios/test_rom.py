from dm.shim.bios import rom
from dm.shim.pc_memory import TRAPS


def test_every_vector_has_its_own_entry_point_in_the_trap_page():
    offsets = [rom.vector_trap(v) for v in range(256)]
    assert len(set(offsets)) == 256
    assert all((0xF0000 + offset) & ~0xFFF == TRAPS for offset in offsets)
    assert [rom.trapped_vector(offset) for offset in offsets] == list(range(256))


def test_other_offsets_are_no_vectors():
    assert rom.trapped_vector(rom.vector_trap(5) + 1) is None
    assert all(rom.trapped_vector(trap) is None for trap in rom.Trap)
    assert rom.trapped_vector(rom.vector_trap(255) + 2) is None


def test_code_that_runs_in_the_guest_is_outside_the_trap_page_and_ends_in_it(bench):
    for offset, jump in ((rom.KEYBOARD_IRQ, 8), (rom.YIELD, 2)):
        assert (0xF0000 + offset) & ~0xFFF != TRAPS
        code = bench.memory.read(0xF0000 + offset, jump + 3)
        assert code[jump] == 0xE9
        target = offset + jump + 3 + int.from_bytes(code[jump + 1 :], "little") & 0xFFFF
        assert target in (rom.Trap.KEY, rom.vector_trap(0x15))


def test_identification_where_programs_look(bench):
    assert bench.memory.read(0xFFFF5, 8) == b"01/01/99"
    assert bench.memory.read(0xFFFFE, 1) == b"\xfc"


def test_option_rom_area_is_empty(bench):
    assert bench.memory.read(0xC0000, 0x800) == b"\xff" * 0x800
