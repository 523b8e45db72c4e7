"""One vCPU's endpoint, in process: runs, questions, repeats, epochs, kicks, mistakes."""

import threading
import time

import fake_engine
import msgpack
import pytest
import zmq
from harness import Peer, flat, groups

from dm.engine.api import CpuConfig, Exit, ExitReason, MemoryMap, Region, RegionKind
from dm.machine.state import State, update
from dm.protocol import codec, schema
from dm.protocol.schema import (
    Done,
    DoneReason,
    Emulate,
    Error,
    ErrorClass,
    Event,
    Io,
    IoAnswer,
    IoKind,
    Kick,
    Posted,
    Reason,
    Stop,
    Until,
)
from dm.server.memory.pages import PageCache
from dm.server.vcpu.endpoint import IpcEndpoint
from dm.server.vcpu.thread import VcpuThread

SESSION, NUMBER = 77, 3
FOREVER = b"nJ\x01"
IN60 = b"I\x60\x00\x01"
OUT80 = b"O\x80\x00\x01"


SECRET = b"s" * 32


class Owner:
    number = SESSION
    secret = SECRET
    memory_lost = ""

    def __init__(self):
        self.ram = bytearray(1 << 16)
        self.current = MemoryMap(5, (Region(0, 1 << 16, RegionKind.RAM, self.ram),))
        self.replaced = []
        self.pages = PageCache()
        self.state_ports = ()
        self.several = False

    def pages_moved(self, by):
        raise AssertionError("no RAM carried in messages here")

    def replace_map(self, wire, by):
        if wire.generation <= self.current.generation:
            raise codec.ProtocolError(ErrorClass.BAD_GENERATION, "old", "new", "map.generation")
        self.replaced.append((wire, by))
        self.current = MemoryMap(wire.generation, self.current.regions, wire.a20)


class Bench:
    """A vCPU with program memory and its first peer."""

    def __init__(self, tmp_path):
        self.context = zmq.Context()
        self.owner = Owner()
        self.engine = fake_engine.FakeEngine(CpuConfig())
        self.path = tmp_path / "vcpu"
        self.vcpu = VcpuThread(self.context, self.owner, NUMBER, IpcEndpoint(str(self.path)), self.engine)
        self.vcpu.start()
        self.peers = [Peer(self.vcpu.endpoint)]

    @property
    def peer(self):
        return self.peers[0]

    def another(self):
        self.peers.append(Peer(self.vcpu.endpoint))
        return self.peers[-1]

    def program(self, code):
        self.owner.ram[: len(code)] = code

    def under_way(self):
        """Wait until the engine runs."""
        while self.vcpu.doing != "running":
            time.sleep(0.001)

    def end(self):
        self.vcpu.abort()
        assert self.vcpu.join(100)
        for peer in self.peers:
            peer.close()
        self.context.term()


@pytest.fixture
def bench(tmp_path):
    one = Bench(tmp_path)
    yield one
    one.end()


def emulate(initial=None, **changes):
    fields = {"session": SESSION, "vcpu": NUMBER, "epoch": 1, "seq": 1, "generation": 5, "secret": SECRET}
    fields["state"] = groups(initial or flat())
    return Emulate(**{**fields, **changes})


def answer(io, /, **changes):
    return IoAnswer(**{"session": SESSION, "vcpu": NUMBER, "epoch": io.epoch, "seq": io.seq, "io": io.io, **changes})


def kick(**changes):
    return Kick(**{"session": SESSION, "vcpu": NUMBER, "epoch": 1, "seq": 1, **changes})


def test_the_endpoint_is_for_its_owner_only(bench):
    assert bench.path.stat().st_mode & 0o777 == 0o600


def test_a_run_returns_the_groups_that_changed(bench):
    bench.program(b"A\x34\x12nh")
    done = bench.peer.ask(emulate())
    assert (done.reason, done.instructions, done.steps, set(done.state)) == (DoneReason.HALT, 3, 3, {"general"})
    state = flat()
    update(state, done.state)
    assert (state.rax, state.rip) == (0x1234, 5)


def test_zero_steps_change_nothing(bench):
    bench.program(b"A\x34\x12h")
    done = bench.peer.ask(emulate(steps=0))
    assert (done.reason, done.state, done.steps) == (DoneReason.BUDGET, {}, 0)


def test_steps_are_counted_exactly(bench):
    bench.program(FOREVER)
    done = bench.peer.ask(emulate(steps=12345))
    assert (done.reason, done.steps) == (DoneReason.BUDGET, 12345)


def test_an_instruction_with_a_question_is_one_step(bench):
    bench.program(IN60 + IN60)
    io = bench.peer.ask(emulate(steps=1))
    done = bench.peer.ask(answer(io, data=b"a"))
    assert (done.reason, done.steps) == (DoneReason.BUDGET, 1)


def test_time_is_a_budget(bench):
    bench.program(FOREVER)
    started = time.monotonic()
    done = bench.peer.ask(emulate(microseconds=20_000))
    assert done.reason is DoneReason.BUDGET
    assert time.monotonic() - started >= 0.02


def test_questions_and_answers(bench):
    bench.program(b"A\x34\x12" + b"O\xf8\x03\x02" + IN60 + b"h")
    first = bench.peer.ask(emulate())
    assert (first.kind, first.address, first.size, first.count, first.data) == (
        IoKind.PORT_OUT,
        0x3F8,
        2,
        1,
        b"\x34\x12",
    )
    assert (first.io, first.steps, first.instructions) == (1, 1, 1)
    second = bench.peer.ask(answer(first))
    assert (second.kind, second.address, second.size, second.io, second.data) == (IoKind.PORT_IN, 0x60, 1, 2, b"")
    done = bench.peer.ask(answer(second, data=b"\x77"))
    assert done.state["general"][0] == 0x77


def test_string_io_is_one_exchange(bench):
    bench.program(b"B\xf0\x01\xc8h")
    io = bench.peer.ask(emulate())
    assert (io.size, io.count) == (1, 200)
    assert bench.peer.ask(answer(io, data=bytes(range(200)))).state["general"][0] == sum(range(200))


def test_an_msr_may_fault(bench):
    bench.program(b"M\x74\x01\x00\x00h")
    io = bench.peer.ask(emulate())
    assert (io.kind, io.address) == (IoKind.MSR_READ, 0x174)
    assert bench.peer.ask(answer(io, fault=True)).state["general"][0] == 0xDEAD


@pytest.mark.parametrize(
    ("changes", "field", "text"),
    [
        ({"data": b""}, "data", "data has 0 bytes; expected 1 for port-in of 1 x 1"),
        ({"data": b"ab"}, "data", "data has 2 bytes"),
        ({"fault": True}, "fault", "fault answers port-in"),
        ({"io": 2, "data": b"a"}, "", "question 1.2 is not open"),
        ({"data": b"a", "map": schema.Map(5, [], True)}, "map.generation", "old"),
    ],
)
def test_a_wrong_answer_leaves_the_question_open(bench, changes, field, text):
    bench.program(IN60 + b"h")
    io = bench.peer.ask(emulate())
    error = bench.peer.ask(answer(io, **changes))
    assert isinstance(error, Error)
    assert error.field == field
    assert text in f"{error.text}; expected {error.expected}"
    assert bench.peer.ask(answer(io, data=b"a")).reason is DoneReason.HALT


def test_an_answer_may_change_the_map(bench):
    bench.program(IN60 + b"h")
    io = bench.peer.ask(emulate())
    done = bench.peer.ask(answer(io, data=b"a", map=schema.Map(6, [], False)))
    assert done.reason is DoneReason.HALT
    assert bench.owner.replaced[0][0].generation == 6
    assert bench.engine.map.generation == 6
    assert not bench.engine.map.a20


def test_posted_writes_come_before_the_question(bench):
    post = b"P\x00\x00\x0a\x00H" + b"P\x01\x00\x0a\x00i"
    bench.program(post + IN60 + b"S\x00\x20\x00\x00\x01" + post + b"h")
    io = bench.peer.ask(emulate())
    assert (io.posted, io.pages) == ([Posted(0xA0000, b"Hi", 1)], [])
    done = bench.peer.ask(answer(io, data=b"a"))
    assert (done.posted, done.pages) == ([Posted(0xA0000, b"Hi", 1)], [2])
    assert bench.owner.ram[0x2000] == 1


def test_posted_writes_do_not_wait_for_the_end_of_a_run(bench):
    bench.program(b"P\x00\x00\x0a\x00HJ\x06")
    io = bench.peer.ask(emulate())
    assert io.kind is IoKind.REPORT
    assert io.posted
    bench.peer.send(answer(io))
    bench.peer.send(kick())
    posted = sum(len(p.data) for p in io.posted)
    while isinstance(message := bench.peer.receive(), Io):
        posted += sum(len(p.data) for p in message.posted)
        bench.peer.send(answer(message))
    posted += sum(len(p.data) for p in message.posted)
    assert posted == (message.steps + 1) // 2  # none lost, none twice


def test_checkpoint_is_the_state_before_the_instruction(bench):
    bench.program(b"A\x34\x12" + IN60 + b"h")
    io = bench.peer.ask(emulate(checkpoint=True))
    assert io.checkpoint["general"][0] == 0x1234
    assert io.checkpoint["general"][8] == 3
    assert set(io.checkpoint) == {"general"}
    bench.peer.ask(answer(io, data=b"a"))
    assert bench.peer.ask(emulate(seq=2)).checkpoint is None


class TestStopping:
    def test_a_kick_ends_a_run_that_has_no_other_end(self, bench):
        bench.program(FOREVER)
        bench.peer.send(emulate())
        bench.under_way()
        bench.peer.send(kick())
        done = bench.peer.receive()
        assert (done.reason, done.stop, done.closing) == (DoneReason.KICKED, Stop.KICK, False)
        assert done.steps > 0

    @pytest.mark.parametrize("stop", [Stop.RESET, Stop.INIT, Stop.NMI, Stop.SMI])
    def test_other_reasons_are_repeated(self, bench, stop):
        bench.program(FOREVER)
        bench.peer.send(emulate())
        bench.peer.send(kick(stop=stop))
        done = bench.peer.receive()
        assert (done.reason, done.stop) == (DoneReason.STOPPED, stop)

    def test_an_answer_stops_after_its_instruction(self, bench):
        bench.program(IN60 + IN60)
        io = bench.peer.ask(emulate())
        done = bench.peer.ask(answer(io, data=b"a", stop=Stop.RESET))
        assert (done.reason, done.stop, done.steps) == (DoneReason.STOPPED, Stop.RESET, 1)
        assert done.state["general"][8] == 4

    def test_a_stop_wins_over_other_ends(self, bench):
        bench.program(IN60 + b"E" + b"nn")
        io = bench.peer.ask(emulate(flat(rflags=0x202), until=Until.VMX, acknowledge=True))
        done = bench.peer.ask(answer(io, data=b"a", stop=Stop.RESET, window=True))
        assert (done.reason, done.stop, done.steps) == (DoneReason.STOPPED, Stop.RESET, 1)

    def test_a_kick_waits_for_the_open_question(self, bench):
        bench.program(IN60 + IN60)
        io = bench.peer.ask(emulate())
        bench.peer.send(kick())
        assert bench.peer.silent()
        done = bench.peer.ask(answer(io, data=b"a"))
        assert (done.reason, done.steps) == (DoneReason.KICKED, 1)

    def test_a_late_kick_is_ignored(self, bench):
        bench.program(b"h")
        bench.peer.ask(emulate())
        bench.peer.send(kick())
        assert bench.peer.silent()
        assert bench.peer.ask(emulate(seq=2)).reason is DoneReason.HALT

    @pytest.mark.parametrize("reason", [Reason.FAILURE, Reason.INVALID_STATE])
    def test_a_failed_instruction_is_run_even_when_kicked(self, bench, reason):
        bench.program(b"E" + FOREVER)
        bench.peer.send(emulate(reason=reason, until=Until.VMX))
        bench.peer.send(kick())
        assert bench.peer.receive().steps >= 1
        done = bench.peer.ask(emulate(seq=2, reason=Reason.REQUEST, until=Until.VMX))
        assert (done.reason, done.steps) == (DoneReason.ENTERABLE, 0)

    def test_pause_holds_and_resume_goes_on(self, bench):
        bench.program(b"nnnh")
        assert bench.vcpu.pause(True).wait(100)
        bench.peer.send(emulate())
        assert bench.peer.silent(0.2)
        assert bench.vcpu.doing == "running"
        assert bench.vcpu.pause(False).wait(100)
        assert bench.peer.receive().reason is DoneReason.HALT

    def test_a_paused_run_can_be_taken_back_untouched(self, bench):
        bench.program(b"nnnh")
        assert bench.vcpu.pause(True).wait(100)
        bench.peer.send(emulate(reason=Reason.FAILURE))
        bench.peer.send(kick())
        done = bench.peer.receive()
        assert (done.reason, done.steps, done.state) == (DoneReason.KICKED, 0, {})

    def test_a_run_that_has_no_other_end_is_paused(self, bench):
        bench.program(FOREVER)
        bench.peer.send(emulate())
        bench.under_way()
        assert bench.vcpu.pause(True).wait(100)
        bench.peer.send(kick())
        bench.peer.receive()


class TestClosing:
    def test_a_run_gets_its_state_back(self, bench):
        bench.program(FOREVER)
        bench.peer.send(emulate())
        bench.under_way()
        bench.vcpu.close()
        done = bench.peer.receive()
        assert (done.reason, done.closing) == (DoneReason.KICKED, True)
        assert bench.vcpu.join(100)
        assert bench.engine.closed
        assert not bench.path.exists()

    def test_an_open_question_is_waited_for(self, bench):
        bench.program(IN60 + b"h")
        io = bench.peer.ask(emulate())
        bench.vcpu.close()
        done = bench.peer.ask(answer(io, data=b"\x55"))
        assert (done.reason, done.closing, done.state["general"][0]) == (DoneReason.KICKED, True, 0x55)

    def test_but_not_for_ever(self, bench, monkeypatch):
        monkeypatch.setattr("dm.server.vcpu.thread._GRACE", 0.1)
        bench.program(IN60 + b"h")
        bench.peer.ask(emulate())
        bench.vcpu.close()
        error = bench.peer.receive()
        assert (error.error, error.seq) == (ErrorClass.ABORTED, 1)
        assert bench.vcpu.join(100)

    def test_abort_says_so(self, bench):
        bench.program(FOREVER)
        bench.peer.send(emulate())
        bench.under_way()
        bench.vcpu.abort()
        assert bench.peer.receive().error is ErrorClass.ABORTED

    def test_calls_after_the_end_do_no_harm(self, bench):
        bench.vcpu.close()
        assert bench.vcpu.join(100)
        bench.vcpu.abort()
        bench.vcpu.new_map()
        assert bench.vcpu.pause(True).wait(100)
        assert bench.vcpu.doing == "lost"


class TestRepeats:
    def test_a_finished_run_is_answered_from_the_record(self, bench):
        bench.program(b"S\x00\x20\x00\x00\x01h")
        done = bench.peer.ask(emulate())
        bench.owner.ram[0x2000] = 9
        assert bench.peer.ask(emulate()) == done
        assert bench.owner.ram[0x2000] == 9
        assert bench.vcpu.counters.requests == 1

    def test_an_open_question_is_asked_again(self, bench):
        bench.program(IN60 + b"h")
        io = bench.peer.ask(emulate())
        assert bench.peer.ask(emulate()) == io
        assert bench.peer.ask(answer(io, data=b"a")).reason is DoneReason.HALT

    def test_a_repeated_answer_is_ignored(self, bench):
        bench.program(IN60 + IN60 + b"h")
        io = bench.peer.ask(emulate())
        bench.peer.send(answer(io, data=b"a"))
        bench.peer.send(answer(io, data=b"b"))
        second = bench.peer.receive()
        assert second.io == 2
        assert bench.peer.silent()
        bench.peer.send(answer(io, data=b"b"))
        done = bench.peer.ask(answer(second, data=b"c"))
        assert done.state["general"][0] == ord("c")

    def test_a_new_socket_takes_an_open_question_over(self, bench):
        bench.program(IN60 + b"h")
        io = bench.peer.ask(emulate())
        other = bench.another()
        again = other.ask(emulate(epoch=2))
        assert (again.io, again.epoch) == (io.io, 2)
        stale = bench.peer.ask(answer(io, data=b"x"))
        assert (stale.error, stale.epoch) == (ErrorClass.STALE_EPOCH, 2)
        assert other.ask(answer(again, data=b"a")).state["general"][0] == ord("a")

    def test_a_running_run_answers_to_the_new_socket(self, bench):
        bench.program(FOREVER)
        bench.peer.send(emulate())
        bench.under_way()
        other = bench.another()
        other.send(emulate(epoch=2))
        other.send(kick(epoch=2))
        done = other.receive()
        assert (done.reason, done.epoch) == (DoneReason.KICKED, 2)
        assert bench.peer.silent()

    def test_the_record_answers_to_the_new_socket(self, bench):
        bench.program(b"h")
        bench.peer.ask(emulate())
        done = bench.another().ask(emulate(epoch=2))
        assert (done.reason, done.epoch, done.seq) == (DoneReason.HALT, 2, 1)

    def test_old_epochs_are_refused_kicks_included(self, bench):
        bench.program(FOREVER)
        bench.peer.send(emulate(epoch=3))
        for message in (kick(epoch=2), emulate(epoch=1), answer(Io(**IDS), epoch=2)):
            error = bench.peer.ask(message)
            assert error.error is ErrorClass.STALE_EPOCH
            assert "above 3" in error.expected or "3 from its own socket" in error.expected
        error = bench.another().ask(kick(epoch=3))
        assert (error.error, error.text) == (ErrorClass.STALE_EPOCH, "epoch 3 belongs to another socket")
        bench.peer.send(kick(epoch=3))
        assert bench.peer.receive().reason is DoneReason.KICKED

    def test_nobody_begins_with_a_kick(self, bench):
        error = bench.peer.ask(kick())
        assert (error.error, error.expected) == (ErrorClass.STALE_EPOCH, "an emulate with an epoch above 0")


IDS = {"session": SESSION, "vcpu": NUMBER, "epoch": 1, "seq": 1, "io": 1, "kind": IoKind.PORT_IN}


class TestMistakes:
    """Each is answered, changes nothing, and the next run works."""

    @pytest.fixture(autouse=True)
    def _still_serving(self, bench):
        bench.program(b"A\x07\x00h")
        yield
        state = State.reset()
        done = bench.peer.ask(emulate(seq=10, epoch=9))
        assert isinstance(done, Done), done
        update(state, done.state)
        assert (done.reason, state.rax) == (DoneReason.HALT, 7)

    @pytest.mark.parametrize(
        ("changes", "error", "field", "expected"),
        [
            ({"session": 78}, ErrorClass.UNKNOWN_SESSION, "session", "77"),
            ({"vcpu": 4}, ErrorClass.UNKNOWN_VCPU, "vcpu", "3"),
            ({"seq": 0}, ErrorClass.STALE_SEQUENCE, "seq", "above 0"),
            ({"generation": 6}, ErrorClass.BAD_GENERATION, "generation", "at most 5, the newest map received"),
            ({"base": 1}, ErrorClass.UNKNOWN_BASE, "base", "0, with a whole state"),
            ({"state": {"general": [1]}}, ErrorClass.BAD_STATE, "state", "see the state table"),
            ({"state": {"control": [1 << 64] + [0] * 10}}, None, "", ""),
            ({"state": {"events": [0, 4, *[0] * 20]}}, ErrorClass.BAD_STATE, "state", "see the state table"),
            ({"inject": Event(1, 8)}, ErrorClass.BAD_STATE, "state", "see the state table"),
        ],
    )
    def test_refused_runs(self, bench, changes, error, field, expected):
        if error is None:  # cannot even be encoded
            with pytest.raises(codec.ProtocolError):
                codec.encode(emulate(**changes))
            return
        answer = bench.peer.ask(emulate(**changes))
        assert (answer.error, answer.field, answer.expected) == (error, field, expected)
        assert (answer.session, answer.vcpu, answer.seq) == (SESSION, NUMBER, changes.get("seq", 1))
        assert bench.vcpu.counters.requests == 0

    @pytest.mark.parametrize(
        ("parts", "error", "text"),
        [
            ([b""], ErrorClass.BAD_MESSAGE, "not MessagePack"),
            ([b"\xc1"], ErrorClass.BAD_MESSAGE, "not MessagePack"),
            ([codec.encode(emulate())[:-1]], ErrorClass.BAD_MESSAGE, "not MessagePack"),
            ([msgpack.packb({"type": "you", "seq": 4})], ErrorClass.UNKNOWN_MESSAGE, "there is no message 'you'"),
            ([schema.Ping(seq=1, session=SESSION)], ErrorClass.BAD_MESSAGE, "ping came to a vCPU's endpoint"),
            (
                [Done(**{k: v for k, v in IDS.items() if k not in ("io", "kind")}, reason=DoneReason.HALT, state={})],
                ErrorClass.BAD_MESSAGE,
                "done came to a vCPU's endpoint",
            ),
            ([emulate(), b"more"], ErrorClass.BAD_MESSAGE, "the message has 2 parts"),
            ([b"", emulate()], ErrorClass.BAD_MESSAGE, "the message has 2 parts"),
            ([bytes(schema.MAX_MESSAGE + 1)], ErrorClass.TOO_LARGE, "the message has 1048577 bytes"),
        ],
        ids=["empty", "c1", "cut", "unknown", "ping", "done", "parts", "req", "large"],
    )
    def test_refused_messages(self, bench, parts, error, text):
        answer = bench.peer.ask(*parts)
        assert answer.error is error
        assert text in answer.text
        assert answer.session == SESSION

    def test_a_second_run_must_wait(self, bench):
        bench.program(FOREVER)
        bench.peer.send(emulate())
        error = bench.peer.ask(emulate(seq=2))
        assert (error.error, error.seq) == (ErrorClass.BUSY, 2)
        bench.peer.send(kick())
        assert bench.peer.receive().reason is DoneReason.KICKED
        bench.program(b"A\x07\x00h")

    def test_an_engine_that_breaks_loses_only_its_run(self, bench, caplog):
        bench.program(b"X")
        error = bench.peer.ask(emulate())
        assert (error.error, error.seq) == (ErrorClass.INTERNAL, 1)
        assert "the fake engine breaks" in error.text
        assert bench.peer.ask(emulate()) == error  # on record
        error = bench.peer.ask(emulate(seq=2, base=1))
        assert error.error is ErrorClass.UNKNOWN_BASE
        bench.program(b"A\x07\x00h")

    def test_a_flood_of_rubbish_neither_stops_nor_grows_a_run(self, bench):
        bench.program(FOREVER)
        flooder = bench.another()
        bench.peer.send(emulate())
        for _ in range(3000):
            flooder.send(b"rubbish")
        bench.peer.send(kick())
        assert bench.peer.receive().reason is DoneReason.KICKED
        answered = 0
        while not flooder.silent(0.3):
            assert flooder.receive().error is ErrorClass.BAD_MESSAGE
            answered += 1
        assert answered > 0
        bench.program(b"A\x07\x00h")

    def test_a_peer_that_vanishes_in_mid_run_harms_nobody(self, bench):
        bench.program(IN60 + b"h")
        other = bench.another()
        io = other.ask(emulate(epoch=1))
        bench.peers.remove(other)
        other.close()
        time.sleep(0.05)
        again = bench.peer.ask(emulate(epoch=2))
        assert (again.io, again.address) == (io.io, io.address)
        assert bench.peer.ask(answer(again, data=b"a")).reason is DoneReason.HALT
        bench.program(b"A\x07\x00h")


class TestDeltas:
    def test_a_delta_builds_on_the_last_final_state(self, bench):
        bench.program(b"A\x34\x12hA\x00\x00h")
        state = flat(rbx=5)
        update(state, bench.peer.ask(emulate(state)).state)
        done = bench.peer.ask(emulate(seq=2, base=1, state={}))
        update(state, done.state)
        assert (state.rax, state.rbx, state.rip) == (0, 5, 8)

    def test_another_base_is_refused(self, bench):
        bench.program(b"h")
        bench.peer.ask(emulate())
        error = bench.peer.ask(emulate(seq=3, base=2, state={}))
        assert (error.error, error.expected) == (ErrorClass.UNKNOWN_BASE, "1, or 0 with a whole state")

    def test_a_bad_delta_leaves_no_base(self, bench):
        bench.program(b"h")
        bench.peer.ask(emulate())
        assert bench.peer.ask(emulate(seq=2, base=1, state={"general": [0]})).error is ErrorClass.BAD_STATE
        assert bench.peer.ask(emulate(seq=2, base=1, state={})).error is ErrorClass.UNKNOWN_BASE
        assert bench.peer.ask(emulate(seq=2)).reason is DoneReason.HALT

    def test_unknown_groups_and_longer_groups_are_accepted(self, bench):
        bench.program(b"h")
        state = groups(flat())
        state["general"] = [*state["general"], 99]
        state["amx"] = [1, b"x"]
        assert bench.peer.ask(emulate(state=state)).reason is DoneReason.HALT


class TestInterrupts:
    def test_a_window_ends_the_run(self, bench):
        bench.program(FOREVER)
        done = bench.peer.ask(emulate(flat(rflags=0x202), window=True))
        assert done.reason is DoneReason.INTERRUPT_WINDOW

    def test_a_vector_is_asked_for_and_delivered(self, bench):
        bench.program(b"nnh")
        io = bench.peer.ask(emulate(flat(rflags=0x202), window=True, acknowledge=True))
        assert (io.kind, io.size, io.data) == (IoKind.INTERRUPT_ACK, 0, b"")
        done = bench.peer.ask(answer(io, data=b"\x08"))
        assert done.reason is DoneReason.HALT
        assert done.state["general"][7] == 8

    def test_a_spurious_interrupt_is_not_delivered(self, bench):
        bench.program(b"nnh")
        io = bench.peer.ask(emulate(flat(rflags=0x202), window=True, acknowledge=True))
        assert bench.peer.ask(answer(io)).state["general"][7] == 0

    def test_one_vector_at_a_time(self, bench):
        bench.program(b"h")
        io = bench.peer.ask(emulate(flat(rflags=0x202), window=True, acknowledge=True))
        assert bench.peer.ask(answer(io, data=b"ab")).error is ErrorClass.BAD_ANSWER
        bench.peer.ask(answer(io, data=b"a"))

    def test_an_answer_may_announce_an_interrupt(self, bench):
        bench.program(IN60 + b"nh")
        io = bench.peer.ask(emulate(flat(rflags=0x202)))
        done = bench.peer.ask(answer(io, data=b"a", window=True))
        assert (done.reason, done.steps) == (DoneReason.INTERRUPT_WINDOW, 1)

    def test_a_kick_may_announce_an_interrupt(self, bench):
        bench.program(FOREVER)
        bench.peer.send(emulate(flat(rflags=0x202)))
        bench.under_way()
        bench.peer.send(kick(stop=Stop.NONE, window=True))
        assert bench.peer.receive().reason is DoneReason.INTERRUPT_WINDOW

    def test_an_injected_event_is_delivered_first(self, bench):
        bench.program(b"h")
        assert bench.peer.ask(emulate(inject=Event(0, 0x21))).state["general"][7] == 0x21


class TestMmioReason:
    def test_an_address_is_needed(self, bench):
        error = bench.peer.ask(emulate(reason=Reason.MMIO))
        assert (error.error, error.field) == (ErrorClass.BAD_MESSAGE, "mmio")

    def test_an_address_without_the_reason_means_nothing(self, bench):
        bench.program(b"h")
        assert bench.peer.ask(emulate(mmio=0xD0000)).reason is DoneReason.HALT

    def test_exactly_one_instruction(self, bench):
        bench.program(b"R\x00\x00\x0c\x00\x04" * 2)
        io = bench.peer.ask(emulate(reason=Reason.MMIO, mmio=0xC0000))
        assert (io.kind, io.address, io.size) == (IoKind.MMIO_READ, 0xC0000, 4)
        done = bench.peer.ask(answer(io, data=b"abcd"))
        assert (done.reason, done.instructions) == (DoneReason.BUDGET, 1)

    def test_another_address_changes_nothing(self, bench):
        bench.program(b"R\x00\x00\x0c\x00\x04")
        done = bench.peer.ask(emulate(reason=Reason.MMIO, mmio=0xD0000))
        assert (done.reason, done.state, done.steps) == (DoneReason.MMIO_MISMATCH, {}, 0)

    def test_given_bytes_win_over_memory_once(self, bench):
        bench.program(b"X  h")
        done = bench.peer.ask(emulate(code=b"A\x05\x00"))
        assert (done.reason, done.state["general"][0]) == (DoneReason.HALT, 5)


def test_exits_are_passed_on(bench):
    bench.program(b"F\x13")
    done = bench.peer.ask(emulate())
    assert (done.reason, done.address) == (DoneReason.FIRMWARE, 0x13)
    bench.program(b"Y")
    assert bench.peer.ask(emulate(seq=2)).reason is DoneReason.HYPERVISOR
    bench.program(b"?")
    done = bench.peer.ask(emulate(seq=3))
    assert (done.reason, done.detail) == (DoneReason.UNSUPPORTED, "letter '?'")


def test_failing_rules_are_listed_when_asked_for(bench):
    bench.program(b"h")
    state = flat()
    state.cs.base = 0x12340  # not selector * 16
    state.rip = -0x12340 & 0xFFFF
    bench.owner.ram[0x12340 + state.rip & 0xFFFF] = ord("h")
    done = bench.peer.ask(emulate(state, until=Until.VMX, explain=True))
    assert done.failing
    assert all(rule.field and rule.expected and "SDM" in rule.section for rule in done.failing)
    assert bench.peer.ask(emulate(seq=2, until=Until.NEVER, explain=True)).failing == []
    assert bench.peer.ask(emulate(seq=3, until=Until.VMX)).failing == []


def test_an_answer_that_does_not_fit_is_an_error_not_an_end(bench, monkeypatch, caplog):
    bench.program(b"F\x13")
    monkeypatch.setattr(bench.engine, "run", lambda *_, **__: Exit(ExitReason.FIRMWARE, address=-1))
    error = bench.peer.ask(emulate())
    assert (error.error, "address is -1" in error.text) == (ErrorClass.INTERNAL, True)
    monkeypatch.setattr(bench.engine, "run", lambda *_, **__: Exit(ExitReason.PORT_OUT, data=bytes(1 << 19)))
    error = bench.peer.ask(emulate(seq=2))
    assert (error.error, "data is bytes of 524288" in error.text) == (ErrorClass.INTERNAL, True)
    monkeypatch.undo()
    assert bench.peer.ask(emulate(seq=3)).reason is DoneReason.FIRMWARE


def test_counters_count_messages_and_bytes(bench):
    bench.program(IN60 + b"h")
    first = emulate()
    io = bench.peer.ask(first)
    second = answer(io, data=b"a")
    done = bench.peer.ask(second)
    count = bench.vcpu.counters
    assert (count.requests, count.io, count.instructions, count.steps, count.errors) == (1, 1, 2, 2, 0)
    assert count.bytes_in == len(codec.encode(first)) + len(codec.encode(second))
    assert count.bytes_out == len(codec.encode(io)) + len(codec.encode(done))


def test_two_vcpus_do_not_wait_for_each_other(bench, tmp_path):
    engine = fake_engine.FakeEngine(CpuConfig())
    other = VcpuThread(bench.context, bench.owner, 4, IpcEndpoint(str(tmp_path / "other")), engine)
    other.start()
    try:
        bench.program(FOREVER + b"h")
        bench.peer.send(emulate())
        with Peer(other.endpoint) as peer:
            for seq in range(1, 20):
                done = peer.ask(emulate(flat(program_at=3), vcpu=4, seq=seq))
                assert done.reason is DoneReason.HALT
        bench.peer.send(kick())
        assert bench.peer.receive().reason is DoneReason.KICKED
    finally:
        other.abort()
        assert other.join(100)


def test_an_endpoint_that_cannot_be_bound_is_an_error(tmp_path):
    context = zmq.Context()
    threads = threading.active_count()
    place = IpcEndpoint(str(tmp_path / "no" / "dir"))
    vcpu = VcpuThread(context, Owner(), 0, place, fake_engine.FakeEngine(CpuConfig()))
    with pytest.raises(OSError, match="cannot bind"):
        vcpu.start()
    assert threading.active_count() == threads
    context.term()


def test_a_socket_that_cannot_be_made_is_an_error(tmp_path):
    context = zmq.Context()
    context.max_sockets = 1
    with context.socket(zmq.PAIR):
        vcpu = VcpuThread(context, Owner(), 0, IpcEndpoint(str(tmp_path / "vcpu")), fake_engine.FakeEngine(CpuConfig()))
        with pytest.raises(OSError, match="cannot bind"):
            vcpu.start()
        assert vcpu.doing == "lost"
    context.term()
