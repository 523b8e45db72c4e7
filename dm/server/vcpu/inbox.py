"""What comes in for a vCPU: calls of the worker's other threads, and the shim's messages, checked and acted upon."""

from __future__ import annotations

import logging
from typing import Final

from dm.protocol import codec, schema
from dm.protocol.codec import ProtocolError
from dm.protocol.schema import Emulate, ErrorClass, Io, IoAnswer, IoKind, Kick, Message, Reason, Stop
from dm.server.vcpu.calls import Calls
from dm.server.vcpu.processor import Processor
from dm.server.vcpu.router import Router
from dm.server.vcpu.run import Run

_log = logging.getLogger(__name__)

#: Messages a vCPU takes in at one look; a flood never starves the guest.
_BURST: Final = 16

_READS: Final = frozenset({IoKind.PORT_IN, IoKind.MMIO_READ, IoKind.MSR_READ, IoKind.MEMORY_READ})
_MSRS: Final = frozenset({IoKind.MSR_READ, IoKind.MSR_WRITE})
_ACCESSES: Final = _MSRS | {IoKind.PORT_IN, IoKind.PORT_OUT, IoKind.MMIO_READ, IoKind.MMIO_WRITE}
_UNDERSTOOD: Final = (Emulate, IoAnswer, Kick)


class Inbox:
    """What one vCPU's thread attends to."""

    def __init__(self, processor: Processor, calls: Calls, router: Router) -> None:
        self._processor, self._owner, self._calls, self._router = processor, processor.owner, calls, router

    def attend(self, timeout: int | None) -> None:
        """Carry out queued calls, or take in a message; wait up to ``timeout`` ms (None: for ever) for the first."""
        calls, router = self._calls, self._router
        if calls.carry_out() or (router.news() and self.take_message()):
            return
        ready = router.waiter.wait(timeout)
        if any(descriptor == calls.wake for descriptor, _ in ready):
            calls.quiet()
        if ready and not calls.carry_out():
            self.take_message()

    def look(self) -> None:
        """Take in messages that have come while the engine ran; a flood never starves the guest."""
        for _ in range(_BURST):
            if not (self._router.news() and self.take_message()):
                return

    def take_message(self) -> bool:
        """Take in the next message; return whether there was one."""
        came = self._router.receive()
        if came is None:
            return False
        self.handle(*came)
        return True

    def handle(self, identity: bytes, data: bytes, parts: int) -> None:
        """Act on a message; of one with several parts ``data`` is the last."""
        processor, session = self._processor, self._owner.number
        processor.counters.bytes_in += len(data)
        try:
            if parts != 1:
                raise ProtocolError(ErrorClass.BAD_MESSAGE, f"the message has {parts} parts", "one part")
            message = codec.decode(data)
            try:
                self._dispatch(identity, message)
            except ProtocolError as error:
                error.partial.setdefault("seq", getattr(message, "seq", 0))
                raise
        except ProtocolError as error:
            _log.debug("vCPU %d: refused: %s", processor.number, error)
            known = {"session": session, "vcpu": processor.number, "epoch": self._router.epoch}
            self._router.send(identity, error.message(**known))

    def _dispatch(self, identity: bytes, message: Message) -> None:
        session, number = self._owner.number, self._processor.number
        if not isinstance(message, _UNDERSTOOD):
            raise ProtocolError(
                ErrorClass.BAD_MESSAGE,
                f"{message.NAME} came to a vCPU's endpoint",
                "emulate, io-answer or kick",
                "type",
            )
        if message.session != session:
            raise ProtocolError(ErrorClass.UNKNOWN_SESSION, f"session is {message.session}", str(session), "session")
        if message.vcpu != number:
            raise ProtocolError(ErrorClass.UNKNOWN_VCPU, f"vcpu is {message.vcpu}", str(number), "vcpu")
        self._router.check_epoch(identity, message)
        match message:
            case Emulate():
                self._on_emulate(message)
            case IoAnswer():
                self._on_answer(message)
            case Kick():
                self._on_kick(message)

    def _on_emulate(self, request: Emulate) -> None:
        processor, run = self._processor, self._processor.run
        if run is not None:
            if request.seq != run.request.seq:
                raise ProtocolError(ErrorClass.BUSY, f"run {run.request.seq} is under way", "to wait for its done")
            if run.question is not None and run.answer is None:
                self._router.reply(run.question)  # the question was lost with the old socket
            return
        if request.seq == processor.last and processor.record is not None:
            if isinstance(processor.record, bytes):
                processor.record = codec.decode(processor.record)
            self._router.reply(processor.record)
            return
        if request.seq <= processor.last:
            raise ProtocolError(ErrorClass.STALE_SEQUENCE, f"seq is {request.seq}", f"above {processor.last}", "seq")
        if processor.closing:
            raise ProtocolError(
                ErrorClass.SHUTTING_DOWN, "the vCPU was closed: its daemon ends or is gone", "another daemon"
            )
        if request.reason is Reason.MMIO and request.mmio is None:
            raise ProtocolError(ErrorClass.BAD_MESSAGE, "reason is mmio without an address", "the address", "mmio")
        newest = self._owner.current.generation
        if request.generation > newest:
            raise ProtocolError(
                ErrorClass.BAD_GENERATION,
                f"generation is {request.generation}",
                f"at most {newest}, the newest map received",
                "generation",
            )
        processor.run = Run(request, processor.submit(request))
        self._owner.pages.applied(request.applied)
        self._drop_pages(request.changed)
        processor.counters.requests += 1

    def _on_answer(self, answer: IoAnswer) -> None:
        run = self._processor.run
        question = run.question if run is not None else None
        if run is None or question is None or (answer.seq, answer.io) != (question.seq, question.io):
            asked = (self._processor.last, 1 << 32) if run is None else (run.request.seq, run.questions)
            if (answer.seq, answer.io) <= asked:
                return  # repeated after a reconnect
            raise ProtocolError(ErrorClass.BAD_ANSWER, f"question {answer.seq}.{answer.io} is not open", "no answer")
        if run.answer is not None:
            return
        _check_answer(question, answer)
        if answer.map is not None:
            self._owner.replace_map(answer.map, self._processor.number)
        self._owner.pages.applied(answer.applied)
        self._drop_pages(answer.changed)
        run.answer = answer

    def _on_kick(self, kick: Kick) -> None:
        self._drop_pages(kick.changed)
        run = self._processor.run
        if run is None or kick.seq != run.request.seq:
            return
        if kick.window is not None:
            run.window = kick.window
        if kick.stop is not Stop.NONE and run.stop in (Stop.NONE, Stop.KICK):
            run.stop = kick.stop

    def _drop_pages(self, changed: list[schema.PageRange]) -> None:
        """Pages have changed on the shim's side: they are brought in anew."""
        if changed and self._owner.pages.drop(changed):
            self._owner.pages_moved(None)


def _check_answer(question: Io, answer: IoAnswer) -> None:
    """Refuse an answer that does not fit its question."""
    wanted = question.size * question.count if question.kind in _READS and not answer.native else 0
    if question.kind is IoKind.INTERRUPT_ACK:
        wanted = min(len(answer.data), 1)
    if answer.native and question.kind not in _ACCESSES:
        raise ProtocolError(
            ErrorClass.BAD_ANSWER, f"native answers {question.kind}", "only for ports, MMIO and MSRs", "native"
        )
    if answer.fault:
        if question.kind not in _MSRS:
            raise ProtocolError(ErrorClass.BAD_ANSWER, f"fault answers {question.kind}", "only for MSRs", "fault")
    elif len(answer.data) != wanted:
        raise ProtocolError(
            ErrorClass.BAD_ANSWER,
            f"data has {len(answer.data)} bytes",
            f"{wanted} for {question.kind} of {question.count} x {question.size}",
            "data",
        )
    if answer.copied is not None and (
        question.kind is not IoKind.MEMORY_COPY or not 1 <= answer.copied <= question.count
    ):
        expected = f"1 to {question.count}" if question.kind is IoKind.MEMORY_COPY else "only for copies"
        raise ProtocolError(ErrorClass.BAD_ANSWER, f"copied is {answer.copied}", expected, "copied")
    if answer.registers and (not question.registers or len(answer.registers) < len(question.registers)):
        expected = f"{len(question.registers)} values" if question.registers else "none: it is no state port"
        raise ProtocolError(
            ErrorClass.BAD_ANSWER, f"registers has {len(answer.registers)} values", expected, "registers"
        )
