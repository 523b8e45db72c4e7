"""`x86-dm qmp`: one command from the shell."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from dm.qmp import command


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.main(parser.parse_args(list(words)))


def test_prints_the_answer_as_json(daemon, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(daemon.address), "query-status") == 0
    assert json.loads(capsys.readouterr().out)["status"] == "running"


def test_a_refused_command_is_explained(daemon, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(daemon.address), "query-weather") == 1
    assert "CommandNotFound" in capsys.readouterr().err


def test_arguments_reach_the_daemon(daemon, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(daemon.address), "query-status", "verbose=true") == 1
    assert "verbose" in capsys.readouterr().err


def test_nobody_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(f"unix:{tmp_path / 'none'}", "query-status") == 1
    assert "is a daemon running" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [(("here", "query-status"), "unix:PATH or tcp:HOST:PORT"), (("unix:/x", "stop", "now"), "NAME=VALUE")],
)
def test_bad_arguments(words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*words) == 2
    assert message in capsys.readouterr().err
