"""A vCPU as its thread has it: engine, state and memory map, the run under way, the last one's record."""

from __future__ import annotations

from typing import Final, Protocol

from dm.engine.api import Engine, MemoryMap
from dm.machine.architecture import Cr0
from dm.machine.state import GROUPS, EventType, State, get_group, group_layout
from dm.protocol import schema
from dm.protocol.codec import ProtocolError
from dm.protocol.schema import Emulate, ErrorClass, Groups, Message
from dm.server.memory.pages import PageCache
from dm.server.vcpu.run import Run, Slice

#: What a whole state differs from: groups that a shim leaves out are as after RESET.
RESET: Final[Groups] = {group: get_group(State.reset(), group) for group in GROUPS}

_CR0: Final = [name for name, _ in group_layout("control")].index("cr0")


class Owner(Protocol):
    """What a vCPU needs of its session."""

    number: int
    secret: bytes
    current: MemoryMap
    pages: PageCache
    state_ports: tuple[range, ...]

    @property
    def several(self) -> bool:
        """Whether there is more than one vCPU."""
        ...

    def pages_moved(self, by: int | None) -> None:
        """Pages of blocks by messages have come or gone: make the map anew; all vCPUs but number ``by`` are told."""
        ...

    def replace_map(self, wire: schema.Map, by: int | None) -> MemoryMap:
        """Check and take up a new map; all vCPUs but number ``by`` are told."""
        ...


class Processor:
    """One vCPU.  Of its thread alone, but for :attr:`run` and :attr:`counters`, which others may look at."""

    def __init__(self, owner: Owner, number: int, engine: Engine) -> None:
        self.owner, self.number, self.engine = owner, number, engine
        self.counters = schema.VcpuCounters(number, 0, 0, 0, 0, 0, 0, 0)
        self.gone = self.closing = self.paused = False
        self.give_up_at: float | None = None  # when an open question is waited for no more
        self.map: MemoryMap | None = None
        self.slice = Slice()
        self.run: Run | None = None
        self.last = 0  # number of the last run, whose answer was:
        self.record: Message | bytes | None = None
        self.known = False  # the engine has the state after run `last`, and as groups:
        self.groups: Groups = {}

    def take_map(self) -> None:
        """Take up the session's current memory map."""
        if self.map is not self.owner.current:
            self.map = self.owner.current
            self.engine.set_map(self.map)

    def submit(self, request: Emulate) -> Groups:
        """Give the engine the state a request submits, and return all its groups.

        Raises:
            ProtocolError: the base is not the last state, or the state cannot be (``unknown-base``, ``bad-state``).
        """
        given = request.state
        if request.base == 0:
            given = {**RESET, **given}
        elif request.base != self.last or not self.known:
            known = self.last if self.known else 0
            raise ProtocolError(
                ErrorClass.UNKNOWN_BASE,
                f"base is {request.base}",
                f"{known}, or 0 with a whole state" if known else "0, with a whole state",
                "base",
            )
        control = given.get("control") or self.groups["control"]
        if control[_CR0 : _CR0 + 1] and request.until is not schema.UntilWord.SVM_RAW and _paged_real(control[_CR0]):
            raise ProtocolError(
                ErrorClass.BAD_STATE,
                "cr0 has PG without PE, SVM's paged real mode",
                "until svm-raw for it, else PE with PG",
                "state",
            )
        self.known = False  # a state that is refused half-way leaves no base behind
        try:
            if given:  # otherwise the engine still has it
                self.engine.set_groups(given)
            if request.inject is not None:
                event = request.inject
                error = event.error if event.has_error else None
                self.engine.inject(EventType(event.type), event.vector, error=error, length=event.length)
        except ValueError as error:
            raise ProtocolError(ErrorClass.BAD_STATE, str(error), "see the state table", "state") from None
        if not given:
            return self.groups
        old = RESET if request.base == 0 else self.groups
        return {group: given[group][: len(values)] if group in given else values for group, values in old.items()}


def _paged_real(cr0: int | bytes) -> bool:
    """Return whether CR0 has PG without PE, as only a hypervisor can make it (APM vol. 2, 15.19)."""
    return isinstance(cr0, int) and cr0 & (Cr0.PG | Cr0.PE) == Cr0.PG
