"""The procedures of docs/operations, as they stand: backup and restore, failover, loss of Redis, retention."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, LiteralString

import drills
import pytest
import replicas
import services
import yaml
from commands import ROOT
from documented import Shell, all_blocks, blocks
from waiting import eventually

from stepwell.domain.errors import UnavailableError
from stepwell.domain.spec import WorkflowSpec
from stepwell.engine.apply import revision_of
from stepwell.engine.intake import Start

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from drills import System
    from replicas import Pair

    from stepwell.domain.documents import JsonObject
    from stepwell_cli.embedded import EmbeddedPostgres, EmbeddedValkey

(BACK_UP,) = blocks("operations/backup.md", "Back up")
STOP, RESTORE, LOOK, CANCEL, START = blocks("operations/backup.md", "Restore")
IS_SYNCHRONOUS, CHECK = blocks("operations/failover.md", "What a failover costs")
(BOTH_HOSTS,) = blocks("operations/failover.md", "How clients find the new primary")
PROMOTE, LAST_RUN, RESTART = blocks("operations/failover.md", "Do a failover")
FLUSH, ANOTHER_REDIS = blocks("operations/failover.md", "Loss of Redis")
DAYS, KEEPERS = blocks("operations/retention.md", "Look")
(DROP_DAY,) = blocks("operations/retention.md", "Get rid of a day now")
(COMPACT,) = blocks("operations/retention.md", "Compact a day")

QUICK = {"STEPWELL_HEARTBEAT": "100ms", "STEPWELL_TRUST_WINDOW": "400ms", "STEPWELL_DEATH_SILENCE": "1s"}


def test_no_block_of_commands_is_left_out() -> None:
    ours = {
        BACK_UP,
        STOP,
        RESTORE,
        LOOK,
        CANCEL,
        START,
        IS_SYNCHRONOUS,
        CHECK,
        BOTH_HOSTS,
        PROMOTE,
        LAST_RUN,
        RESTART,
        FLUSH,
    }
    ours |= {ANOTHER_REDIS, DAYS, KEEPERS, DROP_DAY, COMPACT}
    others = set(blocks("operations/security-model.md", "Roles of PostgreSQL"))  # test_database_roles.py
    assert all_blocks("operations") == ours | others


def test_what_kubectl_is_asked_for_is_what_is_deployed() -> None:
    text = f"{STOP}\n{START}\n{RESTART}\n{ANOTHER_REDIS}"
    manifests = [
        each for path in (ROOT / "deploy" / "base").glob("*.yaml") for each in yaml.safe_load_all(path.read_text())
    ]
    deployed = {each["metadata"]["name"] for each in manifests if each and each.get("kind") == "Deployment"}
    assert set(re.findall(r"deployment/(\S+)", text)) == deployed
    assert set(re.findall(r"secret generic (\S+)", text)) == {"stepwell-database"}
    assert set(re.findall(r"-n (\S+)", text)) == {"stepwell-system"}


async def again(system: System, key: str) -> str:
    """The run that a start leads to which is sent again."""
    start = Start(drills.NAMESPACE, "order", {"n": int(key.removeprefix("start-"))}, key=key)

    async def accepted() -> str:
        with contextlib.suppress(UnavailableError):  # its connection was cut: a sender is answered with 503
            return (await system.intake.start(start)).id
        return ""

    return await eventually(accepted)


async def restarted(system: System) -> None:
    """What `kubectl rollout restart` does to workers."""
    before = [worker for worker in system.workers if worker.running]
    await system.worker(**QUICK)
    for worker in before:
        worker.signal(signal.SIGTERM)


def once_each(system: System, since: int, durable: set[str]) -> set[str]:
    """The keys of the effects since then: none of them twice, and no step among them that was ``durable``."""
    keys = [effect.key for effect in system.receiver.effects[since:] if effect.status == 200]
    assert len(keys) == len(set(keys)), "a step was done twice"
    assert not durable & set(keys), "a step ran again whose result is in the database"
    return set(keys)


# -- backup and restore ------------------------------------------------------------------------------------------------


async def in_every_state(system: System) -> None:
    """Six runs that ended, one that waits, eight that are executed, four of them with a durable step, and twelve queued."""
    await system.worker(STEPWELL_SLOTS="8")
    await system.ended(await system.start(6, "order"))
    await system.start(1, "late")
    await eventually(lambda: _rows(system, "SELECT FROM timers", 1))
    system.receiver.open.clear()
    await system.start(20, "pair")
    await eventually(lambda: system.receiver.holding == 8)
    system.receiver.answer(4)
    await eventually(lambda: len([e for e in system.receiver.effects if e.key.endswith("/second")]) == 4)
    assert await system.statuses() == {"succeeded": 6, "waiting": 1, "running": 8, "queued": 12}


async def test_a_restored_backup_goes_on_and_repeats_nothing_that_it_knows(
    database: str, empty_database: str, redis_url: str, tmp_path: Path
) -> None:
    shell = Shell(tmp_path, database, REDIS_URL=redis_url)
    async with drills.drill(database, redis_url) as system:
        await in_every_state(system)
        known, durable = dict(system.accepted), await system.durable()
        shell.run(BACK_UP)
        lost = set(await system.start(5, "order"))
        system.receiver.open.set()
        await system.ended([run for run, workflow in system.accepted.values() if workflow != "late"])
        shell.run(STOP)
        system.workers[0].finish()

        services.flush(redis_url)
        shell.variables["DATABASE_URL"] = empty_database
        shell.run(RESTORE)
        await system.moved(empty_database)
        found = shell.run(LOOK)
        assert {row.split("|")[1].strip(): int(row.split("|")[2]) for row in found.splitlines() if "drill" in row} == {
            "queued": 12, "running": 8, "waiting": 1,
        }  # fmt: skip
        done = {effect.key for effect in system.receiver.effects}
        shell.run(START)
        await system.worker(**QUICK)
        missing = [key for key in system.accepted if key not in known]
        system.accepted = dict(known)
        await system.ended([run for run, _ in known.values()])
        await system.judge_records()
        repeated = once_each(system, len(done), durable)
        pairs = {run for run, workflow in known.values() if workflow == "pair"}
        assert {f"{run}/second" for run in pairs} <= repeated <= done, "under the keys of the first time"

        prefix = system.environment["STEPWELL_REDIS_PREFIX"]
        async with drills.accepting(empty_database, redis_url, prefix) as (system.intake, system.store):
            assert await again(system, "start-0") == known["start-0"][0]
            anew = [await again(system, key) for key in missing]
            assert not lost & set(anew)
            await system.ended(anew)
            await all_can_be_cancelled(system, shell)


async def all_can_be_cancelled(system: System, shell: Shell) -> None:
    before = await system.statuses()
    await system.start(1, "late")
    await eventually(lambda: _rows(system, "SELECT FROM timers", 1))
    system.receiver.open.clear()
    await system.start(9, "pair")
    await eventually(lambda: system.receiver.holding >= 1)
    system.workers[-1].finish()
    shell.run(CANCEL)
    assert await system.statuses() == {**before, "cancelled": 10}
    assert await system.rows("SELECT FROM timers") == []


# -- failover ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def replicated() -> Iterator[Pair]:
    if services.EXTERNAL:
        pytest.skip("a replica needs servers of our own")
    with replicas.pair() as found:
        assert re.search(r"@\S+,\S+/\S+\?target_session_attrs=read-write", BOTH_HOSTS), "as replicas.py names them"
        yield found


async def test_a_failover_to_a_synchronous_replica_costs_nothing(
    replicated: Pair, redis_url: str, tmp_path: Path
) -> None:
    shell = Shell(tmp_path, replicated.primary.dsn(), STANDBY_URL=replicated.standby.dsn())
    assert " async " in shell.run(IS_SYNCHRONOUS)
    shell.run(CHECK)
    replicated.synchronous()
    assert " sync " in shell.run(IS_SYNCHRONOUS)
    async with drills.drill(replicated.dsn, redis_url) as system:
        await system.worker()
        async with system.load():
            await eventually(lambda: len(system.receiver.effects) > 20)
            replicated.primary.kill()
            shell.run(PROMOTE)
            await system.struck("the standby is the primary")
            seen = len(system.receiver.effects)
            await eventually(lambda: len(system.receiver.effects) > seen + 20, 30)
        await system.over()
        assert system.repeated == set()
        replicated.lonely()
        await nobody_dies_without_a_standby(system)


async def nobody_dies_without_a_standby(system: System) -> None:
    """What waits for the standby is accepted when there is one again; heartbeats and the lease do not wait."""
    start = asyncio.ensure_future(system.start(1))
    looks = "SELECT (SELECT min(counter) FROM workers WHERE dead_at IS NULL), (SELECT max(renewed_at) FROM leases)"
    await eventually(lambda: _rows(system, "SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep'", 1))
    before = (await system.rows(looks))[0]

    async def goes_on() -> bool:
        return all(now > then for now, then in zip((await system.rows(looks))[0], before, strict=True))

    await eventually(goes_on)
    assert not start.done()
    await system.rows("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
    start.cancel()
    await asyncio.gather(start, return_exceptions=True)


async def test_a_failover_to_a_replica_that_lagged_loses_what_it_had_not_received(
    replicated: Pair, redis_url: str, tmp_path: Path
) -> None:
    shell = Shell(tmp_path, replicated.dsn, STANDBY_URL=replicated.standby.dsn())
    async with drills.drill(replicated.dsn, redis_url) as system:
        await system.worker()
        await system.ended([*await system.start(5), *await system.start(1, "pure")])
        system.receiver.open.clear()
        await system.start(10, "pair")
        await eventually(lambda: system.receiver.holding == 10)
        replicated.follow()
        known, durable = dict(system.accepted), await system.durable()
        replicated.part()
        lost = set(await system.start(5))
        await system.worker()  # of which the standby never hears
        system.receiver.open.set()
        await system.ended([run for run, _ in system.accepted.values()])

        replicated.primary.kill()
        shell.run(PROMOTE)
        before = len(system.receiver.effects)
        assert f"{datetime.now(UTC):%Y-%m-%d}" in shell.run(LAST_RUN)
        another = await takes_no_revision_for_another(system, replicated.standby)
        shell.run(RESTART)
        await restarted(system)
        missing = [key for key in system.accepted if key not in known | another]
        system.accepted = known | another
        await system.ended([run for run, _ in known.values()])
        await system.judge_records()
        repeated = once_each(system, before, durable)
        assert repeated <= {effect.key for effect in system.receiver.effects[:before]}, (
            "under the keys of the first time"
        )
        anew = [await again(system, key) for key in missing]
        assert not lost & set(anew)
        await system.ended(anew)


async def takes_no_revision_for_another(system: System, primary: EmbeddedPostgres) -> dict[str, tuple[str, str]]:
    """The workers that lived on execute what the new primary has under a number, whatever the old one had under it. What was
    accepted.
    """
    replicas.ask(primary, "ALTER TABLE workflow_revisions DISABLE TRIGGER revisions_are_immutable")
    replicas.ask(
        primary,
        """UPDATE workflow_revisions SET spec = '{"steps": [{"name": "only", "transform": {"value": "another"}}]}'
        WHERE id = (SELECT active_revision_id FROM workflows WHERE name = 'pure')""",
    )
    before = set(system.accepted)
    (run,) = await system.start(1, "pure")
    await system.ended([run])
    assert await system.rows("SELECT output_data FROM workflow_runs WHERE id = %s", run) == [("another",)]
    return {key: found for key, found in system.accepted.items() if key not in before}


# -- Redis -------------------------------------------------------------------------------------------------------------


async def test_a_redis_that_is_emptied_and_another_in_its_place_cost_no_run(
    database: str, redis_url: str, own_valkey: EmbeddedValkey, tmp_path: Path
) -> None:
    shell = Shell(tmp_path, database, REDIS_URL=own_valkey.url)
    async with drills.drill(database, own_valkey.url) as system:
        await system.worker(STEPWELL_SLOTS="5")
        system.receiver.open.clear()
        await system.start(20)
        await eventually(lambda: system.receiver.holding == 5)
        shell.run(FLUSH)
        await system.struck("FLUSHALL")
        system.receiver.answer(2)
        await eventually(lambda: _count(system, "succeeded", 2))
        own_valkey.kill()
        await system.start(5)
        shell.variables["REDIS_URL"] = system.environment["REDIS_URL"] = redis_url
        shell.run(ANOTHER_REDIS)
        await system.struck("another Redis")
        system.receiver.open.set()
        await restarted(system)
        prefix = system.environment["STEPWELL_REDIS_PREFIX"]
        async with drills.accepting(database, redis_url, prefix) as (system.intake, system.store):  # of a new gateway
            await system.over()
        assert system.repeated == set()


# -- retention ---------------------------------------------------------------------------------------------------------


async def keeps(system: System, retention: str) -> None:
    """Apply the workflow ``pure`` with a retention of what succeeded."""
    raw: JsonObject = {"steps": drills.workflows(0)["pure"], "retention": {"succeeded": retention}}
    await system.store.apply(revision_of(drills.NAMESPACE, "pure", raw, WorkflowSpec.model_validate(raw)))


async def of_day(system: System, day: str, count: int) -> None:
    """Queued runs of that day, on the active revision."""
    await system.rows("SELECT add_partitions(%s::date, 1)", day)
    await system.rows(
        "INSERT INTO runs (id, workflow_id, revision_id, namespace, trigger, created_at, input_data)"
        " SELECT (left(uuid_floor(%s::timestamp AT TIME ZONE 'UTC')::text, 14) || '7' || right(gen_random_uuid()::text, 21))::uuid,"
        " w.id, w.active_revision_id, w.namespace, 'api', %s::timestamp AT TIME ZONE 'UTC', '{\"n\": 1}'"
        " FROM workflows w, generate_series(1, %s) WHERE w.name = 'pure' RETURNING id",
        day, day, count,
    )  # fmt: skip


def size(text: str, day: str) -> int:
    """Of a day, in kB."""
    found = re.search(rf"^ {day.replace('-', '')} +\| +(\d+) kB", text, re.MULTILINE)
    assert found is not None, text
    return int(found[1])


def days(text: str) -> set[str]:
    return set(re.findall(r"^ (\d{8}) \|", text, re.MULTILINE))


async def test_a_shorter_retention_removes_days_and_the_others_can_be_dropped(
    database: str, redis_url: str, tmp_path: Path
) -> None:
    kept, short = (f"{datetime.now(UTC) - timedelta(days=n):%Y-%m-%d}" for n in (9, 8))
    shell = Shell(tmp_path, database, DAY=kept)
    async with drills.drill(database, redis_url) as system:
        await keeps(system, "168h")
        await of_day(system, kept, 50)
        await keeps(system, "1s")
        await of_day(system, short, 50)
        assert {kept.replace("-", ""), short.replace("-", "")} <= days(shell.run(DAYS))
        await system.worker()
        await eventually(lambda: _rows(system, "SELECT FROM runs WHERE finished_at IS NULL", 0))
        await eventually(lambda: _rows(system, "SELECT FROM workflow_runs", 50))  # the others are hidden
        system.workers[0].finish()
        await system.worker(**QUICK)  # leads, and begins with a walk over the history
        # not DAYS, which locks the tables whose sizes it tells: a drop that waits too long comes again at the next walk
        partition = f"runs_{short.replace('-', '')}"
        await eventually(lambda: _rows(system, "SELECT WHERE to_regclass(%s) IS NOT NULL", 0, partition))
        assert short.replace("-", "") not in days(shell.run(DAYS))
        assert kept.replace("-", "") in days(shell.run(DAYS))
        assert "drill     | pure | succeeded |    50 |" in shell.run(KEEPERS)

        system.workers[1].finish()
        await of_day(system, kept, 1)
        assert re.search(r"dropped \n-+\n f\n", shell.run(DROP_DAY)), "one has not ended"
        assert await system.statuses() == {"queued": 1}
        large = shell.run(DAYS)
        shell.run(COMPACT)
        assert size(shell.run(DAYS), kept) < size(large, kept)
        assert await system.statuses() == {"queued": 1}
        shell.run(CANCEL)
        assert re.search(r"dropped \n-+\n t\n", shell.run(DROP_DAY))
        assert kept.replace("-", "") not in days(shell.run(DAYS))


async def _rows(system: System, query: LiteralString, count: int, *params: object) -> bool:
    return len(await system.rows(query, *params)) == count


async def _count(system: System, status: str, least: int) -> bool:
    return (await system.statuses()).get(status, 0) >= least
