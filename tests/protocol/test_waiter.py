"""Waiting awake and asleep: same results, and nobody starves."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import pytest

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
    assert subject.wait(20) == []
    assert 0.019 <= time.monotonic() - began < 5


@pytest.mark.parametrize("awake", [False, True])
def test_news_from_another_thread_ends_the_wait(subject: Waiter, event: int, awake: bool) -> None:
    if awake:
        lively(subject, event)
    threading.Timer(0.05, os.eventfd_write, (event, 1)).start()
    assert [descriptor for descriptor, _ in subject.wait(10_000)] == [event]


def test_it_sleeps_after_a_wait_that_was_long(subject: Waiter, event: int, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    monkeypatch.setattr(waiter.os, "sched_yield", lambda: looks.append(1))
    monkeypatch.setattr(waiter, "_TAKEN_NS", 1 << 60)
    lively(subject, event)
    assert not looks
    subject.wait(5)
    assert looks  # awake: the wait before was short
    del looks[:]
    subject.wait(5)
    assert not looks  # asleep: the wait before was long


def test_it_rests_when_another_thread_takes_the_processor(
    subject: Waiter, event: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []

    def taken() -> None:
        looks.append(1)
        time.sleep(0.001)

    monkeypatch.setattr(waiter.os, "sched_yield", taken)
    monkeypatch.setattr(waiter, "AWAKE_NS", 1 << 40)
    lively(subject, event)
    assert subject.wait(1) == []
    assert len(looks) == 1
    lively(subject, event)
    assert subject.wait(1) == []
    assert len(looks) == 1  # not tried again at once
