"""A daemon as its own process, for tests that talk to it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def endpoint() -> Iterator[str]:
    """The control endpoint of a daemon that runs as long as this test process."""
    with tempfile.TemporaryDirectory(prefix="x86-dm-") as folder:
        address = f"ipc://{Path(folder) / 'control'}"
        daemon = subprocess.Popen(
            [sys.executable, "-m", "dm.cli", "serve", "--listen", address, "--engine", "native"],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert daemon.stderr is not None
        ready = daemon.stderr.readline()
        assert f"serves {address}" in ready, ready + daemon.stderr.read()
        yield address
        daemon.terminate()
        assert daemon.wait(timeout=20) == 0
        daemon.stderr.close()
