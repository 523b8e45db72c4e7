"""The worker's side of the line: what no supervisor says ends it in order, and is logged."""

import os
import subprocess
import sys

import pytest
from harness import environment

from dm.server import worker_line
from dm.server.limits import SessionLimits
from dm.server.run_table import RunTable
from dm.server.session import worker


@pytest.fixture
def line():
    ours, theirs = worker_line.pair()
    with ours, theirs:
        yield ours, theirs


class Nothing:
    """A session that has no vCPUs."""

    def counters(self):
        return []


def test_an_unknown_operation_is_refused_by_name_and_its_descriptor_closed(line):
    ours, theirs = line
    reader, writer = os.pipe()
    worker_line.send(ours, "dance", 0, None, writer)
    os.close(writer)
    with pytest.raises(worker_line.LineError, match="there is no operation 'dance'"):
        worker.serve(Nothing(), theirs)
    assert os.read(reader, 1) == b""  # nobody has the other end any more
    os.close(reader)


@pytest.fixture
def started(line, tmp_path):
    ours, theirs = line
    words = ["--fd", str(theirs.fileno()), "--session", "7", "--engine", "fake_engine:create"]
    process = subprocess.Popen(
        [sys.executable, "-m", "dm.server.session.worker", *words],
        env=environment(),
        pass_fds=(theirs.fileno(),),
        stderr=subprocess.PIPE,
        text=True,
    )
    theirs.close()
    yield ours, process
    process.kill()
    process.communicate(timeout=100)


def begin(ours, tmp_path, operation="begin"):
    limits = {name: getattr(SessionLimits(), name) for name in ("vcpus", "regions", "ram")}
    task = {"endpoints": [str(tmp_path)], "secret": b"", "limits": limits, "name": "session 7"}
    runs = RunTable()
    worker_line.send(ours, operation, 0, task, runs.fd)
    runs.close()


def test_it_ends_in_order_and_says_why(started, tmp_path):
    ours, process = started
    begin(ours, tmp_path)
    assert worker_line.from_worker(ours) == worker_line.Ready("fake", "given as module:function")
    worker_line.send(ours, "dance")
    _, log = process.communicate(timeout=100)
    assert process.returncode == 1
    assert "there is no operation 'dance'" in log
    assert "Traceback" not in log


def test_what_comes_first_is_its_task(started, tmp_path):
    ours, process = started
    begin(ours, tmp_path, "pause")
    _, log = process.communicate(timeout=100)
    assert process.returncode == 1
    assert "the supervisor began with 'pause'" in log
    assert worker_line.from_worker(ours) is None
