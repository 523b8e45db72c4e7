"""Both kinds of link do the same: on bare sockets, and under a Vcpu, which sends the same bytes with either."""

import os
import signal
import threading
import time
from types import SimpleNamespace

import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

from dm import fast
from dm.machine.groups import changed, flatten
from dm.machine.state import GROUPS, State, group_layout, set_group
from dm.protocol import codec, libzmq, schema
from dm.protocol.schema import Done, DoneReason, Emulate, Io, IoAnswer, IoKind, Reason, Stop, Until
from dm.shim import link
from dm.shim.answer import Answer
from dm.shim.errors import RunLost
from dm.shim.vcpu import Vcpu

KINDS = ["C", "Python"]


def usable(kind):
    if kind == "C" and fast.module() is None:
        pytest.skip("dm.fast is not built (python -m dm.fast.build)")


def make(kind, socket, *others):
    made = link.link(socket, *others) if kind == "C" else link.Link(socket, *others)
    assert (type(made) is link.Link) == (kind == "Python")
    return made


@pytest.fixture(params=KINDS)
def pair(request):
    """A link, the socket at its other end, and another descriptor it waits for."""
    usable(request.param)
    context, wake = zmq.Context(), os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    other, own = context.socket(zmq.DEALER), context.socket(zmq.DEALER)
    other.bind("inproc://test")
    own.setsockopt(zmq.SNDHWM, 4)
    other.setsockopt(zmq.RCVHWM, 4)
    own.connect("inproc://test")
    yield make(request.param, own, wake), other, wake
    own.close(0)
    other.close(0)
    context.term()
    os.close(wake)


def test_messages_go_both_ways(pair):
    tied, other, _ = pair
    for size in (0, 1, 100, 1 << 20):
        assert tied.send(bytes(size))
        assert other.recv() == bytes(size)
        other.send(b"x" * size)
        assert tied.receive(None) == b"x" * size


def test_a_wait_ends_with_its_time(pair):
    tied, _, _ = pair
    for timeout in (0, 30, 1):
        began = time.monotonic()
        assert tied.receive(timeout) is None
        assert time.monotonic() - began >= timeout / 1000


def test_a_wait_ends_with_other_news(pair):
    tied, other, wake = pair
    assert not tied.news()
    threading.Timer(0.05, os.eventfd_write, (wake, 1)).start()
    while not tied.news():
        assert tied.receive(None) is None
    assert tied.receive(None) is None  # still
    os.eventfd_read(wake)
    assert not tied.news()
    other.send(b"now")
    assert tied.receive(None) == b"now"


def test_what_cannot_be_sent_is_said(pair):
    tied, other, _ = pair
    sent = 0
    while tied.send(b"m"):
        sent += 1
        assert sent < 10_000
    assert sent
    assert [other.recv() for _ in range(sent)] == [b"m"] * sent
    deadline = time.monotonic() + 60
    while not tied.send(b"again"):  # its pipe has room as soon as ZeroMQ has told
        assert time.monotonic() < deadline
    assert other.recv() == b"again"


def test_a_long_wait_does_not_hold_the_interpreter(pair):
    tied, other, _ = pair

    def answer():
        time.sleep(0.05)
        other.send(b"late")

    thread = threading.Thread(target=answer)
    thread.start()
    assert patiently(tied) == b"late"
    thread.join()


def patiently(tied):
    while (data := tied.receive(None)) is None:
        pass
    return data


def test_a_signal_is_seen(pair):
    tied, _, _ = pair
    before = signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(TimeoutError("alarm")))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(TimeoutError):
            patiently(tied)
    finally:
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("pair", ["C"], indirect=True)
def test_a_wait_in_c_comes_back_now_and_then(pair):
    """A signal that came just before the sleep is seen only then."""
    began = time.monotonic()
    assert pair[0].receive(None) is None
    assert time.monotonic() - began > 0.05


class TestCall:
    """Only the link in C does a whole exchange at once; the other one leaves it to send and receive."""

    ASK = Io(session=1, vcpu=0, epoch=1, seq=1, io=1, kind=IoKind.PORT_IN, address=0x60, size=1)
    SAY = IoAnswer(session=1, vcpu=0, epoch=1, seq=1, io=1, data=b"a")

    @pytest.mark.parametrize("pair", ["C"], indirect=True)
    def test_an_exchange(self, pair):
        tied, other, _ = pair
        other.send(codec.encode(self.ASK))
        size = len(codec.encode(self.SAY))
        assert tied.call(self.SAY) == (self.ASK, size, len(codec.encode(self.ASK)))
        assert codec.decode(other.recv()) == self.SAY

    @pytest.mark.parametrize("pair", ["C"], indirect=True)
    def test_other_news_come_first(self, pair):
        tied, other, wake = pair
        os.eventfd_write(wake, 1)
        assert tied.call(self.SAY) == (None, len(codec.encode(self.SAY)), 0)
        assert codec.decode(other.recv()) == self.SAY

    @pytest.mark.parametrize("pair", ["C"], indirect=True)
    def test_what_it_cannot_read_or_write_is_for_the_codec_to_name(self, pair):
        tied, other, _ = pair
        other.send(b"babble")
        assert tied.call(self.SAY)[0] == b"babble"
        other.recv()
        assert tied.call(IoAnswer(session=-1, vcpu=0, epoch=1, seq=1, io=1)) is None
        assert tied.call(7) is None
        assert other.poll(50) == 0

    @pytest.mark.parametrize("pair", ["Python"], indirect=True)
    def test_the_other_leaves_it(self, pair):
        assert pair[0].call(self.SAY) is None
        assert pair[1].poll(50) == 0


def test_a_link_needs_what_it_is_made_of():
    usable("C")
    kind = fast.module().Link
    functions = (1,) * len(libzmq.NAMES)
    with pytest.raises(TypeError, match="Codec"):
        kind(functions, 7, 0, (0,))
    for descriptors in ((), (1,) * 6):
        with pytest.raises(ValueError, match="at most four others"):
            kind(functions, codec.FAST, 0, descriptors)
    with pytest.raises(ValueError, match="9 functions of libzmq are needed, not 8"):
        kind(functions[1:], codec.FAST, 0, (0,))
    with pytest.raises(ValueError, match="a function of libzmq is not there"):
        kind((*functions[1:], 0), codec.FAST, 0, (0,))


# --------------------------------------------------------------------------------------------- under a Vcpu

STATES = st.fixed_dictionaries(
    {
        group: st.tuples(
            *(
                st.binary(min_size=width // 8, max_size=width // 8) if width > 64 else st.integers(0, (1 << width) - 1)
                for _, width in group_layout(group)
            )
        )
        for group in ("general", "segments", "tables", "events")
    }
)
NUMBER = st.integers(0, (1 << 64) - 1)
ARGUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "steps": NUMBER,
        "microseconds": NUMBER,
        "until": st.sampled_from(list(Until)),
        "reason": st.sampled_from([*Reason, "failure"]),
        "window": st.booleans(),
        "acknowledge": st.booleans(),
        "inject": st.one_of(st.none(), st.builds(schema.Event, st.integers(0, 255), st.integers(0, 255))),
        "code": st.binary(max_size=15),
        "mmio": st.one_of(st.none(), NUMBER),
        "explain": st.booleans(),
        "checkpoint": st.booleans(),
    },
)
ANSWERS = st.one_of(
    st.none(),
    st.binary(max_size=4),
    st.builds(
        Answer,
        st.binary(max_size=4),
        fault=st.booleans(),
        window=st.one_of(st.none(), st.booleans()),
        stop=st.sampled_from(list(Stop)),
        registers=st.lists(NUMBER, max_size=8),
        map=st.one_of(st.none(), st.just(schema.Map(7, [], True))),
    ),
)
RUNS = st.lists(st.tuples(STATES, ARGUMENTS, st.lists(ANSWERS, max_size=3), STATES), min_size=1, max_size=3)


def load(state, groups):
    for group, values in groups.items():
        set_group(state, group, list(values))


class FakeDaemon:
    """Asks each run as many questions as there are answers for, then ends it with the groups it is told."""

    def __init__(self, context):
        self.heard = []
        self.runs = []
        self._socket = context.socket(zmq.ROUTER)
        self.endpoint = f"inproc://fake-{id(self)}"
        self._socket.bind(self.endpoint)
        self._thread = threading.Thread(target=self._main)
        self._thread.start()

    def _main(self):
        while True:
            peer, data = self._socket.recv_multipart()
            if not data:
                return
            self.heard.append(data)
            message = codec.decode_in_python(data)
            asked = message.io if isinstance(message, IoAnswer) else 0
            if isinstance(message, Emulate):
                self.questions, self.end = self.runs.pop(0)
            head = {"session": 1, "vcpu": 0, "epoch": 1, "seq": message.seq}
            if asked < self.questions:
                answer = Io(**head, io=asked + 1, kind=IoKind.PORT_IN, address=0x60, size=1)
            else:
                groups = {group: list(values) for group, values in self.end.items()}
                answer = Done(**head, reason=DoneReason.HALT, state=groups, instructions=3, steps=4)
            self._socket.send_multipart([peer, codec.encode_in_python(answer)])

    def join(self):
        self._thread.join(60)
        assert not self._thread.is_alive()
        self._socket.close(0)


def conversation(kind, runs):
    """Return what a Vcpu sends in these runs, and the state and counters it leaves behind."""
    context = zmq.Context()
    daemon = FakeDaemon(context)
    shim = SimpleNamespace(
        context=context,
        curve=None,
        lost=None,
        closing=False,
        session=1,
        generation=1,
        applied=0,
        changed=list,
        secret=b"",
    )
    vcpu = Vcpu(shim, schema.VcpuCreate(seq=0, session=1, vcpu=0), daemon.endpoint)
    state, left = State.reset(), []
    with pytest.MonkeyPatch.context() as patch:
        if kind == "Python":
            patch.setattr("dm.shim.vcpu.link", link.Link)
        for before, arguments, answers, after in runs:
            load(state, before)
            daemon.runs.append((len(answers), after))
            given = iter(answers)
            done = vcpu.run(state, on_io=lambda _, given=given: next(given), **arguments)
            left.append((state.copy(), done))
        assert (type(vcpu._link) is link.Link) == (kind == "Python")
        vcpu._socket.send(b"")
        daemon.join()
        vcpu.close()
    context.term()
    return daemon.heard, left, vcpu.stats


@settings(max_examples=25)
@given(RUNS)
def test_a_vcpu_sends_the_same_bytes_and_leaves_the_same_state_with_either(runs):
    usable("C")
    assert conversation("C", runs) == conversation("Python", runs)


@pytest.mark.parametrize("kind", KINDS)
def test_a_vcpu_sends_what_has_changed(kind):
    usable(kind)
    first = {"general": list(range(10))}
    runs = [({}, {}, [b"a", Answer(b"b")], first), ({}, {"steps": 1}, [], {}), ({"general": [9] * 10}, {}, [], {})]
    heard, left, stats = conversation(kind, runs)
    whole, one, other, unchanged, last = (codec.decode(data) for data in heard)
    assert whole.base == 0
    assert list(whole.state) == list(GROUPS)
    assert (one.data, other.data) == (b"a", b"b")
    assert (unchanged.base, unchanged.state, unchanged.steps) == (1, {}, 1)
    assert (last.base, last.state, last.steps) == (2, {"general": [9] * 10}, None)
    assert changed(left[0][0], flatten(State.reset())) == first
    assert (stats.requests, stats.io, stats.instructions, stats.steps) == (3, 2, 9, 12)
    assert stats.bytes_sent == sum(map(len, heard))


def test_what_the_daemon_babbles_loses_the_run():
    context = zmq.Context()
    other = context.socket(zmq.ROUTER)
    other.bind("inproc://babbler")
    shim = SimpleNamespace(
        context=context,
        curve=None,
        lost=None,
        closing=False,
        session=1,
        generation=1,
        applied=0,
        changed=list,
        secret=b"",
    )
    vcpu = Vcpu(shim, schema.VcpuCreate(seq=0, session=1, vcpu=0), "inproc://babbler")

    def babble():
        other.send_multipart([other.recv_multipart()[0], b"\x00babble"])

    thread = threading.Thread(target=babble)
    thread.start()
    with pytest.raises(RunLost, match="does not speak this protocol"):
        vcpu.run(State.reset())
    thread.join()
    vcpu.close()
    other.close(0)
    context.term()
