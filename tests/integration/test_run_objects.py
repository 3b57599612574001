"""WorkflowRuns and PostgreSQL: one run each, whatever happens between; the cluster is a dictionary here."""

from __future__ import annotations

import asyncio
import re
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, LiteralString
from uuid import uuid4

import lending
import orjson
import psycopg
import pytest
import services
from fault_proxy import FaultProxy, Mode
from psycopg import sql
from psycopg.conninfo import make_conninfo
from waiting import eventually

from stepwell.actions.registry import default_actions
from stepwell.adapters.postgres.intake_store import AGAIN_OF_OBJECTS, PostgresIntakeStore
from stepwell.adapters.postgres.run_objects import RunObjectStore
from stepwell.adapters.postgres.run_store import PostgresRunStore
from stepwell.adapters.postgres.session import Session
from stepwell.adapters.redis_queue.queue import ReadyQueue
from stepwell.domain.errors import DataRefusedError, NotFoundError
from stepwell.engine.apply import NewRevision
from stepwell.engine.clock import Clock
from stepwell.engine.control import Control
from stepwell.engine.intake import Intake
from stepwell.engine.maintenance.offers import Offers
from stepwell.engine.revisions import Revisions
from stepwell.metrics.operator import OperatorMetrics
from stepwell_operator.runs import acts
from stepwell_operator.runs.acts import RunActs
from stepwell_operator.runs.cluster import GoneError
from stepwell_operator.runs.follower import Follower
from stepwell_operator.runs.objects import END, RANKS, RunObject, Shown
from stepwell_operator.runs.sweep import sweep

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from stepwell.engine.intake import Start
    from stepwell.engine.ports import Accepted
    from stepwell_operator.events import Subject

PURE = [{"name": "only", "transform": {"value": 1}}]


@pytest.fixture(scope="module")
def shared(databases: lending.Databases) -> Iterator[str]:
    with databases.lent() as dsn:
        yield dsn


@pytest.fixture
def database(shared: str) -> str:
    """A database without runs."""
    with psycopg.connect(shared, autocommit=True) as connection:
        for table in ("run_steps", "runs", "workflow_run_objects"):
            connection.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(table)))
    return shared


class Cluster:
    """Statuses by uid. What is not in ``there`` is gone."""

    def __init__(self) -> None:
        self.there: set[str] = set()
        self.statuses: dict[str, dict[str, Any]] = {}
        self.events: list[str] = []
        self.refuses: set[str] = set()
        self.objects: dict[str, RunObject] = {}

    async def show(self, obj: RunObject, version: str, status: dict[str, Any]) -> str:
        if obj.uid not in self.there:
            raise GoneError("gone")
        if self.refuses & status.keys():
            raise DataRefusedError("status.output: no")
        self.statuses[obj.uid] = status
        return version + "1"

    async def read(self, obj: RunObject) -> RunObject:
        if obj.uid not in self.there:
            raise GoneError("gone")
        return self.objects[obj.uid]

    async def delete(self, obj: RunObject) -> None:
        self.there.discard(obj.uid)

    async def uids(self) -> set[str]:
        return set(self.there)

    def post(self, subject: Subject, reason: str, message: str, *, warning: bool = False) -> None:
        self.events.append(reason)


class Operator:
    """One life of an operator. ``started`` counts what it handed to intake."""

    def __init__(self, dsn: str, url: str, cluster: Cluster, judge: str | None) -> None:
        self.dsn = dsn
        self.judge = judge or dsn
        self.url = url
        self.cluster = cluster
        self.started = 0

    async def begin(self, stack: AsyncExitStack) -> Operator:
        clock = Clock()
        queue = ReadyQueue(self.url, f"objects-{uuid4().hex[:6]}")
        stack.push_async_callback(queue.close)
        starts, reads, looks = [
            await stack.enter_async_context(Session(self.dsn, name, clock)) for name in ("starts", "reads", "looks")
        ]
        runs = PostgresRunStore(reads, reads)
        self.intake_store = PostgresIntakeStore(starts)
        self.intake = Intake(self.intake_store, Revisions(runs.revision, default_actions()), Offers(queue), clock)
        self.control = Control(runs, queue)
        self.store = RunObjectStore(looks)
        self.acts = RunActs(self, self.control, self.store, self.cluster, self.cluster, OperatorMetrics())
        self.follower = Follower(self.store, self.acts)
        tasks = [asyncio.ensure_future(self.intake.run()), asyncio.ensure_future(self.follower.run())]
        stack.push_async_callback(_end, tasks)
        return self

    async def start(self, start: Start) -> Accepted:
        self.started += 1
        return await self.intake.start(start)

    async def apply(self, name: str = "pure", **values: Any) -> None:
        document = orjson.dumps({"steps": PURE, **values})
        await self.intake_store.apply(NewRevision("growth", name, document, document[-32:], [], False, 3600, 3600))

    def rows(self, query: LiteralString, *params: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.judge, autocommit=True) as connection:
            return connection.execute(query, params).fetchall()

    def run_of(self, obj: RunObject) -> str:
        rows = self.rows("SELECT status FROM runs WHERE trigger = %s", obj.uid)
        assert len(rows) <= 1
        return str(rows[0][0]) if rows else ""

    async def has_run(self, obj: RunObject, status: str = "queued") -> None:
        await eventually(lambda: self.run_of(obj) == status, 20.0)

    async def shows(self, obj: RunObject, phase: str) -> dict[str, Any]:
        await eventually(lambda: self.cluster.statuses.get(obj.uid, {}).get("phase") == phase, 20.0)
        return self.cluster.statuses[obj.uid]


async def _end(tasks: list[asyncio.Future[None]]) -> None:
    for task in reversed(tasks):
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def life(dsn: str, url: str, cluster: Cluster, judge: str | None = None) -> AsyncIterator[Operator]:
    async with AsyncExitStack() as stack:
        yield await Operator(dsn, url, cluster, judge).begin(stack)


def made(cluster: Cluster, workflow: str = "pure", **values: Any) -> RunObject:
    uid = str(uuid4())
    cluster.there.add(uid)
    now = datetime.now(UTC).replace(microsecond=0)
    base = RunObject(uid, "growth", f"x-{uid}", "1", 1, now, workflow, {}, None, False, False, None, Shown())
    return replace(base, **values)


async def test_many_lives_and_the_same_news_again_and_again_start_one_run(database: str, redis_url: str) -> None:
    cluster = Cluster()
    objects = [made(cluster) for _ in range(20)]
    async with life(database, redis_url, cluster) as first, life(database, redis_url, cluster) as second:
        await first.apply()
        for operator in (first, second):
            for obj in objects * 10:
                operator.follower.observe(obj)
        for obj in objects:
            await first.has_run(obj)
        assert first.started + second.started >= 20
    async with life(database, redis_url, cluster) as third:
        for obj in objects:
            third.follower.observe(obj)
        for obj in objects:
            await third.shows(obj, "Queued")
        assert third.started == 0
    assert third.rows("SELECT count(*), count(DISTINCT trigger) FROM runs") == [(20, 20)]
    assert third.rows("SELECT count(*) FROM workflow_run_objects o JOIN runs r ON r.id = o.run_id") == [(20,)]


async def test_a_run_that_exists_is_shown_though_its_workflow_is_gone(database: str, redis_url: str) -> None:
    """An operator was killed between the commit and the status; then the Workflow was deleted."""
    cluster = Cluster()
    obj = made(cluster)
    async with life(database, redis_url, cluster) as operator:
        await operator.apply()
        operator.follower.observe(obj)
        await operator.has_run(obj)
    cluster.statuses.clear()
    operator.rows("UPDATE workflows SET deleted_at = now() RETURNING id")
    async with life(database, redis_url, cluster) as another:
        with pytest.raises(NotFoundError):
            await another.intake.start(acts._start_of(made(cluster)))
        another.follower.observe(obj)
        status = await another.shows(obj, "Queued")
    assert status["runId"] == obj.run_id
    assert "message" not in status


@pytest.mark.parametrize("age", [timedelta(days=10), timedelta(days=400), timedelta(days=-30)])
async def test_an_object_from_a_day_without_partitions(database: str, redis_url: str, age: timedelta) -> None:
    """Nobody watched for ten days; or the API server's clock is far ahead."""
    cluster = Cluster()
    async with life(database, redis_url, cluster) as operator:
        await operator.apply()
        objects = [made(cluster, created_at=datetime.now(UTC) - age) for _ in range(3)]
        for obj in objects:
            operator.follower.observe(obj)
        for obj in objects:
            await operator.has_run(obj)
    day = f"runs_{objects[0].created_at:%Y%m%d}"
    assert operator.rows("SELECT DISTINCT tableoid::regclass::text FROM runs") == [(day,)]


async def test_a_partition_that_retention_dropped_again_is_made_again(database: str, redis_url: str) -> None:
    cluster = Cluster()
    old = datetime.now(UTC) - timedelta(days=10)
    async with life(database, redis_url, cluster) as operator:
        await operator.apply()
        first, second = [made(cluster, created_at=old) for _ in range(2)]
        operator.follower.observe(first)
        await operator.has_run(first)
        operator.rows("DELETE FROM runs RETURNING id")
        assert operator.rows("SELECT drop_day(%s)", f"{old:%Y%m%d}") == [(True,)]
        operator.follower.observe(second)
        await operator.has_run(second)


async def test_a_run_that_retention_removed_does_not_come_back(database: str, redis_url: str) -> None:
    cluster = Cluster()
    obj, finished = made(cluster), made(cluster, shown=Shown(END, datetime.now(UTC), datetime.now(UTC), started=True))
    async with life(database, redis_url, cluster) as operator:
        await operator.apply()
        operator.follower.observe(obj)
        await operator.has_run(obj)
    operator.rows("DELETE FROM runs RETURNING id")
    cluster.statuses.clear()
    async with life(database, redis_url, cluster) as another:
        another.follower.observe(finished)
        another.follower.observe(obj)
        status = await another.shows(obj, "Expired")
        await eventually(lambda: not another.follower.tracks)
    assert {c["type"]: c["status"] for c in status["conditions"]} == {"Succeeded": "Unknown", "Finished": "True"}
    assert (another.started, another.rows("SELECT count(*) FROM runs")) == (0, [(0,)])


async def test_a_run_that_a_failover_lost_is_started_again_with_its_input(database: str, redis_url: str) -> None:
    """The operator lives on, and had let go of the input when the run was accepted."""
    cluster = Cluster()
    kept, gone = (made(cluster, input={"n": n}) for n in (1, 2))
    cluster.objects = {kept.uid: kept}
    async with life(database, redis_url, cluster) as operator:
        await operator.apply()
        for obj in (kept, gone):
            operator.follower.observe(obj)
            await operator.has_run(obj)
            await eventually(lambda obj=obj: operator.follower.tracks[obj.uid].accepted)
        cluster.there.discard(gone.uid)
        operator.rows("WITH lost AS (DELETE FROM runs), objects AS (DELETE FROM workflow_run_objects) SELECT 1")
        await operator.has_run(kept)
        await eventually(lambda: gone.uid not in operator.follower.tracks)
        assert operator.rows("SELECT id::text, input_data FROM runs") == [(kept.run_id, {"n": 1})]


async def test_objects_beside_a_database_that_was_restored(database: str, redis_url: str) -> None:
    """It is of a time before them: what is over stays over, the others are started, under the ids that they had."""
    cluster = Cluster()
    now = datetime.now(UTC)
    over = made(cluster, shown=Shown(END, now, now, started=True))
    running = made(cluster, shown=Shown(RANKS["Running"], now, None, started=True), input={"n": 3})
    async with life(database, redis_url, cluster) as operator:
        await operator.apply()
        for obj in (over, running):
            operator.follower.observe(obj)
        await operator.has_run(running)
        assert operator.rows("SELECT id::text, input_data FROM runs") == [(running.run_id, {"n": 3})]
        succeed(operator, running)
        await operator.shows(running, "Succeeded")
        assert over.uid not in cluster.statuses


POINTS = sorted(set(re.findall(r'crashpoint\("(\w+)"\)', Path(acts.__file__).read_text())))
LAST = {"run_object_after_cancel": "Cancelled", "run_object_before_deletion": None}


@pytest.mark.parametrize("point", POINTS)
async def test_an_operator_that_dies_anywhere_leaves_nothing_undone(
    database: str, redis_url: str, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    """It dies at the point; until then the object is as it was, then it is cancelled, or its time after the end is over."""
    cluster = Cluster()
    obj = made(cluster)
    struck = asyncio.Event()

    def dying(name: str) -> None:
        if name == point:
            struck.set()
            raise asyncio.CancelledError(name)  # this task goes no further, as if the process had ended

    async with life(database, redis_url, cluster) as dies:
        await dies.apply()
        monkeypatch.setattr(acts, "crashpoint", dying)
        dies.follower.observe(obj)
        if point == "run_object_after_cancel":
            await dies.has_run(obj)
            obj = replace(obj, cancel=True, generation=2)
            dies.follower.observe(obj)
        if point == "run_object_before_deletion":
            await dies.has_run(obj)
            succeed(dies, obj)
            await dies.shows(obj, "Succeeded")
            ended = Shown(END, datetime.now(UTC), datetime.now(UTC), started=True)
            obj = replace(obj, ttl=0.001, generation=2, shown=ended)
            dies.follower.observe(obj)
        await asyncio.wait_for(struck.wait(), 20)
        monkeypatch.undo()
    async with life(database, redis_url, cluster) as operator:
        operator.follower.observe(obj)
        await eventually(lambda: operator.run_of(obj))
        if point not in LAST:
            succeed(operator, obj)
            await operator.shows(obj, "Succeeded")
        elif LAST[point]:
            await operator.shows(obj, "Cancelled")
        else:
            await eventually(lambda: obj.uid not in cluster.there)
        await eventually(lambda: not operator.follower.tracks)
    assert operator.rows("SELECT count(*) FROM runs") == [(1,)]
    assert len(cluster.events) <= 2


def succeed(operator: Operator, obj: RunObject) -> None:
    end: LiteralString = (
        "UPDATE runs SET status = 'succeeded', started_at = now(), finished_at = now(), expires_at = now() WHERE id = %s"
        " RETURNING 1"
    )
    assert operator.rows(end, obj.run_id) == [(1,)]


async def test_what_was_deleted_while_nobody_watched_is_cancelled(database: str, redis_url: str) -> None:
    cluster = Cluster()
    kept, deleted = [made(cluster) for _ in range(2)]
    async with life(database, redis_url, cluster) as operator:
        await operator.apply()
        for obj in (kept, deleted):
            operator.follower.observe(obj)
            await operator.has_run(obj)
    cluster.there.remove(deleted.uid)
    async with life(database, redis_url, cluster) as another:
        another.follower.observe(kept)
        assert await sweep(another.store, cluster, another.follower) == 1
        await another.has_run(deleted, "cancelled")
        query: LiteralString = "SELECT uid FROM workflow_run_objects"
        await eventually(lambda: another.rows(query) == [(kept.uid,)])
        assert await sweep(another.store, cluster, another.follower) == 0
        assert another.run_of(kept) == "queued"


async def test_the_object_went_away_before_its_status_was_written(database: str, redis_url: str) -> None:
    cluster = Cluster()
    obj = made(cluster)
    cluster.there.clear()
    async with life(database, redis_url, cluster) as operator:
        await operator.apply()
        operator.follower.observe(obj)
        await operator.has_run(obj, "cancelled")
        await eventually(lambda: not operator.follower.tracks)
    assert cluster.events == []


def through(proxy: FaultProxy, dsn: str) -> str:
    return make_conninfo(dsn, host=proxy.host, port=proxy.port, sslmode="disable", gssencmode="disable")


async def test_what_came_while_the_database_was_away_is_started_once_it_is_back(database: str, redis_url: str) -> None:
    cluster = Cluster()
    objects = [made(cluster) for _ in range(5)]
    async with (
        FaultProxy(services.postgres_address(database)) as proxy,
        life(through(proxy, database), redis_url, cluster, judge=database) as operator,
    ):
        await operator.apply()
        proxy.mode = Mode.REFUSE
        for obj in objects:
            operator.follower.observe(obj)
        await eventually(lambda: operator.follower._away, 20.0)
        assert operator.rows("SELECT count(*) FROM runs") == [(0,)]
        proxy.mode = Mode.PASS
        for obj in objects:
            await operator.has_run(obj)


async def test_a_start_whose_answer_was_lost_is_no_second_run(database: str, redis_url: str) -> None:
    cluster = Cluster()
    obj = made(cluster)
    async with (
        FaultProxy(services.postgres_address(database)) as proxy,
        life(through(proxy, database), redis_url, cluster, judge=database) as operator,
    ):
        await operator.apply()
        proxy.drop_reply(b"INSERT INTO runs")
        operator.follower.observe(obj)
        await operator.shows(obj, "Queued")
        assert proxy.counts["dropped"] == 1
        assert operator.run_of(obj) == "queued"


async def test_a_status_that_is_refused_says_the_rest(database: str, redis_url: str) -> None:
    cluster = Cluster()
    cluster.refuses = {"output"}
    obj = made(cluster)
    async with life(database, redis_url, cluster) as operator:
        await operator.apply()
        operator.follower.observe(obj)
        await operator.has_run(obj)
        operator.rows("UPDATE runs SET output_data = '[1]' WHERE id = %s RETURNING 1", obj.run_id)
        succeed(operator, obj)
        status = await operator.shows(obj, "Succeeded")
    assert status["outputUrl"].endswith(obj.run_id)
    assert status["message"] == "this status is not complete: status.output: no"


async def test_a_nested_output_and_steps_are_read_with_the_run(database: str, redis_url: str) -> None:
    cluster = Cluster()
    obj, other = made(cluster), made(cluster)
    async with life(database, redis_url, cluster) as operator:
        await operator.apply()
        for each in (obj, other):
            operator.follower.observe(each)
            await operator.has_run(each)
        for text, step in (('{"a": null}', "small"), (f'"{"x" * 4_095}"', "large")):
            operator.rows(
                "INSERT INTO run_steps (run_id, fence, step, attempt, status, started_at, finished_at, output_data)"
                " VALUES (%s, 1, %s, 1, 'succeeded', now(), now(), %s) RETURNING 1",
                obj.run_id, step, text,
            )  # fmt: skip
        operator.rows(
            "INSERT INTO run_steps (run_id, fence, step, item_index, attempt, status, started_at, finished_at)"
            " VALUES (%s, 1, 'small', 0, 1, 'succeeded', now(), now()) RETURNING 1", obj.run_id
        )  # fmt: skip
        end: LiteralString = (
            "UPDATE runs SET status = 'succeeded', finished_at = now(), expires_at = now(), output_from = 'large'"
            " WHERE id = %s RETURNING 1"
        )
        operator.rows(end, obj.run_id)
        fits: LiteralString = end.replace("output_from = 'large'", "output_data = %s::json")
        operator.rows(fits, f'"{"x" * 4_094}"', other.run_id)
        found = await operator.store.details([obj.run_id, other.run_id])
    run, steps = found[obj.run_id]
    assert (run.output, run.output_too_large) == (None, True)
    assert (found[other.run_id][0].output, found[other.run_id][0].output_too_large) == ("x" * 4_094, False)
    assert [(step.step, step.attempt, step.status) for step in steps if step.step == "small"] == [
        ("small", 1, "succeeded")
    ]


def test_the_object_is_noted_in_the_transaction_of_its_run() -> None:
    assert {"runs", "workflow_run_objects"} <= set(re.findall(r"INSERT INTO (\w+)", AGAIN_OF_OBJECTS))
