"""What the hot statements read: over 38 partitions, at several sizes, and whatever the planner believes.

A day's partition is made a week ahead and may take a hundred thousand runs before anybody analyses it. So each bound is
held without statistics, with those of an empty database (stale), and with fresh ones; the middle size is in the list
because it is there that a plan tips over.
"""

from __future__ import annotations

import os
import re
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, LiteralString, cast

import orjson
import psycopg
import pytest
from history import History, Plan, explain_over
from protocol import SECOND, Side, Stage, ending, progress, staged

from stepwell.adapters.postgres import queries
from stepwell.adapters.postgres.intake_store import AGAIN, AGAIN_OF_OBJECTS
from stepwell.adapters.postgres.run_store import claims_set, flush_sets, uuid_array
from stepwell.domain.ids import uuid7
from stepwell.domain.states import RunStatus, StepStatus
from stepwell.engine.maintenance import gauges, readd
from stepwell.engine.ports import AttemptRecord, End, FlushEntry, Park, Turn

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lending import Databases

RUNS, MAINTENANCE, LIVENESS = map(queries.load, ("runs", "maintenance", "liveness"))
RUN_OBJECTS, WEBHOOKS = map(queries.load, ("run_objects", "webhooks"))
RESOURCES, TALLIES = map(queries.load, ("resources", "tallies"))

SIZES = {"young": (300, 2_000, 2_000, 1_000), "middle": (20_000, 6_000, 0, 0), "large": (20_000, 92_000, 8_000, 0)}
"""What is added from size to size: ended, queued, running and waiting runs."""

KNOWN = ["young-fresh", "middle-stale", "middle-fresh", "large-stale", "large-fresh"]
UNKNOWN = ["young-unknown", "middle-unknown", "large-unknown"]

BATCHES = (50, 200, 600, 2_000)
DEATHS = {"deaths": 5, "recoveries": 3, "budget": timedelta(minutes=5)}
NIL = "00000000-0000-0000-0000-000000000000"
LAST = "ffffffff-ffff-ffff-ffff-ffffffffffff"
TOMORROW = datetime.now(UTC) + timedelta(days=1)


@dataclass(frozen=True, slots=True)
class World:
    """A filled database and what its planner knows of it."""

    history: History
    connection: psycopg.Connection
    fences: dict[str, int]
    size: str
    statistics: str

    @property
    def live(self) -> int:
        """How many runs have not ended."""
        return sum(len(ids) for ids in (self.history.queued, self.history.running, self.history.waiting))

    def held(self, count: int) -> dict[str, int]:
        """So many runs of the worker, with their fences."""
        return dict(list(self.fences.items())[:count])

    def explain(self, query: LiteralString, **params: object) -> Plan:
        """See history.explain."""
        return explain_over(self.connection, query, params)

    def check(self, plan: Plan, ids: Sequence[str], touches: int, steps: int = 0) -> None:
        """Only the ids' own days are read; of these few rows an id, unless all of a small day is cheaper."""
        count = len(ids)
        days = {f"runs_{day_of(run_id)}" for run_id in ids}
        assert plan.days("runs") <= days, plan.text
        assert plan.days("run_steps") <= {day.replace("runs", "run_steps") for day in days}, plan.text
        assert plan.compared <= 3 * count, f"a nested loop compared {plan.compared} pairs: {plan.text}"
        # PostgreSQL 17 learnt that many ids share a descent of the index; before, it reads all of a day sooner.
        spare = 15 if self.statistics == "fresh" and self.history.version >= 170_000 else 60
        assert plan.rows("runs") <= touches * max(count * spare, 100), plan.text
        assert plan.rows("run_steps") <= steps * max(count * 10 * spare, 1_000), plan.text
        for name, rows in plan.read.items():
            if not name.startswith(("runs_", "run_steps_", "Bitmap", "timers")):
                assert rows <= 12 * count + 100, f"{rows} rows of {name}: {plan.text}"


def day_of(run_id: str) -> str:
    """The day in a UUIDv7, as partitions are named."""
    return time.strftime("%Y%m%d", time.gmtime(int(run_id.replace("-", "")[:12], 16) / 1000))


class Growth:
    """A database that grows from state to state, and the connection over which statements are explained."""

    def __init__(self, dsn: str, connection: psycopg.Connection, states: list[str]) -> None:
        self._connection = connection
        self._states = list(states)
        self._history = History.begin(dsn)
        with psycopg.connect(dsn, autocommit=True) as connection:
            row = connection.execute(LIVENESS["register"], {"host": "h", "process": 1, "version": "0"}).fetchone()
        assert row is not None
        self._worker: int = row[0]
        self._size = ""

    def grow(self, ended: int, queued: int, running: int, waiting: int) -> World:
        """The world with so many more."""
        self._history.fill(ended, queued, running, waiting, self._worker)
        return self._world("growing", "unknown")

    def reach(self, state: str) -> World:
        """The world in this state or, where earlier ones are left out of the run, through them."""
        while True:
            size, statistics = self._states[0].split("-")
            if size != self._size:
                self._size = size
                self.grow(*SIZES[size])
            if statistics == "fresh":
                self._history.analyze()
            if self._states.pop(0) == state:
                return self._world(size, statistics)

    def _world(self, size: str, statistics: str) -> World:
        return World(self._history, self._connection, self._history.fences(), size, statistics)


@pytest.fixture(scope="module")
def growths(databases: Databases) -> Iterator[list[Growth]]:
    """One database that is analysed now and then, and one that never is."""
    with growing(databases, KNOWN) as known, growing(databases, UNKNOWN) as unknown:
        yield [known, unknown]


@contextmanager
def growing(databases: Databases, states: list[str]) -> Iterator[Growth]:
    """A database that is to go through these states."""
    with databases.clone() as dsn, psycopg.connect(dsn) as connection:
        yield Growth(dsn, connection, states)


@pytest.fixture(scope="module", params=KNOWN + UNKNOWN)
def world(request: pytest.FixtureRequest, growths: list[Growth]) -> World:
    """Each size with each kind of statistics."""
    return growths[request.param in UNKNOWN].reach(request.param)


# -- statements over ids ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", BATCHES)
def test_a_claim_reads_what_it_is_offered(world: World, count: int) -> None:
    ids = world.history.queued[:count]
    plan = world.explain(RUNS["claim"], worker=1, token=1, ids=uuid_array(ids), unsupported=[])
    world.check(plan, ids, touches=2)


@pytest.mark.parametrize("count", BATCHES)
def test_history_is_read_of_the_claimed_runs(world: World, count: int) -> None:
    ids = world.history.ended[-count:]
    world.check(world.explain(RUNS["attempts"], ids=uuid_array(ids)), ids, touches=0, steps=1)
    world.check(world.explain(RUNS["cancel_requested"], ids=uuid_array(ids)), ids, touches=1)


@pytest.mark.parametrize("count", BATCHES)
def test_a_flush_reads_the_runs_that_it_writes(world: World, count: int) -> None:
    held = world.held(count)
    entries = [entry(number, run_id, fence) for number, (run_id, fence) in enumerate(held.items())]
    plan = world.explain(RUNS["flush"], worker=world.history.worker, ids=uuid_array(held), **flush_sets(entries))
    world.check(plan, list(held), touches=3)


def entry(number: int, run_id: str, fence: int) -> FlushEntry:
    """Two steps, then by turns an end, a park, the turn of handlers, and nothing."""
    attempts = [AttemptRecord(n, 1, StepStatus.SUCCEEDED, 1, 2, None, b'"$run"', None, b"{}") for n in ("one", "two")]
    full = FlushEntry(run_id, fence, attempts)
    if number % 3 == 0:
        return replace(full, end=End(RunStatus.SUCCEEDED, 3, 60.0, output_from="two"))
    if number % 6 == 2:
        return replace(full, turn=Turn(1, 3, 4, End(RunStatus.FAILED, 3, 60.0, error=b"{}")))
    return replace(full, park=Park(0, 4_000_000_000 * SECOND)) if number % 3 == 1 else full


@pytest.mark.parametrize("count", BATCHES)
def test_cancel_wake_and_hand_back_read_what_they_change(world: World, count: int) -> None:
    queued, held = world.history.queued[:count], world.held(count)
    world.check(world.explain(RUNS["cancel"], namespace="shop-1", ids=uuid_array(queued)), queued, touches=2)
    world.check(world.explain(RUNS["wake"], ids=uuid_array(queued)), queued, touches=2)
    back = world.explain(RUNS["hand_back"], worker=world.history.worker, begun=False, **claims_set(held))
    world.check(back, list(held), touches=2, steps=1)


@pytest.mark.parametrize("count", [50, 1_000])
def test_following_workflow_runs_reads_the_runs_that_are_followed(world: World, count: int) -> None:
    ids = world.history.running[:count] or world.history.ended[-count:]
    world.check(world.explain(RUN_OBJECTS["states"], ids=uuid_array(ids)), ids, touches=1)
    some = ids[:50]
    world.check(world.explain(RUN_OBJECTS["details"], ids=uuid_array(some), max_output=4096), some, touches=1)
    ended = world.history.ended[-50:]
    world.check(world.explain(RUN_OBJECTS["steps"], ids=uuid_array(ended)), ended, touches=0, steps=1)


@pytest.mark.parametrize("count", [50, 1_000])
def test_a_gateway_reads_the_runs_that_it_waits_for(world: World, count: int) -> None:
    ids = world.history.ended[-count:]
    world.check(world.explain(WEBHOOKS["statuses"], ids=uuid_array(ids)), ids, touches=1)
    world.check(world.explain(WEBHOOKS["ended"], ids=uuid_array(ids)), ids, touches=1)


def test_the_backlog_of_a_namespace_is_counted_without_its_history(world: World) -> None:
    plan = world.explain(WEBHOOKS["queued"], namespace="shop-1", limit=1_001)
    needed = min(world.live, 2_001 + len(world.history.running) + len(world.history.waiting))
    left = needed // 2  # entries of updates that tests before this one rolled back
    assert plan.rows("runs") <= needed + left, plan.text


@pytest.mark.parametrize("count", [50, 600])
def test_maintenance_reads_what_it_changes(world: World, count: int) -> None:
    held, waiting, ended = world.held(count), world.history.waiting[:count], world.history.ended[:count]
    world.check(world.explain(MAINTENANCE["reap"], **DEATHS, **claims_set(held)), list(held), touches=2, steps=1)
    world.check(world.explain(MAINTENANCE["wake_due"], ids=uuid_array(waiting)), waiting, touches=2)
    world.check(world.explain(MAINTENANCE["wake_stranded"], ids=uuid_array(waiting)), waiting, touches=2)
    world.check(world.explain(MAINTENANCE["delete_runs"], ids=uuid_array(ended)), ended, touches=1, steps=1)


@pytest.mark.parametrize("keyed", [True, False], ids=["keyed", "plain"])
def test_intake_looks_up_its_workflows_and_matches_no_rows_in_pairs(world: World, keyed: bool) -> None:
    starts = [start(world.history, f"new-{number}" if keyed else None) for number in range(1_000)]
    params = {"runs": orjson.dumps(starts).decode(), "workflows": [world.history.workflow], "keep": "1 day"}
    plan = explain_accept(world, **params)
    assert plan.compared <= 3_000, plan.text
    assert plan.rows("runs") == 0
    assert plan.rows("workflows") <= 10, plan.text
    assert all(rows <= 6_000 for rows in plan.read.values()), plan.text
    ids = [str(row["id"]) for row in starts]
    for again in (AGAIN, AGAIN_OF_OBJECTS):
        world.check(world.explain(again, **params, ids=uuid_array(ids)), ids, touches=1)


def explain_accept(world: World, **params: object) -> Plan:
    """The statement within the function, planned as the function has it planned: for no values."""
    world.connection.execute("DEALLOCATE ALL")
    world.connection.execute(f"PREPARE accept (json, bigint[], interval) AS {accept_body(world.connection)}".encode())
    for setting in ("plan_cache_mode = force_generic_plan", "enable_seqscan = off"):
        world.connection.execute(f"SET LOCAL {setting}".encode())
    execute = psycopg.ClientCursor(world.connection).mogrify(
        "EXECUTE accept (%(runs)s, %(workflows)s, %(keep)s)", params
    )
    return world.explain(cast("LiteralString", execute))


def accept_body(connection: psycopg.Connection) -> str:
    """Its parameters by number."""
    row = connection.execute("SELECT prosrc FROM pg_proc WHERE proname = 'accept_runs'").fetchone()
    assert row is not None
    body = re.search(r"RETURN QUERY\n(.*);\nEND", row[0], re.DOTALL)
    assert body is not None
    text: str = body[1]
    for number, name in enumerate(("starts", "workflow_ids", "keep"), 1):
        text = re.sub(rf"\b{name}\b", f"${number}", text)
    return text


def test_a_first_and_a_repeated_batch_are_the_same_statement(database: str) -> None:
    with psycopg.connect(database) as connection:
        first = accept_body(connection)
    again: str = re.sub(r"^ *--.*|  ON CONFLICT DO NOTHING", "", AGAIN, flags=re.MULTILINE)
    for number, name in enumerate(("runs)s::json", "workflows)s::bigint[]", "keep)s::interval"), 1):
        again = again.replace(f"%({name}", f"${number}")
    again = again.replace("\n    OR (n.id IN (SELECT r.id FROM runs r WHERE r.id = ANY(%(ids)s::uuid[]))) IS TRUE", "")
    first = re.sub(r"NULL::text", "NULL", first)
    assert first.split() == again.split()


def start(history: History, key: str | None) -> dict[str, object]:
    """A start as the store writes it."""
    now = time.time_ns() // 1000
    run_id, event_id = (uuid7(now // 1000, os.urandom(10)) for _ in range(2))
    row: dict[str, object] = {
        "id": run_id, "workflow_id": history.workflow, "revision_id": history.revision, "namespace": "shop",
        "trigger": "api", "priority": 0, "created_at": now, "input": {}, "event_id": event_id,
    }  # fmt: skip
    return row | ({"key": key, "input_hash": "00" * 16} if key else {})


def test_no_plan_tips_into_a_nested_loop_on_the_way_from_small_to_large(databases: Databases) -> None:
    """Where reading all of a day is only just cheaper than its index, an estimate of one row makes the worst of plans: the
    bands are narrow (200 ids among 6,500 runs, 50 among 1,500), so that fixed sizes miss them.
    """
    with growing(databases, []) as growth:
        for _ in range(14):
            world = growth.grow(40, 350, 75, 75)
            for count in (50, 200):
                for name, plan in id_statements(world, count):
                    assert plan.compared <= 3 * count, (
                        f"{name} of {count} ids compared {plan.compared} pairs: {plan.text}"
                    )


def id_statements(world: World, count: int) -> Iterator[tuple[str, Plan]]:
    """The plans of all statements that change runs by their ids."""
    history, held = world.history, world.held(count)
    queued, waiting = history.queued[:count], history.waiting[:count]
    entries = [entry(number, run_id, fence) for number, (run_id, fence) in enumerate(held.items())]
    flush = {"worker": history.worker, "ids": uuid_array(held), **flush_sets(entries)}
    claim = {"worker": 1, "token": 1, "ids": uuid_array(queued), "unsupported": []}
    yield "claim", world.explain(RUNS["claim"], **claim)
    yield "flush", world.explain(RUNS["flush"], **flush)
    yield "cancel", world.explain(RUNS["cancel"], namespace="shop-1", ids=uuid_array(queued))
    yield "wake", world.explain(RUNS["wake"], ids=uuid_array(queued))
    yield "hand_back", world.explain(RUNS["hand_back"], worker=history.worker, begun=False, **claims_set(held))
    yield "reap", world.explain(MAINTENANCE["reap"], **DEATHS, **claims_set(held))
    yield "wake_due", world.explain(MAINTENANCE["wake_due"], ids=uuid_array(waiting))
    yield "wake_stranded", world.explain(MAINTENANCE["wake_stranded"], ids=uuid_array(waiting))
    yield "delete_runs", world.explain(MAINTENANCE["delete_runs"], ids=uuid_array(history.ended[:count]))


# -- statements over the backlog -------------------------------------------------------------------------------------------


def test_the_fallback_claim_reads_little_more_than_it_takes(world: World) -> None:
    plan = world.explain(RUNS["claim_oldest"], worker=1, token=7, limit=200, unsupported=[])
    passed = len(world.history.running) + len(
        world.history.waiting
    )  # live runs that are older and not queued are passed over
    assert plan.rows("runs") <= passed + 1_500, plan.text
    assert len(plan.days("runs")) <= 2, "of the update; the walk itself touches every day's index once a namespace"
    assert plan.compared <= 600


def test_the_comparison_with_redis_reads_one_page(world: World) -> None:
    for namespace in ("", "shop-1", "shop-2"):
        plan = world.explain(MAINTENANCE["queued_page"], namespace=namespace, id=NIL, limit=readd.PAGE)
        assert plan.rows("runs") <= readd.PAGE + 100


def test_the_live_runs_are_counted_by_the_page(world: World) -> None:
    for limit in (1_000, gauges.PAGE):
        plan = world.explain(MAINTENANCE["live_counts"], namespace="", id=NIL, limit=limit)
        assert plan.rows("runs") <= min(limit, 1.1 * world.live) + 1_000, plan.text


def test_a_walk_over_the_history_reads_one_page(world: World) -> None:
    for after in (NIL, world.history.ended[len(world.history.ended) // 2]):
        plan = world.explain(MAINTENANCE["expired_runs"], after=after, limit=1_000)
        assert plan.rows("runs") <= 1_100


def test_counting_the_runs_of_all_workflows_reads_each_of_them_once(world: World) -> None:
    whole = world.explain(TALLIES["count"], after=NIL, until=LAST, page=20_000)
    assert whole.rows("runs") <= 20_000 + 100, whole.text
    newest = world.history.ended[-200:]
    after = world.explain(TALLIES["count"], after=newest[0], until=newest[-1], page=20_000)
    assert after.rows("runs") <= 200 + 100, f"what was counted is not read again: {after.text}"
    for count in (50, 5_000):
        ids = world.history.queued[:count]
        world.check(world.explain(TALLIES["recount"], ids=uuid_array(ids)), ids, touches=1)


def test_the_runs_of_a_deleted_workflow_are_found_among_the_live_ones(world: World) -> None:
    plan = world.explain(
        RESOURCES["to_cancel"], namespace="shop-1", workflow=world.history.workflow, before=TOMORROW, limit=500
    )
    assert plan.rows("runs") <= 1.1 * world.live + 1_000, plan.text


@pytest.mark.parametrize("name", ["orphans", "stranded", "owned", "claimed", "forget_workers"])
def test_a_look_at_all_live_runs_reads_no_history(world: World, name: str) -> None:
    query = MAINTENANCE[name] if name in MAINTENANCE else RUNS[name]
    plan = world.explain(query, worker=world.history.worker, token=1)
    assert plan.rows("runs") <= 1.1 * world.live + 1_000, plan.text
    assert plan.compared <= 3_000, plan.text


def test_suspects_and_cancels_are_found_without_looking_at_the_backlog(world: World) -> None:
    plan = world.explain(RUNS["claim_suspects"], worker=1, limit=50, token=1)
    assert plan.rows("runs") <= 500, plan.text
    plan = world.explain(LIVENESS["cancelling"], worker=world.history.worker)
    assert plan.rows("runs") <= 500, "all of a day with ten runs is cheaper than its index"


def test_due_timers_and_expired_keys_are_found_without_looking_at_the_others(world: World) -> None:
    for limit in (100, 1_000):
        plan = world.explain(MAINTENANCE["due"], limit=limit)
        assert plan.rows("timers") <= min(limit, len(world.history.waiting) // 2) + 10, plan.text
    plan = world.explain(MAINTENANCE["delete_keys"], limit=100)
    assert plan.rows("idempotency_keys") <= 100, plan.text


# -- what is written -------------------------------------------------------------------------------------------------------


RUNS_WRITTEN = 2_000
BATCH = 200
DOCUMENTS = 3 * len(b'{"ok":true}') + len(b'{"order": 7}')


async def test_claims_and_flushes_stay_on_their_page_and_within_the_budget_of_wal(
    database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with staged(database) as stage:
        worker, side = await stage.worker(), await stage.side()
        figures = {"one": await _written(stage, side, worker, 1), "three": await _written(stage, side, worker, 3)}
        keyed = await _accepted_bytes(stage, side, "ABC") - await _accepted_bytes(stage, side, None)
        hot = await _hot_claims(stage, side, worker)
    with capsys.disabled():
        print(f"\nWAL of a run in bytes: {figures}; of a key: {keyed}; HOT claims: {hot:.1%}")
    assert figures["three"] <= 2_048 + DOCUMENTS
    assert figures["one"] <= figures["three"]
    assert keyed <= 350, "0.3 KB, and the splits of pages that fell to one side"
    assert hot >= 0.9


async def _written(stage: Stage, side: Side, worker: int, steps: int) -> int:
    """WAL of a run from its acceptance to its end, where a third of its steps waits for a flush of its own."""
    names = ["fetch", "charge", "ship"][:steps]
    position = await _wal_position(stage)
    for first in range(0, RUNS_WRITTEN, BATCH):
        ids = await stage.queued(BATCH)
        runs = await side.runs.claim(worker, ids, token=first)
        if steps > 1:
            await side.runs.flush(worker, [progress(run, *names[:1]) for run in runs])
        kept = await side.runs.flush(worker, [ending(run, steps=names[1 if steps > 1 else 0 :]) for run in runs])
        assert sum(k.ended for k in kept.values()) == BATCH
    return await _wal_since(stage, position) // RUNS_WRITTEN


async def _accepted_bytes(stage: Stage, side: Side, keys: str | None) -> int:
    """WAL of a start; the least of three rounds, since autovacuum writes into the same log."""
    least = 1 << 30
    for name in keys or "ABC":
        position = await _wal_position(stage)
        for batch in range(5):
            await side.intake.accept([stage.new(f"{name}-{batch}-{n}" if keys else None) for n in range(BATCH)])
        least = min(least, await _wal_since(stage, position) // (5 * BATCH))
    return least


async def _hot_claims(stage: Stage, side: Side, worker: int) -> float:
    """The share of claims that stayed on their page and touched no index."""
    ids = [await stage.queued(BATCH) for _ in range(RUNS_WRITTEN // BATCH)]
    before = await _updates(stage, side)
    for batch in ids:
        await side.runs.claim(worker, batch, token=1)
    after = await _updates(stage, side)
    updated, hot = (later - earlier for earlier, later in zip(before, after, strict=True))
    assert updated == RUNS_WRITTEN
    return hot / updated


async def _updates(stage: Stage, side: Side) -> tuple[int, int]:
    await side.session.execute("SELECT pg_stat_force_next_flush()")
    await stage.query("SELECT pg_stat_clear_snapshot()")
    (row,) = await stage.query(
        "SELECT sum(n_tup_upd)::bigint AS updated, sum(n_tup_hot_upd)::bigint AS hot"
        " FROM pg_stat_user_tables WHERE relname LIKE 'runs%'"
    )
    return row["updated"], row["hot"]


async def _wal_position(stage: Stage) -> str:
    await stage.query("CREATE EXTENSION IF NOT EXISTS pg_walinspect")
    (row,) = await stage.query("SELECT pg_current_wal_flush_lsn()::text AS here")
    return str(row["here"])


async def _wal_since(stage: Stage, position: str) -> int:
    """Bytes of records, full-page images apart."""
    (row,) = await stage.query(
        "SELECT sum(record_size)::bigint AS bytes FROM pg_get_wal_stats(%s, pg_current_wal_flush_lsn())", position
    )
    return int(row["bytes"])
