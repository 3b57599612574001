"""What readiness lacks, from the start of a worker to its drain."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from engine_life import until
from virtual_time import virtual_time

from stepwell.domain.errors import UnavailableError
from stepwell_worker.status import LOOK, Life, Status


def life(*, draining: bool = False, trusted: bool = True) -> Life:
    dispatcher: Any = SimpleNamespace(draining=draining, busy=3, journal=SimpleNamespace(backlog=2), with_queue=True)
    trust: Any = SimpleNamespace(holds=lambda: trusted)
    leader: Any = SimpleNamespace(leads=True)
    return Life(7, trust, dispatcher, leader)


def test_the_way_to_readiness() -> None:
    status = Status()
    assert status.missing().keys() == {"schema", "worker"}
    assert status.reading() is None
    status.schema = "the database lacks 0002"
    assert status.missing()["schema"] == "the database lacks 0002"
    status.schema = None
    assert status.missing().keys() == {"worker"}
    status.life = life()
    assert status.missing().keys() == {"partitions"}
    status.tomorrow = True
    assert status.missing() == {}


def test_what_takes_readiness_away() -> None:
    status = Status(schema=None, tomorrow=True, life=life(trusted=False))
    assert status.missing().keys() == {"heartbeat"}
    status.life = life(draining=True)
    assert "drains" in status.missing()["worker"]
    status.life = None
    assert "not registered" in status.missing()["worker"]


def test_the_gauges() -> None:
    reading = Status(life=life(trusted=False)).reading()
    assert reading is not None
    assert reading == (7, 3, 2, True, True, False)


class Store:
    """Says one thing after the other about tomorrow's partitions."""

    def __init__(self, *answers: bool | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[float] = []

    async def tomorrow_exists(self) -> bool:
        self.asked.append(asyncio.get_running_loop().time())
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


@virtual_time
async def test_partitions_are_looked_at_seldom_once_they_are_there() -> None:
    store = Store(False, UnavailableError("away"), True)
    status = Status()
    task = asyncio.ensure_future(status.watch_partitions(store))  # type: ignore[arg-type]
    await until(lambda: status.tomorrow, within=10)
    await asyncio.sleep(LOOK * 10)
    assert len(store.asked) == 3 + 10
    task.cancel()


@virtual_time
async def test_an_outage_leaves_what_was_seen_and_a_new_day_without_partitions_shows() -> None:
    store = Store(True, UnavailableError("away"))
    status = Status()
    task = asyncio.ensure_future(status.watch_partitions(store))  # type: ignore[arg-type]
    await asyncio.sleep(LOOK + 10)
    assert status.tomorrow
    store.answers = [False]
    await until(lambda: not status.tomorrow, within=10)
    task.cancel()
