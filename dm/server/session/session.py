"""A session in its worker: guest RAM, the memory map, and the vCPUs."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import zmq

from dm.engine.api import CpuConfig, CpuidEntry, Engine, MemoryMap
from dm.keys import Keys
from dm.protocol import schema
from dm.protocol.codec import ProtocolError
from dm.protocol.schema import ErrorClass, Message
from dm.server.admission import Admission
from dm.server.limits import SessionLimits
from dm.server.memory import guard
from dm.server.memory.blocks import GuestMap, RamBlocks
from dm.server.memory.pages import CopiedBlock, PageCache
from dm.server.run_table import RunTable
from dm.server.vcpu.endpoint import Endpoint, IpcEndpoint, TcpEndpoint
from dm.server.vcpu.thread import VcpuThread

_log = logging.getLogger(__name__)

#: How long a vCPU thread may take to end, in seconds; then it is left behind.
_JOIN: Final = 3.0
_MODELS: Final = ("p6", "80386", "80286")


class WorkerSession:
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
        key of the only client that may connect.  Runs are recorded in ``runs``.  ``features`` are those of the session,
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
        self._vcpus: dict[int, VcpuThread] = {}
        self._paused = False

    def replace_map(self, wire: schema.Map, by: int | None) -> MemoryMap:
        """Check and install a new map, and tell all vCPUs but number ``by``.

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
        """Refuse a map that would take too long to install in all vCPUs."""
        most = self._limits.regions
        if regions * vcpus > most:
            text = f"a map of {regions} regions for {vcpus} vCPUs"
            raise ProtocolError(ErrorClass.LIMIT, text, f"at most {most} regions times vCPUs (--max-regions)", field)

    def pages_moved(self, by: int | None) -> None:
        """Pages of blocks carried in messages have come or gone: tell all vCPUs but number ``by``."""
        with self._lock:
            self._map.renew()
            self.current = self._map.engine
        self._tell(by)

    @property
    def several(self) -> bool:
        """Whether there is more than one vCPU."""
        return len(self._vcpus) > 1

    @property
    def memory_lost(self) -> str:
        """What guest RAM has been lost, in words; empty if none."""
        return guard.lost()

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
                if isinstance(gone, CopiedBlock):
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
        vcpu = VcpuThread(self._context, self, number, self._endpoint(number), engine, self._runs)
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
        """Stop or resume all runs; return, once that is done, the vCPUs that do not obey."""
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
        """End all vCPUs; if orderly, every shim gets its state back first."""
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
