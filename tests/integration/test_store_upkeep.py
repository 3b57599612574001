"""Maintenance on a real database: partitions beside traffic, retention, the walk over queued runs, and the reaper's clock."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, LiteralString, cast

import pytest
from protocol import HOUR, SECOND, ending, progress, staged

from stepwell.adapters.redis_queue import ReadyQueue
from stepwell.domain.errors import DataRefusedError
from stepwell.domain.ids import uuid7
from stepwell.engine.maintenance import reaper as reaping
from stepwell.engine.maintenance.offers import Offers
from stepwell.engine.maintenance.readd import START
from stepwell.engine.maintenance.reaper import Reaper
from stepwell.engine.maintenance.retention import NIL, Retention

if TYPE_CHECKING:
    from protocol import Stage

    from stepwell.engine.maintenance.job import Job

DAY = timedelta(days=1)


def day(offset: int) -> str:
    """A day from today as partitions are named."""
    return f"{datetime.now(UTC) + offset * DAY:%Y%m%d}"


async def partitions(stage: Stage) -> set[str]:
    """The days that have all three partitions."""
    rows = await stage.query(
        "SELECT right(c.relname, 8) AS day FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
        " WHERE c.relkind = 'r' GROUP BY 1 HAVING count(*) = 3"
    )
    return {row["day"] for row in rows}


# -- partitions ------------------------------------------------------------------------------------------------------------


async def test_partitions_are_made_a_week_ahead_and_only_where_they_are_missing(database: str) -> None:
    async with staged(database) as stage:
        side = await stage.side()
        assert await partitions(stage) == {day(offset) for offset in range(-2, 8)}
        assert await side.upkeep.tomorrow_exists()
        assert await side.upkeep.add_partitions(8) == 0
        await stage.query(f"DROP TABLE runs_{day(1)}")
        assert not await side.upkeep.tomorrow_exists()
        assert await side.upkeep.add_partitions(10) == 1 + 2 * 3
        assert await side.upkeep.tomorrow_exists()


async def test_two_leaders_make_partitions_once(database: str) -> None:
    async with staged(database) as stage:
        a, b = await stage.held(), await stage.held()
        assert await a.upkeep.add_partitions(9) == 3
        second = await stage.waits(b, b.upkeep.add_partitions(9))
        await a.commit()
        assert await second == 0
        await b.commit()


async def test_intake_claims_and_flushes_go_on_while_partitions_are_made(database: str) -> None:
    async with staged(database) as stage:
        worker, leader, side = await stage.worker(), await stage.held(), await stage.side()
        await stage.queued()
        assert await leader.upkeep.add_partitions(9) == 3
        locks = await stage.query(
            "SELECT DISTINCT mode FROM pg_locks WHERE pid = %s AND relation IN ('runs'::regclass, 'run_steps'::regclass)",
            leader.pid,
        )
        assert "AccessExclusiveLock" not in {lock["mode"] for lock in locks}
        async with asyncio.timeout(10):
            (run,) = await side.runs.claim(worker, await stage.queued(), token=1)
            assert (await side.runs.flush(worker, [ending(run)]))[run.id].ended
        await leader.commit()


async def test_a_run_of_a_day_without_a_partition_is_refused(database: str) -> None:
    async with staged(database) as stage:
        side = await stage.side()
        later = stage.clock.micros() // 1000 + 30 * 86_400_000
        with pytest.raises(DataRefusedError, match="no partition"):
            await side.intake.accept([stage.new(id=uuid7(later, bytes(10)))])


async def test_a_day_with_any_run_left_stays_and_an_empty_one_goes(database: str) -> None:
    async with staged(database) as stage:
        side = await stage.side()
        assert await side.upkeep.past_days() == [day(-2)], "yesterday still gets runs of slow clocks"
        old = stage.clock.micros() // 1000 - 2 * 86_400_000
        run = stage.new(id=uuid7(old, bytes(10)))
        await side.intake.accept([run])
        assert not await side.upkeep.drop_day(day(-2))
        assert await stage.status(run.id) == "queued"
        await stage.query("DELETE FROM runs WHERE id = %s", run.id)
        assert await side.upkeep.drop_day(day(-2))
        assert day(-2) not in await partitions(stage)
        assert not await side.upkeep.drop_day(day(-2)), "another leader was faster"


async def test_past_days_whatever_the_planner_knows_of_the_catalogue(database: str) -> None:
    """With statistics it joins the other way around, and used to read the name of every relation as a date."""
    async with staged(database) as stage:
        side = await stage.side()
        await stage.query("ANALYZE pg_class")
        await stage.query("ANALYZE pg_inherits")
        assert await side.upkeep.past_days() == [day(-2)]


async def test_readers_come_before_a_day_that_is_dropped(database: str) -> None:
    async with staged(database) as stage:
        reader, side = await stage.held(), await stage.side()
        await reader.session.execute("SELECT count(*) FROM workflow_runs")
        assert not await side.upkeep.drop_day(day(-2)), "the lock is waited for a moment only"
        assert day(-2) in await partitions(stage)
        await reader.commit()
        assert await side.upkeep.drop_day(day(-2))


async def test_a_run_that_gets_in_while_its_day_is_being_dropped_keeps_the_day(database: str) -> None:
    async with staged(database) as stage:
        late, leader = await stage.held(), await stage.held()
        run = stage.new(id=uuid7(stage.clock.micros() // 1000 - 2 * 86_400_000, bytes(10)))
        await stage.query("ALTER FUNCTION drop_day(text) RENAME TO drop_day_hastily")
        definition = await stage.query("SELECT pg_get_functiondef('drop_day_hastily'::regproc) AS sql")
        patient = definition[0]["sql"].replace("drop_day_hastily", "drop_day").replace("200ms", "10s")
        await stage.query(patient)
        await late.intake.accept([run])
        drop = await stage.waits(leader, leader.upkeep.drop_day(day(-2)))
        await late.commit()
        assert not await drop, "it looks after it has the lock"
        await leader.commit()
        assert await stage.status(run.id) == "queued"


@pytest.mark.parametrize("tables", [("trigger_events", "runs"), ("runs", "runs_{day}"), ("runs", "run_steps")])
async def test_who_writes_and_who_drops_a_day_do_not_wait_for_each_other(
    database: str, tables: tuple[str, str]
) -> None:
    """A statement locks its tables one after the other; the drop must not hold the second while it waits for the first."""
    first, second = (name.format(day=day(-2)) for name in tables)
    async with staged(database) as stage:
        writer, leader = await stage.held(), await stage.held()
        await writer.session.execute(cast("LiteralString", f"LOCK TABLE ONLY {first} IN ROW EXCLUSIVE MODE"))
        dropping = await stage.waits(leader, leader.upkeep.drop_day(day(-2)))
        await writer.session.execute(cast("LiteralString", f"LOCK TABLE ONLY {second} IN ROW EXCLUSIVE MODE NOWAIT"))
        await writer.commit()
        await dropping


# -- retention -------------------------------------------------------------------------------------------------------------


async def test_retention_removes_what_expired_and_nothing_else(database: str) -> None:
    async with staged(database) as stage:
        worker, side = await stage.worker(), await stage.side()
        old, young, live = await stage.running(worker, 3)
        expired = ending(old)
        assert expired.end is not None
        expired.end.retain = -HOUR / SECOND
        await side.runs.flush(worker, [expired, ending(young), progress(live, "charge")])
        page, following = await side.upkeep.expired_page(NIL, 2)
        assert (page, following) == ([old.id], young.id)
        assert await side.upkeep.expired_page(young.id, 2) == ([], None)
        assert await side.upkeep.delete_runs([old.id, young.id, live.id]) == 1
        rows = await stage.query("SELECT id::text FROM runs ORDER BY id")
        assert [row["id"] for row in rows] == [young.id, live.id]
        assert [len(await stage.steps(run.id)) for run in (old, young, live)] == [0, 1, 1]


async def test_the_whole_walk_of_retention(database: str) -> None:
    async with staged(database) as stage:
        worker, side = await stage.worker(), await stage.side()
        (run,) = await stage.running(worker)
        entry = ending(run)
        assert entry.end is not None
        entry.end.retain = -HOUR / SECOND
        await side.runs.flush(worker, [entry])
        await side.intake.accept([stage.new("expired"), stage.new("kept")])
        await stage.query("UPDATE idempotency_keys SET expires_at = now() - interval '1 s' WHERE key = 'expired'")
        await stage.kill(worker)
        await stage.query("UPDATE workers SET dead_at = now() - interval '2 days'")
        retention = Retention(side.upkeep)
        while await retention.run() < 1.0:
            pass
        assert len(await stage.query("SELECT 1 FROM runs")) == 2
        assert [row["key"] for row in await stage.query("SELECT key FROM idempotency_keys")] == ["kept"]
        assert await stage.query("SELECT 1 FROM workers") == []
        assert day(-2) not in await partitions(stage)


async def test_a_dead_worker_is_remembered_while_it_owns_something(database: str) -> None:
    async with staged(database) as stage:
        worker, side = await stage.worker(), await stage.side()
        (run,) = await stage.running(worker)
        await stage.query("UPDATE workers SET dead_at = now() - interval '2 days'")
        await side.upkeep.forget_workers()
        assert len(await stage.query("SELECT 1 FROM workers")) == 1
        await side.runs.flush(worker, [ending(run)])
        await side.upkeep.forget_workers()
        assert await stage.query("SELECT 1 FROM workers") == []


# -- the comparison with Redis ---------------------------------------------------------------------------------------------


async def test_the_walk_over_queued_runs_offers_each_once_and_no_other(database: str) -> None:
    async with staged(database) as stage:
        worker, side = await stage.worker(), await stage.side()
        wanted = set()
        for namespace in "abc":
            wanted |= set(await stage.queued(4, namespace=namespace))
        await stage.running(worker, 3)
        await stage.waiting(worker)
        (suspect,) = await stage.queued()
        await stage.suspect(side, suspect)
        await stage.query("UPDATE runs SET created_at = created_at - interval '3 s' WHERE status = 'queued'")
        await stage.queued(namespace="b")  # within the last two seconds: its hint is under way
        found: list[str] = []
        place: tuple[str, str] | None = START
        pages = 0
        while place is not None:
            page, place = await side.upkeep.queued_page(place, 5)
            found += [run.id for run in page]
            pages += 1
        assert sorted(found) == sorted(wanted)
        assert pages == 18 // 5 + 1
        assert await side.upkeep.queued_page(("zzz", NIL), 5) == ([], None)


async def test_a_page_that_holds_nothing_to_offer_still_leads_on(database: str) -> None:
    async with staged(database) as stage:
        worker, side = await stage.worker(), await stage.side()
        busy = await stage.running(worker, 3)
        page, place = await side.upkeep.queued_page(START, 3)
        assert (page, place) == ([], ("shop", busy[-1].id))


# -- the reaper's own clock ------------------------------------------------------------------------------------------------


class Watch:
    """A monotonic clock that moves when told to."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now

    async def tick(self, job: Job, seconds: float) -> None:
        """Let the job look every four seconds for so long."""
        end = self.now + seconds
        while self.now < end:
            self.now += min(reaping.PERIOD, end - self.now)
            await job.run()


async def test_a_silent_worker_dies_after_twenty_seconds_and_a_beating_one_does_not(
    database: str, redis_url: str
) -> None:
    async with staged(database) as stage:
        silent, beating, side, watch = await stage.worker(), await stage.worker(), await stage.side(), Watch()
        (lost,) = await stage.running(silent)
        (kept,) = await stage.running(beating)
        await side.runs.flush(silent, [progress(lost, "charge")])
        queue = ReadyQueue(redis_url, "stepwell")
        reaper = Reaper(side.upkeep, Offers(queue), monotonic=watch)
        with stage.liveness() as liveness:
            for _ in range(5):
                assert liveness.beat(beating)
                await watch.tick(reaper, 4.0)
            assert await stage.status(lost.id) == "running", "it was seen for less than twenty seconds"
            assert liveness.beat(beating)
            await watch.tick(reaper, 8.0)
        assert (await stage.status(lost.id), await stage.status(kept.id)) == ("queued", "running")
        assert reaper.recoveries == 1
        assert await queue.take(5) == [lost.id]
        await queue.close()


async def test_after_a_gap_every_silence_begins_anew(database: str, redis_url: str) -> None:
    async with staged(database) as stage:
        worker, side, watch = await stage.worker(), await stage.side(), Watch()
        queue = ReadyQueue(redis_url, "stepwell")
        reaper = Reaper(side.upkeep, Offers(queue), monotonic=watch)
        await watch.tick(reaper, 16.0)
        watch.now += 60.0  # the leader, or its database, stood still
        await watch.tick(reaper, 16.0)
        reaper.reset()
        await watch.tick(reaper, 16.0)
        assert worker in await side.upkeep.counters()
        await watch.tick(reaper, 16.0)
        assert worker not in await side.upkeep.counters()
        await queue.close()


async def test_live_runs_are_looked_through_only_after_a_loss_and_now_and_then(database: str, redis_url: str) -> None:
    async with staged(database) as stage:
        side, watch = await stage.side(), Watch()
        queue = ReadyQueue(redis_url, "stepwell")
        reaper = Reaper(side.upkeep, Offers(queue), monotonic=watch)
        with stage.liveness() as liveness:
            leaving = await stage.worker()

            async def looks(seconds: float) -> int:
                asked, end = 0, watch.now + seconds
                while watch.now < end:
                    before = side.session.statements
                    await watch.tick(reaper, 4.0)
                    asked += side.session.statements - before - 1  # counters are read each time
                    liveness.beat(leaving)
                return asked

            assert await looks(60.0) == 15, "a new leader does not know what was lost before it"
            assert await looks(120.0) <= 4
            liveness.unregister(leaving)
            assert await looks(60.0) >= 14
            assert await looks(120.0) <= 5
            (orphan,) = await stage.running(999_999)
            await looks(reaping.LOOK + 4.0)
            assert await stage.status(orphan.id) == "queued", "whoever owned it was never seen"
        await queue.close()


# -- the queue's gauges ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
async def test_live_runs_are_counted_whatever_the_page(database: str, limit: int) -> None:
    async with staged(database) as stage:
        worker, side = await stage.worker(), await stage.side()
        old = stage.clock.micros() - HOUR
        started = await stage.queued(2, namespace="a", created_at=old)
        claimed = {run.id: run.fence for run in await side.runs.claim(worker, started, 1)}
        await side.runs.hand_back(worker, dict(list(claimed.items())[:1]))
        await stage.queued(3, namespace="b", created_at=old)
        await stage.queued(1, namespace="a")
        counted: dict[tuple[str, str], int] = {}
        oldest: dict[str, float] = {}
        cursor: tuple[str, str] | None = START
        while cursor is not None:
            page, cursor = await side.upkeep.live_counts(cursor, limit)
            assert sum(count.runs for count in page) <= limit
            for count in page:
                key = (count.namespace, count.status)
                counted[key] = counted.get(key, 0) + count.runs
                oldest[count.namespace] = max(oldest.get(count.namespace, 0), count.oldest)
        assert counted == {("a", "queued"): 2, ("a", "running"): 1, ("b", "queued"): 3}
        assert 3_600 <= oldest["b"] < 3_700
        assert 0 <= oldest["a"] < 100, "what had started does not wait for its start"
