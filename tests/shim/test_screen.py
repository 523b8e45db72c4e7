from dm.shim.screen import CP437, Expectation, Screen, Transcript

BLANK = " " * 80


def pad(*lines):
    return [line.ljust(80) for line in lines] + [BLANK] * (25 - len(lines))


def test_screen_shows_text_cursor_and_page(bench):
    for char in b"Hi":
        bench.interrupt(0x10, ax=0x0E00 | char)
    screen = Screen.of(bench.pc)
    assert (screen.columns, screen.rows, screen.cursor) == (80, 25, (2, 0))
    assert screen.text()[0] == "Hi".ljust(80)
    bench.interrupt(0x10, ax=0x0501)
    assert Screen.of(bench.pc).text()[0] == BLANK
    bench.pc.vga.cursor = 2
    assert Screen.of(bench.pc).cursor is None, "on another page"


def test_screen_follows_mode_and_hidden_cursor(bench):
    bench.interrupt(0x10, ax=0x0001)
    bench.interrupt(0x10, ax=0x0100, cx=0x2000)
    screen = Screen.of(bench.pc)
    assert (screen.columns, screen.rows, screen.cursor_on) == (40, 25, False)
    bench.interrupt(0x10, ax=0x0003)
    bench.interrupt(0x10, ax=0x1112, bx=0)
    assert Screen.of(bench.pc).rows == 50


def test_any_page_start_stays_in_display_memory(bench):
    bench.pc.vga.start = 0xFFFF
    assert len(Screen.of(bench.pc).cells) == 4000


def test_code_page():
    assert len(CP437) == 256
    assert (CP437[0x41], CP437[0xDB], CP437[0xC4], CP437[1]) == ("A", "█", "─", "☺")


def test_transcript_keeps_rows_that_scroll_off():
    t = Transcript()
    t.update(pad("one", "two", "three"))
    t.update(pad("two", "three", "four"))
    assert [row.rstrip() for row in t.history] == ["one"]
    t.update(pad("two", "three!", "four"))
    assert len(t.history) == 1, "a row was rewritten in place"
    t.update(pad("four", "five"))
    assert [row.rstrip() for row in t.history] == ["one", "two", "three!"]


def test_transcript_knows_a_new_screen():
    t = Transcript()
    t.update(pad("old", "screen"))
    t.update(pad("fresh"))
    assert [row.rstrip() for row in list(t.numbered().values())[:3]] == ["old", "screen", "fresh"]


def test_a_line_being_written_is_one_row():
    t = Transcript()
    for text in ("G", "GR", "GRUB"):
        t.update(pad("", text))
    assert [row.rstrip() for row in t.numbered().values() if row.strip()] == ["GRUB"]


def test_expectations_are_met_in_order_and_once():
    t, e = Transcript(), Expectation()
    t.update(pad("prompt> "))
    assert e.find("prompt>", t, b"")
    assert not e.find("prompt>", t, b""), "the same text does not count twice"
    t.update(pad("prompt> echo", "output", "prompt> "))
    assert e.find("output", t, b"")
    assert e.find("prompt>", t, b"")
    assert not e.find("output", t, b"")


def test_two_expectations_on_one_row():
    t, e = Transcript(), Expectation()
    t.update(pad("alpha beta"))
    assert e.find("alpha", t, b"")
    assert e.find("beta", t, b"")
    assert not e.find("alpha", t, b"")


def test_change_above_the_last_match_counts():
    t, e = Transcript(), Expectation()
    t.update(pad("menu 1", "", "status"))
    assert e.find("status", t, b"")
    t.update(pad("menu 2", "", "status"))
    assert e.find("menu 2", t, b"")


def test_row_written_over_counts_from_its_start():
    t, e = Transcript(), Expectation()
    t.update(pad("press a key for the prompt"))
    assert e.find("key", t, b"")
    t.update(pad("shell> "))
    assert e.find("shell>", t, b"")


def test_text_across_the_right_edge():
    t, e = Transcript(), Expectation()
    t.update(["x" * 78 + "he", "llo".ljust(80), *[BLANK] * 23])
    assert e.find("hello", t, b"")


def test_serial_text_counts_from_the_last_match():
    t, e = Transcript(), Expectation()
    t.update(pad())
    assert e.find("boot", t, b"booted\n")
    assert not e.find("boot", t, b"booted\n")
    assert e.find("boot", t, b"booted\nbooted\n")


def test_dropped_serial_text_is_not_found_again():
    t, e = Transcript(), Expectation()
    t.update(pad())
    assert e.find("one", t, b"xxone")
    e.forget(3)
    assert e.find("two", t, b"netwo")
    assert not e.find("two", t, b"netwo")


def test_history_is_bounded_and_keeps_its_numbers():
    t, e = Transcript(), Expectation()
    for i in range(3000):
        t.update([f"row {n}".ljust(80) for n in range(i, i + 25)])
    assert len(t.history) <= 2000
    rows = t.numbered()
    assert all(row.rstrip() == f"row {number}" for number, row in rows.items())
    assert max(rows) == 3023
    assert e.find("row 3023", t, b"")
