import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import harness


@pytest.fixture(scope="session")
def daemon(tmp_path_factory):
    """One daemon for all tests that do not end it."""
    directory = tmp_path_factory.mktemp("d")
    memory = directory / "memory"
    memory.mkdir()
    qmp = f"unix:{directory}/qmp"
    with harness.Daemon(directory, "--memory-path", str(memory), "--qmp", qmp, "--log-level", "info") as running:
        running.memory = memory
        harness.eventually(lambda: Path(f"{directory}/control").exists())  # before a second one is started there
        yield running
        assert running.stop() == 0, running.log.read_text()
        left = {entry.name for entry in running.directory.iterdir()}
        assert left == {"log", "memory"}  # no socket stays behind


@pytest.fixture
def peer(daemon):
    """A bare control connection."""
    with harness.Peer(daemon.endpoint) as one:
        yield one
