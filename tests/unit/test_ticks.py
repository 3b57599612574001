"""Which ticks start a run: missed ones, late ones, jitter; pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.domain.ticks import MOST, ON_TIME, Timing
from stepwell.domain.triggers import Cron

FIRST = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


def timing(**fields: Any) -> Timing:
    return Timing(Cron.model_validate({"schedule": "* * * * *", **fields}), "ns/w/t")


def minute(number: float) -> datetime:
    return FIRST + timedelta(minutes=number)


policies = st.sampled_from(["Skip", "Latest", "All"])
overlaps = st.sampled_from(["Allow", "Forbid", "Replace"])
jitters = st.sampled_from([None, "20s", "1h"])
deadlines = st.sampled_from([None, "30s", "10m"])


@settings(deadline=None)
@given(policies, overlaps, jitters, deadlines, st.integers(0, 7200), st.integers(1, 200))
def test_every_tick_is_decided_on_once_in_order(
    missed: str, overlap: str, jitter: str | None, deadline: str | None, seconds: int, batch: int
) -> None:
    fields = {"missedRuns": missed, "concurrencyPolicy": overlap, "jitter": jitter, "startingDeadline": deadline}
    found = timing(**{key: value for key, value in fields.items() if value is not None})
    now = FIRST + timedelta(seconds=seconds)
    decided, started, first = 0, [], FIRST
    for _ in range(300):
        decision = found.decide(first, now, batch)
        assert len(decision.starts) <= batch
        started += decision.starts
        decided += len(decision.starts) + sum(decision.skipped.values())
        assert decision.next is not None
        first = decision.next.tick
        if decision.next.due > now:
            break
    assert first.second == 0
    assert decided == (first - FIRST) // timedelta(minutes=1), "none is left out, none is decided on twice"
    assert started == sorted(set(started))
    dues = [found.waiting(tick).due for tick in started]
    assert all(tick <= due <= now for tick, due in zip(started, dues, strict=True))
    if missed == "Skip":
        assert all(now - due <= ON_TIME for due in dues)
    if overlap != "Allow":
        assert len(started) <= 1
    if deadline == "30s":
        assert all(now - due <= timedelta(seconds=30) for due in dues)


def test_nothing_is_due_yet() -> None:
    decision = timing().decide(FIRST, FIRST - timedelta(seconds=1), 10)
    assert (decision.starts, decision.skipped) == ((), {})
    assert decision.next is not None
    assert (decision.next.tick, decision.next.due) == (FIRST, FIRST)


def test_all_makes_up_for_the_latest_thousand() -> None:
    decision = timing(missedRuns="All").decide(FIRST, minute(5_000), 10)
    assert decision.starts == tuple(minute(5_001 - MOST + number) for number in range(10))
    assert decision.skipped == {"Missed": 1}
    assert decision.next is not None
    assert decision.next.tick == minute(5_011 - MOST)


def test_what_comes_on_time_makes_the_missed_ones_unnecessary() -> None:
    decision = timing(missedRuns="Latest").decide(FIRST, minute(10.5), 10)
    assert decision.starts == (minute(10),)
    assert decision.skipped == {"Missed": 10}


def test_two_ticks_within_a_minute_are_both_on_time() -> None:
    for missed in ("Skip", "Latest", "All"):
        assert timing(missedRuns=missed).decide(FIRST, minute(1), 10).starts == (FIRST, minute(1))


@settings(deadline=None)
@given(st.integers(0, 100_000))
def test_jitter_stays_before_the_next_tick(number: int) -> None:
    found = timing(jitter="1h")
    waiting = found.waiting(minute(number))
    assert waiting.tick <= waiting.due < minute(number + 1)
    assert waiting == timing(jitter="1h").waiting(minute(number))


def test_jitter_differs_from_tick_to_tick_and_is_spread() -> None:
    found = timing(schedule="0 * * * *", jitter="10m")
    delays = [found.waiting(FIRST + timedelta(hours=hour)).due - FIRST - timedelta(hours=hour) for hour in range(200)]
    assert len(set(delays)) == 200
    assert all(delay < timedelta(minutes=10) for delay in delays)
    assert sum(delay < timedelta(minutes=5) for delay in delays) in range(60, 141)


def test_the_deadline_counts_from_when_a_tick_is_due_with_its_jitter() -> None:
    found = timing(schedule="0 * * * *", jitter="50m", startingDeadline="1m")
    due = found.waiting(FIRST).due
    assert due - FIRST > timedelta(minutes=1), "else this shows nothing"
    assert found.decide(FIRST, due + timedelta(seconds=30), 10).starts == (FIRST,)
    assert found.decide(FIRST, due + timedelta(seconds=61), 10).skipped == {"DeadlineExceeded": 1}
