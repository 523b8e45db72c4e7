"""QMP ``stop`` and ``cont``: it is so, or it is said who did not obey."""

import os
import signal
import threading
import time

from harness import FOREVER, Daemon, Qmp, children, eventually, flat, session, stop

from dm.protocol.schema import DoneReason


def refused(qmp, command):
    """Return the description of the error that a command gets."""
    import json

    qmp.socket.settimeout(60)
    qmp.socket.sendall(json.dumps({"execute": command}).encode())
    while "error" not in (message := qmp.read()):
        assert "event" in message, message
        qmp.events.append(message)
    return message["error"]["desc"]


def state(qmp):
    return qmp.ask("query-status")["status"]


def test_a_worker_that_does_not_answer_is_named(tmp_path):
    with (
        Daemon(tmp_path, "--qmp", f"unix:{tmp_path}/qmp") as daemon,
        Qmp(tmp_path / "qmp") as qmp,
        session(daemon.endpoint, FOREVER, name="frozen") as (shim, _),
    ):
        (worker,) = children(daemon.process.pid)
        with session(daemon.endpoint, b"h", name="lively") as (_, other):
            stop(worker)
            try:
                text = refused(qmp, "stop")
                assert f"session {shim.session} (frozen), whose worker does not answer" in text
                assert "lively" not in text
                assert state(qmp) == "running"
                assert other.run(flat()).reason is DoneReason.HALT  # what was held goes on
                assert not [event for event in qmp.events if event["event"] == "STOP"]
            finally:
                os.kill(worker, signal.SIGCONT)
            qmp.ask("stop")
            qmp.event("STOP")
            stop(worker)
            try:
                assert "did not go on" in refused(qmp, "cont")
                qmp.event("RESUME")
            finally:
                os.kill(worker, signal.SIGCONT)
            qmp.ask("cont")  # whoever did not obey is asked again
            assert state(qmp) == "running"


def test_a_vcpu_that_does_not_stop_is_named(tmp_path):
    with (
        Daemon(tmp_path, "--qmp", f"unix:{tmp_path}/qmp", engine="stubborn_engine:create") as daemon,
        session(daemon.endpoint, b"h", name="vm1") as (shim, vcpu),
        Qmp(tmp_path / "qmp") as qmp,
    ):
        shim.create_vcpu(1)
        ends = []
        thread = threading.Thread(target=lambda: ends.append(vcpu.run(flat(rbx=1))))
        thread.start()
        eventually(lambda: shim.counters().vcpus[0].requests)
        text = refused(qmp, "stop")
        assert text.endswith(f"session {shim.session} (vm1), vCPU 0")
        assert state(qmp) == "running"
        thread.join(60)
        assert [done.reason for done in ends] == [DoneReason.HALT]
        qmp.ask("stop")
        assert state(qmp) == "paused"
        qmp.ask("cont")


def test_two_monitors_are_told_the_same(tmp_path):
    """A second ``stop`` is not answered before the first one is, and nothing counts as stopped before it is."""
    with (
        Daemon(tmp_path, "--qmp", f"unix:{tmp_path}/qmp") as daemon,
        Qmp(tmp_path / "qmp") as first,
        Qmp(tmp_path / "qmp") as second,
        Qmp(tmp_path / "qmp") as third,
        session(daemon.endpoint, name="frozen") as (shim, _),
    ):
        (worker,) = children(daemon.process.pid)
        stop(worker)
        texts = []
        try:
            threads = [threading.Thread(target=lambda q=q: texts.append(refused(q, "stop"))) for q in (first, second)]
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                assert state(third) == "running"
                time.sleep(0.1)
        finally:
            os.kill(worker, signal.SIGCONT)
        assert len(texts) == 2
        assert all(f"session {shim.session} (frozen)" in text for text in texts)
        third.ask("stop")
        assert state(first) == state(second) == "paused"
