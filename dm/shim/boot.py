"""The run loop of the small PC: runs, exits, interrupts, idle time, and the script of an unattended boot."""

from __future__ import annotations

import contextlib
import mmap
import signal
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from dm.protocol.schema import DoneReason, Io
from dm.shim.clock import SECOND, HostClock
from dm.shim.disk import Drive
from dm.shim.ends import Interrupted, Status, TimeOver, lift_limit, of_signal
from dm.shim.errors import RunLost, ShimError
from dm.shim.multiboot import KernelImage
from dm.shim.pc import Pc
from dm.shim.remote import MachineAnswer, VcpuBackend
from dm.shim.screen import Expectation, Screen, Transcript
from dm.shim.script import Expect, Send, Step
from dm.shim.terminal import Console
from dm.shim.trace import Trace, instruction

#: Longest run, so that the terminal and the script are served often enough.
SLICE_US: Final = 20_000
_SHORTEST_US: Final = 100
_LOOK: Final = 0.03
#: Longest sleep, while nothing changes on the screen; a key that is typed ends it.
_SLEEP: Final = 0.1
#: Bytes of serial text that are kept at least.
_SERIAL: Final = 1 << 19


class BootEnd(StrEnum):
    """Why a boot ended.

    ``exited``: through the exit port; ``halted``: for good, with interrupts off; ``no-boot``: no device had a boot
    record; ``left``: the user has quit; ``interrupted``: by a signal; ``lost``: the daemon refused, closed
    or is gone; ``run-lost``: it is gone in the middle of a run, so that nobody knows the registers and memory may have
    changed.
    """

    EXPECTED = "expected"
    EXITED = "exited"
    TIMEOUT = "timeout"
    HALTED = "halted"
    NO_BOOT = "no-boot"
    LEFT = "left"
    INTERRUPTED = "interrupted"
    FAILED = "failed"
    LOST = "lost"
    RUN_LOST = "run-lost"


@dataclass
class BootStats:
    """What a boot cost.

    ``runs`` counts requests to the daemon, ``ends`` how they ended, ``questions`` elements of port, MMIO and MSR
    accesses (and interrupt acknowledges) answered on the way, ``interrupts`` external interrupts delivered.
    ``running`` is the seconds from request to end.
    """

    runs: int = 0
    instructions: int = 0
    running: float = 0.0
    wall: float = 0.0
    ends: Counter[str] = field(default_factory=Counter)
    questions: Counter[str] = field(default_factory=Counter)
    interrupts: int = 0

    @property
    def mips(self) -> float:
        """Million instructions per second of running."""
        return self.instructions / self.running / 1e6 if self.running else 0.0


@dataclass
class BootOutcome:
    """How a boot ended: why, a sentence about it, the screen, the end of the serial text, and what it cost.

    ``serial`` is what came through the serial port and the debug console, and POST codes where they are shown;
    ``post`` the last POST codes; ``exit_value`` the byte written to the exit port, if one was; ``signal`` the one that
    interrupted it, if one did; ``answers`` is False if the daemon did not answer.
    """

    reason: BootEnd
    detail: str
    screen: list[str]
    serial: str
    stats: BootStats
    resets: int
    firmware: dict[int, int]
    satisfied: bool
    post: list[int] = field(default_factory=list)
    exit_value: int | None = None
    signal: int = 0
    answers: bool = True

    @property
    def exit_code(self) -> int:
        """The exit status (:class:`~dm.shim.ends.Status`).

        A guest that ends through the exit port, with every expectation met, chooses it itself: twice the byte plus 1,
        in 8 bits, as with QEMU's isa-debug-exit.
        """
        if self.exit_value is not None and self.satisfied:
            return (self.exit_value << 1 | 1) & 0xFF
        match self.reason:
            case BootEnd.INTERRUPTED:
                return of_signal(self.signal)
            case BootEnd.RUN_LOST:
                return Status.RUN_LOST
            case BootEnd.LOST:
                return Status.DAEMON
            case BootEnd.FAILED:
                return Status.FAILED
            case BootEnd.NO_BOOT:
                return Status.NO_BOOT
            case _ if not self.satisfied:
                return Status.MISSING
            case BootEnd.TIMEOUT:
                return Status.TIMEOUT
            case _:
                return Status.ENDED


#: Ends after which the missing expected text is named.
_MAY_MISS: Final = (BootEnd.TIMEOUT, BootEnd.HALTED, BootEnd.EXITED, BootEnd.LEFT)
_LEFT: Final = "left by the user"


class Boot:
    """Runs the small PC on a :class:`VcpuBackend` until its script is done, its time is up or it halts."""

    def __init__(
        self,
        ram: mmap.mmap | bytearray,
        drives: Sequence[Drive],
        *,
        script: Sequence[Step] = (),
        timeout: float | None = None,
        debug_port: int = 0xE9,
        post_port: int = 0x80,
        show_post: bool = False,
        exit_port: int | None = None,
        kernel: KernelImage | None = None,
        bios: bytes = b"",
        trace: Trace | None = None,
        check_signature: bool = True,
    ) -> None:
        """Build the PC, powered on.

        Args:
            ram: all of its RAM, shared with whoever runs its guest code.
            drives: its drives; the first is booted from.
            script: what to wait for and to type; if it ends with an expectation, meeting that ends the boot.
            timeout: seconds from now after which the boot ends; None: never.
            debug_port: port of the debug console, 16 bits.
            post_port: port of the POST code display, 16 bits.
            show_post: show each new POST code as a line ``POST 1F`` among the serial text.
            exit_port: port whose first write ends the boot.
            kernel: started instead of booting a drive.
            bios: a ROM in place of the built-in firmware; ``ram`` has room for it at its end.
            trace: takes the instructions; once it has begun, and while it wants more, the guest runs in single steps.
            check_signature: boot a diskette only if its first sector ends in 55AAh.

        Raises:
            ValueError: the size of RAM or the ROM, or a port, is impossible, or the kernel does not fit.
        """
        self.pc = Pc(
            ram, drives, HostClock(), serial=self._output, debug=self._output, debug_port=debug_port, idle=self._idle,
            work=lambda: self._stats.instructions, check_signature=check_signature,
            post_port=post_port, post=self._post if show_post else None, exit_port=exit_port, kernel=kernel, bios=bios,
        )  # fmt: skip
        self._trace = trace
        self._vcpu: VcpuBackend
        self._console: Console
        self._steps = list(script)
        self._first_keys = True
        self._ends = bool(script) and isinstance(self._steps[-1], Expect)
        self._timeout = timeout
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._transcript = Transcript()
        self._screen: Screen | None = None
        self._expectation = Expectation()
        self._serial = bytearray()
        self._next_look = 0.0
        self._stats = BootStats()

    def _output(self, data: bytes) -> None:
        """Take what the guest sent to its serial port or debug console."""
        self._serial += data
        if (excess := len(self._serial) - _SERIAL) > _SERIAL:
            del self._serial[:excess]
            self._expectation.forget(excess)
        self._console.output(data)

    def _post(self, code: int) -> None:
        """Show a POST code on a line of its own."""
        start = "\n" if self._serial and self._serial[-1:] != b"\n" else ""
        self._output(f"{start}POST {code:02X}\n".encode())

    def _idle(self, nanoseconds: int) -> None:
        """Sleep until an interrupt may be pending, at most ``nanoseconds``."""
        event = self.pc.next_event()
        limit = min(nanoseconds, int(_SLEEP * SECOND))
        self._console.wait((limit if event is None else min(limit, event)) / SECOND)

    def run(self, vcpu: VcpuBackend, console: Console) -> BootOutcome:
        """Boot.

        Args:
            vcpu: runs the guest code.
            console: the user's side of the machine.

        Returns:
            How it ended; Ctrl-C and TimeOver are ends like the others.
        """
        self._vcpu, self._console = vcpu, console
        start = time.monotonic()
        number, answers = 0, True
        try:
            reason, detail = self._loop(self._deadline)
        except KeyboardInterrupt as error:
            reason, detail = BootEnd.LEFT, _LEFT
            if not console.left:
                number = error.number if isinstance(error, Interrupted) else signal.SIGINT
                reason, detail = BootEnd.INTERRUPTED, f"interrupted by {signal.Signals(number).name}"
        except TimeOver:
            lift_limit()
            reason, detail, answers = BootEnd.TIMEOUT, f"{self._time_is_over()}: the daemon does not answer", False
        except RunLost as error:
            reason, detail = BootEnd.RUN_LOST, str(error)
        except ShimError as error:
            reason, detail = BootEnd.LOST, str(error)
        self._stats.wall = time.monotonic() - start
        self._stats.interrupts = self.pc.interrupts
        screen = Screen.of(self.pc)
        self._transcript.update(screen.text())
        with contextlib.suppress(Interrupted):  # the terminal may be gone
            console.show(screen, self._transcript)
        satisfied = not any(isinstance(step, Expect) for step in self._steps)
        if not satisfied and reason in _MAY_MISS:
            missing = next(step.text for step in self._steps if isinstance(step, Expect))
            detail += f"; expected text {missing!r} has not appeared"
        rows = [row.rstrip() for row in screen.text()]
        return BootOutcome(
            reason, detail, rows, self._serial.decode("utf-8", "replace"), self._stats, self.pc.resets,
            dict(self.pc.firmware.calls), satisfied, list(self.pc.post.codes), self.pc.exit_value, number, answers,
        )  # fmt: skip

    def _time_is_over(self) -> str:
        return f"time is over after {self._timeout:g} s"

    def _loop(self, deadline: float | None) -> tuple[BootEnd, str]:
        pc = self.pc
        while True:
            if pc.exit_value is not None:
                self._look()
                self._play()
                return BootEnd.EXITED, f"the guest wrote {pc.exit_value:#04x} to the exit port"
            now = time.monotonic()
            if now >= self._next_look:
                self._look()
                self._next_look = now + _LOOK
                if self._play() and self._ends:
                    return BootEnd.EXPECTED, "every expected text has appeared"
                if deadline is not None and now >= deadline:
                    return BootEnd.TIMEOUT, self._time_is_over()
                if self._console.left:
                    return BootEnd.LEFT, _LEFT
                if typed := self._console.typed():
                    pc.keyboard.type(typed)
            pc.update()
            if pc.system.reset_requested:
                pc.reset(full=pc.system.full_reset)
            if pc.stuck:
                self._look()
                if self._play() and self._ends:
                    return BootEnd.EXPECTED, "every expected text has appeared"
                if pc.firmware.no_boot:
                    return BootEnd.NO_BOOT, pc.firmware.why
                return BootEnd.HALTED, f"the guest halted with interrupts off at {self._where()}"
            pc.wake()
            if pc.waits:
                self._idle(SECOND)
            elif failure := self._run_once():
                return BootEnd.FAILED, failure

    def _run_once(self) -> str:
        """Make one run and handle its end; return what failed, if anything did.

        Raises:
            ShimError: the daemon refused the run, is lost or shuts down.
        """
        pc, stats = self.pc, self._stats
        event = pc.next_event()
        microseconds = SLICE_US if event is None else max(_SHORTEST_US, min(SLICE_US, event // 1000))
        trace = self._trace if self._trace and self._trace.wanted else None
        words = trace.before(pc.state, pc.memory) if trace else ""
        interrupts = pc.interrupts
        begin = trace.start if trace else None
        if not trace or begin is not None:
            pc.deliver()
        start = time.monotonic()
        done = self._vcpu.run(
            pc.state, pc.memory_map, window=pc.interrupt_waits, microseconds=microseconds, ask=self._ask,
            posted=pc.posted, steps=1 if trace and begin is None else None, stop_at=begin,
        )  # fmt: skip
        stats.running += time.monotonic() - start
        stats.runs += 1
        stats.instructions += done.instructions
        stats.ends[done.reason] += 1
        match done.reason:
            case DoneReason.FIRMWARE:
                pc.firmware_call(done.address)
                words = words and f"(firmware at {done.address:#x})"
            case DoneReason.SHUTDOWN:
                pc.reset(full=False)  # as the chipset answers the shutdown cycle
            case DoneReason.HALT | DoneReason.BUDGET | DoneReason.STOPPED | DoneReason.INTERRUPT_WINDOW:
                pass
            case DoneReason.KICKED | DoneReason.DEBUG:
                pass
            case _:
                words = f"the run ended with {done.reason} at {self._where()}: {done.detail or 'no detail'}"
                if done.reason is DoneReason.UNSUPPORTED and (line := instruction(pc.state, pc.memory)):
                    words += f" ({line.code.hex(' ')}  {line.text})"
                return words
        if trace:
            trace.after(words and (words if pc.interrupts == interrupts else "(interrupt)"), pc.state)
        return ""

    def _ask(self, question: Io) -> MachineAnswer:
        self._stats.questions[question.kind] += question.count
        answer = self.pc.answer(question)
        # A run's time counts engine time only: one that mostly asks questions would never get back to screen and keys.
        if not answer.stop and time.monotonic() >= self._next_look:
            return replace(answer, stop=True)
        return answer

    def _where(self) -> str:
        s = self.pc.state
        return f"{s.cs.selector:04x}:{s.eip:08x} (linear {s.cs.base + s.eip & 0xFFFFFFFF:#x})"

    def _look(self) -> None:
        screen = Screen.of(self.pc)
        if self._screen is None or screen != self._screen:
            self._screen = screen
            self._transcript.update(screen.text())
        self._console.show(self._screen, self._transcript)

    def _play(self) -> bool:
        """Continue the script as far as possible; True when it is done."""
        while self._steps:
            step = self._steps[0]
            if isinstance(step, Expect):
                if not self._expectation.find(step.text, self._transcript, self._serial):
                    return False
            elif isinstance(step, Send):
                self.pc.serial.receive(step.data)
            else:
                # Keys without an expectation before them wait until the guest reads the keyboard.
                if self._first_keys and not (self.pc.keys.asked or self.pc.waits):
                    return False
                self.pc.keyboard.type(list(step.keys))
            self._first_keys = False
            del self._steps[0]
        return True
