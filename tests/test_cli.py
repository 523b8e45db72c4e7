from __future__ import annotations

import argparse
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from dm import cli
from dm.engine import engine_in_use
from dm.version import VERSION


@pytest.fixture
def greet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add a subcommand ``greet`` with options."""

    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--name", required=True)
        parser.add_argument("--loud", action="store_true")
        parser.add_argument("--count", type=int, default=1)

    def main(args: argparse.Namespace) -> int:
        print(f"hello {args.name}" + "!" * args.count)
        return 3 if args.loud else 0

    module = SimpleNamespace(add_arguments=add_arguments, main=main)
    monkeypatch.setitem(sys.modules, "dm.greeting", module)  # type: ignore[misc]
    monkeypatch.setattr(cli, "installed", lambda: {"greet": ("dm.greeting", "say hello")})


@pytest.mark.usefixtures("greet")
def test_a_subcommand_gets_its_arguments_and_its_status_is_ours(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["greet", "--name", "you", "--loud", "--count=2"]) == 3
    assert capsys.readouterr().out == "hello you!!\n"


@pytest.mark.usefixtures("greet")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gret"], "x86-dm: unknown command gret (did you mean greet?)\n"),
        (["zzz"], "x86-dm: unknown command zzz\n"),
        (["--versoin"], "x86-dm: unknown option --versoin (did you mean --version?)\n"),
    ],
)
def test_a_wrong_first_word_is_answered_with_the_nearest(
    capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert cli.run(words) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(message)
    assert captured.out == ""


@pytest.mark.usefixtures("greet")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--nmae", "x"], "unknown option --nmae (did you mean --name?)"),
        (["--name", "x", "--luod"], "unknown option --luod (did you mean --loud?)"),
        (["--name", "x", "--nonsense=1"], "unknown option --nonsense\n"),
        (["--name", "x", "--lo"], "unknown option --lo (did you mean --loud?)"),
        (["--name", "x", "-q"], "unknown option -q"),
        (["--name", "x", "more"], "unexpected argument more"),
        (["--count", "x", "--name", "y"], "argument --count: invalid int value: 'x'"),
        ([], "the following arguments are required: --name"),
    ],
)
def test_a_wrong_option_is_answered_with_the_nearest(
    capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.run(["greet", *words])
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith(f"x86-dm greet: {message}")
    assert err.endswith("Try 'x86-dm greet --help'.\n")


def test_help_lists_the_commands_that_are_installed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--help"]) == 0
    out = capsys.readouterr().out
    for name in ("serve", "boot", "vectors"):
        assert f"\n  {name} " in out
    assert cli.run([]) == 2
    assert capsys.readouterr().out == out


def test_commands_whose_module_is_missing_are_not_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        cli, "COMMANDS", {"a": ("dm.no_such_module", ""), "b": ("dm.no.such.package", ""), "c": ("dm.version", "")}
    )
    assert list(cli.installed()) == ["c"]


@pytest.mark.parametrize("name", list(cli.installed()))
def test_every_installed_command_offers_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.run([name, "--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: x86-dm {name} ")
    assert "xit status: 0" in " ".join(out.split()), "what a script needs"


def test_version_names_engine_reason_and_libraries(capsys: pytest.CaptureFixture[str]) -> None:
    import zmq

    assert cli.run(["--version"]) == 0
    first, engine, libzmq, python = capsys.readouterr().out.splitlines()
    assert first == f"x86-dm {VERSION}"
    assert engine.startswith(("engine: native (", "engine: python ("))
    assert libzmq == f"libzmq {zmq.zmq_version()} (pyzmq {zmq.__version__})"
    assert python.startswith("Python 3.")


def test_version_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--version", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["version"], found["engine"]) == (VERSION, engine_in_use()[0])
    assert cli.run(["--version", "--jsn"]) == 2
    assert "--version takes --json only, not --jsn" in capsys.readouterr().err


def test_asking_for_help_loads_neither_zeromq_nor_an_engine() -> None:
    code = (
        "import sys\nfrom dm import cli\ncli.run(['--help'])\n"
        "print(sorted({'zmq', 'asyncio', 'dm.engine'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_reader_that_goes_away_is_no_error() -> None:
    code = "import sys; sys.argv[1:] = ['--help']; from dm.cli import main; sys.exit(main())"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        errors = process.stderr.read()
        assert process.wait(100) in (0, 141)
    assert errors == b""
