"""What each engine is to reach at least on a two-core Zen 4 machine, with every check in place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from dm.bench.engines import Figure


@dataclass(frozen=True)
class Floor:
    """A figure's name and the value it is to have, at least or at most, in the figure's unit."""

    figure: str
    value: float
    most: bool = False
    engine: str = "native"

    def reached(self, figure: Figure) -> bool:
        """Say whether a median reaches this."""
        return figure.median <= self.value if self.most else figure.median >= self.value


FLOORS: Final = (
    Floor("alu", 400),
    Floor("sieve", 300),
    Floor("fib", 300),
    Floor("crc", 300),
    Floor("str", 200),
    Floor("branchy", 150),
    Floor("call32", 200),
    Floor("single request without transport", 5, most=True),
    Floor("request / bare echo", 1.2, most=True),
    Floor("I/O exit / bare echo", 1.2, most=True),
    Floor("request, another VM busy / idle", 1.5, most=True),
    Floor("I/O exit, another VM busy / idle", 1.5, most=True),
    Floor("start to first answer", 0.5, most=True),
    Floor("idle guest: CPU", 2, most=True),
    Floor("building the native engine", 60, most=True),
    Floor("TCG: geometric mean of the ratios", 0.5),
    Floor("Bochs: kernels with a ratio of 4 or more", 3),
    Floor("alu", 0.5, engine="python"),
)


def judge(figures: Iterable[Figure], engine: str = "native") -> Iterator[tuple[Floor, Figure, bool]]:
    """Yield each floor of an engine whose figure was measured, the figure, and whether it is reached."""
    found = {figure.name: figure for figure in figures}
    for floor in FLOORS:
        if floor.engine == engine and floor.figure in found:
            figure = found[floor.figure]
            yield floor, figure, floor.reached(figure)
