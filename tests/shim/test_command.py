import argparse
import json
import os
import signal
import socket
from pathlib import Path

import pytest

from dm import cli
from dm.commands import boot as command
from dm.shim.ends import Status
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
        (b"x" * 2949121, ["--as", "floppy"], "no diskette"),
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
    assert command.main(parse([str(write_image(bytes(512))), "--debugcon", "0x60"])) == Status.USAGE
    assert "0x60 is taken" in capsys.readouterr().err


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, None], ids=["directory", "FIFO", "nothing"])
@pytest.mark.parametrize("option", ["IMAGE", "--bios"])
def test_what_is_no_file_is_named_at_once(parse, tmp_path, capsys, make, option):
    path = tmp_path / "image"
    if make:
        make(path)
    assert command.main(parse([str(path)] if option == "IMAGE" else [option, str(path)])) == Status.USAGE
    error = capsys.readouterr().err
    wrong = {Path.mkdir: "a directory, an image", os.mkfifo: "a FIFO, an image", None: "No such file"}[make]
    assert error.startswith(f"x86-dm boot: {path}: {wrong}")


def test_a_trace_that_cannot_be_written_is_named(parse, tmp_path, write_image, capsys):
    path = tmp_path / "none" / "trace"
    assert command.main(parse([str(write_image(bytes(512))), "--trace", str(path)])) == Status.USAGE
    assert capsys.readouterr().err == f"x86-dm boot: {path}: No such file or directory\n"


@pytest.mark.parametrize("words", [["--connect", "foo"], ["--connect", "ipc://"], ["--connect", "udp://127.0.0.1:1"]])
def test_what_is_no_endpoint_is_refused_as_an_option(parse, write_image, capsys, words):
    assert command.main(parse([str(write_image(bytes(512))), *words])) == Status.USAGE
    assert "ipc:///PATH or tcp://ADDRESS:PORT is needed" in capsys.readouterr().err


def test_no_daemon_at_the_endpoint(parse, write_image, capsys, tmp_path):
    """It is said soon, whatever time there is; --patience waits for one that may yet come."""
    image, endpoint = str(write_image(bytes(512))), f"ipc://{tmp_path}/none"
    for words in ([], ["--timeout", "1000"], ["--patience", "0.2"]):
        assert command.main(parse([image, "--connect", endpoint, *words])) == Status.DAEMON
        error = capsys.readouterr().err
        assert error == f"x86-dm boot: no daemon answers at {endpoint}: there is no such socket; is it running?\n"
    assert command.main(parse([image, "--connect", endpoint, "--json"])) == Status.DAEMON
    assert json.loads(capsys.readouterr().out)["outcome"] == "not-started"


def test_a_daemon_that_is_there_but_silent_is_waited_for_no_longer_than_the_time_limit(
    parse, write_image, capsys, tmp_path
):
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(f"{tmp_path}/silent")
        silent.listen()
        words = [str(write_image(bytes(512))), "--connect", f"ipc://{tmp_path}/silent", "--timeout", "0.2"]
        assert command.main(parse(words)) == Status.TIMEOUT
    assert f"in which ipc://{tmp_path}/silent was not ready" in capsys.readouterr().err


def test_the_end_of_a_boot_puts_signals_back_as_they_were(parse, tmp_path):
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGALRM)
    before = [signal.getsignal(number) for number in numbers]
    assert command.main(parse([str(tmp_path / "none"), "--timeout", "5"])) == Status.USAGE
    assert [signal.getsignal(number) for number in numbers] == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_help_lists_every_exit_status(capsys):
    with pytest.raises(SystemExit):
        cli.run(["boot", "--help"])
    out = capsys.readouterr().out
    for status in Status:
        assert f"\n  {status.value}   {status.text}\n" in out
    assert "128+N" in out


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
