"""Demand paging of RAM carried in messages: what the engine takes for a device may be a page that has not arrived yet.

:mod:`dm.server.memory.pages` keeps the pages.  This module finds the pages that an access needs, yields each as a
:class:`Want` that is filled when the generator continues, and answers the access from them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator

from dm.engine.api import Engine, Exit, ExitReason
from dm.server.memory.pages import PageCache, Want


class Paging:
    """For one vCPU's engine."""

    def __init__(self, pages: PageCache, engine: Engine, take_map: Callable[[], bool]) -> None:
        """``take_map`` installs the session's current map in the engine, and returns whether it is a new one."""
        self._pages, self._engine, self._take_map = pages, engine, take_map

    def access(self, made: Exit) -> Generator[Want, None, bool]:
        """Answer an access to RAM carried in messages, after fetching its page if it is missing.

        Returns:
            False: it is something else, a device's or a mismatch that is one.
        """
        if made.reason is ExitReason.MEMORY_COPY:
            return (yield from self._both_sides(made))
        write, came = made.reason is ExitReason.MMIO_WRITE, False
        while self._pages.used and (want := self._pages.want(made.address, write)) is not None:
            if want.size:
                yield want
                came = True
                continue  # its answer may have changed the map
            came |= self._take_map()
            if made.reason is ExitReason.MMIO_MISMATCH:  # it met a missing page: again
                return came
            step = -made.size if made.down else made.size
            offsets = [want.offset + k * step for k in range(made.count)]
            memory = want.block.memory
            if write:
                for k, at in enumerate(offsets):
                    memory[at : at + made.size] = made.data[k * made.size : (k + 1) * made.size]
                self._engine.answer()
            else:
                self._engine.answer(b"".join(memory[at : at + made.size] for at in offsets))
            return True
        return False

    def _both_sides(self, made: Exit) -> Generator[Want, None, bool]:
        """Fetch the pages that a copy has taken for devices; after that the engine asks something else."""
        came = False
        for address, write in ((made.address, False), (made.target, True)):
            while self._pages.used and (want := self._pages.want(address, write)) is not None:
                came = True
                if not want.size:
                    self._take_map()
                    break
                yield want
        if came:
            self._engine.answer(copied=0)
        return came

    def firmware(self) -> Generator[Want, None, bool]:
        """Fetch all firmware, since executing it has to end the run; return whether any was missing."""
        came = False
        while self._pages.used and (want := self._pages.firmware()) is not None:
            yield want
            came = True
        return came
