"""The state machine of a vCPU by itself: no socket, no thread, and the time is what the test says."""

import fake_engine
import pytest
from harness import flat, groups

from dm.engine.api import CpuConfig, Exit, ExitReason, MemoryMap, Region, RegionKind
from dm.machine.state import update
from dm.protocol import schema
from dm.protocol.codec import ProtocolError
from dm.protocol.schema import (
    Done,
    DoneReason,
    Emulate,
    Error,
    ErrorClass,
    Io,
    IoAnswer,
    IoKind,
    Kick,
    Posted,
    Reason,
    Stop,
)
from dm.server.memory.pages import PAGE, CopiedBlock, PageCache
from dm.server.vcpu.core import At, Core
from dm.server.vcpu.run import POSTED_NS, SLICE_NS, Run

SESSION, NUMBER, SECRET, PEER = 77, 3, b"s" * 32, b"peer"
FOREVER = b"nJ\x01"
IN60 = b"I\x60\x00\x01"
MS = 1_000_000


class Owner:
    number, secret, several, memory_lost, state_ports = SESSION, SECRET, False, "", ()

    def __init__(self):
        self.ram = bytearray(1 << 16)
        self.current = MemoryMap(5, (Region(0, 1 << 16, RegionKind.RAM, self.ram),))
        self.pages = PageCache()
        self.moved = 0

    def pages_moved(self, by):
        self.moved += 1

    def replace_map(self, wire, by):
        self.current = MemoryMap(wire.generation, self.current.regions, wire.a20)


class Scripted(fake_engine.FakeEngine):
    """Says what the test has written down, and remembers what it was answered."""

    def __init__(self, *exits):
        super().__init__(CpuConfig())
        self.exits, self.asked, self.answers = list(exits), [], []

    def run(self, request):
        self.asked.append(request)
        return self.exits.pop(0)

    def answer(self, data=b"", *, fault=False, copied=None):
        self.answers.append(copied if copied is not None else bytes(data))


class Driver:
    """A machine, and the time: each slice takes ``taken`` nanoseconds."""

    def __init__(self, engine=None, program=b""):
        self.owner, self.engine = Owner(), engine or fake_engine.FakeEngine(CpuConfig())
        self.owner.ram[: len(program)] = program
        self.now, self.taken = 1000 * MS, 1000
        self.core = Core(self.owner, NUMBER, self.engine, self._run)

    def _run(self, request):
        self.now += self.taken
        return self.engine.run(request), self.taken

    def say(self, message, peer=PEER):
        """Hand a message in; return what comes out, which must be for whoever is to have it."""
        out = self.core.receive(peer, message, self.now)
        if out is None:
            return None
        assert out[0] == (peer if isinstance(out[1], Error) else self.core.peer)
        return out[1]

    def emulate(self, initial=None, **changes):
        fields = {"session": SESSION, "vcpu": NUMBER, "epoch": 1, "seq": 1, "generation": 5, "secret": SECRET}
        return self.say(Emulate(**{**fields, "state": groups(initial or flat()), **changes}))

    def answer(self, io, **changes):
        fields = {"session": SESSION, "vcpu": NUMBER, "epoch": self.core.epoch, "seq": io.seq, "io": io.io}
        return self.say(IoAnswer(**fields, **changes))

    def kick(self, **changes):
        return self.say(Kick(session=SESSION, vcpu=NUMBER, epoch=1, **{"seq": 1, **changes}))

    def run_on(self):
        out = self.core.run_on(self.now)
        return out and out[1]

    def until_something(self):
        """Run on until there is a question or an end."""
        for _ in range(10_000):
            if (out := self.run_on()) is not None:
                return out
        raise AssertionError("nothing comes of it")


def test_from_request_to_done():
    d = Driver(program=IN60 + b"h")
    assert d.core.at is At.IDLE
    assert d.emulate() is None
    assert d.core.at is At.BOUNDARY
    io = d.run_on()
    assert (type(io), io.kind, io.address, io.io, d.core.at) == (Io, IoKind.PORT_IN, 0x60, 1, At.WAITING)
    assert d.answer(io, data=b"\x41") is None
    assert d.core.at is At.BOUNDARY
    done = d.run_on()
    assert (type(done), done.reason, done.steps, d.core.at) == (Done, DoneReason.HALT, 2, At.IDLE)
    state = flat()
    update(state, done.state)
    assert state.rax == 0x41
    assert (d.core.run, d.core.last, d.core.known, d.core.record) == (None, 1, True, done)
    assert (d.core.counters.requests, d.core.counters.io, d.core.counters.steps) == (1, 1, 2)


def test_a_slice_that_says_nothing_leads_to_the_next_boundary():
    d = Driver(program=FOREVER)
    d.emulate()
    for _ in range(3):
        assert d.run_on() is None
        assert d.core.at is At.BOUNDARY
    assert d.kick() is None
    assert d.core.ends_next
    assert d.run_on().reason is DoneReason.KICKED


class TestTime:
    """It is a value: what the driver says it is."""

    def test_a_budget_counts_time_in_the_engine_only(self):
        d = Driver(program=IN60 + FOREVER)
        d.taken = 3 * MS
        d.emulate(microseconds=10_000)
        io = d.run_on()
        d.now += 10**12  # the shim takes its time
        d.answer(io, data=b"a")
        slices = 0
        while (done := d.run_on()) is None:
            slices += 1
        assert (done.reason, slices) == (DoneReason.BUDGET, 3)

    def test_slices_follow_the_speed(self):
        d = Driver(program=FOREVER)
        d.taken = SLICE_NS
        d.emulate()
        d.run_on()
        assert d.core.slice.steps == 1000
        d.taken = SLICE_NS // 100  # a hundred times as fast: four times the steps at most
        d.run_on()
        assert d.core.slice.steps == 4000
        d.taken = SLICE_NS * 1000
        d.run_on()
        assert d.core.slice.steps == 32

    def test_posted_writes_wait_just_so_long(self):
        d = Driver(Scripted(*[Exit(ExitReason.BUDGET, posted=((0xA0000, b"x"),))] * 3))
        d.emulate()
        assert d.run_on() is None
        d.now += POSTED_NS - 2 * d.taken  # with the slice to come, not over yet
        assert d.run_on() is None
        d.now += 1
        io = d.run_on()
        assert (io.kind, io.posted) == (IoKind.REPORT, [Posted(0xA0000, b"x", 1)] * 3)
        assert d.answer(io) is None
        assert d.core.at is At.BOUNDARY


class TestRepeats:
    def test_a_question_and_a_record_are_said_again(self):
        d = Driver(program=IN60 + b"h")
        d.emulate()
        io = d.run_on()
        assert d.emulate() is io
        d.answer(io, data=b"a")
        done = d.run_on()
        assert d.emulate() is done
        assert d.core.counters.requests == 1

    def test_a_new_socket_with_the_secret_takes_over(self):
        d = Driver(program=IN60 + b"h")
        d.emulate()
        io = d.run_on()
        again = Emulate(
            session=SESSION, vcpu=NUMBER, epoch=2, seq=1, generation=5, state=groups(flat()), secret=b"wrong"
        )
        assert d.say(again, b"new").error is ErrorClass.STALE_EPOCH
        again.secret = SECRET
        assert d.say(again, b"new") is io
        assert (d.core.peer, io.epoch) == (b"new", 2)
        assert d.answer(io, data=b"a").error is ErrorClass.STALE_EPOCH  # from the old one
        assert d.core.at is At.WAITING

    def test_an_answer_counts_once(self):
        d = Driver(program=IN60 + IN60)
        d.emulate()
        io = d.run_on()
        assert d.answer(io, data=b"a") is None
        assert d.answer(io, data=b"b") is None
        second = d.run_on()
        assert d.answer(io, data=b"b") is None
        assert d.core.at is At.WAITING
        d.answer(second, data=b"c")
        d.core.close()
        assert d.until_something().state["general"][0] == ord("c")


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"session": 1}, ErrorClass.UNKNOWN_SESSION),
        ({"vcpu": 1}, ErrorClass.UNKNOWN_VCPU),
        ({"epoch": 0}, ErrorClass.STALE_EPOCH),
        ({"seq": 0}, ErrorClass.STALE_SEQUENCE),
        ({"base": 9}, ErrorClass.UNKNOWN_BASE),
        ({"generation": 6}, ErrorClass.BAD_GENERATION),
        ({"reason": Reason.MMIO}, ErrorClass.BAD_MESSAGE),
    ],
)
def test_what_is_refused_has_changed_nothing(changes, error):
    d = Driver(program=b"h")
    refused = d.emulate(**changes)
    assert (refused.error, refused.session, refused.vcpu) == (error, SESSION, NUMBER)
    assert (d.core.at, d.core.run, d.core.counters.requests) == (At.IDLE, None, 0)
    assert d.emulate(seq=2, epoch=2) is None
    assert d.run_on().reason is DoneReason.HALT


def test_a_second_request_has_to_wait():
    d = Driver(program=FOREVER)
    d.emulate()
    assert d.emulate(seq=2).error is ErrorClass.BUSY
    assert d.core.at is At.BOUNDARY


class TestLosses:
    def test_an_engine_that_breaks_loses_the_run_and_no_more(self, caplog):
        d = Driver(program=b"X")
        d.emulate()
        error = d.run_on()
        assert (error.error, "the fake engine breaks" in error.text, d.core.at) == (ErrorClass.INTERNAL, True, At.IDLE)
        assert d.emulate() is error
        assert d.emulate(seq=2, base=1, state={}).error is ErrorClass.UNKNOWN_BASE
        d.owner.ram[0:1] = b"h"
        d.emulate(seq=2)
        assert d.run_on().reason is DoneReason.HALT

    @pytest.mark.parametrize("waiting", [False, True])
    def test_a_run_may_be_given_up_at_any_time(self, waiting):
        d = Driver(program=IN60)
        assert d.core.abandon() is None
        d.emulate()
        if waiting:
            d.run_on()
        peer, error = d.core.abandon()
        assert (peer, error.error, error.seq, d.core.at) == (PEER, ErrorClass.ABORTED, 1, At.IDLE)

    @pytest.mark.parametrize("program", [IN60, b"h"])
    def test_what_cannot_be_sent_is_an_error_on_record(self, program, caplog):
        d = Driver(program=program)
        d.emulate()
        d.run_on()
        _, error = d.core.fail(ProtocolError(ErrorClass.BAD_MESSAGE, "address is -1"))
        assert (error.error, error.seq, "address is -1" in error.text) == (ErrorClass.INTERNAL, 1, True)
        assert (d.core.at, d.core.known, d.core.record) == (At.IDLE, False, error)

    def test_lost_memory_ends_a_run_before_anything_is_asked(self):
        d = Driver(program=IN60)
        d.emulate()
        d.owner.memory_lost = "block 1 is gone"
        done = d.run_on()
        assert (done.reason, done.detail, done.steps) == (DoneReason.MEMORY_LOST, "block 1 is gone", 0)


class TestHolding:
    def test_a_paused_run_waits(self):
        d = Driver(program=b"h")
        d.emulate()
        assert d.core.hold()

    def test_unless_it_is_to_stop_and_then_nothing_has_run(self):
        d = Driver(program=b"nh")
        d.emulate(reason=Reason.FAILURE)
        d.kick()
        assert not d.core.hold()
        done = d.run_on()
        assert (done.reason, done.steps, done.state) == (DoneReason.KICKED, 0, {})

    def test_closing_ends_the_run_and_takes_no_other(self):
        d = Driver(program=IN60 + FOREVER)
        d.emulate()
        io = d.run_on()
        d.core.close()
        d.answer(io, data=b"a")
        done = d.until_something()
        assert (done.reason, done.closing, done.steps) == (DoneReason.KICKED, True, 1)
        assert d.emulate(seq=2).error is ErrorClass.SHUTTING_DOWN


class TestNative:
    """``native`` leaves an instruction to the hypervisor, of which nothing has been done yet."""

    READ = Exit(ExitReason.PORT_IN, address=0x60, size=1, count=1)
    WRITE = Exit(ExitReason.MMIO_WRITE, address=0xD0000, size=1, count=1, data=b"a")

    def test_the_first_question(self):
        d = Driver(Scripted(self.READ))
        d.emulate()
        done = d.answer(d.run_on(), native=True)
        assert (done.reason, done.address, d.core.at) == (DoneReason.HYPERVISOR, 0x60, At.IDLE)

    def test_not_the_second_of_one_instruction(self):
        d = Driver(Scripted(self.READ, self.WRITE, Exit(ExitReason.HALT, steps=1, instructions=1)))
        d.emulate()
        d.answer(d.run_on(), data=b"a")
        io = d.run_on()
        error = d.answer(io, native=True)
        assert (error.error, error.field, d.core.at) == (ErrorClass.BAD_ANSWER, "native", At.WAITING)
        assert "first" in error.expected
        assert d.answer(io) is None
        assert d.run_on().reason is DoneReason.HALT
        assert d.engine.answers == [b"a", b""]

    def test_but_the_first_of_the_next(self):
        following = Exit(ExitReason.PORT_IN, address=0x61, size=1, count=1, steps=1, instructions=1)
        d = Driver(Scripted(self.READ, following))
        d.emulate()
        d.answer(d.run_on(), data=b"a")
        done = d.answer(d.run_on(), native=True)
        assert (done.reason, done.address, done.steps) == (DoneReason.HYPERVISOR, 0x61, 1)


class TestPaging:
    """RAM carried in messages: what the engine takes for a device's may be a page that is not here."""

    GPA = 0x100000

    @pytest.fixture
    def paged(self):
        made = Driver(Scripted())
        block = CopiedBlock(9, 4 * PAGE)
        made.owner.pages.add(block)
        made.owner.pages.use([(Region(self.GPA, 4 * PAGE, RegionKind.RAM, block.memory), block)])
        return made

    def test_a_page_is_asked_for_and_the_access_answered_from_it(self, paged):
        paged.engine.exits = [
            Exit(ExitReason.MMIO_READ, address=self.GPA + 2, size=2, count=1),
            Exit(ExitReason.HALT, steps=1, instructions=1),
        ]
        paged.emulate()
        io = paged.run_on()
        assert (io.kind, io.ram, io.address, io.size, io.count) == (IoKind.MEMORY_READ, 9, 0, 1, 4 * PAGE)
        assert paged.answer(io, data=bytes(range(256)) * 64) is None
        assert (paged.engine.answers, paged.owner.moved, paged.core.at) == ([b"\x02\x03"], 1, At.BOUNDARY)
        assert paged.run_on().reason is DoneReason.HALT

    def test_what_was_written_goes_back_with_done(self, paged):
        paged.engine.exits = [
            Exit(ExitReason.MMIO_WRITE, address=self.GPA + PAGE, size=2, count=1, data=b"ab"),
            Exit(ExitReason.HALT, steps=1, instructions=1),
        ]
        paged.emulate()
        paged.core.map = paged.owner.current = MemoryMap(
            5, (Region(self.GPA, 4 * PAGE, RegionKind.RAM, paged.owner.pages.want(self.GPA, False).block.memory),)
        )
        assert paged.answer(paged.run_on(), data=bytes(4 * PAGE)) is None
        done = paged.run_on()
        assert done.patches == [schema.Patch(9, PAGE, b"ab")]
        assert (done.version, done.pages) == (1, [self.GPA // PAGE + 1])

    def test_a_device_beside_it_is_a_device(self, paged):
        paged.engine.exits = [Exit(ExitReason.MMIO_READ, address=0xD0000, size=1, count=1)]
        paged.emulate()
        assert paged.run_on().kind is IoKind.MMIO_READ


def test_a_run_that_another_machine_has_begun_goes_on_here():
    """As the machine in C leaves it: the question is asked, the answer comes here."""
    engine = Scripted(Exit(ExitReason.HALT, steps=1, instructions=1))
    d = Driver(engine)
    d.core.epoch, d.core.peer = 1, PEER
    request = Emulate(session=SESSION, vcpu=NUMBER, epoch=1, seq=4, generation=5, base=0, state={})
    run = Run(request, groups(flat()), d.now)
    run.questions = run.open_steps = 1
    io = Io(session=SESSION, vcpu=NUMBER, epoch=1, seq=4, io=1, kind=IoKind.PORT_IN, address=0x60, size=1, count=1)
    d.core.resume(run, io)
    assert d.core.at is At.WAITING
    assert d.answer(io, data=b"ab").error is ErrorClass.BAD_ANSWER
    assert d.answer(io, data=b"a", stop=Stop.NMI) is None
    assert engine.answers == [b"a"]
    done = d.run_on()
    assert (done.reason, done.stop, done.seq) == (DoneReason.HALT, Stop.NMI, 4)
    assert engine.asked[0].budget == 0  # only the open instruction is finished
    d.core.resume(None, None)
    assert d.core.at is At.IDLE
