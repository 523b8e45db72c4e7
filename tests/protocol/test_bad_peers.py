"""Peers that send nonsense: each gets its errors, the next one is served, and nothing in the daemon grows."""

from __future__ import annotations

import os
import random
import socket
import time
from pathlib import Path

import harness
import msgpack
import pytest
import zmq
from harness import Peer, children, eventually
from live import CODE, Vm, real_mode

from dm.engine import engine_name
from dm.protocol import codec, examples, schema
from dm.protocol.schema import DoneReason, ErrorClass, Io

#: How many of each kind go where; 10,000 random and 10,000 mutated in all.
CONTROL, VCPU, RAM = 4000, 4000, 2000
BATCH = 50
#: Sequence numbers of markers lie above this.
MARKERS = 1 << 40
#: Answers that wait for a peer which does not read are at most as many as the high-water mark, 16; the rest is dropped.
#: ZeroMQ hears of those that are read in eights, so up to 7 read ones count, and so does the marker's.
UNREAD = 7
#: Growth that is no leak, in KiB: allocators keep what they have had.
SLACK = 6 << 10
LASTING = (schema.Bye, schema.VcpuDestroy, schema.VcpuCreate, schema.Ram)
GOLDEN = [(type(message), codec.encode(message)) for _, message in examples.GOOD]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    """A daemon of our own, so that its memory is ours to measure."""
    place = tmp_path_factory.mktemp("b")
    with harness.Daemon(place, "--session-timeout", "300", engine=engine_name()) as running:
        yield running
        assert running.stop() == 0, running.log.read_text()


def resident(pid):
    """Resident memory in KiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError(pid)


def noise(rng):
    """Random bytes, now and then with the beginning of a message before them."""
    data = rng.randbytes(rng.choice([0, 1, 2, 7, 30, 200, 1000]))
    if rng.random() < 0.3:
        good = rng.choice(GOLDEN)[1]
        data = good[: rng.randrange(len(good))] + data
    return data


def at_home(raw, rng, ids):
    """Put ids of today's session into a message, mostly."""
    for name, value in ids.items():
        if name in raw and rng.random() < 0.9:
            raw[name] = value
    return raw


ODD = [None, True, -1, 0, 1, 1 << 31, (1 << 64) - 1, 1.5, "", "x" * 5000, b"", bytes(600), [], [[]], {}, {"a": 1}, [1]]


def mutated(rng, ids):
    """A golden message with something changed: bits, bytes, length, a value, a field."""
    data = rng.choice(GOLDEN)[1]
    raw = at_home(msgpack.unpackb(data), rng, ids)
    how = rng.randrange(6)
    if how == 0:  # a value of another kind
        raw[rng.choice(list(raw))] = rng.choice(ODD)
    elif how == 1:  # a field less
        del raw[rng.choice(list(raw))]
    elif how == 2:  # a field more
        raw[rng.choice(["x", "seq ", "state", "map", "data"])] = rng.choice(ODD)
    data = bytearray(msgpack.packb(raw))
    if how == 3:
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif how == 4:
        del data[rng.randrange(len(data)) :]
    elif how == 5:
        at = rng.randrange(len(data))
        data[at:at] = rng.randbytes(rng.randrange(1, 9))
    return bytes(data)


class Talk:
    """Sends nonsense in batches; after each a marker whose answer shows that all before it has been dealt with."""

    def __init__(self, peer):
        self.peer, self.errors, self.answers, self._seq = peer, 0, 0, MARKERS

    def _mark(self):
        self._seq += 1
        self.peer.socket.send(msgpack.packb({"type": "marker", "seq": self._seq}))

    def batch(self, messages, on_io=None):
        for data in messages:
            self.peer.socket.send(data)
        self._mark()
        while True:
            if self.peer.silent(3):  # what a peer does not read in time is dropped; it may ask again
                self._mark()
            message = self.peer.receive()
            self.answers += 1
            if isinstance(message, schema.Error) and message.error is ErrorClass.UNKNOWN_MESSAGE:
                if message.seq == self._seq:
                    return
                if message.seq > MARKERS:  # of a marker that was given up
                    continue
            if isinstance(message, schema.Error):
                self.errors += 1
            elif isinstance(message, Io) and on_io is not None:
                on_io(message)


def batches(rng, count, make):
    for _ in range(0, count, BATCH):
        yield [make(rng) for _ in range(BATCH)]


@pytest.mark.parametrize("kind", ["random", "mutated"])
def test_nonsense_is_answered_and_leaves_nothing_behind(daemon, kind):
    rng = random.Random(kind)
    with Vm(daemon.endpoint) as vm:
        (worker,) = children(daemon.process.pid)

        def make(rng):
            ids = {"session": vm.session, "vcpu": 0, "epoch": vm.epoch, "ram": 1}
            return noise(rng) if kind == "random" else mutated(rng, ids)

        def control(count):
            talk = Talk(vm.control)
            for batch in batches(rng, count, make):
                # what ends the session, or makes vCPUs and blocks, is left to the tests of these messages
                talk.batch([data for data in batch if not _is(data, *LASTING)])
            return talk

        def vcpu(count):
            talk = Talk(vm.vcpu)

            def answer(io):
                reads = str(io.kind).endswith(("in", "read"))
                data = bytes(io.size * io.count) if reads else b""
                fields = {"session": vm.session, "vcpu": 0, "epoch": io.epoch, "seq": io.seq, "io": io.io}
                vm.vcpu.socket.send(codec.encode(schema.IoAnswer(**fields, data=data)))

            for batch in batches(rng, count, make):
                talk.batch([data for data in batch if not _is(data, schema.Emulate)], answer)
            return talk

        control(1000), vcpu(1000), ram_socket(vm, rng, 500, make)  # what is warmed up once
        before = resident(daemon.process.pid), resident(worker)
        talks = [control(CONTROL), vcpu(VCPU)]
        told = ram_socket(vm, rng, RAM, make)
        after = resident(daemon.process.pid), resident(worker)
        assert all(talk.errors > 1000 for talk in talks)
        assert told > RAM // 2
        grown = [new - old for new, old in zip(after, before, strict=True)]
        assert max(grown) < SLACK, f"KiB before {before}, after {after}"
        # the session is as it was, and so is the daemon for others
        vm.epoch += 1  # a mutated message may have taken the epoch
        assert children(daemon.process.pid) == [worker]
    with Vm(daemon.endpoint) as other:
        _, done = other.run("fe060020 f4")
        assert (done.reason, other.ram.view[0x2000]) == (DoneReason.HALT, 1)


def _is(data, *kinds):
    try:
        return isinstance(codec.decode(data), kinds)
    except codec.ProtocolError:
        return False


def ram_socket(vm, rng, count, make):
    """Send packets to the RAM socket, with descriptors or not; returns how many were answered with an error."""
    told = 0
    side = None
    for n in range(count):
        if side is None:
            side = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            side.settimeout(100)
            side.connect(vm.welcome.ram_socket)
        fds = []
        if n % 3 == 0:
            fds = [os.open("/dev/null", os.O_RDONLY) for _ in range(1 + n % 2)]
        try:
            data = make(rng) or b"\0"
            socket.send_fds(side, [data], fds)
            reply = side.recv(1 << 17)
        except (BrokenPipeError, ConnectionResetError):
            reply = b""
        finally:
            for fd in fds:
                os.close(fd)
        if reply:
            told += isinstance(codec.decode(reply), schema.Error)
        else:  # cut off: that is an answer, too
            side.close()
            side = None
    if side is not None:
        side.close()
    return told


def test_valid_messages_in_random_order_are_survived(daemon):
    """Golden messages with the right ids, runs included: the daemon answers to the end."""
    rng = random.Random(4)
    with Vm(daemon.endpoint) as vm:
        vm.load("e460 ebfc")
        talk = Talk(vm.vcpu)
        for n in range(60):
            messages = []
            for _ in range(10):
                ids = {"session": vm.session, "vcpu": 0, "epoch": 1, "seq": n // 2, "base": 0, "generation": 1}
                raw = at_home(msgpack.unpackb(rng.choice(GOLDEN)[1]), rng, ids)
                if raw["type"] == "emulate":
                    raw["microseconds"], raw["epoch"] = 100, 1
                if raw["type"] not in ("bye",):
                    messages.append(msgpack.packb(raw))
            talk.batch(messages)
        assert talk.errors > 200


def test_truncated_messages_are_refused(daemon):
    with Vm(daemon.endpoint) as vm:
        for peer, endpoint in ((vm.control, "control"), (vm.vcpu, "vcpu")):
            talk = Talk(peer)
            cut = [data[:n] for cls, data in GOLDEN if endpoint == cls.ENDPOINT for n in range(1, len(data), 9)]
            for n in range(0, len(cut), UNREAD):
                talk.batch(cut[n : n + UNREAD])
            assert talk.errors == len(cut)


def test_oversized_messages_are_refused_or_cut_off(daemon):
    with Vm(daemon.endpoint) as vm:
        for peer, limit in ((vm.control, schema.MAX_CONTROL), (vm.vcpu, schema.MAX_MESSAGE)):
            peer.socket.send(bytes(limit + 1))
            assert peer.receive().error is ErrorClass.TOO_LARGE
    for size in (5 << 20, 64 << 20):
        with Peer(daemon.endpoint) as peer:
            peer.socket.send(bytes(size))
            assert peer.silent(0.3)
    with Vm(daemon.endpoint) as vm:
        assert vm.run("f4")[1].reason is DoneReason.HALT


def test_messages_of_several_parts_are_refused(daemon):
    with Vm(daemon.endpoint) as vm:
        for peer in (vm.control, vm.vcpu):
            for parts in ([b"", b""], [b""] * 100):
                peer.socket.send_multipart(parts)
                error = peer.receive()
                assert (error.error, error.expected) == (ErrorClass.BAD_MESSAGE, "one part")


def test_a_flood_that_is_never_read_delays_nobody(daemon):
    """Ten thousand requests on each endpoint by peers that read no answer; others are served meanwhile and after."""
    with Vm(daemon.endpoint) as vm, Vm(daemon.endpoint) as other:
        before = resident(daemon.process.pid)
        floods = [Peer(daemon.endpoint), Peer(vm.endpoint)]
        for n in range(10000):
            for flood in floods:
                try:
                    flood.socket.send(msgpack.packb({"type": "ping", "seq": n, "session": vm.session}), zmq.NOBLOCK)
                except zmq.Again:
                    time.sleep(0.001)
        assert other.run("f4")[1].reason is DoneReason.HALT
        assert isinstance(other.request(schema.Ping), schema.Ok)
        assert vm.run("f4")[1].reason is DoneReason.HALT
        for flood in floods:
            flood.close()
        assert resident(daemon.process.pid) - before < 4 * SLACK


def test_many_peers_that_come_and_go(daemon):
    descriptors = len(os.listdir(f"/proc/{daemon.process.pid}/fd"))
    for n in range(100):
        with Peer(daemon.endpoint) as peer:
            peer.socket.send(b"\xc1" * n)
            if n % 10 == 0:
                assert peer.receive().error is ErrorClass.BAD_MESSAGE
    eventually(lambda: len(os.listdir(f"/proc/{daemon.process.pid}/fd")) <= descriptors + 3)


def test_out_of_order_messages_are_refused(daemon):
    with Vm(daemon.endpoint) as vm:
        vm.seq = 1
        early = schema.IoAnswer(session=vm.session, vcpu=0, epoch=1, seq=1, io=1)
        assert vm.vcpu.ask(early).error is ErrorClass.STALE_EPOCH  # before any run has made the socket the vCPU's
        vm.kick()
        assert vm.vcpu.receive().error is ErrorClass.STALE_EPOCH
        vm.load("e460 f4")
        io = vm.emulate(real_mode(CODE))
        late = vm.message(io, data=b"\x01")
        _, done = vm.finish(vm.answer(io, data=b"\x01"))
        vm.vcpu.send(late)  # answered already: ignored
        assert vm.vcpu.silent()
        assert done.reason is DoneReason.HALT
        ahead = vm.message(io, data=b"\x01")
        ahead.seq += 1
        assert vm.vcpu.ask(ahead).error is ErrorClass.BAD_ANSWER
