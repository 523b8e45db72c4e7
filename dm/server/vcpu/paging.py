"""Demand paging of memory by messages: what the engine takes for a device may be a page that has not come yet.

:mod:`dm.server.memory.pages` keeps the pages; here they are asked for, and accesses to them answered.
"""

from __future__ import annotations

from dm.engine.api import Exit, ExitReason
from dm.protocol.schema import IoKind
from dm.server.memory.pages import PAGE, Want
from dm.server.vcpu.conversation import Conversation
from dm.server.vcpu.processor import Processor
from dm.server.vcpu.run import Run


class Paging:
    """Brings pages in for one vCPU's runs."""

    def __init__(self, processor: Processor, conversation: Conversation) -> None:
        self._processor, self._owner, self._conversation = processor, processor.owner, conversation

    def bring_in(self, run: Run, result: Exit) -> bool:
        """Answer an access to memory by messages, whose page comes first where it is not here.

        Returns:
            False: it is something else, a device's or a mismatch that is one.
        """
        if result.reason is ExitReason.MEMORY_COPY:
            return self._bring_in_sides(run, result)
        processor, pages = self._processor, self._owner.pages
        write, came = result.reason is ExitReason.MMIO_WRITE, False
        while pages.used and (want := pages.want(result.address, write)) is not None:
            if want.size:
                self._fetch(run, want)
                came = True
                continue  # its answer may have changed the map
            came |= processor.map is not self._owner.current
            processor.take_map()
            if result.reason is ExitReason.MMIO_MISMATCH:  # it met a page that was not here: once more
                return came
            step = -result.size if result.down else result.size
            places = [want.offset + k * step for k in range(result.count)]
            memory = want.block.memory
            if write:
                for k, at in enumerate(places):
                    memory[at : at + result.size] = result.data[k * result.size : (k + 1) * result.size]
                run.report.touch([result.address // PAGE])
                self._conversation.note_places(run)
                processor.engine.answer()
            else:
                processor.engine.answer(b"".join(memory[at : at + result.size] for at in places))
            return True
        return False

    def _bring_in_sides(self, run: Run, result: Exit) -> bool:
        """Bring in what a copy has taken for devices; then it is no copy, and the engine asks something else."""
        pages, came = self._owner.pages, False
        for address, write in ((result.address, False), (result.target, True)):
            while pages.used and (want := pages.want(address, write)) is not None:
                came = True
                if not want.size:
                    self._processor.take_map()
                    break
                self._fetch(run, want)
        if came:
            self._processor.engine.answer(copied=0)
        return came

    def bring_in_firmware(self, run: Run) -> None:
        """Bring in all firmware, since fetching an instruction there has to end the run."""
        while (want := self._owner.pages.firmware()) is not None:
            self._fetch(run, want)

    def _fetch(self, run: Run, want: Want) -> None:
        answer = self._conversation.ask(
            run, IoKind.MEMORY_READ, ram=want.block.number, address=want.offset, size=1, count=want.size
        )
        self._owner.pages.fill(want, answer.data)
        self._owner.pages_moved(self._processor.number)
        self._processor.take_map()
