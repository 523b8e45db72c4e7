"""The worker: one process per session, started by exec, so that one VM can neither read nor slow another.

Its main thread serves the line to the supervisor (:mod:`dm.server.worker_line`): the shim's control requests about
RAM, maps and vCPUs, and the supervisor's own.  Each vCPU has a thread (:mod:`dm.server.vcpu.vcpu`).
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import zmq

from dm.engine.api import CpuConfig, CpuidEntry, Engine, MemoryMap
from dm.keys import Keys
from dm.protocol import codec, schema
from dm.protocol.codec import ProtocolError
from dm.protocol.schema import ErrorClass, Message
from dm.server import log, logfile, signals, worker_line
from dm.server.admission import Admission, draw_names
from dm.server.limits import SessionLimits
from dm.server.memory import guard
from dm.server.memory.blocks import GuestMap, RamBlocks
from dm.server.memory.pages import Block, PageCache
from dm.server.run_table import RunTable
from dm.server.vcpu import exchange
from dm.server.vcpu.endpoint import Endpoint, IpcEndpoint, TcpEndpoint
from dm.server.vcpu.vcpu import Vcpu

_log = logging.getLogger(__name__)

#: Counters go to the supervisor this often while they change, in milliseconds.
_REPORT_MS: Final = 200
#: A vCPU thread that has not ended so long after it was told is left behind, in seconds.
_JOIN: Final = 3.0
_MODELS: Final = ("p6", "80386", "80286")


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """An engine: its name, why this one, and what makes one."""

    name: str
    why: str
    create: Callable[[CpuConfig], Engine]


def find_engine(name: str) -> EngineChoice:
    """Return the engine of that name: ``native``, ``python``, ``auto`` for the one in use, or ``module:function``.

    Raises:
        ImportError: there is no such module or function.
        RuntimeError: it, or with ``native`` the exchange in C, cannot be used; the text says why.
    """
    module, colon, function = name.partition(":")
    if colon:
        factory = getattr(importlib.import_module(module), function, None)
        if factory is None:
            raise ImportError(f"module {module} has no {function}")
        return EngineChoice(name, "given as module:function", factory)
    import dm.engine

    why = "asked for"
    if name == "auto":
        name, why = dm.engine.engine_in_use()
        usable, why_not = exchange.status()
        if name == "native" and not usable:
            why = f"{why}; exchanges are made in Python: {why_not}"
    elif name == "native":
        for usable, why_not in (dm.engine.native_status(), exchange.status()):
            if not usable:
                raise RuntimeError(why_not)
    return EngineChoice(name, why, lambda config: dm.engine.create(name, config))


class Session:
    """The session this worker serves."""

    def __init__(
        self,
        number: int,
        endpoints: list[Any],
        factory: Callable[[CpuConfig], Engine],
        runs: RunTable,
        features: Sequence[str] = (),
        secret: bytes = b"",
        limits: SessionLimits | None = None,
    ) -> None:
        """``endpoints`` says where the vCPUs' endpoints go.

        Either the daemon's own directory, or for tcp the address, the daemon's public and secret key, and the public
        key of the only client that may connect.  Runs are noted in ``runs``.  ``features`` are those of the session,
        and so is ``secret``: whoever comes with a new socket must know it; without one nobody can.
        """
        self.number, self.secret = number, secret
        self._limits = limits or SessionLimits()
        self.current = MemoryMap(0, ())
        self.pages = PageCache()
        self.state_ports: tuple[range, ...] = ()
        self._map = GuestMap(self.current, [])
        self._regions = 0
        self._factory, self._runs = factory, runs
        self._copies = "memory-copy" in features
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
        self._admission: Admission | None = None
        self._where, *secrets = endpoints
        if secrets:
            self._keys = Keys(*secrets[:2])
            self._admission = Admission(self._context, secrets[2:])
        self._blocks = RamBlocks(self._limits.ram)
        self._lock = threading.Lock()  # maps come from the control line and from any vCPU's answers
        self._vcpus: dict[int, Vcpu] = {}
        self._paused = False

    def replace_map(self, wire: schema.Map, by: int | None) -> MemoryMap:
        """Check and take up a new map; all vCPUs but number ``by`` are told.

        Raises:
            ProtocolError: its generation is not newer, or it is not acceptable.
        """
        with self._lock:
            if wire.generation <= self.current.generation:
                raise ProtocolError(
                    ErrorClass.BAD_GENERATION,
                    f"generation is {wire.generation}",
                    f"above {self.current.generation}",
                    "map.generation",
                )
            self._check_size(len(wire.regions), len(self._vcpus), "map.regions")
            self._map = self._blocks.build(wire)
            self._regions = len(wire.regions)
            self.pages.use(self._map.paged)
            self.current = self._map.engine
        self._tell(by)
        return self.current

    def _check_size(self, regions: int, vcpus: int, field: str) -> None:
        """Refuse a map of which it takes too long until all vCPUs have it."""
        most = self._limits.regions
        if regions * vcpus > most:
            text = f"a map of {regions} regions for {vcpus} vCPUs"
            raise ProtocolError(ErrorClass.LIMIT, text, f"at most {most} regions times vCPUs (--max-regions)", field)

    def pages_moved(self, by: int | None) -> None:
        """Pages of blocks by messages have come or gone: all vCPUs but number ``by`` are told."""
        with self._lock:
            self._map.renew()
            self.current = self._map.engine
        self._tell(by)

    @property
    def several(self) -> bool:
        """Whether there is more than one vCPU."""
        return len(self._vcpus) > 1

    def _tell(self, but: int | None) -> None:
        for vcpu in list(self._vcpus.values()):
            if vcpu.number != but:
                vcpu.new_map()

    def handle(self, message: Message, fd: int) -> Message:
        """Carry out one control request and return its answer.

        Raises:
            ProtocolError: it is refused; nothing has changed.
        """
        match message:
            case schema.Ram():
                with self._lock:
                    if message.messages:
                        self.pages.add(self._blocks.add_by_messages(message.ram, message.size))
                    else:
                        self._blocks.add(message.ram, fd, message.size)
            case schema.RamRemove():
                with self._lock:
                    gone = self._blocks.remove(message.ram, self._map)
                if isinstance(gone, Block):
                    self.pages.forget(gone)
            case schema.StatePorts():
                self._set_state_ports(message)
            case schema.MemoryMap():
                self.replace_map(message.map, None)
            case schema.VcpuCreate():
                return self._create(message)
            case schema.VcpuDestroy():
                self._destroy(message.vcpu)
            case schema.Query():
                counters = [vcpu.counters for vcpu in list(self._vcpus.values())]
                return schema.Counters(
                    seq=message.seq, session=self.number, generation=self.current.generation, vcpus=counters
                )
            case _:
                raise ProtocolError(
                    ErrorClass.BAD_MESSAGE, f"{message.NAME} came to the control endpoint", "a control request", "type"
                )
        return schema.Ok(seq=message.seq, session=self.number)

    def _set_state_ports(self, message: schema.StatePorts) -> None:
        for index, ports in enumerate(message.ports):
            if ports.last < ports.first:
                where = f"ports[{index}].last"
                raise ProtocolError(ErrorClass.BAD_MESSAGE, f"last is {ports.last}", f"at least {ports.first}", where)
        self.state_ports = tuple(range(ports.first, ports.last + 1) for ports in message.ports)
        self._tell(None)  # their exchanges in C have the old ones

    def _create(self, request: schema.VcpuCreate) -> schema.VcpuReady:
        number = request.vcpu
        if number >= self._limits.vcpus:
            raise ProtocolError(ErrorClass.LIMIT, f"vcpu is {number}", f"below {self._limits.vcpus}", "vcpu")
        if number in self._vcpus:
            raise ProtocolError(ErrorClass.BUSY, f"vCPU {number} exists", "a number not in use", "vcpu")
        self._check_size(self._regions, len(self._vcpus) + 1, "vcpu")
        if request.model not in _MODELS:
            raise ProtocolError(
                ErrorClass.BAD_MESSAGE, f"model is {request.model!r}", "one of " + ", ".join(_MODELS), "model"
            )
        rows = tuple(CpuidEntry(r.leaf, r.subleaf, r.eax, r.ebx, r.ecx, r.edx) for r in request.cpuid)
        try:
            engine = self._factory(CpuConfig(rows, request.model, self._copies))
        except ValueError as error:
            raise ProtocolError(ErrorClass.BAD_MESSAGE, f"the engine refuses: {error}", "", "cpuid") from None
        vcpu = Vcpu(self._context, self, number, self._endpoint(number), engine, self._runs)
        if self._paused:
            vcpu.pause(True)
        try:
            vcpu.start()
        except OSError as error:
            raise ProtocolError(ErrorClass.INTERNAL, str(error)) from None
        with self._lock:
            self._vcpus[number] = vcpu
        return schema.VcpuReady(seq=request.seq, session=self.number, vcpu=number, endpoint=vcpu.endpoint)

    def _endpoint(self, vcpu: int) -> Endpoint:
        if self._admission is not None:
            return TcpEndpoint(self._where, self._keys)
        return IpcEndpoint(f"{self._where}/vcpu-{self.number}-{vcpu}")

    def _destroy(self, number: int) -> None:
        vcpu = self._vcpus.get(number)
        if vcpu is None:
            raise ProtocolError(ErrorClass.UNKNOWN_VCPU, f"there is no vCPU {number}", "one that was created", "vcpu")
        vcpu.abort()
        if not vcpu.join(_JOIN):
            raise ProtocolError(ErrorClass.INTERNAL, f"vCPU {number} does not stop")
        with self._lock:
            del self._vcpus[number]

    def pause(self, paused: bool) -> list[int]:
        """Hold all runs, or let them go on; return, once that is so, the vCPUs that do not obey."""
        self._paused = paused
        deadline = time.monotonic() + _JOIN
        waits = [(vcpu.number, vcpu.pause(paused)) for vcpu in self._vcpus.values()]
        return [number for number, done in waits if not done.wait(max(0.0, deadline - time.monotonic()))]

    def counters(self) -> list[list[Any]]:
        """Return what the supervisor shows of each vCPU: number, what it does, requests, instructions, io."""
        return [
            [v.number, v.doing, v.counters.requests, v.counters.instructions, v.counters.io]
            for v in self._vcpus.values()
        ]

    def end(self, orderly: bool) -> None:
        """End all vCPUs; in order, every shim gets its state back first."""
        for vcpu in self._vcpus.values():
            vcpu.close() if orderly else vcpu.abort()
        deadline = time.monotonic() + _JOIN
        ended = [vcpu.join(max(0.0, deadline - time.monotonic())) for vcpu in self._vcpus.values()]
        if self._admission is not None:
            self._admission.close()
        if all(ended):
            self._context.term()  # waits for the last messages as long as the sockets linger
        else:
            _log.error("a vCPU does not stop; left behind")


def _answer(session: Session, datagram: worker_line.Datagram) -> bytes:
    """Return the encoded answer to a shim's request."""
    try:
        message = codec.decode(datagram.body, schema.MAX_CONTROL)
        try:
            return codec.encode(session.handle(message, datagram.fd))
        except ProtocolError as error:
            return codec.encode(error.message(seq=message.seq, session=session.number))  # type: ignore[attr-defined]
        except Exception as error:
            _log.exception("%s failed", message.NAME)
            refusal = ProtocolError(ErrorClass.INTERNAL, f"{message.NAME} failed: {type(error).__name__}: {error}")
            return codec.encode(refusal.message(seq=message.seq, session=session.number))  # type: ignore[attr-defined]
    except ProtocolError as error:
        return codec.encode(error.message(session=session.number))
    finally:
        if datagram.fd >= 0:
            os.close(datagram.fd)


def serve(session: Session, line: socket.socket) -> None:
    """Serve the supervisor until it says ``close`` or ``abort``, or is gone (then in order, as if it had closed).

    Raises:
        LineError: the supervisor asks for what there is not.
    """
    reported: list[list[Any]] = []
    memory_lost = False
    due = time.monotonic()
    poller = select.poll()
    poller.register(line, select.POLLIN)
    while True:
        ready = poller.poll(_REPORT_MS)
        if time.monotonic() >= due:
            due = time.monotonic() + _REPORT_MS / 1000
            now = session.counters()
            if now != reported:
                worker_line.send(line, "counters", 0, now)
                reported = now
            if guard.lost() and not memory_lost:
                worker_line.send(line, "memory-lost", 0, codec.clip(guard.lost(), 512))
                memory_lost = True
        if not ready:
            continue
        datagram = worker_line.receive(line)
        if datagram is None:
            _log.warning("the supervisor is gone; ending in order")
            session.end(orderly=True)
            return
        match datagram.operation:
            case "message":
                worker_line.send(line, "reply", datagram.tag, _answer(session, datagram))
            case "pause":
                worker_line.send(line, "paused", datagram.tag, session.pause(datagram.body))
            case "log":
                logfile.use(datagram.fd)
            case "close" | "abort":
                session.end(orderly=datagram.operation == "close")
                return
            case operation:
                raise worker_line.LineError(f"there is no operation {operation!r}")


def main(argv: list[str] | None = None) -> int:
    """Run a worker; returns its exit status."""
    parser = argparse.ArgumentParser(prog="x86-dm worker", description="Serves one session; started by the daemon.")
    parser.add_argument("--fd", type=int, required=True, help="descriptor of the line to the supervisor")
    parser.add_argument("--session", type=int, required=True, help="session number")
    parser.add_argument("--features", default="", help="what the shim and the daemon both can, with commas")
    parser.add_argument("--engine", required=True, help="engine, or module:factory")
    parser.add_argument("--log-level", default="warning")
    args = parser.parse_args(argv)
    log.set_up(args.log_level, f"session {args.session}: ")
    signals.leave_to_supervisor()
    draw_names()
    os.umask(0o077)
    guard.install()
    # A thread that runs Python would otherwise hold the GIL 5 ms and turn a round trip of 60 us into that.
    sys.setswitchinterval(50e-6)
    with socket.socket(fileno=args.fd) as line:
        try:
            engine = find_engine(args.engine)
            probe = engine.create(CpuConfig())  # loads what it needs before the shim is welcomed
            name = probe.name
            probe.close()
        except Exception as error:
            worker_line.send(line, "failed", 0, codec.clip(f"engine {args.engine}: {error}", 512))
            return 1
        task = worker_line.receive(line)
        if task is None:
            return 1
        log.set_up(args.log_level, f"{task.body['name']}: ")
        features = args.features.split(",")
        runs, limits = RunTable(task.fd), SessionLimits(**task.body["limits"])
        endpoints, secret = task.body["endpoints"], task.body["secret"]
        session = Session(args.session, endpoints, engine.create, runs, features, secret, limits)
        try:
            worker_line.send(line, "ready", 0, [codec.clip(name, 64), codec.clip(engine.why, 512)])
            serve(session, line)
        except (BrokenPipeError, ConnectionResetError):
            _log.warning("the supervisor is gone; ending in order")
            session.end(orderly=True)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
