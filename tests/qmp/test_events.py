"""Rate limits, with a clock of the test's own."""

from __future__ import annotations

from dm.qmp.control import ControlEvent, SessionClosed, SessionOpened, Stopped, VcpuLost
from dm.qmp.events import EventLimiter, Stamped


def at(time: float, event: ControlEvent) -> Stamped:
    return Stamped(event, int(time * 1e9))


def lost(vcpu: int, reason: str = "", session: str = "1") -> VcpuLost:
    return VcpuLost(session, vcpu, reason)


def test_first_goes_out_at_once_then_only_the_last() -> None:
    limiter = EventLimiter()
    assert limiter.offer(at(0.0, lost(0, "a")), 0.0)
    assert not limiter.offer(at(0.1, lost(0, "b")), 0.1)
    assert not limiter.offer(at(0.2, lost(0, "c")), 0.2)
    assert limiter.next_due() == 1.0
    assert limiter.release(0.99) == []
    assert limiter.release(1.0) == [at(0.2, lost(0, "c"))]


def test_a_held_event_starts_a_new_interval() -> None:
    limiter = EventLimiter()
    limiter.offer(at(0.0, lost(0, "a")), 0.0)
    limiter.offer(at(0.1, lost(0, "b")), 0.1)
    limiter.release(1.0)
    assert not limiter.offer(at(1.5, lost(0, "c")), 1.5)
    assert limiter.release(2.0) == [at(1.5, lost(0, "c"))]


def test_a_quiet_interval_ends_the_limit() -> None:
    limiter = EventLimiter()
    limiter.offer(at(0.0, lost(0)), 0.0)
    assert limiter.release(1.0) == []
    assert limiter.next_due() is None
    assert limiter.offer(at(1.1, lost(0)), 1.1)


def test_events_that_differ_in_their_key_do_not_limit_each_other() -> None:
    limiter = EventLimiter()
    events = [
        lost(0), lost(1), lost(0, session="2"), SessionOpened("1"), SessionOpened("2"), SessionClosed("1", "x")
    ]  # fmt: skip
    assert all(limiter.offer(at(0.0, event), 0.0) for event in events)
    assert not any(limiter.offer(at(0.1, event), 0.1) for event in events)


def test_held_events_keep_their_order() -> None:
    limiter = EventLimiter()
    for event in (SessionOpened("1"), SessionClosed("1", "first")):
        limiter.offer(at(0.0, event), 0.0)
    limiter.offer(at(0.1, SessionClosed("1", "second")), 0.1)
    limiter.offer(at(0.2, SessionOpened("1")), 0.2)
    assert [s.time_ns for s in limiter.release(5.0)] == [100_000_000, 200_000_000]


def test_unlimited_events_all_pass() -> None:
    limiter = EventLimiter()
    assert all(limiter.offer(at(0.0, Stopped()), 0.0) for _ in range(10))
    assert limiter.next_due() is None


def test_flush_gives_what_is_held() -> None:
    limiter = EventLimiter()
    limiter.offer(at(0.0, lost(0, "a")), 0.0)
    limiter.offer(at(0.1, lost(0, "b")), 0.1)
    assert limiter.flush() == [at(0.1, lost(0, "b"))]
    assert limiter.flush() == []
    assert limiter.next_due() is None


def test_the_table_is_bounded() -> None:
    limiter = EventLimiter(max_streams=2)
    assert all(limiter.offer(at(0.0, lost(i)), 0.0) for i in range(5))
    assert limiter.offer(at(0.1, lost(4)), 0.1), "beyond the bound nothing is limited, and nothing lost"
    assert not limiter.offer(at(0.1, lost(1)), 0.1)
    assert limiter.release(1.0) == [at(0.1, lost(1))]
