"""Python's side of a vCPU's state machine in C, which does the usual part of :mod:`dm.server.vcpu.core`.

``native/exchange.c`` waits, takes in requests and answers, runs the native engine, asks and answers, without the
interpreter and its lock.  What is not exactly as usual it leaves to the machine in Python, which
has everything, and continues the run afterwards (:mod:`dm.server.vcpu.crossing`).  Both have the same results to
the byte.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from functools import cache
from typing import Any, Final

import zmq

from dm import extension
from dm.engine.api import QUESTIONS, Engine, ExitReason
from dm.machine.rules import POLICIES
from dm.protocol import libzmq, schema
from dm.protocol.schema import DoneReason, IoKind, Until
from dm.server.memory import guard
from dm.server.run_table import RunTable

_REBUILD: Final = "python -m dm.server.vcpu.native.build (in an installation: reinstall x86-dm)"
#: Exits that C handles: questions to a device, and ends that need no text.
_ASKED: Final = QUESTIONS - {ExitReason.MEMORY_COPY}
_IN_WORDS: Final = frozenset({ExitReason.UNSUPPORTED, ExitReason.MEMORY_LOST})


class Cause(IntEnum):
    """Why C has given the vCPU back: enum dx_cause of exchange.h."""

    CALLS = 1
    MESSAGE = 2
    EXIT = 3
    END = 4
    UNSENT = 5
    ERROR = 6


@cache
def status() -> tuple[bool, str]:
    """Return whether exchanges can be made in C, and why (not)."""
    from dm.server.vcpu.native import generate

    def made_from() -> str:
        from dm.server.vcpu import _exchange

        return str(_exchange.ffi.string(_exchange.lib.dx_sources()).decode())

    usable, why = extension.status("the exchange", made_from, generate.digest, _REBUILD)
    if not usable:
        return False, why
    try:
        libzmq.functions()
    except LookupError as error:
        return False, str(error)
    return True, why


class Exchange:
    """One vCPU's exchanges.  They belong to its thread, except ``c.called`` and the counters."""

    def __init__(self, engine: Engine, session: int, vcpu: int, runs: RunTable | None, reset: schema.Groups) -> None:
        """For a native engine, as :func:`status` allows; ``reset`` is the state after RESET.

        Raises:
            MemoryError: no memory for it.
            ValueError: the extension knows states of another size than the engine.
        """
        from dm.engine import native_engine
        from dm.server.vcpu import _exchange

        assert isinstance(engine, native_engine.NativeEngine)
        self._ffi: Any = _exchange.ffi
        self._lib: Any = _exchange.lib
        made = self._lib.dx_new()
        if not made:
            raise MemoryError("no memory for a vCPU")
        self.c: Any = self._ffi.gc(made, self._lib.dx_free)
        self.engine = engine
        self.inside = False
        if self.c.wire_size != native_engine.WIRE_SIZE:
            raise ValueError(f"the exchange knows states of {self.c.wire_size} bytes, not {native_engine.WIRE_SIZE}")
        self._ports: Any = None
        self._ranges: tuple[range, ...] = ()
        self._runs: Any = None
        c, links = self.c, self.c.links
        c.session, c.vcpu = session, vcpu
        for name, address in engine.links().items():
            setattr(links, name, self._ffi.cast("void *", address))
        links.zmq = [self._ffi.cast("void *", address) for address in libzmq.functions().values()]
        links.lost = self._ffi.cast("int *", guard.lost_address())
        self._runs = self._ffi.from_buffer("uint8_t[]", runs.bytes if runs is not None else bytearray(vcpu + 1))
        links.runs = self._runs + vcpu
        self._set_words(native_engine.REASONS)
        self._ffi.memmove(c.reset, engine.pack(reset), c.wire_size)

    def _set_words(self, reasons: Iterable[ExitReason]) -> None:
        words, kinds, ends, numbers = self.c.words, list(IoKind), list(DoneReason), list(reasons)
        for number, reason in enumerate(numbers):
            asks = reason in _ASKED
            words.kinds[number] = kinds.index(IoKind(reason)) if asks else -1
            ended = not asks and reason not in QUESTIONS | _IN_WORDS
            words.ends[number] = ends.index(DoneReason(reason)) if ended else -1
        for number, kind in enumerate(kinds):
            words.reads[number] = kind in (IoKind.PORT_IN, IoKind.MMIO_READ, IoKind.MSR_READ)
            words.ports[number] = kind in (IoKind.PORT_IN, IoKind.PORT_OUT)
        for number, word in enumerate(Until):
            words.policies[number] = POLICIES[word]
        words.exit_budget = numbers.index(ExitReason.BUDGET)
        words.exit_kicked = numbers.index(ExitReason.KICKED)
        words.exit_window = numbers.index(ExitReason.INTERRUPT_WINDOW)
        words.until_never = list(Until).index(Until.NEVER)
        words.until_raw = list(Until).index(Until.SVM_RAW)

    def attach(self, socket: zmq.Socket[bytes], wake: int, slice_ns: int, most_slice: int, posted_ns: int) -> None:
        """Use this socket, and this eventfd that announces calls.

        Slices take ``slice_ns``, at most ``most_slice`` steps; posted writes wait for an exchange up to ``posted_ns``.
        """
        links, descriptor = self.c.links, socket.getsockopt(zmq.FD)
        links.socket = self._ffi.cast("void *", socket.underlying)
        links.zmq_fd, links.wake_fd = descriptor, wake
        self.c.slice_ns, self.c.most_slice, self.c.posted_ns = slice_ns, most_slice, posted_ns

    def state_ports(self, ranges: tuple[range, ...]) -> None:
        """Leave questions about these ports to Python."""
        if ranges is not self._ranges:
            rows = [(ports.start, ports.stop - 1) for ports in ranges]
            self._ranges, self._ports = ranges, self._ffi.new("struct dx_ports[]", rows)
            self.c.state_ports, self.c.state_port_count = self._ports, len(rows)

    def serve(self) -> Cause:
        """Carry out exchanges until there is something for Python."""
        self.inside = True
        try:
            return Cause(self._lib.dx_serve(self.c))
        finally:
            self.inside = False

    def read(self, data: Any, size: int) -> bytes:
        """Return bytes that C has."""
        return bytes(self._ffi.buffer(data, size))

    def pages(self) -> list[int]:
        """Return the pages that the run has written and not reported; they may repeat."""
        count = self.c.run.page_count
        return self._ffi.unpack(self.c.pages, count) if count else []

    def set_pages(self, pages: Iterable[int]) -> None:
        """Give the run's pages to C; at most ``c.most_pages``."""
        count = 0
        for count, page in enumerate(pages, 1):
            self.c.pages[count - 1] = page
        self.c.run.page_count = count

    def set_before(self, groups: schema.Groups) -> None:
        """Tell C the state that the run was submitted with."""
        self._ffi.memmove(self.c.before, self.engine.pack(groups), self.c.wire_size)

    def before(self) -> schema.Groups:
        """Return the state that the run was submitted with."""
        return self.engine.unpack(self.read(self.c.before, self.c.wire_size))

    def exit_address(self) -> int:
        """Return where the engine's last exit is."""
        return int(self._ffi.cast("uintptr_t", self.c.exit))
