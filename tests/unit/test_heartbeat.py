"""The heartbeat's thread: it beats while the loop turns, hears of cancels and of its death, and outlives every error."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from stepwell.domain.errors import UnavailableError
from stepwell.engine.trust import Trust
from stepwell_worker import heartbeat
from stepwell_worker.heartbeat import LOOP_SILENCE, Heartbeat

DEADLINE = 10.0  # seconds, for what comes within milliseconds


class Liveness:
    """Answers from a script, then True; tells a queue of every beat."""

    def __init__(self, *script: bool | Exception) -> None:
        self.script = list(script)
        self.beats: queue.Queue[int] = queue.Queue()
        self.cancels: list[str] = []
        self.gone: list[int] = []
        self.closed = False

    def beat(self, worker: int) -> bool:
        answer = self.script.pop(0) if self.script else True
        self.beats.put(worker)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def cancelling(self, worker: int) -> list[str]:
        return self.cancels

    def unregister(self, worker: int) -> None:
        self.gone.append(worker)

    def close(self) -> None:
        self.closed = True


class Scene:
    """A heartbeat with a period of a millisecond."""

    def __init__(self, liveness: Liveness, on_cancels: Callable[[Any], None] | None = None) -> None:
        self.liveness = liveness
        self.trust = Trust()
        self.died = threading.Event()
        self.cancelled: queue.Queue[list[str]] = queue.Queue()
        self.heartbeat = Heartbeat(
            liveness,  # type: ignore[arg-type]
            7,
            self.trust,
            on_cancels=on_cancels or (lambda ids: self.cancelled.put(list(ids))),
            on_dead=self.died.set,
            period=0.001,
        )

    def beaten(self, times: int) -> None:
        for _ in range(times):
            assert self.liveness.beats.get(timeout=DEADLINE) == 7


@pytest.fixture
def start() -> Iterator[Callable[..., Scene]]:
    scenes: list[Scene] = []

    def starting(*script: bool | Exception, **more: Any) -> Scene:
        scene = Scene(Liveness(*script), **more)
        scenes.append(scene)
        scene.heartbeat.start()
        return scene

    yield starting
    for scene in scenes:
        scene.heartbeat.stop()
        assert not scene.heartbeat._thread.is_alive()


def test_the_worker_may_act_as_soon_as_the_heart_beats(start: Callable[..., Scene]) -> None:
    scene = start()
    assert scene.trust.holds()
    scene.beaten(5)


def test_a_heart_that_cannot_beat_at_first_goes_on_trying(start: Callable[..., Scene]) -> None:
    scene = start(UnavailableError("down"), UnavailableError("down"))
    scene.beaten(4)
    assert scene.trust.holds()


@pytest.mark.parametrize("error", [UnavailableError("down"), ZeroDivisionError("a defect")])
def test_no_error_ends_the_thread(start: Callable[..., Scene], error: Exception) -> None:
    scene = start(True, error, error, error)
    scene.beaten(6)


def test_a_listener_that_fails_does_not_end_the_thread(start: Callable[..., Scene]) -> None:
    def closed(ids: Any) -> None:
        raise RuntimeError("the loop is closed")

    scene = start(on_cancels=closed)
    scene.liveness.cancels = ["r1"]
    scene.beaten(5)


def test_a_worker_declared_dead_hears_of_it_loses_its_trust_and_beats_no_more(start: Callable[..., Scene]) -> None:
    scene = start(True, True, False)
    assert scene.died.wait(DEADLINE)
    scene.heartbeat._thread.join(DEADLINE)
    assert not scene.trust.holds()
    assert scene.liveness.beats.qsize() == 3


def test_cancels_of_own_runs_are_told(start: Callable[..., Scene]) -> None:
    scene = start()
    scene.liveness.cancels = ["r1", "r2"]
    assert scene.cancelled.get(timeout=DEADLINE) == ["r1", "r2"]


def test_a_worker_whose_loop_stands_still_stops_beating_until_it_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1_000.0]
    looked = threading.Semaphore(0)

    def monotonic() -> float:
        looked.release()
        return now[0]

    monkeypatch.setattr(heartbeat, "time", SimpleNamespace(monotonic=monotonic))
    scene = Scene(Liveness())
    now[0] += LOOP_SILENCE + 0.1
    scene.heartbeat.start()  # the first beat is made by the loop's own start
    scene.beaten(1)
    for _ in range(20):
        assert looked.acquire(timeout=DEADLINE)
    assert scene.liveness.beats.empty()
    scene.heartbeat.turned()
    scene.beaten(2)
    scene.heartbeat.stop()


def test_a_worker_that_stops_signs_off_even_where_nobody_hears_it(start: Callable[..., Scene]) -> None:
    scene = start()
    scene.heartbeat.stop()
    assert scene.liveness.gone == [7]
    assert scene.liveness.closed

    def unheard(worker: int) -> None:
        raise UnavailableError("down")

    other = start()
    other.liveness.unregister = unheard  # type: ignore[method-assign]
    other.heartbeat.stop()
    assert other.liveness.closed
