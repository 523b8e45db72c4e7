import io
import os
import pty
import re
import termios

import pytest

from dm.shim import keys
from dm.shim.screen import Screen, Transcript
from dm.shim.terminal import AnsiConsole, PlainConsole, decode_keys


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
        (b"", []),
    ],
)
def test_terminal_input_becomes_keys(data, expected):
    assert decode_keys(data) == expected


def test_ansi_draws_changes_only_and_restores_the_terminal():
    master, slave = pty.openpty()
    with os.fdopen(slave, "r+b", buffering=0) as raw, io.TextIOWrapper(raw) as source:
        saved = termios.tcgetattr(slave)
        out = io.StringIO()
        console = AnsiConsole(source, out)
        assert termios.tcgetattr(slave)[3] != saved[3], "no echo, no line editing"
        assert termios.tcgetattr(slave)[3] & termios.ISIG, "Ctrl-C still ends the command"
        look = Looks(console)
        look("one", "two", cursor=(1, 1))
        assert "one" in out.getvalue()
        assert out.getvalue().endswith("\x1b[2;2H")
        out.seek(0)
        out.truncate()
        look("one", "two", cursor=(1, 1))
        assert out.getvalue() == ""
        look("one", "TWO")
        drawn = out.getvalue()
        assert "TWO" in drawn
        assert "one" not in drawn
        assert "\x1b[?25l" in drawn, "no cursor"
        os.write(master, b"k\x1b[B")
        assert console.typed() == [keys.type_character("k"), keys.parse("<down>")[0]]
        assert console.typed() == []
        console.close()
        assert termios.tcgetattr(slave) == saved
        assert re.search(r"\x1b\[\?1049l(one\n)TWO\n$", out.getvalue())
    os.close(master)


def test_ansi_colours_swap_red_and_blue():
    assert AnsiConsole._row("ab", b"\x1c\x1c") == "\x1b[91;44mab"
    assert AnsiConsole._row("ab", b"\x07\x70") == "\x1b[37;40ma\x1b[30;47mb"
