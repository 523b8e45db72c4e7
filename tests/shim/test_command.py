import argparse

import pytest

from dm.shim import command
from dm.shim.script import Expect


@pytest.fixture
def parse():
    parser = argparse.ArgumentParser(exit_on_error=False)
    command.add_arguments(parser)
    return parser.parse_args


def test_defaults(parse):
    args = parse(["disk.img"])
    assert (args.memory, args.engine, args.connect, args.debugcon, args.script) == (64, "auto", None, 0xE9, [])


def test_options(parse):
    args = parse(["x", "--as", "cd", "--memory", "128", "--expect", "A", "--debugcon", "0x402", "--timeout", "1.5"])
    assert (args.kind, args.memory, args.script, args.debugcon, args.timeout) == ("cd", 128, [Expect("A")], 0x402, 1.5)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--memory", "1"], "use 2 to 3072 MiB"),
        (["--memory", "4096"], "use 2 to 3072 MiB"),
        (["--memory", "many"], "use 2 to 3072 MiB"),
        (["--timeout", "0"], "above 0"),
        (["--timeout", "nan"], "above 0"),
        (["--debugcon", "65536"], "0 to 0xffff"),
        (["--exit-port", "-1"], "0 to 0xffff"),
        (["--trace-from", "4294967296"], "0 to 0xffffffff"),
        (["--trace-count", "0"], "above 0"),
        (["--cpu", "z80"], "x86-64"),
        (["--as", "tape"], "floppy"),
        (["--engine", "python", "--connect", "ipc:///x"], "not allowed with"),
    ],
)
def test_bad_options_say_what_is_right(parse, words, complaint):
    with pytest.raises((SystemExit, argparse.ArgumentError), match=None) as failure:
        parse(["x", *words])
    assert complaint in str(failure.value)


@pytest.mark.parametrize(
    ("data", "options", "complaint"),
    [
        (b"", [], "is empty"),
        (b"x" * 1000, ["--as", "floppy"], "no diskette"),
        (b"x" * 1000, ["--as", "cd"], "no ISO 9660"),
        (b"x" * 1000, ["--as", "multiboot"], "no Multiboot header"),
    ],
)
def test_images_that_cannot_be_booted(parse, write_image, capsys, data, options, complaint):
    path = write_image(data)
    assert command.main(parse([str(path), *options])) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count(str(path)) == 1


def test_missing_image(parse, tmp_path, capsys):
    assert command.main(parse([str(tmp_path / "none.iso")])) == 2
    assert "none.iso" in capsys.readouterr().err


def test_busy_debug_port_is_refused_before_anything_starts(parse, write_image, capsys):
    assert command.main(parse([str(write_image(bytes(512))), "--debugcon", "0x60"])) == 1
    assert "0x60 is taken" in capsys.readouterr().err


def test_no_daemon_at_the_endpoint(parse, write_image, capsys, monkeypatch, tmp_path):
    from dm.shim.errors import SessionLost

    def connect(endpoint, name, curve):
        raise SessionLost(f"no daemon answers at {endpoint}")

    monkeypatch.setattr(command.Shim, "connect", connect)
    assert command.main(parse([str(write_image(bytes(512))), "--connect", f"ipc://{tmp_path}/none"])) == 1
    assert "no daemon answers" in capsys.readouterr().err


def test_rom_or_image_but_not_both(parse, write_image, capsys):
    path = str(write_image(bytes(0x10000)))
    for words in ([], [path, "--bios", path]):
        assert command.main(parse(words)) == 2
        assert "one of IMAGE and --bios FILE is needed" in capsys.readouterr().err


def test_rom_of_an_impossible_size(parse, write_image, capsys):
    path = write_image(bytes(1000))
    assert command.main(parse(["--bios", str(path)])) == 2
    error = capsys.readouterr().err
    assert f"{path}: a ROM of 1000 bytes: a multiple of 64 KiB up to 16 MiB is needed" in error
