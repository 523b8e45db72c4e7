"""What the small PC needs from whoever runs its guest code, and the daemon behind that interface."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from dm.engine.api import MemoryMap
from dm.machine.state import State
from dm.protocol import schema
from dm.protocol.schema import Done, Io, Kind, Stop
from dm.shim import answer
from dm.shim.client import Shim
from dm.shim.errors import RunLost, SessionLost
from dm.shim.ram import Ram


@dataclass(frozen=True, slots=True)
class MachineAnswer:
    """The machine's answer to one question.

    ``data`` holds the bytes read, or the vector of an acknowledged interrupt; ``fault`` raises #GP(0) for an MSR;
    ``memory`` is a map that takes effect at once; ``window`` says whether an external interrupt is pending; ``stop``
    ends the run at the end of this instruction.
    """

    data: bytes = b""
    fault: bool = False
    memory: MemoryMap | None = None
    window: bool = False
    stop: bool = False


class VcpuBackend(Protocol):
    """One virtual CPU that runs elsewhere."""

    def run(
        self,
        state: State,
        memory: MemoryMap,
        *,
        window: bool,
        microseconds: int,
        ask: Callable[[Io], MachineAnswer],
        posted: Callable[[int, bytes], None],
        steps: int | None = None,
        stop_at: int | None = None,
    ) -> Done:
        """Run ``state`` until the guest needs its machine; ``state`` is brought up to date.

        Args:
            state: the whole CPU; an event to deliver first is in its ``inject_*`` fields.
            memory: the memory map; a generation seen before is not sent again.
            window: an external interrupt is pending: ask for its vector once it can be taken, deliver it and continue.
            microseconds: end with ``budget`` after running about this long.
            ask: answers the questions of the run.
            posted: takes writes that the guest has not waited for, before the question after them.
            steps: end with ``budget`` after this many instructions, or iterations of REP.
            stop_at: end with ``debug`` before the instruction at this linear address.

        Raises:
            ShimError: the daemon refused the run or is lost.
        """
        ...


class RemoteVcpu:
    """A vCPU in a daemon's session, whose memory map consists of one block of RAM.

    A :class:`Ram` is shared by its descriptor; of any other memory the pages travel in messages.
    """

    def __init__(
        self,
        shim: Shim,
        ram: Ram | mmap.mmap | bytearray,
        cpuid: Sequence[schema.Cpuid] = (),
        patience: float = 0.0,
        model: str = "p6",
    ) -> None:
        """Share ``ram``, or keep it here, and create vCPU 0 of a ``model``; ``cpuid`` empty means the default table.

        ``patience``: seconds to wait for a successor, at the same endpoint, of a daemon that has shut down or is gone.

        Raises:
            ShimError: the daemon refused it or is lost.
        """
        self._shim = shim
        self._block = shim.add_ram(ram) if isinstance(ram, Ram) else shim.add_ram_by_messages(ram)
        self._vcpu = shim.create_vcpu(0, cpuid, model)
        self._generation = -1
        self._patience = patience
        self.successions = 0  # how often another daemon has taken over

    def run(
        self,
        state: State,
        memory: MemoryMap,
        *,
        window: bool,
        microseconds: int,
        ask: Callable[[Io], MachineAnswer],
        posted: Callable[[int, bytes], None],
        steps: int | None = None,
        stop_at: int | None = None,
    ) -> Done:
        """See :meth:`Vcpu.run`.

        A daemon that is lost between two runs is replaced by its successor; a run that is lost in the middle is not
        repeated (:class:`~dm.shim.errors.RunLost`).
        """
        devices = self._devices(ask)
        if stop_at is not None and "stop-at" not in self._shim.welcome.features:
            stop_at, steps = None, 1  # an older daemon: the caller checks after each instruction
        while True:
            try:
                if memory.generation != self._generation:
                    self._shim.set_map(self._regions(memory), memory.a20)
                    self._generation = memory.generation
                return self._vcpu.run(
                    state,
                    steps=steps,
                    stop_at=stop_at,
                    microseconds=microseconds,
                    window=window,
                    acknowledge=True,
                    on_io=devices,
                    on_copy=devices,
                    on_posted=posted,
                )
            except RunLost:
                raise
            except SessionLost:
                if not self._patience:
                    raise
                self.successions += not self._shim.reconnect(self._patience)

    def _devices(self, ask: Callable[[Io], MachineAnswer]) -> Callable[[Io], answer.Answer]:
        """Return what answers questions as ``ask`` does, in the client's terms."""

        def on_io(io: Io) -> answer.Answer:
            given = ask(io)
            new = None
            if given.memory is not None:
                new = self._shim.next_map(self._regions(given.memory), given.memory.a20)
                self._generation = given.memory.generation
            stop = Stop.RESET if given.stop else Stop.NONE
            return answer.Answer(given.data, given.fault, new, given.window, stop)

        return on_io

    def _regions(self, memory: MemoryMap) -> list[schema.Region]:
        return [
            schema.Region(r.gpa, r.size, Kind[r.kind.name], 0 if r.memory is None else self._block, r.offset)
            for r in memory.regions
        ]
