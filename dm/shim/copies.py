"""Copies from device to device, carried out as single reads and writes."""

from __future__ import annotations

from typing import Final

from dm.protocol.schema import Error, ErrorClass, Io, IoKind, Stop
from dm.shim.answer import Answer, OnIo
from dm.shim.errors import Refused

_M64: Final = (1 << 64) - 1


class Copy:
    """A copy in progress.  ``copied`` counts its elements up to the current one, which counts even if it raises."""

    def __init__(self, io: Io) -> None:
        self._io = io
        self.copied = 0

    def carry_out(self, on_io: OnIo, waits: bool) -> Answer:
        """Read and write all elements in order; ``waits`` says whether the daemon knows of a pending interrupt.

        It ends with the first answer that ends the run, changes the map or announces an interrupt.

        Raises:
            Refused: an answer does not fit, as the daemon would have said.
        """
        io = self._io
        step, whole = -io.size if io.down else io.size, Answer()
        for n in range(io.count):
            self.copied = n + 1
            read = _ask(_single(io, IoKind.MMIO_READ, io.address + n * step), on_io)
            wrote = _ask(_single(io, IoKind.MMIO_WRITE, io.target + n * step, read.data), on_io)
            for answer in (read, wrote):
                whole.map = whole.map if answer.map is None else answer.map
                whole.window = whole.window if answer.window is None else answer.window
                whole.stop = whole.stop if answer.stop is Stop.NONE else answer.stop
            if whole.stop is not Stop.NONE or whole.map is not None or (whole.window and not waits):
                whole.copied = n + 1
                break
        return whole


def _single(io: Io, kind: IoKind, address: int, data: bytes = b"") -> Io:
    """Return one access of a copy as a question of its own."""
    return Io(
        session=io.session,
        vcpu=io.vcpu,
        epoch=io.epoch,
        seq=io.seq,
        io=io.io,
        kind=kind,
        address=address & _M64,
        size=io.size,
        data=data,
        instructions=io.instructions,
        steps=io.steps,
        checkpoint=io.checkpoint,
    )


def _ask(io: Io, on_io: OnIo) -> Answer:
    """Return the answer to one access of a copy.

    Raises:
        Refused: it does not fit, as the daemon would have said.
    """
    given = on_io(io)
    answer = given if isinstance(given, Answer) else Answer(given or b"")
    wanted = io.size if io.kind is IoKind.MMIO_READ else 0
    if answer.native:
        text, expected = f"native answers {IoKind.MEMORY_COPY}", "only for ports, MMIO and MSRs"
        raise Refused(Error(error=ErrorClass.BAD_ANSWER, text=text, expected=expected, field="native", seq=io.seq))
    if len(answer.data) != wanted or answer.fault:
        text = f"fault answers {io.kind}" if answer.fault else f"data has {len(answer.data)} bytes"
        field = "fault" if answer.fault else "data"
        expected = "only for MSRs" if answer.fault else f"{wanted} for {io.kind} of 1 x {io.size}"
        raise Refused(Error(error=ErrorClass.BAD_ANSWER, text=text, expected=expected, field=field, seq=io.seq))
    return answer
