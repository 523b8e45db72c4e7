"""GRUB boots over tcp: encrypted, and with nothing shared but messages."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dm.shim.ends import Status

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "server"))

from harness import free_port

COMMAND = [sys.executable, "-P", "-m", "dm.cli"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Keys of a daemon and of a client it knows."""
    (tmp_path / "clients").mkdir()
    for name in ("daemon", "clients/vm1"):
        subprocess.run([*COMMAND, "keygen", tmp_path / name], check=True, stdout=subprocess.DEVNULL)
    return tmp_path


@pytest.fixture
def endpoint(folder: Path) -> Iterator[str]:
    """A daemon's endpoint on tcp."""
    address = f"tcp://127.0.0.1:{free_port()}"
    keys = ("--curve-secret-key", folder / "daemon.key_secret", "--curve-clients", folder / "clients")
    daemon = subprocess.Popen(
        [*COMMAND, "serve", "--listen", address, "--engine", "native", *map(str, keys)],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert daemon.stderr is not None
    ready = daemon.stderr.readline()
    assert f"serves {address}" in ready, ready
    yield address
    daemon.terminate()
    assert daemon.wait(60) == 0
    daemon.stderr.close()


def boot(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, "boot", *map(str, words)], capture_output=True, text=True, timeout=250)


def test_grub_boots(rescue: Path, folder: Path, endpoint: str) -> None:
    keys = ("--curve-secret-key", folder / "clients/vm1.key_secret", "--curve-server-key", folder / "daemon.key")
    steps = ("--expect", "grub>", "--keys", r"set end=lo\necho hel${end}\n", "--expect", "hello")
    done = boot(rescue, "--connect", endpoint, *keys, *steps, "--timeout", 240, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert "hello" in found["screen"]
    assert found["stats"]["shim"] == found["stats"]["daemon"]


def test_without_keys_it_says_what_is_missing(rescue: Path, folder: Path, endpoint: str) -> None:
    done = boot(rescue, "--connect", endpoint)
    assert done.returncode == 2
    assert "tcp needs CURVE keys: --curve-secret-key FILE and --curve-server-key FILE" in done.stderr
    done = boot(rescue, "--curve-server-key", folder / "daemon.key")
    assert done.returncode == 2
    assert "CURVE keys are for --connect tcp://ADDRESS:PORT" in done.stderr


def test_an_unknown_client_is_turned_away(rescue: Path, folder: Path, endpoint: str) -> None:
    subprocess.run([*COMMAND, "keygen", folder / "stranger"], check=True, stdout=subprocess.DEVNULL)
    keys = ("--curve-secret-key", folder / "stranger.key_secret", "--curve-server-key", folder / "daemon.key")
    done = boot(rescue, "--connect", endpoint, *keys)
    assert done.returncode == Status.DAEMON
    assert "does not know these CURVE keys" in done.stderr
