"""A real worker, as Prometheus, the kubelet and a log collector see it."""

from __future__ import annotations

import json
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import drills
import httpx
import orjson
import psycopg
import services
from drills import NAMESPACE, System, WorkerProcess
from fault_proxy import FaultProxy, Mode
from http_servers import unused_port
from prometheus_client.parser import text_string_to_metric_families
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from waiting import eventually

from stepwell.adapters.postgres.migrate import migrate
from stepwell.engine.apply import NewRevision
from stepwell.engine.intake import Start

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CANARY = "c4n4ry"
BROKEN = {"steps": [{"name": "stop", "fail": {"message": "{{ run.input.n }} is not welcome"}}]}
OUTAGE = 15.0  #: seconds in which an outage shows: a window of trust (1.2), a beat's deadline (3), and the machine


class Port:
    """A worker's port for operations."""

    def __init__(self, number: int, client: httpx.AsyncClient) -> None:
        self.number = number
        self._base = f"http://127.0.0.1:{number}"
        self._client = client

    async def status(self, path: str) -> int:
        """The status of the answer; 0 where nobody listens yet."""
        try:
            return (await self._client.get(self._base + path)).status_code
        except httpx.TransportError:
            return 0

    async def missing(self) -> set[str]:
        """What readiness lacks."""
        answer = await self._client.get(f"{self._base}/readyz")
        body = answer.json()
        assert (answer.status_code == 200) == body["ready"] == (not body["missing"])
        return set(body["missing"])

    async def ready(self, timeout: float = drills.START) -> None:  # noqa: ASYNC109 (a deadline)
        async def answers() -> bool:
            return await self.status("/readyz") == 200

        await eventually(answers, timeout, pause=drills.LOOK)

    async def samples(self, name: str) -> dict[tuple[str, ...], float]:
        """The samples of this name, by the values of their labels in the order of the labels' names."""
        text = (await self._client.get(f"{self._base}/metrics")).text
        found = [s for family in text_string_to_metric_families(text) for s in family.samples if s.name == name]
        return {tuple(value for _, value in sorted(s.labels.items())): s.value for s in found}


@asynccontextmanager
async def operated(system: System, **settings: str) -> AsyncIterator[tuple[WorkerProcess, Port]]:
    """A worker process that serves its port."""
    number = unused_port()
    settings |= {"STEPWELL_METRICS_PORT": str(number), "STEPWELL_METRICS_ADDRESS": "127.0.0.1"}
    worker = await system.worker(ready=False, **settings)
    async with httpx.AsyncClient(trust_env=False) as client:
        port = Port(number, client)

        async def alive() -> bool:
            assert worker.running, worker.text()
            return await port.status("/healthz") == 200

        await eventually(alive, drills.START, pause=drills.LOOK)
        yield worker, port


async def start(system: System, workflow: str, count: int) -> list[str]:
    """Start runs with a word in their input that must be in no log."""
    started = [await system.intake.start(Start(NAMESPACE, workflow, {"n": f"{CANARY}-{n}"})) for n in range(count)]
    return [accepted.id for accepted in started]


async def apply(system: System, name: str, spec: dict[str, Any]) -> None:
    document = orjson.dumps(spec)
    await system.store.apply(NewRevision(NAMESPACE, name, document, document[-32:], [], False, 3600, 3600))


async def test_a_scrape_shows_what_the_database_says(database: str, valkey_server: str) -> None:
    async with drills.drill(database, valkey_server) as system:
        await apply(system, "broken", BROKEN)
        system.receiver.open.clear()
        ids = [*await start(system, "order", 3), *await start(system, "late", 1), *await start(system, "broken", 2)]
        async with operated(system, STEPWELL_SLOTS="50") as (_, port):
            await eventually(lambda: system.receiver.holding == 4)
            assert await port.samples("stepwell_slots_busy") == {(): 4}
            assert await port.samples("stepwell_slots") == {(): 50}
            system.receiver.open.set()
            await system.ended(ids)
            await in_agreement(system, port)
            assert (await port.samples("stepwell_steps_total"))[("httpCall", NAMESPACE, "retried", "late")] == 1
            assert await port.samples("stepwell_trigger_to_start_seconds_count") == {(): 6}
            assert (await port.samples("stepwell_step_duration_seconds_count"))[("httpCall",)] == 5
            for name, value in {"leader": 1, "redis_available": 1, "heartbeat_trusted": 1, "slots_busy": 0}.items():
                assert await port.samples(f"stepwell_{name}") == {(): value}, name
            assert (await port.samples("stepwell_journal_flush_seconds_count"))[()] > 0
            assert (await port.samples("process_resident_memory_bytes"))[()] > 1e6


async def in_agreement(system: System, port: Port) -> None:
    """The counts of runs and of attempts are those of the records."""
    runs = "SELECT namespace, status, workflow, count(*) FROM workflow_runs GROUP BY 1, 2, 3"
    steps = """
      SELECT s.step, r.namespace, CASE WHEN s.retry_at IS NULL THEN s.status ELSE 'retried' END, r.workflow, count(*)
      FROM step_runs s JOIN workflow_runs r ON r.id = s.run_id GROUP BY 1, 2, 3, 4"""
    actions = {"pick": "transform", "create": "httpCall", "result": "transform", "stop": "fail"}
    recorded: dict[tuple[str, ...], float] = {}
    for step, *labels, count in await system.rows(steps):
        key = (actions[step], *labels)
        recorded[key] = recorded.get(key, 0) + count
    assert await port.samples("stepwell_runs_total") == {tuple(row[:3]): row[3] for row in await system.rows(runs)}
    assert await port.samples("stepwell_steps_total") == recorded


async def test_the_leader_shows_the_queue(database: str, valkey_server: str) -> None:
    async with drills.drill(database, valkey_server) as system:
        system.receiver.open.clear()
        await start(system, "order", 5)
        async with operated(system, STEPWELL_SLOTS="2") as (_, port):

            async def depth() -> dict[tuple[str, ...], float]:
                return await port.samples("stepwell_queue_depth")

            found = await eventually(depth)
            assert found.keys() == {(NAMESPACE, status) for status in ("queued", "running", "waiting")}
            assert sum(found.values()) == 5
            assert found[(NAMESPACE, "queued")] >= 3
            oldest = await port.samples("stepwell_queue_oldest_seconds")
            assert 0 < oldest[(NAMESPACE,)] < 60


async def test_readiness_begins_with_the_schema_and_health_before_it(
    empty_database: str, database: str, valkey_server: str
) -> None:
    async with (
        drills.drill(database, valkey_server) as system,
        operated(system, DATABASE_URL=empty_database) as (worker, port),
    ):
        assert await port.missing() == {"schema", "worker"}
        assert await port.samples("stepwell_slots") == {(): 0}
        await migrate(empty_database)
        await port.ready()
        with psycopg.connect(empty_database) as connection:
            assert connection.execute("SELECT count(*) FROM workers WHERE dead_at IS NULL").fetchone() == (1,)
        worker.signal(signal.SIGTERM)
        assert await worker.ended() == 0


async def test_an_outage_of_the_database_takes_readiness_and_leaves_health(database: str, valkey_server: str) -> None:
    async with FaultProxy(services.postgres_address(database)) as proxy:
        parts = conninfo_to_dict(database) | {"host": proxy.host, "port": proxy.port}
        way = make_conninfo(**parts, sslmode="disable", gssencmode="disable")
        async with drills.drill(database, valkey_server) as system, operated(system, DATABASE_URL=way) as (_, port):
            await port.ready()
            for mode in (Mode.REFUSE, Mode.BLACKHOLE):
                proxy.mode = mode
                assert await eventually(port.missing, OUTAGE, pause=drills.LOOK) == {"heartbeat"}
                assert await port.status("/healthz") == 200
                assert await port.samples("stepwell_heartbeat_trusted") == {(): 0}
                proxy.mode = Mode.PASS
                await port.ready()


async def test_a_worker_that_drains_is_not_ready_and_still_answers(database: str, valkey_server: str) -> None:
    async with drills.drill(database, valkey_server) as system, operated(system) as (worker, port):
        await port.ready()
        system.receiver.open.clear()
        await start(system, "order", 1)
        await eventually(lambda: system.receiver.holding == 1)
        worker.signal(signal.SIGTERM)
        assert await eventually(port.missing) == {"worker"}
        assert await port.status("/healthz") == 200
        system.receiver.open.set()
        assert await worker.ended() == 0


async def test_a_port_that_is_taken_ends_the_process(database: str, valkey_server: str) -> None:
    async with drills.drill(database, valkey_server) as system, operated(system) as (_, port):
        settings = {"STEPWELL_METRICS_PORT": str(port.number), "STEPWELL_METRICS_ADDRESS": "127.0.0.1"}
        second = await system.worker(ready=False, **settings)
        assert await second.ended() == 3
        assert f"127.0.0.1 port {port.number}" in second.text()
        assert "set STEPWELL_METRICS_PORT to a free port" in second.text()


async def test_the_log_names_runs_and_holds_nothing_of_theirs(database: str, valkey_server: str) -> None:
    async with drills.drill(database, valkey_server) as system:
        await apply(system, "broken", BROKEN)
        worker = await system.worker(STEPWELL_LOG="json", STEPWELL_LOG_LEVEL="DEBUG")
        ids = [*await start(system, "order", 2), *await start(system, "late", 1), *await start(system, "broken", 2)]
        await system.ended(ids)
        worker.signal(signal.SIGTERM)
        assert await worker.ended() == 0
        lines = [json.loads(line) for line in worker.text().splitlines()]
        assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
        told = [line for line in lines if line["logger"] == "stepwell.run_log"]
        assert {line["run"] for line in told} == set(ids)
        assert all(line["trace"] == line["run"].replace("-", "") for line in told)
        failed = [line for line in told if line["level"] == "INFO"]
        assert {(f["run"], f["workflow"], f["step"], f["attempt"]) for f in failed} == {
            (run, "broken", "stop", 1) for run in ids[-2:]
        }
        assert len([line for line in told if line.get("step") == "create"]) == 4, "two, and one with a retry"
        for word in (CANARY, "not welcome", '"did"', "did\\"):
            assert word not in worker.text()
