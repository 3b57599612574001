"""What the leader's jobs offer again, wake and remove."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from memory_upkeep import Clock, Queue, Upkeep, ready
from virtual_time import virtual_time

from stepwell.domain.errors import ConflictError, UnavailableError
from stepwell.engine.maintenance import partitions, readd, retention, timers
from stepwell.engine.maintenance.audit import WaitingAudit
from stepwell.engine.maintenance.offers import PAUSE, Offers
from stepwell.engine.maintenance.partitions import Partitions
from stepwell.engine.maintenance.readd import START, ReAdder
from stepwell.engine.maintenance.retention import Retention
from stepwell.engine.maintenance.timers import Timers
from stepwell.engine.ports import ReadyRun

if TYPE_CHECKING:
    from collections.abc import Sequence


# -- offers, the re-adder, timers ----------------------------------------------------------------------------------


@virtual_time
async def test_an_absent_queue_is_left_alone_for_a_moment_after_each_failure() -> None:
    clock, queue = Clock(), Queue()
    offers = Offers(queue, monotonic=clock)  # type: ignore[arg-type]
    queue.away = True
    assert [await offers.add([ready("r1")]) for _ in range(5)] == [False] * 5
    assert queue.calls == 1
    queue.away = False
    clock.now += PAUSE
    assert await offers.add([ready("r1")])
    assert queue.added == ["r1"]
    assert await offers.add([])


class Compared:
    """A re-adder over three pages of queued runs."""

    def __init__(self) -> None:
        self.store: Any = Upkeep()
        self.queue: Any = Queue()
        self.clock = Clock()
        second, third = ("default", "b"), ("default", "c")
        self.store.pages = {
            START: ([ready("r1")], second),
            second: ([], third),  # a page of live runs, none of which is queued
            third: ([ready("r3")], None),
        }
        self.readder = ReAdder(self.store, Offers(self.queue, monotonic=self.clock), self.queue)

    async def walk(self, times: int) -> list[float]:
        pauses = []
        for _ in range(times):
            pauses.append(await self.readder.run())
            self.clock.now += 1.0
        return pauses


@virtual_time
async def test_after_a_start_every_page_is_compared_at_once_and_then_in_peace() -> None:
    compared = Compared()
    assert await compared.walk(6) == [0.0, 0.0, readd.QUIET, readd.PERIOD, readd.PERIOD, readd.QUIET]
    assert compared.queue.added == ["r1", "r3", "r1", "r3"]


@virtual_time
async def test_a_queue_that_was_emptied_is_filled_from_the_first_page_at_once() -> None:
    compared = Compared()
    await compared.walk(4)
    compared.queue.marked = False
    compared.queue.added.clear()
    assert await compared.walk(3) == [0.0, 0.0, readd.QUIET]
    assert compared.queue.added == ["r1", "r3"]


@virtual_time
async def test_after_an_absence_of_the_queue_the_comparison_hurries() -> None:
    compared = Compared()
    await compared.walk(3)
    compared.queue.away = True
    assert await compared.walk(2) == [readd.PERIOD] * 2
    compared.queue.away = False
    assert (await compared.walk(1)) == [0.0]


@virtual_time
async def test_a_page_that_could_not_be_offered_is_offered_again() -> None:
    compared = Compared()
    await compared.walk(1)
    add, compared.queue.add = compared.queue.add, None

    async def failing(items: Sequence[ReadyRun]) -> None:
        raise UnavailableError("away")

    compared.queue.add = failing
    await compared.walk(2)  # an empty page goes by, the third one does not
    compared.queue.add = add
    await compared.walk(1)
    assert compared.queue.added == ["r1", "r3"]


@pytest.mark.parametrize(
    ("answer", "pause"),
    [
        (([], None), timers.PERIOD),
        (([], 100.0), timers.PERIOD),
        (([], 0.25), 0.25),
        (([ready("r1")], 0.0), timers.SHORTEST),
        (([ready("r1")], -5.0), timers.SHORTEST),
    ],
)
@virtual_time
async def test_due_timers_are_woken_and_the_next_look_is_when_the_next_is_due(
    answer: tuple[list[ReadyRun], float | None], pause: float
) -> None:
    store, queue = Upkeep(), Queue()
    store.due = [answer]
    job = Timers(store, Offers(queue))  # type: ignore[arg-type]
    assert await job.run() == pause
    assert queue.added == [run.id for run in answer[0]]


@virtual_time
async def test_runs_that_waited_for_nothing_are_woken_offered_and_told_of(caplog: pytest.LogCaptureFixture) -> None:
    store, queue = Upkeep(), Queue()
    store.orphaned = {"r1": 0, "r2": 0}
    audit = WaitingAudit(store, Offers(queue))  # type: ignore[arg-type]
    await audit.run()
    assert queue.added == ["r1", "r2"]
    assert audit.stranded == 2
    assert "waited for nothing" in caplog.text


# -- retention and partitions --------------------------------------------------------------------------------------


def pruned(**history: tuple[list[str], str | None]) -> tuple[Retention, Upkeep]:
    store = Upkeep()
    store.history = {retention.NIL if key == "first" else key: page for key, page in history.items()}
    return Retention(store), store  # type: ignore[arg-type]


@virtual_time
async def test_retention_walks_the_whole_history_with_pauses_then_keys_then_days() -> None:
    job, store = pruned(first=(["a", "b"], "m"), m=([], "x"), x=(["z"], None))
    store.keys = [retention.PAGE, 3]
    store.days = ["20270101", "20270102"]
    assert [await job.run() for _ in range(4)] == [retention.PAUSE] * 4
    assert store.deleted == [["a", "b"], ["z"]]
    assert store.dropped == []
    assert await job.run() == pytest.approx(retention.PERIOD, rel=0.1)
    assert store.dropped == ["20270101", "20270102"]
    assert store.calls[-1] == "forget_workers"
    assert await job.run() == retention.PAUSE
    assert store.deleted[2] == ["a", "b"]


@virtual_time
async def test_a_day_that_somebody_reads_stays_and_holds_up_nothing() -> None:
    job, store = pruned()
    store.days = ["20270101", "20270102"]
    store.locked = {"20270101"}
    await job.run()
    assert await job.run() == pytest.approx(retention.PERIOD, rel=0.1)
    assert store.dropped == ["20270102"]
    assert store.calls[-1] == "forget_workers"


@virtual_time
async def test_retention_goes_on_where_an_outage_stopped_it() -> None:
    job, store = pruned(first=([], "m"), m=(["z"], None))
    await job.run()
    store.down = True
    with pytest.raises(UnavailableError):
        await job.run()
    store.down = False
    await job.run()
    assert store.deleted == [["z"]]


@virtual_time
async def test_partitions_are_made_hourly_and_again_soon_where_they_were_locked() -> None:
    store = Upkeep()
    job = Partitions(store)  # type: ignore[arg-type]
    assert await job.run() == pytest.approx(partitions.PERIOD, rel=0.1)
    store.down, store.error = True, ConflictError("lock timeout")
    assert await job.run() < 60
