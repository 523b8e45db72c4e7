"""The run loop against a scripted CPU: each step of a "guest" is a Python function that edits the state."""

from __future__ import annotations

import io
import json
import signal

import pytest

from dm.machine.state import Activity, EventType
from dm.protocol.schema import Done, DoneReason, Io, IoKind
from dm.shim import keys
from dm.shim.bios import rom
from dm.shim.boot import Boot, BootEnd
from dm.shim.disk import DiskKind, drives
from dm.shim.ends import Interrupted, Status, TimeOver
from dm.shim.errors import RunLost, SessionLost
from dm.shim.script import Expect, Send, TypeKeys
from dm.shim.terminal import PlainConsole
from dm.shim.trace import Trace


def done(reason, address=0, detail="", closing=False):
    return Done(
        session=1, vcpu=0, epoch=1, seq=1, reason=reason, address=address, detail=detail, closing=closing, state={},
        instructions=10,
    )  # fmt: skip


class Guest:
    """Runs POST and then the steps of ``program``, a generator that yields how each run ended."""

    def __init__(self, program):
        self.program, self.windows, self.maps, self.steps_asked = program, [], [], []

    def run(self, state, memory, *, window, microseconds, ask, posted, steps=None, stop_at=None):
        assert microseconds > 0
        self.posted, self.stop_at = posted, stop_at
        self.steps_asked.append(steps)
        self.windows.append(window)
        self.maps.append(memory)
        if state.cs.base == 0xFFFF0000:
            self.steps = self.program(self)
            return done(DoneReason.FIRMWARE, 0xF0000 + rom.Trap.POST)
        self.state, self.ask = state, ask
        if state.inject_type == EventType.EXTERNAL:
            self.vector, state.inject_type = state.inject_vector, EventType.NONE
            self.question(IoKind.PORT_OUT, 0x20, b"\x20")
        elif window and state.rflags & 0x200:
            self.acknowledge()
        return next(self.steps)

    def question(self, kind, address=0, data=b"", size=1):
        return self.ask(Io(session=1, vcpu=0, epoch=1, seq=1, io=1, kind=kind, address=address, size=size, data=data))

    def acknowledge(self):
        """Take the pending interrupt and end it at once."""
        self.vector = self.question(IoKind.INTERRUPT_ACK).data[0]
        self.question(IoKind.PORT_OUT, 0x20, b"\x20")

    def write(self, text):
        for byte in text.encode():
            self.question(IoKind.PORT_OUT, 0x3F8, bytes((byte,)))

    def halt(self, interrupts=True):
        self.state.activity = Activity.HALTED
        self.state.rflags = 0x202 if interrupts else 2
        return done(DoneReason.HALT)


@pytest.fixture
def boot(floppy_image):
    def start(program, **options):
        guest = Guest(program)
        out = io.StringIO()
        machine = Boot(bytearray(4 << 20), drives(floppy_image, DiskKind.FLOPPY), **options)
        console = PlainConsole(out)
        outcome = machine.run(guest, console)
        console.close()
        return outcome, guest, out.getvalue(), machine

    return start


def test_expected_serial_text_ends_with_0(boot):
    def program(guest):
        guest.write("ready\n")
        while True:
            yield done(DoneReason.BUDGET)

    outcome, guest, printed, machine = boot(program, script=[Expect("ready")], timeout=60)
    assert (outcome.reason, outcome.exit_code) == (BootEnd.EXPECTED, 0)
    assert outcome.serial == "ready\n"
    assert "ready" in printed
    assert outcome.stats.runs == len(guest.windows)
    assert outcome.stats.instructions == 10 * outcome.stats.runs
    questions = outcome.stats.questions
    assert questions["port-out"] == len("ready\n") + machine.pc.interrupts, "each interrupt is ended by one"


def test_expected_screen_text(boot):
    def program(guest):
        yield done(DoneReason.BUDGET)
        guest.machine_memory = guest.maps[-1].regions[0].memory
        guest.machine_memory[0xB8000:0xB800A] = b"g\7r\7u\7b\7>\7"
        while True:
            yield done(DoneReason.BUDGET)

    outcome, *_ = boot(program, script=[Expect("grub>")], timeout=60)
    assert outcome.exit_code == 0
    assert outcome.screen[0] == "grub>"


def test_timeout_names_what_is_missing(boot):
    def program(guest):
        while True:
            yield done(DoneReason.BUDGET)

    outcome, *_ = boot(program, script=[Expect("never")], timeout=0.1)
    assert (outcome.reason, outcome.exit_code) == (BootEnd.TIMEOUT, Status.MISSING)
    assert "'never' has not appeared" in outcome.detail


def test_timeout_with_nothing_left_to_expect_has_a_status_of_its_own(boot):
    def program(guest):
        while True:
            yield done(DoneReason.BUDGET)

    assert boot(program, timeout=0.05)[0].exit_code == Status.TIMEOUT
    assert boot(program, script=[Expect("x86"), TypeKeys(())], timeout=0.05)[0].exit_code == Status.MISSING


def test_keys_wait_for_the_expectation_and_reach_the_guest(boot):
    got = []

    def program(guest):
        yield guest.halt()
        guest.write("login:")
        while len(got) < 4:
            guest.vector = None
            yield guest.halt()
            if guest.vector == 9:
                got.append(guest.question(IoKind.PORT_IN, 0x60).data[0])
        guest.write("welcome")
        while True:
            yield guest.halt()

    script = [Expect("login:"), TypeKeys(tuple(keys.parse("ab"))), Expect("welcome")]
    outcome, *_ = boot(program, script=script, timeout=60)
    assert outcome.reason is BootEnd.EXPECTED
    assert got == [0x1E, 0x9E, 0x30, 0xB0]


def test_text_is_sent_to_the_serial_port(boot):
    def program(guest):
        guest.write("name? ")
        got = b""
        while b"\r" not in got:
            if guest.question(IoKind.PORT_IN, 0x3FD).data[0] & 1:
                got += guest.question(IoKind.PORT_IN, 0x3F8).data
            yield done(DoneReason.BUDGET)
        guest.write(f"hello {got.decode().strip()}")
        while True:
            yield guest.halt()

    outcome, *_ = boot(program, script=[Expect("name?"), Send(b"Ada\r"), Expect("hello Ada")], timeout=60)
    assert outcome.reason is BootEnd.EXPECTED


def test_endless_serial_output_is_bounded(boot):
    def program(guest):
        while True:
            guest.question(IoKind.PORT_OUT, 0x3F8, b"spam" * 4096)
            yield done(DoneReason.BUDGET)

    outcome, *_ = boot(program, timeout=1)
    assert 0 < len(outcome.serial) <= 1 << 20


def test_leading_keys_wait_until_the_guest_listens(boot):
    seen = []

    def program(guest):
        for _ in range(5):
            seen.append(guest.question(IoKind.PORT_IN, 0x64).data[0] & 1)
            yield done(DoneReason.BUDGET)
        guest.vector = None
        while guest.vector != 9:
            yield guest.halt()
        guest.write("typed")
        while True:
            yield guest.halt()

    outcome, *_ = boot(program, script=[TypeKeys(tuple(keys.parse("x"))), Expect("typed")], timeout=60)
    assert not any(seen), "nothing was typed while the guest was busy"
    assert outcome.reason is BootEnd.EXPECTED, "then it was"


def test_halt_with_interrupts_off_ends_the_boot(boot):
    def program(guest):
        guest.write("bye")
        yield guest.halt(interrupts=False)

    outcome, *_ = boot(program, timeout=60)
    assert (outcome.reason, outcome.exit_code) == (BootEnd.HALTED, 0)
    assert "interrupts off at 0000:00007c00" in outcome.detail
    outcome, *_ = boot(program, script=[Expect("bye")], timeout=60)
    assert outcome.reason is BootEnd.EXPECTED, "what came just before the halt counts"
    outcome, *_ = boot(program, script=[Expect("more")], timeout=60)
    assert (outcome.reason, outcome.exit_code) == (BootEnd.HALTED, 1)


def test_timer_interrupt_wakes_a_halted_guest(boot):
    ticks = []

    def program(guest):
        while True:
            guest.vector = None
            yield guest.halt()
            if guest.vector == 8:
                ticks.append(1)
                if len(ticks) == 3:
                    guest.write("three")

    outcome, *_ = boot(program, script=[Expect("three")], timeout=60)
    assert outcome.reason is BootEnd.EXPECTED
    assert outcome.stats.runs < 20, "a halted guest costs no runs"


def test_shutdown_resets_and_boots_again(boot):
    boots = []

    def program(guest):
        boots.append(1)
        if len(boots) == 1:
            yield done(DoneReason.SHUTDOWN)
        guest.write("again")
        while True:
            yield done(DoneReason.BUDGET)

    outcome, *_ = boot(program, script=[Expect("again")], timeout=60)
    assert (outcome.reason, outcome.resets, len(boots)) == (BootEnd.EXPECTED, 1, 2)


def test_reset_port_resets(boot):
    boots = []

    def program(guest):
        boots.append(1)
        if len(boots) == 1:
            assert guest.question(IoKind.PORT_OUT, 0xCF9, b"\x06").stop
            yield done(DoneReason.STOPPED)
        guest.write("again")
        while True:
            yield done(DoneReason.BUDGET)

    outcome, *_ = boot(program, script=[Expect("again")], timeout=60)
    assert outcome.resets == 1


@pytest.mark.parametrize("reason", [DoneReason.UNSUPPORTED, DoneReason.MEMORY_LOST, DoneReason.HYPERVISOR])
def test_failed_run_is_reported_with_its_place(boot, reason):
    def program(guest):
        yield done(reason, detail="the reason why")

    outcome, *_ = boot(program, timeout=60)
    assert (outcome.reason, outcome.exit_code) == (BootEnd.FAILED, Status.FAILED)
    assert f"{reason}" in outcome.detail
    assert "0000:00007c00" in outcome.detail
    assert "the reason why" in outcome.detail


def test_a_lost_daemon_and_a_lost_run_are_failures(boot):
    def lost(guest):
        raise SessionLost("the daemon is silent")
        yield

    outcome, *_ = boot(lost, timeout=60)
    assert (outcome.reason, outcome.exit_code, outcome.detail) == (BootEnd.LOST, Status.DAEMON, "the daemon is silent")

    def in_the_middle(guest):
        raise RunLost("a run was lost in the middle")
        yield

    outcome, *_ = boot(in_the_middle, timeout=60)
    assert (outcome.reason, outcome.exit_code) == (BootEnd.RUN_LOST, Status.RUN_LOST)


@pytest.mark.parametrize(
    ("error", "code"),
    [(KeyboardInterrupt(), 130), (Interrupted(signal.SIGTERM), 143), (Interrupted(signal.SIGHUP), 129)],
)
@pytest.mark.parametrize("script", [[], [Expect("x")]])
def test_a_signal_ends_the_boot_with_its_status(boot, error, code, script):
    def program(guest):
        raise error
        yield

    outcome, *_ = boot(program, script=script, timeout=60)
    assert (outcome.reason, outcome.exit_code) == (BootEnd.INTERRUPTED, code)


@pytest.mark.parametrize(("script", "code"), [([], Status.ENDED), ([Expect("x")], Status.MISSING)])
@pytest.mark.parametrize("woken", [True, False], ids=["woken", "found at a look"])
def test_the_user_may_leave(floppy_image, script, code, woken):
    class Left(PlainConsole):
        left = True

    def program(guest):
        while True:
            yield done(DoneReason.BUDGET)
            if woken:
                raise KeyboardInterrupt

    machine = Boot(bytearray(4 << 20), drives(floppy_image, DiskKind.FLOPPY), script=script)
    outcome = machine.run(Guest(program), Left(io.StringIO()))
    assert (outcome.reason, outcome.exit_code) == (BootEnd.LEFT, code)


def test_a_daemon_that_does_not_answer_is_not_waited_for_beyond_the_limit(boot):
    def program(guest):
        raise TimeOver
        yield

    outcome, *_ = boot(program, timeout=60)
    assert (outcome.reason, outcome.exit_code) == (BootEnd.TIMEOUT, Status.TIMEOUT)
    assert outcome.detail == "time is over after 60 s: the daemon does not answer"


def test_no_bootable_device_is_a_failure(boot):
    def program(guest):
        guest.state.esp = 0x7000
        yield done(DoneReason.FIRMWARE, 0xF0000 + rom.vector_trap(0x18))
        assert guest.state.rip == rom.code().labels["print"]
        yield guest.halt(interrupts=False)

    for script in ([], [Expect("never")]):
        outcome, *_ = boot(program, script=script, timeout=60)
        assert (outcome.reason, outcome.exit_code) == (BootEnd.NO_BOOT, Status.NO_BOOT)


def test_firmware_calls_are_answered_and_counted(boot):
    def program(guest):
        guest.state.ax = 0x0141
        guest.state.esp = 0x7000
        yield done(DoneReason.FIRMWARE, 0xF0000 + rom.vector_trap(0x14))
        assert guest.state.rip == rom.IRET
        while True:
            yield done(DoneReason.BUDGET)

    outcome, *_ = boot(program, script=[Expect("A")], timeout=60)
    assert outcome.reason is BootEnd.EXPECTED
    assert outcome.firmware[0x14] == 1


def test_a_guest_that_mostly_asks_is_stopped_to_look_at_the_screen(boot):
    stops = []

    def program(guest):
        while True:
            while not guest.question(IoKind.PORT_IN, 0x61).stop:
                pass
            stops.append(len(guest.windows))
            yield done(DoneReason.STOPPED)

    outcome, *_ = boot(program, timeout=1)
    assert outcome.detail == "time is over after 1 s", "as soon as a run ends"
    assert len(stops) > 1


def test_an_unsupported_instruction_is_named_with_its_bytes(boot):
    def program(guest):
        guest.maps[-1].regions[0].memory[0x7C00:0x7C03] = bytes.fromhex("df2c24")
        yield done(DoneReason.UNSUPPORTED, detail="X87")

    outcome, *_ = boot(program, timeout=60)
    assert outcome.detail.endswith("(linear 0x7c00): X87 (df 2c  fild qword ptr [si])")


def test_posted_writes_reach_the_display(boot):
    def program(guest):
        guest.state.ax = 0x0012
        guest.state.esp = 0x7000
        yield done(DoneReason.FIRMWARE, 0xF0000 + rom.vector_trap(0x10))
        guest.posted(0xA0000, b"\xff")
        yield guest.halt(interrupts=False)

    outcome, *_, machine = boot(program, timeout=60)
    assert machine.pc.vga.memory.planes[3][0] == 0xFF
    assert "640x480 dots, 16 colours" in outcome.screen[0]


def test_masked_a20_reaches_the_next_run(boot):
    def program(guest):
        yield done(DoneReason.BUDGET)
        yield guest.halt(interrupts=False)

    _, guest, *_ = boot(program, timeout=60)
    assert guest.maps[0].a20
    assert not guest.maps[1].a20
    assert guest.maps[1].generation > guest.maps[0].generation


def test_post_codes_are_lines_among_the_serial_text(boot):
    def program(guest):
        guest.question(IoKind.PORT_OUT, 0x190, b"\x1f")
        guest.write("half")
        guest.question(IoKind.PORT_OUT, 0x190, b"\x20")
        while True:
            yield done(DoneReason.BUDGET)

    outcome, *_ = boot(program, script=[Expect("POST 20")], post_port=0x190, show_post=True, timeout=60)
    assert outcome.exit_code == 0
    assert outcome.serial == "POST 1F\nhalf\nPOST 20\n"
    assert outcome.post == [0x1F, 0x20]


@pytest.mark.parametrize(("text", "code"), [("bye", 0x07), ("hello", 1)])
def test_exit_port_ends_the_boot(boot, text, code):
    """With QEMU's status, unless an expected text has not appeared."""

    def program(guest):
        guest.write("bye")
        assert guest.question(IoKind.PORT_OUT, 0xF4, b"\x03").stop
        yield done(DoneReason.STOPPED)

    outcome, *_ = boot(program, script=[Expect(text), TypeKeys(())], exit_port=0xF4, timeout=60)
    assert (outcome.reason, outcome.exit_value, outcome.exit_code) == (BootEnd.EXITED, 3, code)
    assert ("'hello' has not appeared" in outcome.detail) == (code == 1)


def test_trace_single_steps_as_long_as_it_lasts(boot):
    def program(guest):
        for _ in range(3):
            yield done(DoneReason.BUDGET)
        yield done(DoneReason.FIRMWARE, 0xF0000 + rom.vector_trap(0x12))
        yield guest.halt(interrupts=False)

    out = io.StringIO()
    _, guest, *_ = boot(program, trace=Trace(out, count=5), timeout=60)
    assert guest.steps_asked == [1] * 5 + [None]
    words = [json.loads(line)["instruction"] for line in out.getvalue().splitlines()]
    assert len(words) == 6
    assert (words[0], words[1], words[-1]) == ("", "(firmware at 0xfe05b)", "(firmware at 0xfe124)")
