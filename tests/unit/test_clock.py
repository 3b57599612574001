"""The database's clock, as a process follows it."""

from __future__ import annotations

import time

import pytest

from stepwell.engine.clock import NEWS, Clock

HOUR = 3_600_000_000


@pytest.mark.parametrize(("away", "followed"), [(0, False), (NEWS - 200_000, False), (HOUR, True), (-HOUR, True)])
def test_it_follows_a_clock_that_was_set_and_no_small_difference(away: int, *, followed: bool) -> None:
    clock = Clock()
    before, now = clock.micros(), time.monotonic_ns()
    assert clock.follow(before + away, now, now) is followed
    assert abs(clock.micros() - before - (away if followed else 0)) < 1_000_000


def test_a_slow_answer_is_no_news() -> None:
    """The question was answered somewhere between its sending and its return."""
    clock = Clock()
    now = time.monotonic_ns()
    slow = 10 * 10**9
    assert not clock.follow(clock.micros() - 10_000_000, now - slow, now)
    assert not clock.follow(clock.micros(), now - slow, now)
    assert clock.follow(clock.micros() + HOUR, now - slow, now)
