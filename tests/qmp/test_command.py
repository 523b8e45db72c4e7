"""`x86-dm qmp`: one command from the shell."""

from __future__ import annotations

import argparse
import json
import socket
import threading
from pathlib import Path

import pytest

from dm.commands import qmp as command


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


@pytest.mark.parametrize("answers", [True, False])
def test_a_daemon_that_ends_at_once_is_no_error_if_it_has_answered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], answers: bool
) -> None:
    def serve() -> None:
        peer, _ = listener.accept()
        with peer:
            peer.sendall(b'{"QMP": {"version": {}, "capabilities": []}}\n')
            for _ in range(1 + answers):
                asked = json.loads(peer.recv(4096))
                answer = {"return": {}} | {name: value for name, value in asked.items() if name == "id"}
                peer.sendall(json.dumps(answer).encode() + b"\n")
            if not answers:
                peer.recv(4096)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "qmp"))
        listener.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        status = run(f"unix:{tmp_path / 'qmp'}", "quit")
        thread.join()
    said = capsys.readouterr()
    assert (status, said.out) == ((0, "{}\n") if answers else (1, ""))
    assert ("Traceback" in said.err, bool(said.err)) == (False, not answers)
