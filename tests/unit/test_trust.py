"""How long a worker believes that the others see it alive."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from stepwell.engine import trust
from stepwell.engine.maintenance import reaper
from stepwell.engine.trust import WINDOW, Trust


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that a test sets."""
    clock = SimpleNamespace(now=1_000.0)
    monkeypatch.setattr(trust, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def test_nobody_is_trusted_before_the_first_heartbeat(time: SimpleNamespace) -> None:
    assert not Trust().holds()


def test_trust_lasts_from_the_start_of_the_heartbeat_and_not_from_its_answer(time: SimpleNamespace) -> None:
    held = Trust()
    time.now += 3.0
    held.confirm(began=1_000.0)
    time.now = 1_000.0 + WINDOW - 0.001
    assert held.holds()
    time.now = 1_000.0 + WINDOW
    assert not held.holds()


def test_trust_is_lost_at_once_when_the_worker_is_declared_dead(time: SimpleNamespace) -> None:
    held = Trust()
    held.confirm(time.now)
    held.revoke()
    assert not held.holds()


def test_a_worker_stops_acting_before_anybody_may_declare_it_dead() -> None:
    assert WINDOW < reaper.SILENCE
