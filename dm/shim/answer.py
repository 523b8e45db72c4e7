"""Answers to the questions of a run, and what is called for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from dm.protocol import schema
from dm.protocol.schema import Io, IoKind, Stop


@dataclass(slots=True)
class Answer:
    """Answer to a question.

    ``data`` are the bytes read.  ``fault`` raises #GP(0) (MSRs only).  ``map`` is a new memory map, already numbered by
    :meth:`dm.shim.client.Shim.next_map`.  ``window`` says whether an external interrupt is pending.  ``stop`` ends the
    run after this instruction.  ``registers`` are those of a state port after the access, as the question's; empty:
    none changed.  ``copied`` says how many elements of a copy have been copied, at least one; None: all.  ``native``:
    nothing has been done, the run ends before the instruction with ``hypervisor``; ``data`` is empty.
    """

    data: bytes = b""
    fault: bool = False
    map: schema.Map | None = None
    window: bool | None = None
    stop: Stop = Stop.NONE
    registers: Sequence[int] = ()
    copied: int | None = None
    native: bool = False
    applied: int | None = None  # of RAM carried in messages, set by the library


#: Called with each question except reports; returns the answer, or just the bytes read (None: none).
OnIo: TypeAlias = Callable[[Io], Answer | bytes | None]
#: Called with each coalesced write in order: guest-physical address, bytes.
OnPosted: TypeAlias = Callable[[int, bytes], None]
#: Called with page numbers (gpa >> 12) the guest has written.
OnPages: TypeAlias = Callable[[list[int]], None]


def no_devices(io: Io) -> Answer:
    """Answer as an empty bus: all ones; MSRs fault."""
    if io.kind in (IoKind.MSR_READ, IoKind.MSR_WRITE):
        return Answer(fault=True)
    return Answer(b"\xff" * (io.size * io.count) if io.kind in (IoKind.PORT_IN, IoKind.MMIO_READ) else b"")
