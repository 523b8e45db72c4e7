import pytest

from dm.shim.bios import rom


def say(bench, text, **registers):
    for char in text.encode("cp437"):
        bench.interrupt(0x10, ax=0x0E00 | char, bx=0x0007, **registers)


def test_post_sets_mode_3_and_clears_the_screen(bench):
    assert bench.memory.read(0xB8000, 4000) == b" \x07" * 2000
    result = bench.interrupt(0x10, ax=0x0F00)
    assert (result.al, result.ah, result.bh) == (3, 80, 0)


def test_teletype_writes_moves_and_keeps_attributes(bench):
    bench.memory.write(0xB8000, b" \x1f" * 2)
    say(bench, "Hi")
    assert bench.memory.read(0xB8000, 4) == b"H\x1fi\x1f"
    result = bench.interrupt(0x10, ax=0x0300, bx=0)
    assert (result.dl, result.dh) == (2, 0)
    assert bench.pc.vga.cursor == 2


def test_teletype_controls(bench):
    say(bench, "ab\bX\r\nc\a")
    assert bench.row(0) == "aX"
    assert bench.row(1) == "c"
    assert bench.interrupt(0x10, ax=0x0300, bx=0).dx == 0x0101


def test_teletype_wraps_and_scrolls(bench):
    say(bench, "top" + "\r\n" * 24 + "x" * 80 + "last")
    assert bench.row(0) == "", "the first row has scrolled off"
    assert bench.row(23) == "x" * 80
    assert bench.row(24) == "last"


@pytest.mark.parametrize(("function", "expected"), [(6, ["b", "c", "", "d"]), (7, ["", "a", "b", "d"])])
def test_scroll_window(bench, function, expected):
    for row, char in enumerate("abcd"):
        bench.memory.write(0xB8000 + row * 160, char.encode())
    bench.interrupt(0x10, ax=function << 8 | 1, bx=0x4F00, cx=0x0000, dx=0x024F)
    assert [bench.row(row) for row in range(4)] == expected
    blank = 2 if function == 6 else 0
    assert bench.memory.read(0xB8000 + blank * 160, 4) == b" \x4f \x4f"


@pytest.mark.parametrize("lines", [0, 25, 255])
def test_scroll_by_all_lines_clears_the_window_only(bench, lines):
    for row in range(3):
        bench.memory.write(0xB8000 + row * 160, b"x\x07" * 80)
    bench.interrupt(0x10, ax=0x0600 | lines, bx=0x0700, cx=0x0101, dx=0x014E)
    assert bench.row(0) == bench.row(2) == "x" * 80
    assert bench.row(1) == "x" + " " * 78 + "x"


def test_scroll_clips_to_the_screen_and_ignores_an_empty_window(bench):
    bench.memory.write(0xB8000, b"x")
    bench.interrupt(0x10, ax=0x0600, bx=0x0700, cx=0x0505, dx=0x0404)
    assert bench.row(0) == "x"
    bench.interrupt(0x10, ax=0x0600, bx=0x0700, cx=0x0000, dx=0xFFFF)
    assert bench.row(0) == ""


def test_write_and_read_character_and_attribute(bench):
    bench.interrupt(0x10, ax=0x0200, bx=0, dx=0x0305)
    bench.interrupt(0x10, ax=0x0941, bx=0x002E, cx=3)
    assert bench.memory.read(0xB8000 + 3 * 160 + 10, 6) == b"A\x2e" * 3
    assert bench.interrupt(0x10, ax=0x0800, bx=0).ax == 0x2E41
    bench.interrupt(0x10, ax=0x0A42, bx=0, cx=1)
    assert bench.interrupt(0x10, ax=0x0800, bx=0).ax == 0x2E42
    assert bench.interrupt(0x10, ax=0x0300, bx=0).dx == 0x0305, "the cursor has not moved"


def test_write_with_a_huge_count_stays_in_display_memory(bench):
    before = bench.memory.read(0xC0000, 16)
    bench.interrupt(0x10, ax=0x0958, bx=0x0007, cx=0xFFFF)
    assert bench.memory.read(0xBFFFE, 2) == b"X\x07"
    assert bench.memory.read(0xC0000, 16) == before


def test_pages_have_cursors_of_their_own(bench):
    bench.interrupt(0x10, ax=0x0200, bx=0x0100, dx=0x0A0B)
    assert bench.interrupt(0x10, ax=0x0300, bx=0x0000).dx == 0
    bench.interrupt(0x10, ax=0x0501)
    assert bench.pc.vga.start == 0x800
    assert bench.pc.vga.cursor == 0x800 + 10 * 80 + 11
    say(bench, "P")
    assert bench.memory.read(0xB9000 + 10 * 160 + 22, 1) == b"P"


def test_string_with_attributes_and_cursor(bench):
    bench.memory.write(0x5000, b"A\x1eB\x2d")
    bench.interrupt(0x10, ax=0x1303, bx=0x0007, cx=2, dx=0x0102, es=0x500, bp=0)
    assert bench.memory.read(0xB8000 + 160 + 4, 4) == b"A\x1eB\x2d"
    assert bench.interrupt(0x10, ax=0x0300, bx=0).dx == 0x0104
    bench.interrupt(0x10, ax=0x1300, bx=0x0030, cx=1, dx=0x0000, es=0x500, bp=0)
    assert bench.memory.read(0xB8000, 2) == b"A\x30"
    assert bench.interrupt(0x10, ax=0x0300, bx=0).dx == 0x0104


def test_mode_change_clears_unless_told_not_to(bench):
    say(bench, "keep")
    bench.interrupt(0x10, ax=0x0083)
    assert bench.row(0) == "keep"
    assert bench.interrupt(0x10, ax=0x0F00).al == 0x83
    bench.interrupt(0x10, ax=0x0001)
    assert bench.row(0) == ""
    assert bench.interrupt(0x10, ax=0x0F00).ah == 40


@pytest.mark.parametrize("mode", [0x08, 0x0C, 0x14, 0x5F, 0x7F])
def test_unknown_modes_are_refused(bench, mode):
    bench.memory.write(0xB8000, b"x")
    assert bench.interrupt(0x10, ax=mode).ax == mode
    assert bench.interrupt(0x10, ax=0x0F00).al == 3
    assert bench.memory.read(0xB8000, 1) == b"x"


def test_eight_line_font_gives_fifty_rows(bench):
    bench.interrupt(0x10, ax=0x1112, bx=0)
    result = bench.interrupt(0x10, ax=0x1130, bx=0x0600)
    assert (result.dl, result.cx, result.es) == (49, 8, 0xF000)
    say(bench, "\r\n" * 40 + "deep")
    assert bench.row(40) == "deep"


def test_vbe_is_absent(bench):
    assert bench.interrupt(0x10, ax=0x4F00).ax == 0x4F00


def test_display_combination_and_alternate_select(bench):
    result = bench.interrupt(0x10, ax=0x1A00)
    assert (result.al, result.bl) == (0x1A, 8)
    assert bench.interrupt(0x10, ax=0x1200, bx=0x10).bx == 0x0003


def test_state_information(bench):
    assert bench.interrupt(0x10, ax=0x1B00, bx=0, es=0x500, di=0x10).al == 0x1B
    table = bench.memory.read(0x5010, 64)
    assert int.from_bytes(table[0:4], "little") == rom.SEGMENT << 16 | rom.VIDEO_STATE
    assert table[4] == 3
    assert int.from_bytes(table[5:7], "little") == 80
    assert table[0x22] == 25
    assert int.from_bytes(table[0x23:0x25], "little") == 16


def test_palette_registers(bench):
    bench.interrupt(0x10, ax=0x1010, bx=5, dx=0x0A00, cx=0x0B0C)
    result = bench.interrupt(0x10, ax=0x1015, bx=5)
    assert (result.dh, result.ch, result.cl) == (0x0A, 0x0B, 0x0C)
    bench.interrupt(0x10, ax=0x1000, bx=0x3F02)
    assert bench.interrupt(0x10, ax=0x1007, bx=0x0002).bh == 0x3F


def test_every_function_returns_whatever_it_is_asked(bench):
    for function in range(256):
        bench.interrupt(0x10, ax=function << 8 | 0xFF, bx=0xFFFF, cx=0xFFFF, dx=0xFFFF, es=0x500, di=0, bp=0)
        assert bench.interrupt(0x10, ax=0x0F00).returned
