"""State ports: ports whose device reads and changes CPU registers, as VMware's backdoor does."""

from __future__ import annotations

from typing import Final

from dm.engine.api import Engine, Exit, ExitReason
from dm.machine.state import Gpr
from dm.server.vcpu.run import Run

_PORTS: Final = frozenset({ExitReason.PORT_IN, ExitReason.PORT_OUT})


def shown_registers(engine: Engine, result: Exit, state_ports: tuple[range, ...]) -> list[int]:
    """Return the general registers for a question about a state port, else nothing."""
    if not state_ports or result.reason not in _PORTS:
        return []
    end = result.address + result.size
    if not any(result.address < ports.stop and ports.start < end for ports in state_ports):
        return []
    return engine.get_state().gpr


def set_registers(engine: Engine, run: Run) -> None:
    """Give the guest what a state port's device has changed, now that its instruction is complete.

    What the instruction itself has changed (string I/O: RSI, RDI, RCX) counts where the device changed nothing; of RAX
    the part that IN writes is the data's.
    """
    assert run.registers is not None
    (before, after, asked), run.registers = run.registers, None
    state = engine.get_state()
    own = (1 << 8 * asked.size) - 1 if asked.reason is ExitReason.PORT_IN and asked.count == 1 else 0
    for at, (old, new) in enumerate(zip(before, after, strict=False)):
        if new != old:
            keep = own if at == Gpr.AX else 0
            state.gpr[at] = new & ~keep | state.gpr[at] & keep
    engine.set_state(state)
