"""What the small PC needs from whoever runs its guest code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from dm.engine.api import Exit, MemoryMap
from dm.machine.state import State


@dataclass(frozen=True, slots=True)
class Answer:
    """The machine's answer to one question (port, MMIO or MSR access).

    ``data`` holds the bytes read; ``fault`` raises #GP(0) for an MSR; ``memory`` is a map that takes effect at once;
    ``stop`` ends the run at the end of this instruction.
    """

    data: bytes = b""
    fault: bool = False
    memory: MemoryMap | None = None
    stop: bool = False


class Vcpu(Protocol):
    """One virtual CPU that lives elsewhere."""

    def run(
        self,
        state: State,
        memory: MemoryMap,
        *,
        window: bool,
        microseconds: int,
        ask: Callable[[Exit], Answer],
    ) -> Exit:
        """Run ``state`` until the guest needs its machine; ``state`` is changed in place.

        Args:
            state: the whole CPU; an event to inject is in its ``inject_*`` fields.
            memory: the memory map; a generation seen before is not sent again.
            window: end as soon as an external interrupt could be taken.
            microseconds: end with ``budget`` after about this time.
            ask: answers the questions that come up on the way.

        Returns:
            An exit that is no question.

        Raises:
            ConnectionError: the daemon is lost.
        """
        ...
