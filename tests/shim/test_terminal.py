import io
import os
import select
import sys
import termios
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from vt import Terminal

from dm.shim import escape, keys
from dm.shim.ansi import AnsiConsole
from dm.shim.screen import Screen, Transcript
from dm.shim.terminal import PlainConsole, open_console
from dm.shim.text import Lines
from dm.shim.tty import Tty, decode_keys


def screen(*lines, cursor=None):
    text = "".join(line.ljust(80) for line in lines).ljust(2000)
    return Screen(80, 25, b"".join(bytes((c, 7)) for c in text.encode("cp437")), cursor)


class Looks:
    def __init__(self, console):
        self.console, self.transcript = console, Transcript()

    def __call__(self, *lines, cursor=None):
        look = screen(*lines, cursor=cursor)
        self.transcript.update(look.text())
        self.console.show(look, self.transcript)


def test_plain_prints_lines_once_they_stand_still():
    out = io.StringIO()
    console = PlainConsole(out)
    look = Looks(console)
    look("hel", cursor=(3, 0))
    look("hello", cursor=(5, 0))
    assert out.getvalue() == ""
    look("hello", "w", cursor=(1, 1))
    assert out.getvalue() == "", "it may yet go on"
    look("hello", "wor", cursor=(3, 1))
    assert out.getvalue() == "hello\n"
    console.close()
    assert out.getvalue() == "hello\nwor\n"


def test_plain_prints_scrolled_rows_once():
    out = io.StringIO()
    look = Looks(PlainConsole(out))
    look("a", "b", "c")
    for _ in range(3):
        look("b", "c", "d")
    assert out.getvalue().split() == ["a", "b", "c", "d"]


def test_plain_prints_serial_by_lines():
    out = io.StringIO()
    console = PlainConsole(out)
    console.output(b"first\r\nsec")
    assert out.getvalue() == "first\n"
    console.output(b"ond \x07\n")
    assert out.getvalue() == "first\nsecond \n"
    console.output(b"rest")
    console.close()
    assert out.getvalue().endswith("rest\n")


def test_escape_sequences_of_the_guest_stay_inside():
    out = io.StringIO()
    console = PlainConsole(out)
    for byte in b"\x1b[31mred\x1b[0m \x1bMtext\x07\n\x1b]0;title":
        console.output(bytes((byte,)))
    assert out.getvalue() == "red text\n"


def test_endless_line_is_printed_in_pieces():
    out = io.StringIO()
    console = PlainConsole(out)
    for _ in range(100):
        console.output(b"x" * 100)
    assert out.getvalue().count("\n") == 2


def test_quiet_prints_nothing():
    out = io.StringIO()
    console = PlainConsole(out, quiet=True)
    look = Looks(console)
    look("a")
    look("a")
    console.output(b"x\n")
    console.close()
    assert out.getvalue() == ""


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"a", [keys.type_character("a")]),
        (b"\x1b[A\x1bOP", [keys.parse("<up>")[0], keys.parse("<f1>")[0]]),
        (b"\x1b", [keys.type_character("\x1b")]),
        (b"\x1bx", keys.parse("<alt-x>")),
        (b"\xc3\xa9b", [keys.type_character("b")]),
        (b"\x7f\r", [keys.type_character("\b"), keys.type_character("\n")]),
        (b"\x03\x1c", [*keys.parse("<ctrl-c>"), *keys.parse("<ctrl-\\>")]),
        (b"\0\x1d\x1e\x1f", [keys.parse(f"<ctrl-{k}>")[0] for k in "2]6"] + [keys.type_character("\x1f")]),
        (b"", []),
    ],
)
def test_terminal_input_becomes_keys(data, expected):
    assert decode_keys(data) == expected


@pytest.fixture
def terminal():
    """Return a function that makes terminals."""
    made = []

    def make(*size):
        made.append(Terminal(*size))
        return made[-1]

    yield make
    for one in made:
        one.close()


class Drawn:
    """An AnsiConsole on a terminal, and looks of a screen drawn on it."""

    def __init__(self, terminal, *, keyboard=False, **options):
        self.terminal = terminal
        self.tty = Tty(terminal.slave, escape.DEFAULT) if keyboard else None
        if self.tty:
            self.tty.message = ""
        self.out = open(terminal.slave, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        self.console = AnsiConsole(self.out, self.tty, **options)
        self.looks = Looks(self.console)

    def __call__(self, *lines, cursor=None):
        self.looks(*lines, cursor=cursor)
        return self.drawn()

    def drawn(self):
        """Return what has been drawn since the last time."""
        at = len(self.terminal.log)
        while select.select([self.terminal.master], [], [], 0)[0]:
            self.terminal.draw(os.read(self.terminal.master, 65536).decode())
        return self.terminal.log[at:]

    def close(self):
        self.console.close()
        self.out.close()
        return self.drawn()


def test_ansi_draws_changes_only_and_restores_the_terminal(terminal):
    t = terminal(80, 30)
    saved = t.modes
    drawn = Drawn(t, keyboard=True)
    assert not t.modes[3] & (termios.ECHO | termios.ICANON), "no echo, no line editing"
    assert not t.modes[3] & termios.ISIG, "Ctrl-C is the guest's"
    drawn("one", "two", cursor=(1, 1))
    assert t.alternate
    assert t.rows[:2] == ["one", "two"]
    assert t.cursor == (1, 1)
    assert drawn("one", "two", cursor=(1, 1)) == ""
    changed = drawn("one", "TWO")
    assert t.rows[:2] == ["one", "TWO"]
    assert "one" not in changed
    assert t.cursor is None
    t.type(b"k\x1b[B")
    drawn.console.wait(60)
    assert drawn.console.typed() == [keys.type_character("k"), keys.parse("<down>")[0]]
    assert drawn.console.typed() == []
    left = drawn.close()
    assert t.modes == saved
    assert not t.alternate
    assert t.wraps
    assert left.endswith("one\r\nTWO\r\n")
    drawn.console.close()
    assert drawn.drawn() == "", "it may be closed again"


LINES = [f"{n:02} " + "x" * 76 + "|" for n in range(25)]


@pytest.mark.parametrize(("columns", "lines"), [(80, 25), (79, 24), (40, 10), (132, 50), (20, 3), (1, 1)])
def test_ansi_clips_to_the_terminal(terminal, columns, lines):
    t = terminal(columns, lines)
    drawn = Drawn(t)
    drawn(*LINES, cursor=(79, 24))
    first = max(0, 25 - lines)
    shown = min(lines, 25)
    assert t.rows[:shown] == [line[:columns] for line in LINES[first : first + shown]], "the rows up to the cursor's"
    assert not t.overflowed
    assert t.cursor == ((79, shown - 1) if columns >= 80 else None)
    drawn(*LINES, cursor=(0, 0))
    assert t.rows[:shown] == [line[:columns] for line in LINES[:shown]]
    assert t.cursor == (0, 0)


def test_ansi_follows_the_terminals_size(terminal):
    t = terminal(80, 25)
    drawn = Drawn(t)
    drawn(*LINES)
    for columns, lines in ((40, 12), (100, 40), (80, 25)):
        t.resize(columns, lines)
        drawn(*LINES)
        shown = min(lines, 25)
        assert t.rows[:shown] == [line[:columns] for line in LINES[:shown]]
        assert not any(t.rows[25:])
    assert not t.overflowed


def test_ansi_gives_serial_text_the_lines_below(terminal):
    t = terminal(40, 30)
    drawn = Drawn(t)
    drawn(*LINES)
    drawn.console.output(b"first\r\nsec\x1b[2Jond\rS\n" + b"x" * 50 + b"\n\xc2\x9b1mC1 ")
    assert drawn(*LINES) != ""
    assert t.rows[25:] == ["first", "Second", "x" * 40, "x" * 10, "\N{REPLACEMENT CHARACTER}1mC1"]
    drawn.console.output(b"\nlast\n")
    drawn(*LINES)
    assert t.rows[25:] == ["Second", "x" * 40, "x" * 10, "\N{REPLACEMENT CHARACTER}1mC1", "last"]
    assert t.rows[:25] == [line[:40] for line in LINES]
    left = drawn.close()
    assert "first\r\nSecond\r\n" + "x" * 50 in left, "all of it is there at the end"


def test_ansi_gives_serial_text_some_lines_of_a_small_terminal(terminal):
    t = terminal(80, 24)
    drawn = Drawn(t)
    drawn(*LINES)
    assert t.rows == [line.rstrip() for line in LINES[:24]]
    drawn.console.output(b"serial\n")
    drawn(*LINES, cursor=(0, 24))
    assert t.rows[:20] == [line.rstrip() for line in LINES[5:]]
    assert t.rows[20:] == ["serial", "", "", ""]


def test_ansi_draws_anew_what_something_else_has_drawn_over(terminal):
    t = terminal(80, 24)
    drawn = Drawn(t, keyboard=True)
    drawn("one", "two")
    t.draw("\x1b[2J\x1b[Hnoise")
    t.type(b"\x1dr")
    drawn.console.wait(60)
    drawn("one", "two")
    assert t.rows[:2] == ["one", "two"]
    drawn.close()


def test_messages_come_and_go(terminal, monkeypatch):
    t = terminal(80, 24)
    drawn = Drawn(t, keyboard=True)
    drawn(*LINES)
    t.type(b"\x1dh")
    drawn.console.wait(60)
    drawn(*LINES)
    assert t.rows[-1].startswith("Ctrl-] q quits")
    assert drawn.console.typed() == []
    t.type(b"k")
    drawn.console.wait(60)
    drawn(*LINES)
    assert t.rows[-1] == LINES[23].rstrip(), "the next key takes it away"
    assert drawn.console.typed() == [keys.type_character("k")]
    t.type(b"\x1d?")
    drawn.console.wait(60)
    drawn(*LINES)
    assert t.rows[-1].startswith("Ctrl-] q quits")
    now = time.monotonic()
    monkeypatch.setattr("dm.shim.ansi.time.monotonic", lambda: now + 60)
    drawn(*LINES)
    drawn(*LINES)
    assert t.rows[-1] == LINES[23].rstrip(), "and so does time"
    drawn.close()


def test_ansi_colours_swap_red_and_blue():
    row = AnsiConsole(io.StringIO(), None)._row
    assert row("ab", b"\x1c\x1c") == "\x1b[91;44mab"
    assert row("ab", b"\x07\x70") == "\x1b[37;40ma\x1b[30;47mb"


def test_without_colours_what_stands_out_still_does():
    row = AnsiConsole(io.StringIO(), None, colour=False)._row
    assert row("abc", b"\x07\x0c\x70") == "\x1b[ma\x1b[m\x1b[1mb\x1b[m\x1b[7mc"


def test_lines_end_where_they_are_too_long_and_old_ones_are_forgotten():
    lines = Lines(3, 10)
    lines.feed("a\tb\bc\n" + "x" * 25 + "\n\nend")
    assert list(lines.done) == ["x" * 10, "x" * 5, ""]
    assert lines.last(10, 80) == ["x" * 10, "x" * 5, "", "end"]
    lines = Lines(3, 100)
    lines.feed("a\tb\bc")
    assert lines.last(1, 80) == ["a       c"]
    assert lines.last(0, 80) == []


def test_the_escape_key_begins_commands():
    one = escape.Escape(escape.DEFAULT)
    assert one.feed(b"ab\x03\x1c") == (b"ab\x03\x1c", [])
    assert one.feed(b"\x1d\x1d\x1d\x1ax") == (b"\x1d\x1ax", []), "it sends itself, and Ctrl-Z"
    assert one.feed(b"a\x1ab\x1dz") == (b"ab", [escape.EscapeCommand.SUSPEND] * 2)
    assert one.feed(b"a\x1d") == (b"a", [])
    assert one.feed(b"q") == (b"", [escape.EscapeCommand.LEAVE])
    assert one.feed(b"\x1dR\x1d~b") == (b"b", [escape.EscapeCommand.REDRAW, escape.EscapeCommand.HELP])


@pytest.mark.parametrize(
    ("text", "code"), [("ctrl-]", 0x1D), ("Ctrl-A", 1), ("^a", 1), ("^^", 0x1E), ("ctrl-\\", 0x1C)]
)
def test_escape_keys(text, code):
    assert escape.parse(text) == code


@pytest.mark.parametrize("text", ["", "a", "ctrl-", "ctrl-1", "ctrl-z", "ctrl-m", "^[", "f1"])
def test_what_cannot_be_the_escape_key(text):
    with pytest.raises(ValueError, match=r"a control key like ctrl-\] or ctrl-a is needed"):
        escape.parse(text)


@pytest.mark.parametrize(
    ("environment", "kind", "colour"),
    [
        ({"TERM": "xterm"}, AnsiConsole, True),
        ({"TERM": "xterm", "NO_COLOR": ""}, AnsiConsole, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, AnsiConsole, False),
        ({"TERM": "dumb"}, PlainConsole, None),
        ({}, PlainConsole, None),
    ],
)
def test_the_console_fits_the_terminal(terminal, monkeypatch, environment, kind, colour):
    t = terminal(80, 24)
    for name in ("TERM", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with open(t.slave, closefd=False) as source, open(t.slave, "w", closefd=False) as out:
        monkeypatch.setattr("sys.stdin", source)
        monkeypatch.setattr("sys.stdout", out)
        saved = t.modes
        console = open_console(quiet=False)
        t.type(b"k")
        console.wait(60)
        assert console.typed() == [keys.type_character("k")], "there is a keyboard either way"
        console.close()
        assert t.modes == saved
        quiet = open_console(quiet=True)
        assert isinstance(quiet, PlainConsole)
        assert t.modes == saved, "nothing is taken for --json"
    assert type(console) is kind
    if colour is not None:
        assert console._colour is colour
