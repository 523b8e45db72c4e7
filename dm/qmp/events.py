"""Rate limits for events, as QEMU's monitor has them.

The first goes out at once, of those that follow within the interval only the last, when the interval is over.  No I/O
and no clock of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dm.qmp.control import ControlEvent

#: Streams told apart at a time.  Beyond this, events pass unlimited; each listener's backlog is bounded anyway.
MAX_STREAMS: Final = 1024


@dataclass(frozen=True, slots=True)
class Stamped:
    """An event and when it happened (nanoseconds since the epoch)."""

    event: ControlEvent
    time_ns: int


@dataclass(slots=True)
class _Stream:
    due: float
    held: Stamped | None = None


class EventLimiter:
    """Decides which events are sent when.  Times ``now`` and ``due`` are seconds of one monotonic clock."""

    def __init__(self, max_streams: int = MAX_STREAMS) -> None:
        self._max_streams = max_streams
        self._streams: dict[object, _Stream] = {}

    def offer(self, stamped: Stamped, now: float) -> bool:
        """Return True if the event is to be sent now; else it is held, in place of one held before."""
        event = stamped.event
        if not event.INTERVAL:
            return True
        key = (event.NAME, *(getattr(event, name) for name in event.KEY))
        stream = self._streams.get(key)
        if stream is not None:
            stream.held = stamped
            return False
        if len(self._streams) < self._max_streams:
            self._streams[key] = _Stream(now + event.INTERVAL)
        return True

    def next_due(self) -> float | None:
        """Return when :meth:`release` next has something to do, None if never."""
        return min((stream.due for stream in self._streams.values()), default=None)

    def release(self, now: float) -> list[Stamped]:
        """Return the held events whose interval is over, in order of their time; each begins a new interval."""
        released = []
        for key, stream in list(self._streams.items()):
            if stream.due > now:
                continue
            if stream.held is None:
                del self._streams[key]
            else:
                released.append(stream.held)
                stream.due, stream.held = now + stream.held.event.INTERVAL, None
        return sorted(released, key=lambda stamped: stamped.time_ns)

    def flush(self) -> list[Stamped]:
        """Return all held events, in order of their time; the limiter is empty then."""
        held = [stream.held for stream in self._streams.values() if stream.held is not None]
        self._streams.clear()
        return sorted(held, key=lambda stamped: stamped.time_ns)
