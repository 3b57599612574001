"""How a database gets its schema, and what people read in it."""

from __future__ import annotations

import asyncio
import shutil
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import services
from fault_proxy import FaultProxy, Mode
from protocol import SECOND, Stage, ending, parking, progress, staged, step
from psycopg.conninfo import make_conninfo
from waiting import eventually

from stepwell.adapters.postgres.migrate import (
    SchemaError,
    load,
    look,
    migrate,
    migrate_once_there,
    pending,
    schema_is_there,
)
from stepwell.domain.errors import DataRefusedError, UnavailableError
from stepwell.domain.states import RunStatus, StepStatus
from stepwell.engine.ports import AttemptRecord, End, FlushEntry

if TYPE_CHECKING:
    from collections.abc import Callable

    from protocol import Side

    from stepwell.engine.ports import ClaimedRun

REPOSITORY = Path(__file__).parents[2] / "migrations"
TABLES = {"workflow_runs", "step_runs", "workflows", "workflow_revisions", "trigger_events"}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory with the real migrations, to add to."""
    return Path(shutil.copytree(REPOSITORY, tmp_path / "migrations"))


def following(place: int, slug: str) -> str:
    """The name of a migration after all that there are."""
    return f"{len(load()) + place:04}_{slug}"


# -- applying --------------------------------------------------------------------------------------------------------------


async def test_an_empty_database_gets_everything_and_then_nothing(empty_database: str) -> None:
    names = [m.name for m in load()]
    assert await pending(empty_database) == names
    assert await migrate(empty_database) == names
    assert await pending(empty_database) == []
    assert await migrate(empty_database) == []
    with psycopg.connect(empty_database) as connection:
        rows = connection.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema()"
        ).fetchall()
    assert {row[0] for row in rows} >= TABLES, "the names are part of the contract"


async def test_of_many_that_start_at_once_one_applies(empty_database: str) -> None:
    applied = await asyncio.gather(*(migrate(empty_database) for _ in range(8)))
    assert sorted(name for names in applied for name in names) == [m.name for m in load()], "each by one of them"


async def test_the_lock_is_not_left_with_a_session_that_a_pooler_hands_on(empty_database: str) -> None:
    """A session's lock would stay with whatever backend PgBouncer chose for the statement."""
    held: list[int] = []

    async def look() -> None:
        async with await psycopg.AsyncConnection.connect(empty_database, autocommit=True) as connection:
            cursor = await connection.execute(
                "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)"
                " WHERE l.locktype = 'advisory' AND l.granted AND a.state = 'idle' AND a.datname = current_database()"
            )
            held.append((await cursor.fetchone() or (1,))[0])

    first = asyncio.ensure_future(migrate(empty_database))
    while not first.done():
        await look()
    await look()
    assert set(held) == {0}


async def test_a_file_that_changed_after_it_was_applied_is_refused(database: str, directory: Path) -> None:
    first = directory / "0001_initial.sql"
    first.write_text(first.read_text() + "\n-- a harmless remark")
    with pytest.raises(SchemaError, match=r"changed after they were applied: 0001_initial; restore the files"):
        await migrate(database, directory)


async def test_a_database_of_a_newer_version_is_refused(database: str, directory: Path) -> None:
    newer = following(1, "newer")
    (directory / f"{newer}.sql").write_text("CREATE TABLE newer ()")
    assert await migrate(database, directory) == [newer]
    with pytest.raises(SchemaError, match=rf"cannot work with \({newer}\); use a newer Stepwell"):
        await migrate(database)
    assert await told(database, lambda heard: len(heard) == 1) == [(await look(database)).why_not()]


async def test_a_version_that_a_newer_migration_names_goes_on(
    database: str, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """After a rollback: `migrate`, with which the operator begins, and what gateways, workers and operator wait for."""
    this = f"{len(load()):04}"
    first, second = following(1, "beside"), following(2, "beside_as_well")
    for name in (first, second):
        (directory / f"{name}.sql").write_text(f"-- A column more.\n-- oldest: {this}\n\nCREATE TABLE t{name} ()")
    assert await migrate(database, directory) == [first, second]
    assert await migrate(database) == []
    assert f"newer version ({first}, {second}), which this one can work with" in caplog.text
    assert await told(database, lambda heard: None in heard) == [None]


async def test_one_that_it_does_not_name_is_enough_to_stop(database: str, directory: Path) -> None:
    this, beside, beyond = f"{len(load()):04}", following(1, "beside"), following(2, "beyond")
    (directory / f"{beside}.sql").write_text(f"-- oldest: {this}\nCREATE TABLE a ()")
    (directory / f"{beyond}.sql").write_text(f"-- oldest: {beside[:4]}\nCREATE TABLE b ()")
    await migrate(database, directory)
    found = await look(database)
    assert (found.newer, found.refusing) == ([beside, beyond], [beyond])
    (directory / f"{beyond}.sql").unlink()
    assert (await look(database, directory)).refusing == [], "the version between may"


async def test_a_table_of_before_there_was_the_line_is_read_and_completed(database: str, directory: Path) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("ALTER TABLE schema_migrations DROP COLUMN oldest")
        assert (await look(database)).why_not() is None
        newer = following(1, "newer")
        connection.execute("INSERT INTO schema_migrations (name, digest) VALUES (%s, '')", [newer])
        assert (await look(database)).refusing == [newer], "what says nothing is not trusted"
        connection.execute("DELETE FROM schema_migrations WHERE name = %s", [newer])
    (directory / f"{newer}.sql").write_text("-- oldest: 0001\nSELECT 1")
    assert await migrate(database, directory) == [newer]
    assert (await look(database)).why_not() is None


@pytest.mark.parametrize("said", ["9999", "6", "0.1.0", ""])
def test_the_line_names_a_migration(directory: Path, said: str) -> None:
    (directory / f"{following(1, 'x')}.sql").write_text(f"-- oldest: {said}\nSELECT 1")
    with pytest.raises(SchemaError, match=r"should name the number of a migration, at most 0\d+"):
        load(directory)


async def told(dsn: str, enough: Callable[[list[str | None]], bool]) -> list[str | None]:
    """What a process tells while it waits for its schema."""
    heard: list[str | None] = []
    stopping = asyncio.Event()

    def tell(why: str | None) -> None:
        heard.append(why)
        if enough(heard):
            stopping.set()

    there = await schema_is_there(dsn, stopping, tell)
    assert there == (heard[-1] is None)
    return heard


async def test_a_migration_that_fails_leaves_nothing_and_those_before_it_stay(database: str, directory: Path) -> None:
    good, bad = following(1, "good"), following(2, "bad")
    (directory / f"{good}.sql").write_text("CREATE TABLE good ()")
    (directory / f"{bad}.sql").write_text("CREATE TABLE half (); SELECT 1 / 0")
    with pytest.raises(DataRefusedError, match="division by zero"):
        await migrate(database, directory)
    assert await pending(database, directory) == [bad]
    with psycopg.connect(database) as connection:
        assert connection.execute("SELECT to_regclass('good'), to_regclass('half')").fetchone() == ("good", None)
    (directory / f"{bad}.sql").write_text("CREATE TABLE half ()")
    assert await migrate(database, directory) == [bad]


@pytest.mark.parametrize("name", ["2_short.sql", "0999_gap.sql", "0001_twice.sql", "0002-dash.sql", "0002_Upper.sql"])
def test_file_names_are_policed(directory: Path, name: str) -> None:
    (directory / name).write_text("SELECT 1")
    with pytest.raises(SchemaError, match=r"numbered without gaps: \S+ should be 00\d\d_<slug>\.sql"):
        load(directory)


def test_a_directory_without_migrations_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="no migrations found"):
        load(tmp_path)


async def test_a_database_that_is_away_is_unavailable() -> None:
    with pytest.raises(UnavailableError, match="PostgreSQL is not available"):
        await migrate("host=127.0.0.1 port=1 dbname=nowhere")


async def test_one_that_comes_later_is_waited_for(empty_database: str) -> None:
    async with FaultProxy(services.postgres_address(empty_database)) as proxy:
        proxy.mode = Mode.REFUSE
        reasons: list[str] = []
        dsn = make_conninfo(empty_database, host=proxy.host, port=proxy.port)
        migrating = asyncio.ensure_future(migrate_once_there(dsn, 30, reasons.append))
        await eventually(lambda: reasons, 10)
        proxy.mode = Mode.PASS
        assert await migrating == [m.name for m in load()]
    assert not [each for each, following in pairwise(reasons) if each == following], "each other reason once"


async def test_it_is_not_waited_for_longer_than_asked() -> None:
    with pytest.raises(UnavailableError, match="PostgreSQL is not available"):
        await migrate_once_there("host=127.0.0.1 port=1 dbname=nowhere", 0.3, lambda _: None)


# -- sessions behind a pooler ----------------------------------------------------------------------------------------------


async def test_no_statement_leaves_anything_with_its_session(database: str) -> None:
    async with staged(database) as stage:
        worker, side = await stage.worker(), await stage.side()
        for _ in range(7):  # psycopg prepares at the fifth time, unless it is told not to
            await every_statement(stage, side, worker)
        with stage.liveness() as liveness:
            for _ in range(7):
                liveness.beat(worker)
                liveness.cancelling(worker)
            assert liveness._execute("SELECT name FROM pg_prepared_statements", {}) == []
        left = "SELECT name FROM pg_prepared_statements UNION ALL SELECT name FROM pg_settings WHERE source = 'session'"
        assert await side.session.execute(left) == []
        assert await side.session.execute("SELECT 1 FROM pg_locks WHERE locktype = 'advisory'") == []
        assert await side.session.execute("SELECT 1 FROM pg_class WHERE relpersistence = 't'") == []


async def every_statement(stage: Stage, side: Side, worker: int) -> None:
    """The whole protocol once, over one session."""
    runs = await side.runs.claim(worker, await stage.queued(3), token=1)
    await side.runs.attempts([run.id for run in runs])
    await side.runs.flush(worker, [ending(runs[0]), parking(runs[1], 1), progress(runs[2], "charge")])
    await side.runs.cancel("shop", [runs[2].id])
    await side.runs.hand_back(worker, await side.runs.owned(worker))
    await side.runs.claim_oldest(worker, 1, token=2)
    await side.runs.claim_suspects(worker, 1, token=3)
    await side.runs.claimed(worker, token=2)
    await side.upkeep.lead("maintenance", worker, term=10.0)
    await side.upkeep.wake_due(10)
    await side.upkeep.reap(await side.upkeep.orphans(), deaths=5)
    await side.upkeep.wake_stranded(await side.upkeep.stranded())
    await side.upkeep.queued_page(("", runs[0].id), 10)
    await side.upkeep.expired_page(runs[0].id, 10)
    await side.upkeep.delete_runs([runs[0].id])
    await side.upkeep.delete_keys(10)
    await side.upkeep.add_partitions(8)
    for day in await side.upkeep.past_days():
        await side.upkeep.drop_day(day)
    await side.upkeep.forget_workers()


# -- what people read ------------------------------------------------------------------------------------------------------


def attempt(name: str, source: bytes | None, value: bytes | None = None, output: bytes | None = None) -> AttemptRecord:
    """A step's record: its input by reference or as it is; without an output it was skipped."""
    status = StepStatus.SKIPPED if output is None else StepStatus.SUCCEEDED
    return AttemptRecord(name, 1, status, SECOND, 2 * SECOND, None, source, value, output)


async def recorded(stage: Stage, *attempts: AttemptRecord, end: dict[str, Any] | None = None) -> ClaimedRun:
    """A run that ended with these steps."""
    worker, side = await stage.worker(), await stage.side()
    (run,) = await stage.running(worker)
    values: dict[str, Any] = {"status": RunStatus.SUCCEEDED, "finished_at": run.created_at, "retain": 60.0} | (
        end or {}
    )
    kept = await side.runs.flush(worker, [FlushEntry(run.id, run.fence, attempts, end=End(**values))])
    assert kept[run.id].ended
    return run


async def shown(stage: Stage, run: ClaimedRun) -> dict[str, Any]:
    """The steps' inputs, as the view resolves them."""
    rows = await stage.query("SELECT step, input_data FROM step_runs WHERE run_id = %s", run.id)
    return {row["step"]: row["input_data"] for row in rows}


async def test_a_step_shows_the_document_that_its_input_refers_to(database: str) -> None:
    async with staged(database) as stage:
        run = await recorded(
            stage,
            attempt("first", b'"$run"', output=b'{"total":3}'),
            attempt("second", b'"first"', output=b"[1,2]"),
            attempt("skipped", b'"second"'),
            attempt("after-skipped", b'"second"', output=b"null"),
            attempt("own", None, b'{"written":"out"}', b'"text"'),
            attempt("joined", b'{"first":"first","skipped":"second","start":"$run"}', output=b"1"),
            attempt("of-null", b'"after-skipped"', output=b"false"),
        )
        assert await shown(stage, run) == {
            "first": {"order": 7},
            "second": {"total": 3},
            "skipped": [1, 2],
            "after-skipped": [1, 2],
            "own": {"written": "out"},
            "joined": {"first": {"total": 3}, "skipped": [1, 2], "start": {"order": 7}},
            "of-null": None,
        }


async def test_a_document_is_stored_once_however_often_it_is_handed_on(database: str) -> None:
    async with staged(database) as stage:
        run = await recorded(
            stage, attempt("first", b'"$run"', output=b"{}"), attempt("second", b'"first"', output=b"1")
        )
        rows = await stage.query("SELECT input_data FROM run_steps WHERE run_id = %s", run.id)
        assert [row["input_data"] for row in rows] == [None, None]


async def test_failed_attempts_are_not_taken_for_the_result(database: str) -> None:
    async with staged(database) as stage:
        failed = AttemptRecord("first", 1, StepStatus.FAILED, 1, 2, 3, b'"$run"', None, None, b'{"reason":"Timeout"}')
        succeeded = AttemptRecord("first", 2, StepStatus.SUCCEEDED, 1, 2, None, b'"$run"', None, b'"second time"')
        run = await recorded(stage, failed, succeeded, attempt("second", b'"first"', output=b"1"))
        assert (await shown(stage, run))["second"] == "second time"


@pytest.mark.parametrize(
    ("end", "output"),
    [({"output_from": "first"}, {"total": 3}), ({"output": b'{"own":1}'}, {"own": 1}), ({}, None)],
    ids=["a step's", "its own", "none"],
)
async def test_a_run_shows_its_output(database: str, end: dict[str, Any], output: object) -> None:
    async with staged(database) as stage:
        run = await recorded(stage, attempt("first", b'"$run"', output=b'{"total":3}'), end=end)
        (row,) = await stage.query("SELECT * FROM workflow_runs WHERE id = %s", run.id)
        assert (row["workflow"], row["status"], row["output_data"]) == ("order", "succeeded", output)
        assert row["input_data"] == {"order": 7}


async def test_expired_runs_and_their_steps_are_hidden_at_once(database: str) -> None:
    async with staged(database) as stage:
        run = await recorded(stage, step(), end={"retain": -3600.0})
        for view, column in ("workflow_runs", "id"), ("step_runs", "run_id"):
            assert await stage.query(f"SELECT 1 FROM {view} WHERE {column} = %s", run.id) == []
        assert await stage.steps(run.id) == ["charge"]
