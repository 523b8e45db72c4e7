"""A live daemon with a real engine, and bare sessions that send and check single messages."""

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "server")]

import harness  # noqa: E402
import live  # noqa: E402

from dm.engine import engine_name  # noqa: E402


@pytest.fixture(scope="session")
def live_daemon(tmp_path_factory):
    """One daemon, with the engine that users get, for all tests that do not end it."""
    place = tmp_path_factory.mktemp("p")
    with harness.Daemon(place, "--session-timeout", "300", engine=engine_name()) as running:  # nobody sends pings here
        yield running
        assert running.stop() == 0, running.log.read_text()


@pytest.fixture(scope="module")
def session(live_daemon):
    with live.Vm(live_daemon.endpoint) as made:
        yield made


@pytest.fixture
def vm(session):
    """A session with a megabyte of RAM and a new vCPU 0."""
    session.begin()
    return session
