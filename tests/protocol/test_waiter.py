"""Waiting awake and asleep: same results, and nobody starves."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Iterator

import pytest

from dm.fast import times
from dm.protocol import waiter
from dm.protocol.waiter import Waiter


@pytest.fixture
def event() -> Iterator[int]:
    descriptor = os.eventfd(0, os.EFD_NONBLOCK)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def subject(event: int) -> Waiter:
    made = Waiter()
    made.add(event)
    return made


def lively(subject: Waiter, event: int) -> None:
    """Have it wait for something that is there, so that it stays awake the next time."""
    os.eventfd_write(event, 1)
    assert subject.wait()
    os.eventfd_read(event)


def test_says_which_descriptor_has_news(subject: Waiter, event: int) -> None:
    other = os.eventfd(1)
    subject.add(other)
    assert [descriptor for descriptor, _ in subject.wait()] == [other]
    subject.remove(other)
    assert subject.wait(1) == []
    os.close(other)


@pytest.mark.parametrize("awake", [False, True])
def test_a_timeout_is_kept(subject: Waiter, event: int, awake: bool) -> None:
    if awake:
        lively(subject, event)
    began = time.monotonic()
    assert subject.wait(60) == []
    assert time.monotonic() - began >= 0.019


@pytest.mark.parametrize("awake", [False, True])
def test_news_from_another_thread_ends_the_wait(subject: Waiter, event: int, awake: bool) -> None:
    if awake:
        lively(subject, event)
    threading.Timer(0.05, os.eventfd_write, (event, 1)).start()
    assert [descriptor for descriptor, _ in subject.wait(10_000)] == [event]


class Looks:
    """Counts the looks while awake; by a clock of the test's own each takes ``each`` ns and a sleep ``asleep`` ns."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, each: int) -> None:
        self.count, self.now, self.each, self.asleep, self.hidden = 0, 100 * times.PAUSE_NS, each, 1, False
        monkeypatch.setattr(waiter.os, "sched_yield", self.look)
        monkeypatch.setattr(waiter, "perf_counter_ns", lambda: self.now)

    def waiter(self, event: int) -> Waiter:
        made = Waiter()
        made._poll = Poll(self)  # type: ignore[assignment]
        made.add(event)
        return made

    def look(self) -> None:
        self.count += 1
        self.now += self.each


class Poll:
    """select.poll by that clock."""

    def __init__(self, looks: Looks) -> None:
        self.poll_, self.looks = select.poll(), looks
        self.register = self.poll_.register

    def poll(self, timeout: int | None) -> list[tuple[int, int]]:
        if timeout == 0:
            return [] if self.looks.hidden else self.poll_.poll(0)
        self.looks.now += self.looks.asleep
        return self.poll_.poll(timeout)


def test_it_stays_awake_longer_each_time_that_was_too_short(event: int, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = Looks(monkeypatch, times.FIRST_AWAKE_NS // 4)
    subject = looks.waiter(event)
    os.eventfd_write(event, 1)
    looks.hidden = True  # the news comes when it has gone to sleep
    seen = []
    for _ in range(3):
        before = looks.count
        assert subject.wait()
        seen.append(looks.count - before)
    assert seen == [0, 4, 8]
    assert subject._stretch == times.AWAKE_NS
    looks.hidden = False  # the news comes in time
    assert subject.wait()
    assert subject._stretch == times.AWAKE_NS


def test_it_sleeps_after_a_wait_that_was_long(event: int, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = Looks(monkeypatch, times.FIRST_AWAKE_NS // 4)
    subject = looks.waiter(event)
    lively(subject, event)
    assert looks.count == 0
    looks.asleep = times.AWAKE_NS
    subject.wait(60)
    assert looks.count == 4  # awake: the wait before was short
    subject.wait(60)
    assert looks.count == 4  # asleep: the wait before was long


def test_it_sleeps_after_a_pause(event: int, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = Looks(monkeypatch, times.FIRST_AWAKE_NS // 4)
    subject = looks.waiter(event)
    lively(subject, event)
    looks.now += times.PAUSE_NS
    subject.wait(1)
    assert looks.count == 4
    lively(subject, event)
    looks.now += times.PAUSE_NS + 1
    subject.wait(1)
    assert looks.count == 4


def test_it_rests_when_another_thread_takes_the_processor(event: int, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = Looks(monkeypatch, times.TAKEN_NS + 1)
    subject = looks.waiter(event)
    lively(subject, event)
    assert subject.wait(1) == []
    assert looks.count == 1
    lively(subject, event)
    assert subject.wait(1) == []
    assert looks.count == 1  # not tried again at once
