"""The client library against a daemon with the scripted engine: questions, kicks, loss and reconnects."""

import fcntl
import os
import socket
import sys
import threading
import time
from pathlib import Path

import pytest
import zmq

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "server"))

from harness import Daemon, eventually, flat, session

from dm.protocol import codec, schema
from dm.protocol.codec import ProtocolError
from dm.protocol.schema import DoneReason, ErrorClass, Io, IoKind, Reason, Stop, Until
from dm.shim.answer import Answer
from dm.shim.client import Shim
from dm.shim.errors import Refused, RunLost, SessionLost
from dm.shim.ram import Ram
from dm.shim.vcpu import Stats

FOREVER = b"nJ\x01"
IN60 = b"I\x60\x00\x01"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    with Daemon(tmp_path_factory.mktemp("d")) as running:
        yield running


def in_background(call):
    """Run ``call`` in a thread; returns (join, result list)."""
    out = []

    def run():
        try:
            out.append(call())
        except Exception as error:
            out.append(error)

    thread = threading.Thread(target=run)
    thread.start()

    def join():
        thread.join(60)
        assert not thread.is_alive()
        return out[0]

    return join


class TestRam:
    def test_it_is_sealed(self):
        with Ram(8192) as ram:
            seals = fcntl.fcntl(ram.fd, fcntl.F_GET_SEALS)
            assert seals & fcntl.F_SEAL_SHRINK
            assert seals & fcntl.F_SEAL_GROW
            with pytest.raises(PermissionError):
                os.ftruncate(ram.fd, 4096)
            ram.view[8191] = 1

    @pytest.mark.parametrize("size", [0, -4096, 100])
    def test_bad_sizes(self, size):
        with pytest.raises(ValueError, match="multiple of 4096"):
            Ram(size)

    def test_closing_twice_does_no_harm(self):
        ram = Ram(4096)
        ram.close()
        ram.close()


class TestRuns:
    def test_the_state_is_brought_up_to_date(self, daemon):
        with session(daemon.endpoint, b"A\x34\x12" + IN60 + b"h") as (_, vcpu):
            asked = []

            def devices(io):
                asked.append((io.kind, io.address, io.size))
                return b"\x55"

            state = flat(rbx=9)
            done = vcpu.run(state, on_io=devices)
            assert done.reason is DoneReason.HALT
            assert asked == [(IoKind.PORT_IN, 0x60, 1)]
            assert (state.rax, state.rbx, state.rip) == (0x55, 9, 8)

    def test_later_runs_send_differences_only(self, daemon):
        with session(daemon.endpoint, b"hhhh") as (_, vcpu):
            state = flat()
            sizes = []
            for _ in range(3):
                before = vcpu.stats.bytes_sent
                vcpu.run(state)
                sizes.append(vcpu.stats.bytes_sent - before)
            assert sizes[0] > 700
            assert sizes[1] < 200
            state.dr7 = 0x401
            state.rip = 0
            vcpu.run(state)
            assert (state.dr7, state.rip) == (0x401, 1)

    def test_no_devices_read_as_ones(self, daemon):
        with session(daemon.endpoint, IN60 + b"M\x10\x00\x00\x00" + b"O\x80\x00\x01" + b"h") as (_, vcpu):
            state = flat()
            assert vcpu.run(state, steps=1).reason is DoneReason.BUDGET
            assert state.rax == 0xFF
            assert vcpu.run(state).reason is DoneReason.HALT
            assert state.rax == 0xDEAD  # the MSR faulted

    def test_posted_writes_arrive_one_by_one_before_the_question(self, daemon):
        program = b"P\x00\x00\x0a\x00HP\x01\x00\x0a\x00i" + IN60 + b"P\x02\x00\x0a\x00!h"
        with session(daemon.endpoint, program) as (_, vcpu):
            log = []
            vcpu.run(flat(), on_io=lambda io: log.append(io.address) or b"a", on_posted=lambda *w: log.append(w))
            assert log == [(0xA0000, b"H"), (0xA0001, b"i"), 0x60, (0xA0002, b"!")]

    def test_reports_are_answered_without_the_devices(self, daemon):
        with session(daemon.endpoint, b"P\x00\x00\x0a\x00HJ\x06") as (_, vcpu):
            writes = []
            done = vcpu.run(
                flat(),
                microseconds=100_000,
                on_io=lambda io: pytest.fail("a device was asked"),
                on_posted=lambda gpa, data: writes.append(gpa),
            )
            assert len(writes) == (done.steps + 1) // 2
            assert vcpu.stats.io > 0

    def test_options_reach_the_engine(self, daemon):
        with session(daemon.endpoint, b"E" + FOREVER) as (_, vcpu):
            state = flat()
            assert vcpu.run(state, until=Until.VMX).reason is DoneReason.ENTERABLE
            assert vcpu.run(state, until="vmx", reason="failure", steps=5).steps == 5
            assert vcpu.run(flat(), code=b"h").reason is DoneReason.HALT
            assert vcpu.run(flat(), reason=Reason.MMIO, mmio=0xFEC00000).reason is DoneReason.MMIO_MISMATCH
            with pytest.raises(ValueError, match="'elsewhere' is not a valid"):
                vcpu.run(state, until="elsewhere")

    def test_a_state_that_does_not_fit_is_refused(self, daemon):
        with session(daemon.endpoint, b"h") as (_, vcpu):
            bad = flat()
            bad.cs.limit = 1 << 40
            with pytest.raises(Refused, match=r"bad-state: cs\.limit"):
                vcpu.run(bad)
            assert vcpu.run(flat()).reason is DoneReason.HALT

    def test_interrupts_are_acknowledged_on_demand(self, daemon):
        with session(daemon.endpoint, b"nh") as (_, vcpu):
            state = flat(rflags=0x202)
            kinds = []
            vcpu.run(state, window=True, acknowledge=True, on_io=lambda io: kinds.append(io.kind) or b"\x20")
            assert kinds == [IoKind.INTERRUPT_ACK]
            assert state.gpr[7] == 0x20

    def test_an_answer_can_do_everything_at_once(self, daemon):
        with session(daemon.endpoint, IN60 + b"nnh") as (shim, vcpu):
            regions = [schema.Region(0, shim.ram.size, schema.Kind.RAM, shim.block)]
            done = vcpu.run(
                flat(),
                on_io=lambda io: Answer(b"a", map=shim.next_map(regions, a20=False), stop=Stop.INIT, window=True),
            )
            assert (done.reason, done.stop, done.steps) == (DoneReason.STOPPED, Stop.INIT, 1)
            assert shim.counters().generation == shim.generation == 2


class TestCallbacksThatRaise:
    """A run does not stay open when a callback raises: the vCPU can be used at once."""

    def check_usable(self, vcpu, state):
        """The run after it goes on where the state says; the program is at an ``h``."""
        assert vcpu.run(state).reason is DoneReason.HALT

    @pytest.mark.parametrize(
        "error", [KeyError("device"), KeyboardInterrupt(), Refused(schema.Error(error=ErrorClass.LIMIT, text="x"))]
    )
    def test_in_a_device(self, daemon, error):
        with session(daemon.endpoint, IN60 + b"A\x34\x12h") as (_, vcpu):

            def fail(io):
                raise error

            state = flat(rbx=7)
            with pytest.raises(type(error)) as caught:
                vcpu.run(state, on_io=fail)
            assert caught.value is error
            assert (state.rip, state.rax, state.rbx) == (4, 0xFF, 7)  # the instruction is complete, as on an empty bus
            self.check_usable(vcpu, state)
            assert state.rax == 0x1234

    def test_between_two_questions(self, daemon):
        with session(daemon.endpoint, IN60 * 3 + b"h") as (_, vcpu):
            answers = iter([b"a", OSError("gone")])

            def devices(io):
                answer = next(answers)
                if isinstance(answer, OSError):
                    raise answer
                return answer

            state = flat()
            with pytest.raises(OSError, match="gone"):
                vcpu.run(state, on_io=devices)
            assert state.rip == 8
            self.check_usable(vcpu, state)

    def test_in_posted_writes_before_a_question(self, daemon):
        with session(daemon.endpoint, b"P\x00\x00\x0a\x00H" + IN60 + b"h") as (_, vcpu):
            state = flat()
            with pytest.raises(ZeroDivisionError):
                vcpu.run(state, on_posted=lambda *write: 1 // 0)
            assert state.rip == 10
            self.check_usable(vcpu, state)

    def test_in_posted_writes_at_the_end(self, daemon):
        with session(daemon.endpoint, b"P\x00\x00\x0a\x00Hhh") as (_, vcpu):
            state = flat()
            with pytest.raises(ZeroDivisionError):
                vcpu.run(state, on_posted=lambda *write: 1 // 0)
            assert state.rip == 7
            self.check_usable(vcpu, state)

    @pytest.mark.parametrize(
        ("given", "error"),
        [(b"ab", Refused), (bytes(schema.MAX_DATA + 1), codec.ProtocolError), (7, codec.ProtocolError)],
    )
    def test_an_answer_that_does_not_fit(self, daemon, given, error):
        with session(daemon.endpoint, IN60 + b"h") as (_, vcpu):
            state = flat()
            with pytest.raises(error, match="data"):
                vcpu.run(state, on_io=lambda io: given)
            assert (state.rip, state.rax) == (4, 0xFF)
            self.check_usable(vcpu, state)

    def test_when_the_session_is_lost_meanwhile(self, daemon):
        with session(daemon.endpoint, IN60 + b"h") as (shim, vcpu):

            def fail(io):
                shim.request(schema.VcpuDestroy(seq=0, session=0, vcpu=0))
                raise KeyError("device")

            with pytest.raises(KeyError, match="device"):
                vcpu.run(flat(), on_io=fail)


class TestKicks:
    def test_from_another_thread(self, daemon):
        with session(daemon.endpoint, FOREVER) as (shim, vcpu):
            join = in_background(lambda: vcpu.run(flat()))
            eventually(lambda: shim.counters().vcpus[0].requests)
            vcpu.kick()
            assert join().reason is DoneReason.KICKED

    def test_one_before_the_run_is_not_lost(self, daemon):
        with session(daemon.endpoint, FOREVER) as (_, vcpu):
            vcpu.kick(Stop.NMI)
            assert vcpu.run(flat()).stop is Stop.NMI

    def test_one_during_a_question(self, daemon):
        with session(daemon.endpoint, IN60 + FOREVER) as (_, vcpu):
            done = vcpu.run(flat(), on_io=lambda io: vcpu.kick() or b"a")
            assert done.reason is DoneReason.KICKED

    def test_it_may_only_announce_an_interrupt(self, daemon):
        with session(daemon.endpoint, FOREVER) as (_, vcpu):
            vcpu.kick(Stop.NONE, window=True)
            assert vcpu.run(flat(rflags=0x202)).reason is DoneReason.INTERRUPT_WINDOW


class TestLoss:
    def test_no_daemon(self, tmp_path):
        with pytest.raises(SessionLost, match=r"no daemon answers at .*: there is no such socket"):
            Shim.connect(f"ipc://{tmp_path}/nothing", patience=0)
        with pytest.raises(SessionLost, match=r"no daemon answers at .*; is it running\?"):
            Shim.connect(f"ipc://{tmp_path}/nothing", timeout=0.2)

    def test_a_daemon_that_comes_late_is_waited_for(self, daemon):
        path = daemon.endpoint.removeprefix("ipc://")
        os.rename(path, path + ".hidden")
        timer = threading.Timer(0.2, os.rename, (path + ".hidden", path))
        timer.start()
        Shim.connect(daemon.endpoint, patience=60).close()
        timer.join()

    def test_a_silent_daemon(self, tmp_path):
        with socket.socket(socket.AF_UNIX) as silent:
            silent.bind(f"{tmp_path}/silent")
            silent.listen()
            with pytest.raises(SessionLost, match=r"answers at .* within 0\.2 s, though something is listening"):
                Shim.connect(f"ipc://{tmp_path}/silent", timeout=0.2)

    def test_something_else_listens(self, tmp_path):
        context = zmq.Context()
        other = context.socket(zmq.ROUTER)
        other.linger = 0
        other.bind(f"ipc://{tmp_path}/other")

        def babble():
            identity, _ = other.recv_multipart()
            other.send_multipart([identity, b"\x00babble"])

        thread = threading.Thread(target=babble)
        thread.start()
        with pytest.raises(SessionLost):
            Shim.connect(f"ipc://{tmp_path}/other", timeout=0.5)
        thread.join(60)
        other.close()
        context.term()

    def test_a_reconnect_in_mid_run_repeats_nothing(self, daemon):
        """The answer is lost with the old socket: the daemon asks again, the device is not touched again."""
        with session(daemon.endpoint, IN60 + IN60 + b"h") as (shim, vcpu):
            touched = []

            def devices(io):
                touched.append(io.io)
                if io.io == 1:
                    assert shim.reconnect()
                return bytes([0x40 + io.io])

            state = flat()
            done = vcpu.run(state, on_io=devices)
            assert done.reason is DoneReason.HALT
            assert touched == [1, 2]
            assert state.rax == 0x42
            assert done.epoch == 2
            assert shim.counters().vcpus[0].requests == 1

    def test_a_reconnect_while_the_guest_runs(self, daemon):
        with session(daemon.endpoint, FOREVER) as (shim, vcpu):
            join = in_background(lambda: vcpu.run(flat()))
            eventually(lambda: shim.counters().vcpus[0].requests)
            assert shim.reconnect()
            vcpu.kick()
            done = join()
            assert (done.reason, done.epoch) == (DoneReason.KICKED, 2)
            assert vcpu.run(flat(), steps=3).steps == 3

    def test_a_lost_done_is_repeated(self, daemon):
        with session(daemon.endpoint, b"S\x00\x20\x00\x00\x01h") as (shim, vcpu):
            vcpu.run(flat(), steps=0)
            real, lost = vcpu._call, []

            def lossy(message):
                lost.append(real(message) or vcpu._receive())
                shim.ram.view[0x2000] = 0  # would be 1 again if the run were repeated
                shim.reconnect()
                vcpu._renew_if_asked()

            vcpu._call = lossy
            done = vcpu.run(flat())
            assert (done.reason, done.state) == (lost[0].reason, lost[0].state)
            assert shim.ram.view[0x2000] == 0

    @pytest.mark.parametrize("lost", ["the request", "the question", "the answer", "the done"])
    def test_a_message_that_ctrl_c_swallows_is_not_waited_for(self, daemon, lost):
        with session(daemon.endpoint, IN60 + b"hh") as (shim, vcpu):
            real, state = vcpu._call, flat()

            def interrupted(message):
                answer = isinstance(message, schema.IoAnswer)
                if lost == ("the answer" if answer else "the request"):
                    raise KeyboardInterrupt
                following = real(message) or vcpu._receive()
                if lost == ("the done" if answer else "the question"):
                    raise KeyboardInterrupt
                return following

            vcpu._call = interrupted
            with pytest.raises(KeyboardInterrupt):
                vcpu.run(state, on_io=lambda io: b"a")
            vcpu._call = real
            touched = lost in ("the answer", "the done")
            assert state.rax == (0x61 if touched else 0xFF)
            assert vcpu.run(state).reason is DoneReason.HALT
            assert shim.counters().vcpus[0].requests == 2

    def test_an_idle_vcpu_moves_to_a_new_daemon(self, tmp_path):
        with Daemon(tmp_path) as first, session(first.endpoint, b"hh") as (shim, vcpu):
            state = flat()
            vcpu.run(state)
            old = shim.session
            assert first.stop() == 0
            with Daemon(tmp_path):
                assert shim.reconnect() is False
                assert shim.session != old
                assert vcpu.run(state).reason is DoneReason.HALT
                assert state.rip == 2
                shim.close()

    def test_a_run_that_was_lost_is_named(self, tmp_path):
        with Daemon(tmp_path) as first, session(first.endpoint, IN60 + b"h") as (shim, vcpu):

            def devices(io):
                first.process.kill()
                first.process.wait()
                eventually(lambda: not alive(first))
                shim.second = Daemon(tmp_path)
                assert shim.reconnect() is False
                return b"a"

            with pytest.raises(RunLost, match="another one"):
                vcpu.run(flat(), on_io=devices)
            assert vcpu.run(flat(), on_io=lambda io: b"a").reason is DoneReason.HALT
            shim.close()
            assert shim.second.stop() == 0

    def test_a_state_that_cannot_be_sent_is_named_and_nothing_runs(self, daemon):
        with session(daemon.endpoint, b"hh") as (shim, vcpu):
            state = flat()
            state.rip = -1
            with pytest.raises(ProtocolError, match=r"^rip is -1, an integer below 2\*\*64 is needed"):
                vcpu.run(state)
            assert shim.counters().vcpus[0].requests == 0
            state.rip = 0
            assert vcpu.run(state).reason is DoneReason.HALT

    def test_a_forgotten_base_is_said_in_full(self, daemon):
        with session(daemon.endpoint, b"hhhh") as (_, vcpu):
            state = flat()
            vcpu.run(state)
            vcpu._base = 77
            assert vcpu.run(state).reason is DoneReason.HALT
            assert state.rip == 2

    def test_an_engine_that_breaks_loses_the_run(self, daemon):
        with session(daemon.endpoint, b"X") as (shim, vcpu):
            with pytest.raises(RunLost, match="the fake engine breaks"):
                vcpu.run(flat())
            shim.ram.view[0] = ord("h")
            assert vcpu.run(flat()).reason is DoneReason.HALT


def alive(daemon):
    return os.path.exists(daemon.directory / "control") and _locked(daemon.directory / "control.d")


def _locked(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def test_heartbeats_keep_an_idle_session(tmp_path):
    with Daemon(tmp_path, "--session-timeout", "5") as daemon, session(daemon.endpoint, b"h") as (_, vcpu):
        time.sleep(6)
        assert vcpu.run(flat()).reason is DoneReason.HALT


def test_stats_add_up():
    assert Stats(1, 2, 3, 4, 5, 6) + Stats(1, 1, 1, 1, 1, 1) == Stats(2, 3, 4, 5, 6, 7)


def test_several_vcpus_of_one_session(daemon):
    with session(daemon.endpoint, IN60 + b"J\x04") as (shim, first):
        vcpus = [first, *(shim.create_vcpu(number) for number in range(1, 4))]

        def devices(io: Io):
            return Answer(b"a", stop=Stop.KICK if io.io == 50 else Stop.NONE)

        joins = [in_background(lambda v=vcpu: v.run(flat(), on_io=devices)) for vcpu in vcpus]
        assert {join().reason for join in joins} == {DoneReason.KICKED}
        assert shim.stats().io == 200
        assert codec.encode(shim.counters())
