"""Either side disappears: what it had is freed, and the other side is told what became of its guest."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from harness import Daemon, Peer, children, environment, eventually, flat, groups, session
from processes import runs

from dm.protocol import schema
from dm.protocol.schema import DoneReason, ErrorClass
from dm.shim.errors import RunLost, SessionLost

FOREVER = b"nJ\x01"
IN60 = b"I\x60\x00\x01"


def workers(daemon):
    return children(daemon.process.pid)


def holdings(daemon):
    """What a daemon has: children, descriptors, entries of its directory."""
    return (
        len(workers(daemon)),
        len(os.listdir(f"/proc/{daemon.process.pid}/fd")),
        sorted(entry.name for entry in (daemon.directory / "control.d").iterdir()),
    )


@pytest.fixture
def daemon(tmp_path):
    with Daemon(tmp_path, "--session-timeout", "10", "--log-level", "info") as started:
        eventually(lambda: (tmp_path / "control.d" / "ram").exists())
        yield started


SHIM = """
import sys
from harness import flat, session
with session(sys.argv[1], eval(sys.argv[2])) as (shim, vcpu):
    shim.create_vcpu(1)
    print("going", flush=True)
    vcpu.run(flat(), on_io=lambda io: sys.stdin.read())
"""


@pytest.mark.parametrize("program", [FOREVER, IN60 + b"h"], ids=["running", "waiting"])
def test_a_shim_that_is_killed_leaves_nothing_behind(daemon, program):
    before = holdings(daemon)
    for _ in range(2):
        shim = subprocess.Popen(
            [sys.executable, "-c", SHIM, daemon.endpoint, repr(program)],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        with shim.stdin, shim.stdout:
            assert shim.stdout.readline() == b"going\n"
            (worker,) = workers(daemon)
            time.sleep(0.1)
            shim.kill()
            shim.wait()
        eventually(lambda pid=worker: not runs(pid))
        eventually(lambda: holdings(daemon) == before)
    with session(daemon.endpoint, b"h") as (_, vcpu):
        assert vcpu.run(flat()).reason is DoneReason.HALT


def test_a_worker_that_is_killed_leaves_nothing_behind_and_its_shim_is_told(tmp_path):
    with Daemon(tmp_path, "--session-timeout", "3600") as daemon:  # so that no heartbeat finds out
        eventually(lambda: (tmp_path / "control.d" / "ram").exists())
        before = holdings(daemon)
        with session(daemon.endpoint, FOREVER) as (shim, vcpu):

            def kill():
                eventually(lambda: shim.counters().vcpus[0].requests)
                os.kill(workers(daemon)[0], signal.SIGKILL)

            killer = threading.Thread(target=kill)
            killer.start()
            with pytest.raises(RunLost, match="a run was lost in the middle"):
                vcpu.run(flat())
            killer.join(100)
            with pytest.raises(SessionLost) as caught:
                vcpu.run(flat())
            assert not isinstance(caught.value, RunLost), "none was under way"
            assert shim.lost is not None
        eventually(lambda: holdings(daemon) == before)


def test_an_idle_vcpu_of_a_killed_worker_goes_on_in_a_new_session(daemon):
    with session(daemon.endpoint, b"hh") as (shim, vcpu):
        state = flat()
        vcpu.run(state)
        os.kill(workers(daemon)[0], signal.SIGKILL)
        eventually(lambda: shim.lost is not None)
        assert shim.reconnect() is False
        assert vcpu.run(state).reason is DoneReason.HALT
        assert state.rip == 2


def test_workers_of_a_killed_supervisor_end(tmp_path):
    with Daemon(tmp_path) as daemon, contextlib.ExitStack() as stack:
        shim, vcpu = stack.enter_context(session(daemon.endpoint, FOREVER))
        other, waiting = stack.enter_context(session(daemon.endpoint, IN60 + b"h"))
        pids = workers(daemon)
        assert len(pids) == 2
        ends = []

        def devices(io):
            daemon.process.kill()
            busy.join(100)  # what one worker has noticed, the other one is about to
            time.sleep(0.2)
            return b"a"

        busy = threading.Thread(target=lambda: ends.append(vcpu.run(flat())))
        busy.start()
        eventually(lambda: shim.counters().vcpus[0].requests)
        done = waiting.run(flat(), on_io=devices)  # its answer still counts
        assert [(d.reason, d.closing) for d in (*ends, done)] == [(DoneReason.KICKED, True)] * 2
        assert done.steps == 1
        eventually(lambda: not any(map(runs, pids)))
        assert not list(tmp_path.glob("control.d/vcpu-*"))
        eventually(lambda: other.lost is not None)


def test_a_question_nobody_answers_does_not_hold_the_end_up(tmp_path):
    with Daemon(tmp_path) as daemon, session(daemon.endpoint, IN60 + b"h") as (_, vcpu):
        ends = []

        def devices(io):
            daemon.process.terminate()
            ends.append(daemon.process.wait(60))  # before the answer
            return b"a"

        with pytest.raises(RunLost, match="mid-flight"):
            vcpu.run(flat(), on_io=devices)
        assert ends == [0]


def test_a_request_that_crosses_the_end_is_refused_and_has_not_run(tmp_path):
    with Daemon(tmp_path) as daemon, session(daemon.endpoint, b"S\x00\x20\x00\x00\x5ah") as (shim, vcpu):
        with Peer(vcpu.endpoint) as peer:
            idle = schema.Emulate(
                session=shim.session, vcpu=0, epoch=1, seq=1, generation=1, state=groups(flat()), secret=shim.secret
            )
            idle.steps = 0
            assert peer.ask(idle).reason is DoneReason.BUDGET
            daemon.process.terminate()
            eventually(lambda: shim.closing)
            late = schema.Emulate(
                session=shim.session, vcpu=0, epoch=1, seq=2, generation=1, state=groups(flat()), secret=shim.secret
            )
            assert peer.ask(late).error is ErrorClass.SHUTTING_DOWN
            assert shim.ram.view[0x2000] == 0
        assert daemon.process.wait(60) == 0


def test_a_hello_to_a_daemon_that_ends_waits_for_its_successor(tmp_path):
    with Daemon(tmp_path) as first, session(first.endpoint, b"hhh") as (shim, vcpu):
        state, found = flat(), []
        for turn in range(1, 3):
            assert vcpu.run(state).reason is DoneReason.HALT
            assert state.rip == turn
            first.process.terminate()
            found.clear()
            thread = threading.Thread(target=lambda: found.append(shim.reconnect(20)))
            thread.start()
            assert first.process.wait(60) == 0
            first = Daemon(tmp_path)
            thread.join(60)
            assert found == [False]
        shim.close()
        assert first.stop() == 0
