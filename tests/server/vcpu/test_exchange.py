"""Exchanges in C: they have the results of those in Python, they are what usual exchanges take, and they are sound."""

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import zmq
from conversation import ACTIONS, NUMBER, PIECES, SESSION, SIZE, Conversation, Side, play, start
from harness import Daemon, Peer, environment
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dm.engine import native_status
from dm.protocol import codec
from dm.protocol.schema import Done, DoneReason, Io, IoKind, Kick, Kind, Reason, Region, Stop, Until
from dm.server.session import worker
from dm.server.vcpu import core, exchange
from dm.server.vcpu.native import generate
from dm.shim.client import Shim
from dm.shim.ram import Ram

pytestmark = pytest.mark.skipif(not native_status()[0], reason="the native engine is not built")

SEED = int(os.environ.get("DM_SEED", "20261121"))


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("x")


def test_it_is_built_wherever_the_native_engine_is():
    assert exchange.status() == (True, "built from these sources")


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    pieces=st.lists(st.sampled_from(PIECES), min_size=1, max_size=12),
    actions=st.lists(st.sampled_from(ACTIONS), max_size=40),
    seed=st.integers(0, 2**32),
)
def test_both_answer_alike(directory, pieces, actions, seed):
    play(directory, pieces, actions, seed)


@pytest.mark.parametrize("piece", PIECES)
def test_both_answer_alike_to_nothing_but_usual_messages(directory, piece):
    play(directory, [piece] * 3, ["usual"] * 80, SEED)


#: What leaves nothing to chance, and nothing to Python.
USUAL = {
    "reason": Reason.REQUEST, "until": Until.NEVER, "window": False, "acknowledge": False, "code": b"",
    "explain": False, "microseconds": None,
}  # fmt: skip


class Counted:
    """One side, C's, and what of its exchanges C has made."""

    def __init__(self, directory, program):
        self.side = Side(directory / "counted", True, bytes.fromhex(program))
        self.talk = Conversation([self.side], random.Random(SEED))
        self.left = []
        x = self.side.vcpu._exchange
        serve = x.serve
        x.serve = lambda: self.left.append(serve()) or self.left[-1]

    def hear(self):
        heard = codec.decode(self.side.receive(self.talk.peer))
        self.talk.proved = max(self.talk.proved, heard.epoch)
        return heard

    def run(self, **changes):
        """Make a request, answer all its questions, return them and what has ended it."""
        talk, asked = self.talk, []
        talk.say(talk.emulate(**{**USUAL, **changes}))
        while isinstance(heard := self.hear(), Io):
            asked.append(heard)
            talk.question = heard
            talk.say(talk.answer(stop=Stop.NONE, window=None))
        talk.question = None
        talk.base = heard.seq
        talk.state |= heard.state
        return asked, heard


@pytest.fixture
def counted(directory, request):
    made = Counted(directory, request.param)
    yield made
    made.side.close()


# in al,dx; mov [8000h],al; out 80h,al; inc word gs:[0]; jmp
@pytest.mark.parametrize("counted", ["EC A20080 E680 65FF060000 EBF2"], indirect=True)
def test_usual_exchanges_are_made_in_c(counted):
    counted.run(steps=1)  # the first message makes the peer known
    usual = counted.side.vcpu._exchange.c.counters
    before = (usual.requests, usual.io, len(counted.left))
    questions = 0
    for _ in range(50):
        asked, done = counted.run(steps=10)
        assert done.reason is DoneReason.BUDGET
        questions += len(asked)
    assert questions > 200
    assert (usual.requests - before[0], usual.io - before[1]) == (50, questions)
    assert len(counted.left) == before[2]  # Python has had nothing to do
    counters = counted.side.vcpu.counters
    assert (counters.requests, counters.errors) == (51, 0)
    assert counters.io >= questions


@pytest.mark.parametrize("counted", ["EC EBFD"], indirect=True)
def test_a_run_that_python_has_begun_goes_on_in_c(counted):
    asked, done = counted.run(steps=100)
    assert done.reason is DoneReason.BUDGET
    usual = counted.side.vcpu._exchange.c.counters
    assert (usual.requests, usual.io) == (0, len(asked)) == (0, 50)


@pytest.mark.parametrize("counted", ["EC EBFD"], indirect=True)
def test_a_kick_in_mid_run(counted):
    counted.run(steps=1)
    talk = counted.talk
    talk.say(talk.emulate(**USUAL, steps=1000))
    for _ in range(10):
        talk.question = counted.hear()
        talk.say(talk.answer(stop=Stop.NONE, window=None))
    talk.question = counted.hear()
    talk.say(Kick(session=SESSION, vcpu=NUMBER, epoch=1, seq=talk.seq, stop=Stop.NMI))
    talk.say(talk.answer(stop=Stop.NONE, window=None))
    done = counted.hear()
    assert (done.reason, done.stop, done.steps) == (DoneReason.STOPPED, Stop.NMI, 22)


@pytest.mark.parametrize("counted", ["B91B00 0F32"], indirect=True)  # mov cx, 1bh; rdmsr
def test_a_refused_msr_may_come_with_data(counted):
    counted.run(steps=1)
    talk = counted.talk
    talk.say(talk.emulate(**USUAL, steps=2))
    talk.question = counted.hear()
    assert talk.question.kind is IoKind.MSR_READ
    talk.say(talk.answer(fault=True, data=bytes(8), stop=Stop.NONE))
    done = counted.hear()
    assert isinstance(done, Done), done


@pytest.mark.parametrize("counted", ["EBFE"], indirect=True)
def test_a_kick_while_the_guest_is_busy(counted):
    counted.run(steps=1)
    talk = counted.talk
    talk.say(talk.emulate(**USUAL, steps=None))
    talk.say(b"\xc1")
    assert counted.hear().NAME == "error"
    assert counted.side.vcpu.doing == "running"
    assert counted.side.runs.running() == [NUMBER]
    talk.say(Kick(session=SESSION, vcpu=NUMBER, epoch=1, seq=talk.seq))
    done = counted.hear()
    assert done.reason is DoneReason.KICKED
    assert done.steps > 0


@pytest.mark.parametrize("counted", ["EBFE"], indirect=True)
def test_closing_ends_a_run_in_order(counted):
    counted.run(steps=1)
    counted.talk.say(counted.talk.emulate(**USUAL, steps=None))
    counted.talk.say(b"\xc1")
    assert counted.hear().NAME == "error"
    counted.side.vcpu.close()
    done = counted.hear()
    assert (done.reason, done.closing) == (DoneReason.KICKED, True)
    assert counted.side.vcpu.join(60)


@pytest.mark.parametrize("counted", ["EC EBFD"], indirect=True)
def test_a_peer_that_is_gone_gets_its_answer_when_it_is_back(counted):
    counted.run(steps=1)
    talk, side = counted.talk, counted.side
    request = talk.emulate(**USUAL, steps=1000)
    talk.say(request)
    talk.question = counted.hear()
    talk.say(talk.answer(stop=Stop.NONE, window=None))
    side.peers[0].close()
    side.peers[0] = Peer(side.vcpu.endpoint)
    talk.peer, talk.epoch = 1, 2
    request.epoch, request.secret = 2, talk.secret()
    talk.say(request)
    again = counted.hear()
    assert isinstance(again, Io)
    assert (again.seq, again.kind, again.epoch) == (request.seq, IoKind.PORT_IN, 2)
    talk.question = again
    talk.say(talk.answer(stop=Stop.KICK))
    assert isinstance(counted.hear(), Done)


@pytest.mark.parametrize("counted", ["EBFE"], indirect=True)
def test_a_peer_that_does_not_read_stops_nobody(counted):
    counted.run(steps=1)
    talk, socket = counted.talk, counted.side.peers[0].socket
    for _ in range(100_000):  # until all queues are full of what it does not read
        if exchange.Cause.UNSENT in counted.left:
            break
        if socket.poll(200, zmq.POLLOUT):
            socket.send(codec.encode(talk.emulate(**USUAL, steps=1, base=0, state=talk.state)), zmq.NOBLOCK)
    while socket.poll(300):
        socket.recv_multipart()
    talk.base = 0
    _, done = counted.run(steps=2)
    assert (done.reason, done.steps) == (DoneReason.BUDGET, 2)
    assert exchange.Cause.UNSENT in counted.left


@pytest.mark.parametrize("counted", ["EC EBFD"], indirect=True)
def test_state_ports_are_pythons(counted):
    side, talk = counted.side, counted.talk
    counted.run(steps=2)
    general = list(talk.state["general"])
    general[2] = 0x5659  # DX
    asked, _ = counted.run(steps=4, state=talk.state | {"general": general})
    assert [len(io.registers) for io in asked] == [8, 8]
    assert side.vcpu._exchange.c.counters.io == 1


def test_state_ports_may_change_at_any_time(tmp_path):
    """Over the control socket, while the vCPU's thread waits in C."""
    with Daemon(tmp_path, engine="native") as daemon, Shim.connect(daemon.endpoint) as shim, Ram(SIZE) as ram:
        ram.view[:3] = bytes.fromhex("EC EBFD")
        shim.set_map([Region(0, SIZE, Kind.RAM, shim.add_ram(ram))])
        vcpu, seen = shim.create_vcpu(0), []
        state = start()
        for ports in ((), (0x60,), ()):
            shim.set_state_ports(*ports)
            for _ in range(2):
                vcpu.run(state, steps=4, on_io=lambda io: seen.append(len(io.registers)) or b"\0")
    assert seen == [0] * 4 + [8] * 4 + [0] * 4


def test_the_native_engine_that_is_asked_for_needs_it(monkeypatch):
    monkeypatch.setattr(exchange, "status", lambda: (False, "not built today"))
    with pytest.raises(RuntimeError, match="not built today"):
        worker.find_engine("native")
    assert "exchanges are made in Python: not built today" in worker.find_engine("auto").why


def test_what_is_built_from_other_sources_is_refused(monkeypatch):
    monkeypatch.setattr(generate, "digest", lambda: "something else")
    exchange.status.cache_clear()
    try:
        usable, why = exchange.status()
    finally:
        monkeypatch.undo()
        exchange.status.cache_clear()
    assert not usable
    assert "built from other sources" in why


def test_c_and_python_number_alike():
    from dm.server.vcpu import _exchange

    for enum in (core.At, exchange.Cause):
        for word in enum:
            assert getattr(_exchange.lib, f"DX_{word.name}") == word


def test_everything_the_schema_knows_is_in_the_tables():
    header = generate.schema_header()
    for cls in generate.MESSAGES:
        for name in cls.__dataclass_fields__:
            assert f'{{"{name}", ' in header


FLAGS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer", "-O1", "-g1")


def test_conversations_under_sanitizers(tmp_path):
    compiler = shutil.which("gcc")
    library = (
        compiler
        and subprocess.run(
            [compiler, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
        ).stdout.strip()
    )
    if not library or not Path(library).is_absolute():
        pytest.skip("no gcc with libasan")
    build = [
        sys.executable,
        "-P",
        "-m",
        "dm.server.vcpu.native.build",
        "--out",
        str(tmp_path),
        "--target",
        str(tmp_path),
    ]
    made = subprocess.run(
        [*build, *(f"--cflag={flag}" for flag in FLAGS)],
        env=environment() | {"CC": compiler},
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stderr
    env = environment() | {
        "LD_PRELOAD": library,
        "ASAN_OPTIONS": "detect_leaks=0:exitcode=99",
        "UBSAN_OPTIONS": "print_stacktrace=1:exitcode=99",
        "PYTHONMALLOC": "malloc",
    }
    (module,) = tmp_path.glob("_exchange*.so")
    fuzz = [sys.executable, "-P", str(Path(__file__).parents[1] / "conversation.py"), str(module), "20", str(SEED)]
    done = subprocess.run(fuzz, env=env, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    assert "runtime error" not in done.stderr
    assert int(done.stdout.split()[0]) > 20
