"""The line between supervisor and worker: whatever a worker says is of a known form, or an error that is named."""

import os
import socket

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dm.server import worker_line
from dm.server.worker_line import Failed, LineError, MemoryLost, Paused, Ready, ShimReply, StatusUpdate, VcpuStatus

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | st.text(max_size=20)
    | st.binary(max_size=20) | st.sampled_from(["ready", "counters", "reply", "idle"]),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=20,
)  # fmt: skip
OPERATIONS = st.sampled_from(["ready", "failed", "memory-lost", "counters", "reply", "paused", "close", "message"])


@pytest.fixture
def line():
    ours, theirs = worker_line.pair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def said(line, data):
    line[1].send(data)
    return worker_line.from_worker(line[0])


@pytest.mark.parametrize(
    ("whole", "meaning"),
    [
        (["ready", 0, ["native", "it is there"]], Ready("native", "it is there")),
        (["failed", 0, "why"], Failed("why")),
        (["memory-lost", 0, "what"], MemoryLost("what")),
        (["counters", 0, []], StatusUpdate(())),
        (
            ["counters", 0, [[255, "lost", 0, 1, (1 << 64) - 1]]],
            StatusUpdate((VcpuStatus(255, "lost", 0, 1, (1 << 64) - 1),)),
        ),
        (["reply", 7, b"bytes"], ShimReply(7, b"bytes")),
        (["paused", 7, [0, 3]], Paused(7, (0, 3))),
    ],
)
def test_what_workers_say(line, whole, meaning):
    assert said(line, msgpack.packb(whole)) == meaning


def test_nothing_and_the_end(line):
    with pytest.raises(BlockingIOError):
        worker_line.from_worker(line[0])
    line[1].close()
    assert worker_line.from_worker(line[0]) is None


@given(data=st.binary(min_size=1, max_size=200) | st.tuples(OPERATIONS | VALUES, VALUES, VALUES).map(msgpack.packb))
def test_anything_else_is_an_error(data):
    ours, theirs = worker_line.pair()
    with ours, theirs:
        try:
            came = said((ours, theirs), data)
        except LineError as error:
            assert str(error)
            assert len(str(error)) < 200
        else:
            assert isinstance(came, Ready | Failed | MemoryLost | StatusUpdate | ShimReply | Paused)


def test_descriptors_from_a_worker_are_closed(line):
    reader, writer = os.pipe()
    before = len(os.listdir("/proc/self/fd"))
    socket.send_fds(line[1], [msgpack.packb(["counters", 0, []])], [writer] * 200)
    os.close(writer)
    assert worker_line.from_worker(line[0]) == StatusUpdate(())
    assert len(os.listdir("/proc/self/fd")) == before - 1
    assert os.read(reader, 1) == b""  # nobody has the other end
    os.close(reader)


def test_a_worker_gets_one_descriptor(line):
    null = os.open(os.devnull, os.O_RDONLY)
    worker_line.send(line[0], "place", 3, {"a": 1}, null)
    came = worker_line.receive(line[1])
    assert (came.operation, came.tag, came.body) == ("place", 3, {"a": 1})
    assert not os.get_inheritable(came.fd)
    os.close(came.fd)
    os.close(null)
    line[0].send(b"rubbish")
    with pytest.raises(LineError):
        worker_line.receive(line[1])
