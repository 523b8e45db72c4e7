"""The client library: what a hypervisor's shim does, in Python.

::

    with Shim.connect("ipc:///run/x86-dm.sock", name="vm1") as shim:
        ram = Ram(1 << 20)
        block = shim.add_ram(ram)
        shim.set_map([Region(0, ram.size, Kind.RAM, block)])
        vcpu = shim.create_vcpu(0)
        done = vcpu.run(state, on_io=devices)       # state is brought up to date

A :class:`Shim` may be used from several threads.  A :class:`Vcpu` belongs to the thread that first runs it, since a
ZeroMQ socket never changes thread; only :meth:`Vcpu.kick` may be called from elsewhere.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import socket
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Final

import zmq

from dm.keys import Curve
from dm.protocol import codec, schema
from dm.protocol.codec import ProtocolError
from dm.protocol.schema import Cpuid, Error, ErrorClass, Io, Message, Region
from dm.shim.answer import Answer
from dm.shim.control import TIMEOUT, ControlSocket, MessageT
from dm.shim.endpoint import check, obstacle
from dm.shim.errors import Refused, SessionLost, ShimError
from dm.shim.pages import PAGE, Kept
from dm.shim.ram import Ram
from dm.shim.vcpu import Stats, Vcpu

#: Pause between two attempts to find a successor of the daemon, in seconds.
_PAUSE: Final = 0.05


class Shim:
    """A session with a daemon.  ``welcome`` is the daemon's answer: version, features, limits, engine."""

    welcome: schema.Welcome

    def __init__(
        self,
        endpoint: str,
        name: str = "",
        features: Sequence[str] = tuple(schema.FEATURES),
        curve: Curve | None = None,
    ) -> None:
        """Use :meth:`connect`."""
        self.endpoint = endpoint
        self.curve = curve
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.generation = 0
        self.vcpus: dict[int, Vcpu] = {}
        self._name, self._features = name, list(features)
        self._epoch = 0
        self._whole = True  # whether the session has all its RAM, map and vCPUs
        self._blocks: dict[int, Ram | Kept | tuple[str, int]] = {}
        self._by_messages = False  # whether any of them was ever a Kept
        self._state_ports: list[schema.PortRange] = []
        self._pages_lock = threading.Lock()  # patches and pages of all vCPUs
        #: Version up to which, without gaps, the guest's changes to RAM carried in messages have been applied.
        self.applied = 0
        self._ahead: set[int] = set()  # versions applied above a gap
        self._map: schema.Map | None = None
        self._control: ControlSocket

    @classmethod
    def connect(
        cls,
        endpoint: str,
        name: str = "",
        features: Sequence[str] = tuple(schema.FEATURES),
        timeout: float = TIMEOUT,
        curve: Curve | None = None,
        patience: float | None = None,
    ) -> Shim:
        """Open a session at a daemon's control endpoint.

        Args:
            endpoint: as given to ``x86-dm serve --listen``.
            name: the VM's, for logs.
            features: protocol features to use.
            timeout: seconds that the daemon may take to answer.
            curve: the keys for tcp.
            patience: how many of these seconds to wait for a daemon that is not there yet; None: all.

        Raises:
            Refused: the daemon refuses it.
            SessionLost: nobody serves the endpoint, or the daemon does not answer or does not know the keys.
            EndpointError: ``endpoint`` is not a valid endpoint.
            ShimError: tcp without keys.
        """
        check(endpoint)
        if curve is None and endpoint.startswith("tcp:"):
            raise ShimError(f"{endpoint}: tcp needs CURVE keys, and none are given")
        begin = time.monotonic()
        while (found := obstacle(endpoint)) is not None:
            if found.lasting or time.monotonic() + _PAUSE > begin + (timeout if patience is None else patience):
                raise SessionLost(found.why)
            time.sleep(_PAUSE)
        timeout = max(_PAUSE, begin + timeout - time.monotonic())
        shim = cls(endpoint, name, features, curve)
        try:
            shim._hello(0, timeout)
            shim._control.deadline = math.inf
        except BaseException:
            shim.close(bye=False)
            raise
        return shim

    @property
    def session(self) -> int:
        """The session's number."""
        return self.welcome.session

    @property
    def secret(self) -> bytes:
        """What proves to the daemon that another socket is this session's; empty before version 3."""
        return self.welcome.secret

    @property
    def lost(self) -> ShimError | None:
        """Why the session cannot be used any more, None while it can."""
        return self._control.lost

    @property
    def closing(self) -> bool:
        """Whether the daemon is shutting down: runs end, new ones are refused."""
        return self._control.closing

    def _hello(self, resume: int, timeout: float) -> None:
        self._epoch += 1
        self._control = control = ControlSocket(self.context, self.endpoint, self.curve)
        control.on_loss(self._wake_all)
        hello = schema.Hello(
            seq=0,
            min_version=schema.OLDEST,
            max_version=schema.VERSION,
            features=self._features,
            name=self._name,
            resume=resume,
            epoch=self._epoch,
            secret=self.secret if resume else b"",
        )
        control.deadline = time.monotonic() + timeout
        self.welcome = control.request(hello, schema.Welcome, timeout)
        control.keep_alive(self.welcome.session, self.welcome.timeout_ms / 1000)

    def _wake_all(self) -> None:
        for vcpu in list(self.vcpus.values()):
            vcpu.wake()

    def request(
        self,
        message: Message,
        kind: type[MessageT] = schema.Ok,  # type: ignore[assignment]
        timeout: float = TIMEOUT,
    ) -> MessageT:
        """Send a control request and return its answer within ``timeout`` seconds; ``seq``, ``session`` are filled in.

        Raises:
            Refused: the daemon refused it.
            SessionLost: the session is gone.
        """
        if self.lost is not None:
            raise self.lost
        message.session = self.session  # type: ignore[attr-defined]
        return self._control.request(message, kind, timeout)

    # ------------------------------------------------------------------------------------------ memory

    def add_ram(self, ram: Ram) -> int:
        """Share a block of RAM by its descriptor; returns the number that regions name it by."""
        number = self._new_block()
        self._share(number, ram)
        self._blocks[number] = ram
        return number

    def add_ram_file(self, path: str, size: int) -> int:
        """Share RAM that is a file below the daemon's memory path; returns the block's number."""
        number = self._new_block()
        self.request(schema.Ram(seq=0, session=0, ram=number, size=size, path=path))
        self._blocks[number] = (path, size)
        return number

    def add_ram_by_messages(self, view: mmap.mmap | bytearray) -> int:
        """Use RAM that the daemon cannot map; returns the block's number.

        Its pages are sent when the guest touches them and what it writes comes back with each exchange.  Changes made
        on this side are noticed when a run begins and with each answer; :meth:`Vcpu.kick` makes a run see them sooner.
        """
        number, kept = self._new_block(), Kept(view)
        self._keep(number, kept)
        self._blocks[number], self._by_messages = kept, True
        return number

    def _keep(self, number: int, kept: Kept) -> None:
        if "ram-messages" not in self.welcome.features:
            raise ShimError("this daemon does not support RAM carried in messages; share it by descriptor or by path")
        kept.forget()
        self.request(schema.Ram(seq=0, session=0, ram=number, size=len(kept), messages=True))

    def read_pages(self, io: Io) -> Answer:
        """Answer a ``memory-read``."""
        with self._pages_lock:
            applied = self.applied
            return Answer(self.kept(io.ram).read(io.address, io.size * io.count), applied=applied)

    def apply(self, patches: Sequence[schema.Patch], version: int) -> None:
        """Apply what the guest has changed in RAM carried in messages."""
        with self._pages_lock:
            for patch in patches:
                self.kept(patch.ram).patch(patch.offset, patch.data, version)
            self._ahead.add(version)
            while self.applied + 1 in self._ahead:
                self.applied += 1
                self._ahead.discard(self.applied)

    def kept(self, number: int) -> Kept:
        """Return a block carried in messages; ShimError if it is not one."""
        block = self._blocks.get(number)
        if not isinstance(block, Kept):
            raise ShimError(f"the daemon asks for RAM block {number}, which is not carried in messages")
        return block

    def changed(self) -> list[schema.PageRange]:
        """Return the pages carried in messages that have changed here since the daemon got them; they count as told."""
        if not self._by_messages:
            return []
        blocks = [(number, block) for number, block in self._blocks.items() if isinstance(block, Kept)]
        with self._pages_lock:
            return self._changed(blocks)

    def _changed(self, blocks: list[tuple[int, Kept]]) -> list[schema.PageRange]:
        found = [pages for number, block in blocks for pages in block.changed(number)]
        if len(found) > schema.MAX_PATCHES:
            found = [schema.PageRange(number, 0, len(block) // PAGE) for number, block in blocks]
            for _, block in blocks:
                block.forget()
        return found

    def set_state_ports(self, *ports: int | range) -> None:
        """Say which ports' devices read and change CPU registers (VMware's backdoor); replaces the previous list.

        Questions about them carry ``registers``, and so may their answers.

        Raises:
            ShimError: the daemon does not have the feature.
            Refused: the daemon refused it.
            SessionLost: the session is gone.
        """
        if "state-ports" not in self.welcome.features:
            raise ShimError("this daemon does not support state ports")
        self._state_ports = [
            schema.PortRange(port, port) if isinstance(port, int) else schema.PortRange(port.start, port.stop - 1)
            for port in ports
        ]
        self.request(schema.StatePorts(seq=0, session=0, ports=self._state_ports))

    def remove_ram(self, number: int) -> None:
        """Withdraw a block that the map no longer uses."""
        self.request(schema.RamRemove(seq=0, session=0, ram=number))
        self._blocks.pop(number, None)

    def _new_block(self) -> int:
        return max(self._blocks, default=0) + 1

    def _share(self, number: int, ram: Ram) -> None:
        """Send a descriptor over the RAM socket (ZeroMQ cannot pass any)."""
        if not self.welcome.ram_socket:
            raise ShimError("this daemon accepts no descriptors; share files below its memory path instead")
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as side:
            side.settimeout(max(_PAUSE, min(TIMEOUT, self._control.deadline - time.monotonic())))
            try:
                side.connect(self.welcome.ram_socket)
                message = schema.Ram(seq=1, session=self.session, ram=number, size=ram.size, secret=self.secret)
                socket.send_fds(side, [codec.encode(message)], [ram.fd])
                answer = codec.decode(side.recv(schema.MAX_CONTROL), schema.MAX_CONTROL)
            except (OSError, ProtocolError) as error:
                raise SessionLost(f"the RAM socket does not answer: {error}") from None
        if isinstance(answer, Error):
            raise Refused(answer)

    def next_map(self, regions: Sequence[Region], a20: bool = True) -> schema.Map:
        """Return a map with the next generation, to go with an :class:`Answer`; it counts as sent."""
        self.generation += 1
        self._map = schema.Map(self.generation, list(regions), a20)
        return self._map

    def set_map(self, regions: Sequence[Region], a20: bool = True) -> int:
        """Replace the memory map; returns its generation."""
        new = schema.Map(self.generation + 1, list(regions), a20)
        self.request(schema.MemoryMap(seq=0, session=0, map=new))
        self.generation, self._map = new.generation, new
        return new.generation

    # ------------------------------------------------------------------------------------------ vCPUs and life

    def create_vcpu(self, number: int, cpuid: Sequence[Cpuid] = (), model: str = "p6") -> Vcpu:
        """Create a vCPU with a ``model`` (p6, 80386, 80286) and a ``cpuid`` table, whose leaf 0 names the vendor.

        Without a table it gets the daemon's default, GenuineIntel, P6 class (dm.isa.parts).
        """
        create = schema.VcpuCreate(seq=0, session=0, vcpu=number, model=model, cpuid=list(cpuid))
        ready = self.request(create, schema.VcpuReady)
        vcpu = self.vcpus[number] = Vcpu(self, create, ready.endpoint)
        return vcpu

    def destroy_vcpu(self, number: int) -> None:
        """Destroy a vCPU; its run, if any, is abandoned."""
        self.request(schema.VcpuDestroy(seq=0, session=0, vcpu=number))
        self.vcpus.pop(number).close()

    def counters(self, timeout: float = TIMEOUT) -> schema.Counters:
        """Return the daemon's counters of this session, within ``timeout`` seconds."""
        return self.request(schema.Query(seq=0, session=0), schema.Counters, timeout)

    def stats(self) -> Stats:
        """Return this side's counters, summed over the vCPUs."""
        return sum((vcpu.stats for vcpu in self.vcpus.values()), Stats())

    def reconnect(self, timeout: float = TIMEOUT) -> bool:
        """Resume the session with new sockets and a new epoch.

        A run in progress continues: its request is sent again and answered from the daemon's record.  If the daemon no
        longer knows the session (it is another daemon), a new session gets the same RAM, map and vCPUs; a run that was
        in progress is then lost and raises :class:`~dm.shim.errors.RunLost`.  A daemon that is not there yet is waited
        for.

        Returns:
            Whether the session is still the old one.

        Raises:
            SessionLost: no daemon answers within ``timeout`` seconds.
            Refused: the daemon refuses it.
        """
        deadline = time.monotonic() + timeout
        while True:
            self._control.close()
            try:
                same = self._resume(max(_PAUSE, deadline - time.monotonic()))
                self._control.deadline = math.inf
                return same
            except SessionLost:  # this daemon is ending too, or has not ended yet: wait for its successor
                if time.monotonic() + _PAUSE >= deadline:
                    raise
            time.sleep(_PAUSE)

    def _resume(self, timeout: float) -> bool:
        """Make one attempt of :meth:`reconnect`."""
        if self._whole:
            try:
                self._hello(self.session, timeout)
            except Refused as refused:
                if refused.error.error is not ErrorClass.UNKNOWN_SESSION:
                    raise
                self._control.close()
            else:
                for vcpu in self.vcpus.values():
                    vcpu.renew(vcpu.endpoint, same=True)
                return True
        self._whole = False
        self._hello(0, timeout)
        self._rebuild()
        self._whole = True
        return False

    def _rebuild(self) -> None:
        """Give a new session all that the old one had."""
        self.applied = 0
        self._ahead.clear()
        for number, block in self._blocks.items():
            if isinstance(block, Ram):
                self._share(number, block)
            elif isinstance(block, Kept):
                self._keep(number, block)
            else:
                self.request(schema.Ram(seq=0, session=0, ram=number, path=block[0], size=block[1]))
        if self._map is not None:
            self.request(schema.MemoryMap(seq=0, session=0, map=self._map))
        if self._state_ports:
            self.request(schema.StatePorts(seq=0, session=0, ports=self._state_ports))
        for vcpu in self.vcpus.values():
            vcpu.renew(self.request(vcpu.create, schema.VcpuReady).endpoint, same=False)

    def close(self, bye: bool = True) -> None:
        """End the session; with ``bye`` False just vanish, as a crashed hypervisor does."""
        if hasattr(self, "_control"):
            if bye and self.lost is None and not self.closing and hasattr(self, "welcome"):
                with contextlib.suppress(ShimError):
                    self._control.session = 0  # no heartbeat may follow
                    self._control.request(schema.Bye(seq=0, session=self.session), schema.Ok, 2.0)
            self._control.close()
        for vcpu in self.vcpus.values():
            vcpu.close()
        self.vcpus.clear()
        self.context.term()

    def __enter__(self) -> Shim:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
