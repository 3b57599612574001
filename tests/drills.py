"""Drills: a whole system of worker processes under faults, and what must hold once they are over.

``async with drill(dsn, url) as system:`` gives intake in this process, a receiver that notes every request, and
``system.worker()``, real ``stepwell worker`` processes (forked, see `nursery`). A drill starts runs, breaks something, tells
`System.struck` (so that it is known what was durable by then and whose effects were in flight), heals it, and ends with
`System.over`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import re
import secrets
import signal
import tempfile
import time
from collections import defaultdict
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, LiteralString

import orjson
import psycopg
from http_servers import Received, json_response, response, serve
from nursery import nursery
from waiting import eventually, eventually_sync

from stepwell.actions.registry import default_actions
from stepwell.adapters.postgres.intake_store import PostgresIntakeStore
from stepwell.adapters.postgres.run_store import PostgresRunStore
from stepwell.adapters.postgres.session import Session
from stepwell.adapters.redis_queue.queue import ReadyQueue
from stepwell.domain.errors import UnavailableError
from stepwell.engine.apply import NewRevision
from stepwell.engine.clock import Clock
from stepwell.engine.intake import Intake, Start
from stepwell.engine.maintenance.offers import Offers
from stepwell.engine.revisions import Revisions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Iterable, Iterator

NAMESPACE = "drill"
#: Death is declared after 2 s instead of 20: everything that depends on it keeps its proportions.
SILENCE = 2.0
HURRY = {"STEPWELL_HEARTBEAT": "300ms", "STEPWELL_TRUST_WINDOW": "1200ms", "STEPWELL_DEATH_SILENCE": f"{SILENCE:g}s"}
ITEMS = ["a", "b", "c", "d", "e", "f"]  #: of the workflow ``batch``
LOOK = 0.02  #: seconds between two looks into the database
START = 45.0  #: seconds that a worker process may take to register: one of CPU, among six at once, beside others' work
_STEERING = re.compile(r"DATABASE_URL|REDIS_URL|STEPWELL_|KUBERNETES_|PG[A-Z]+")
_NOT_OURS = re.compile(r"Traceback|never retrieved|please report|is destroyed but it is pending|was never awaited")


# -- workflows ---------------------------------------------------------------------------------------------------------


def workflows(port: int) -> dict[str, list[dict[str, Any]]]:
    """The steps of each. Bodies hold ``now()``, so a repeat with another idea of the time would show."""

    def call(name: str, path: str = "/effects") -> dict[str, Any]:
        return _call(port, name, path)

    def pure(name: str) -> dict[str, Any]:
        return {"name": name, "transform": {"set": {"n": "{{ run.input.n }}"}}}

    count = {"name": "count", "transform": {"value": {"n": "{{ run.input.n }}", "answers": "{{ size(input) }}"}}}
    return {
        "order": [pure("pick"), call("create"), pure("result")],
        "pair": [call("first"), call("second")],
        "pure": [pure("only")],
        "late": [call("create", "/later"), pure("result")],  # is told to come back in three seconds
        "guarded": [{"name": "refuse", "fail": {"message": "no"}}],
        "batch": [call("each") | {"forEach": {"items": ITEMS, "maxParallel": 3}}, count],
    }


def handlers(port: int) -> dict[str, list[dict[str, Any]]]:
    """What comes after the steps of ``guarded``."""
    return {"onFailure": [_call(port, "tell", error="{{ error }}")], "finally": [_call(port, "tidy")]}


def _call(port: int, name: str, path: str = "/effects", **more: str) -> dict[str, Any]:
    body = {"n": "{{ run.input.n }}", "step": name, "at": "{{ string(now()) }}", **more}
    return {"name": name, "httpCall": {"method": "POST", "url": f"http://127.0.0.1:{port}{path}", "body": body}}


# -- the receiver ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Effect:
    """A request that arrived: its idempotency key, its bytes, when (monotonic), and the status that it is given."""

    key: str
    content: bytes
    at: float
    status: int


class Receiver:
    """Notes every request. It answers at once while ``open`` is set; the requests held till then are in flight, but for
    the oldest ones, which `answer` lets go.
    """

    def __init__(self) -> None:
        self.effects: list[Effect] = []
        self.open = asyncio.Event()
        self.open.set()
        self.port = 0
        self._held: list[asyncio.Event] = []

    @property
    def holding(self) -> int:
        """How many requests wait for their answer."""
        return len(self._held)

    def answer(self, count: int) -> None:
        """Answer the requests that are held for longest."""
        for held in self._held[:count]:
            held.set()

    def of(self, key: str) -> list[Effect]:
        return [e for e in self.effects if e.key == key]

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Receiver]:
        async with serve(self._answer) as server:
            self.port = server.port
            yield self

    async def _answer(self, request: Received, writer: asyncio.StreamWriter) -> None:
        key = request.header("Idempotency-Key") or ""
        early = request.target == "/later" and not self.of(key)
        content = b"\n".join([request.line.encode(), (request.header("traceparent") or "").encode(), request.body])
        self.effects.append(Effect(key, content, time.monotonic(), 503 if early else 200))
        await self._hold()
        if early:
            writer.write(response(b"", "Retry-After: 3", status="503 Service Unavailable"))
        else:
            writer.write(json_response(orjson.dumps({"did": key})))

    async def _hold(self) -> None:
        held = asyncio.Event()
        self._held.append(held)
        waiting = [asyncio.ensure_future(event.wait()) for event in (held, self.open)]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._held.remove(held)
            for waiter in waiting:
                waiter.cancel()


# -- worker processes --------------------------------------------------------------------------------------------------


class WorkerProcess:
    """A ``stepwell worker``. ``expendable``: it is to die of a crash point, with a trace in its log."""

    def __init__(self, environment: dict[str, str], log: Path, *, expendable: bool) -> None:
        self.log = log
        self.expendable = expendable
        self._end = log.with_suffix(".end")
        log.touch()
        self.pid = nursery().worker(environment, log, self._end)

    @property
    def running(self) -> bool:
        return not self._end.exists()

    @property
    def stalled(self) -> bool:
        """Whether it is stopped by a signal."""
        state = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state == "T"

    def signal(self, number: signal.Signals) -> None:
        if self.running:
            os.kill(self.pid, number)

    async def ended(self, timeout: float = 30.0) -> int:  # noqa: ASYNC109 (a deadline with a message)
        """Its exit code, once it has ended by itself."""
        await eventually(lambda: not self.running, timeout)
        return int(self._end.read_text())

    def text(self) -> str:
        return self.log.read_text("utf-8", "replace")

    def lines(self, words: str) -> list[str]:
        """The lines of its log that hold these words."""
        return [line for line in self.text().splitlines() if words in line]

    def finish(self) -> None:
        """End it, whatever its state."""
        self.signal(signal.SIGKILL)
        eventually_sync(lambda: not self.running, START)


@dataclass(frozen=True)
class Fault:
    """What is known at a fault: its time, the steps durable by then, and how many requests had arrived.

    ``repeats``: effects that were in flight may come again. ``late``: a stopped process goes on.
    """

    name: str
    at: float
    durable: frozenset[str]
    arrived: int
    repeats: bool
    late: bool


# -- the system --------------------------------------------------------------------------------------------------------


@dataclass
class System:
    """Everything of one drill. ``accepted`` maps each idempotency key to its run and workflow."""

    dsn: str
    environment: dict[str, str]
    receiver: Receiver
    intake: Intake
    store: PostgresIntakeStore
    directory: Path
    workers: list[WorkerProcess] = field(default_factory=list)
    accepted: dict[str, tuple[str, str]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    repeated_starts: int = 0
    _judge: psycopg.AsyncConnection | None = None
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    # -- doing -----------------------------------------------------------------------------------------------------

    async def worker(self, *, ready: bool = True, **settings: str) -> WorkerProcess:
        """A new worker process, registered if it is to be ``ready``."""
        log = self.directory / f"worker-{len(self.workers)}.log"
        process = WorkerProcess(self.environment | settings, log, expendable="STEPWELL_CRASH_AT" in settings)
        self.workers.append(process)
        if ready:
            await self.registered(process)
        return process

    async def registered(self, process: WorkerProcess) -> int:
        """The worker's id, once it is alive."""

        async def found() -> int:
            assert process.running, process.text()
            return max(await self.lives(process), default=0)

        return await eventually(found, START, pause=LOOK)

    async def lives(self, process: WorkerProcess) -> list[int]:
        """The ids under which the process was or is alive, oldest first."""
        return [row[0] for row in await self.rows("SELECT id FROM workers WHERE process = %s ORDER BY id", process.pid)]

    async def start(self, count: int, workflow: str = "order", *, patience: float = 60.0) -> list[str]:
        """Start runs at once, each repeated under its key until it is accepted, as a good sender does. Their ids."""
        return await asyncio.gather(*[self._start(workflow, patience) for _ in range(count)])

    async def _start(self, workflow: str, patience: float) -> str:
        number = next(self._numbers)
        key = f"start-{number}"
        began = time.monotonic()
        while True:
            try:
                answer = await self.intake.start(Start(NAMESPACE, workflow, {"n": number}, key=key))
            except UnavailableError:
                assert time.monotonic() < began + patience, f"{key} was not accepted within {patience:g} s"
                self.repeated_starts += 1
                await asyncio.sleep(0.05)
                continue
            self.latencies.append(time.monotonic() - began)
            self.accepted[key] = (answer.id, workflow)
            return answer.id

    async def moved(self, dsn: str) -> None:
        """From now on workers that are started and whoever judges use another database."""
        self.dsn = self.environment["DATABASE_URL"] = dsn
        if self._judge is not None:
            await self._judge.close()

    async def struck(self, name: str, *, repeats: bool = False, late: bool = False) -> Fault:
        """Note a fault that has just begun. ``late``: a stopped process goes on, and a request that it was about to send
        when it was stopped may arrive now, though another worker has recorded the step meanwhile.
        """
        at = time.monotonic()
        durable = frozenset() if late else frozenset(await self.durable())
        fault = Fault(name, at, durable, len(self.receiver.effects), repeats, late)
        self.faults.append(fault)
        return fault

    @contextlib.asynccontextmanager
    async def load(self, workflow: str = "order", batch: int = 10, pause: float = 0.02) -> AsyncIterator[None]:
        """Starts go on and on while the block runs; leaving it, all of them were accepted."""
        stop = asyncio.Event()

        async def starting() -> None:
            while not stop.is_set():
                await self.start(batch, workflow)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), pause)

        task = asyncio.ensure_future(starting())
        try:
            yield
            stop.set()
            await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    # -- seeing ----------------------------------------------------------------------------------------------------

    async def rows(self, query: LiteralString, *params: object) -> list[tuple[Any, ...]]:
        """What the database says now; asked again over a new connection where a fault had cut the old one."""
        for again in (False, True):
            if self._judge is None or self._judge.closed:
                self._judge = await psycopg.AsyncConnection.connect(self.dsn, autocommit=True)
            try:
                return await (await self._judge.execute(query, params)).fetchall()
            except psycopg.OperationalError:
                await self._judge.close()
                if again:
                    raise
        raise AssertionError("unreachable")

    async def close(self) -> None:
        """End what is still there."""
        for process in self.workers:
            process.finish()
        if self._judge is not None:
            await self._judge.close()

    async def durable(self) -> set[str]:
        """The keys of all steps with a final result in the database."""
        query: LiteralString = (
            "SELECT run_id || '/' || step || CASE WHEN item_index < 0 THEN '' ELSE '/' || item_index END"
            " FROM run_steps WHERE retry_at IS NULL"
        )
        return {row[0] for row in await self.rows(query)}

    async def statuses(self) -> dict[str, int]:
        """How many runs are in which status."""
        rows = await self.rows("SELECT status, count(*) FROM runs GROUP BY status")
        return {row[0]: row[1] for row in rows}

    async def ended(self, ids: Iterable[str], timeout: float = 30.0) -> float:  # noqa: ASYNC109 (a deadline)
        """Wait until these runs have ended; the seconds that it took."""
        wanted = list(ids)
        began = time.monotonic()

        async def missing() -> bool:
            with contextlib.suppress(psycopg.OperationalError):
                query: LiteralString = (
                    "SELECT count(*) FROM runs WHERE id = ANY(%s::text[]::uuid[]) AND finished_at IS NOT NULL"
                )
                return (await self.rows(query, wanted))[0][0] == len(wanted)
            return False

        try:
            await eventually(missing, timeout, pause=LOOK)
        except AssertionError as error:
            raise AssertionError(f"{await self._told()}\nnot all of {len(wanted)} runs ended") from error
        return time.monotonic() - began

    async def _told(self) -> str:
        query: LiteralString = (
            "SELECT id::text, status, worker_id, fence, claims, suspicion, wakes, error::text FROM runs"
            " WHERE finished_at IS NULL LIMIT 5"
        )
        logs = "\n".join(f"--- {w.log.name}, running: {w.running}\n{w.text()[-3000:]}" for w in self.workers)
        return f"{await self.statuses()} {await self.rows(query)}\n{logs}"

    # -- judging ---------------------------------------------------------------------------------------------------

    async def over(self, *, failed: Collection[str] = (), timeout: float = 40.0, tail: int = 20) -> None:  # noqa: ASYNC109 (a deadline)
        """The system is healed: a tail of runs succeeds, all ends well, and nothing was lost or done twice unduly.

        ``failed``: the runs that are to have failed.
        """
        assert self.accepted, "a drill that did no work shows nothing"
        assert self.faults, "a drill without a fault shows nothing"
        await self.ended(await self.start(tail), timeout)
        await self.ended([run for run, _ in self.accepted.values()], timeout)
        await self.judge_records(set(failed))
        self._judge_effects(set(failed))
        self._judge_logs()

    async def judge_records(self, failed: Collection[str] = ()) -> None:
        specs = workflows(0)
        runs = {row[0]: row[1:] for row in await self.rows(_RUNS)}
        steps: dict[str, dict[str, list[tuple[int, str, Any]]]] = defaultdict(lambda: defaultdict(list))
        for run_id, step, attempt, status, output in await self.rows(_STEPS):
            steps[run_id][step].append((attempt, status, output))
        assert runs.keys() == {run for run, _ in self.accepted.values()}, "runs are lost, or were never asked for"
        assert len(runs) == len(self.accepted), "two keys led to one run"
        for run_id, workflow in self.accepted.values():
            status, output, expires = runs[run_id]
            if run_id in failed:
                assert status == "failed", (run_id, status)
                continue
            assert status == "succeeded", (run_id, status, steps[run_id])
            assert None not in (output, expires), f"the final row of {run_id} is not complete"
            assert steps[run_id].keys() == {step["name"] for step in specs[workflow]}, run_id
            for step, attempts in steps[run_id].items():
                assert [a for a, _, _ in attempts] == list(range(1, len(attempts) + 1)), (run_id, step, attempts)
                assert [s for _, s, _ in attempts][-1] == "succeeded", (run_id, step, attempts)
                assert attempts[-1][2] is not None, (run_id, step)
                assert len(attempts) <= (2 if (workflow, step) == ("late", "create") else 1), (run_id, step, attempts)
        for name, query in _VIOLATIONS.items():
            found = await self.rows(query)
            assert not found, f"{name}: {found[:5]}"

    def _judge_effects(self, failed: set[str]) -> None:
        specs = workflows(0)
        due = {
            f"{run_id}/{step['name']}{item}"
            for run_id, workflow in self.accepted.values()
            for step in specs[workflow]
            if "httpCall" in step and run_id not in failed
            for item in ([f"/{index}" for index, _ in enumerate(ITEMS)] if "forEach" in step else [""])
        }
        by_key: dict[str, list[Effect]] = defaultdict(list)
        for effect in self.receiver.effects:
            by_key[effect.key].append(effect)
        assert due <= by_key.keys(), f"effects are lost: {sorted(due - by_key.keys())[:5]}"
        assert all(run.split("/")[0] in {r for r, _ in self.accepted.values()} for run in by_key), "foreign effects"
        for key, effects in by_key.items():
            contents = {e.content for e in effects}
            assert len(contents) == 1, f"the repeats of {key} differ: {contents}"
            done = [e for e in effects if e.status == 200]
            for first, second in itertools.pairwise(done):
                excuses = [f for f in self.faults if f.repeats and first.at <= f.at <= second.at]
                assert excuses, f"{key} was done twice without being in flight at a fault"
        for fault in self.faults:
            again = {
                e.key for e in self.receiver.effects[fault.arrived :] if e.key in fault.durable and not self._late(e)
            }
            assert not again, f"after {fault.name}, steps ran again whose result was durable: {sorted(again)[:5]}"

    def _late(self, effect: Effect) -> bool:
        """Whether a process that was stopped before the step was durable, and goes on now, may have sent this."""
        wakes = [f.at for f in self.faults if f.late and f.at <= effect.at]
        stops = [f.at for f in self.faults if f.repeats and not f.late and effect.key not in f.durable]
        return bool(wakes and stops) and min(stops) <= max(wakes)

    def _judge_logs(self) -> None:
        for worker in self.workers:
            if not worker.expendable:
                found = _NOT_OURS.search(worker.text())
                assert not found, f"{worker.log.name}: {found and found.group()}\n{worker.text()[-4000:]}"

    @property
    def repeated(self) -> set[str]:
        """The keys of effects that were done more than once."""
        done = [e.key for e in self.receiver.effects if e.status == 200]
        return {key for key in done if done.count(key) > 1}


_RUNS: LiteralString = "SELECT id::text, status, output_data, expires_at FROM workflow_runs"
_STEPS: LiteralString = "SELECT run_id::text, step, attempt, status, output_data FROM step_runs WHERE item_index = -1 ORDER BY run_id, step, attempt"
_VIOLATIONS: dict[str, LiteralString] = {
    "a running run without a living worker": (
        "SELECT r.id FROM runs r WHERE r.status = 'running'"
        " AND NOT EXISTS (SELECT FROM workers w WHERE w.id = r.worker_id AND w.dead_at IS NULL)"
    ),
    "a waiting run without a timer": (
        "SELECT r.id FROM runs r WHERE r.status = 'waiting' AND NOT EXISTS (SELECT FROM timers t WHERE t.run_id = r.id)"
    ),
    "a timer without a waiting run": (
        "SELECT t.run_id FROM timers t WHERE NOT EXISTS (SELECT FROM runs r WHERE r.id = t.run_id AND r.status = 'waiting')"
    ),
    "a final row that is not complete": (
        "SELECT id FROM runs WHERE finished_at IS NOT NULL AND (expires_at IS NULL OR started_at IS NULL"
        " OR started_at > finished_at + interval '1 second' OR status = 'succeeded' AND error IS NOT NULL"
        " OR status = 'failed' AND error IS NULL)"
    ),
    "a step recorded by a claim later than the run's last": (
        "SELECT s.run_id FROM run_steps s JOIN runs r ON r.id = s.run_id WHERE s.fence > r.fence"
    ),
    "a key without its run": (
        "SELECT k.run_id FROM idempotency_keys k WHERE NOT EXISTS (SELECT FROM runs r WHERE r.id = k.run_id)"
    ),
}


@asynccontextmanager
async def drill(
    dsn: str, url: str, *, worker_dsn: str | None = None, worker_url: str | None = None, intake_dsn: str | None = None,
    intake_url: str | None = None, **settings: str,
) -> AsyncIterator[System]:  # fmt: skip
    """A system on a database that is empty but for its schema. Workers and intake may reach the servers by other ways
    (through a proxy) than the one that judges them.
    """
    prefix = f"drill-{secrets.token_hex(4)}"
    environment = {name: value for name, value in os.environ.items() if not _STEERING.match(name)} | HURRY | settings
    environment |= {
        "STEPWELL_METRICS_PORT": "0",
        "DATABASE_URL": worker_dsn or dsn,
        "REDIS_URL": worker_url or url,
        "STEPWELL_REDIS_PREFIX": prefix,
        "STEPWELL_ALLOW_LOOPBACK": "true",
    }
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stepwell-drill-")))
        receiver = await stack.enter_async_context(Receiver().listening())
        way_in = intake_dsn or dsn, intake_url or worker_url or url
        intake, store = await stack.enter_async_context(accepting(*way_in, prefix))
        system = System(dsn, environment, receiver, intake, store, directory)
        for name, steps in workflows(receiver.port).items():
            more = handlers(receiver.port) if name == "guarded" else {}
            document = orjson.dumps({"steps": steps, **more})
            await store.apply(NewRevision(NAMESPACE, name, document, document[-32:], sorted(more), False, 3600, 3600))
        try:
            yield system
        finally:
            await system.close()


@asynccontextmanager
async def accepting(dsn: str, url: str, prefix: str) -> AsyncIterator[tuple[Intake, PostgresIntakeStore]]:
    """Intake that runs, and its store."""
    async with AsyncExitStack() as stack:
        clock = Clock()
        queue = ReadyQueue(url, prefix)
        stack.push_async_callback(queue.close)
        session = await stack.enter_async_context(Session(dsn, "drill intake", clock))
        reads = await stack.enter_async_context(Session(dsn, "drill reads", clock))
        store = PostgresIntakeStore(session)
        revisions = Revisions(PostgresRunStore(reads, reads).revision, default_actions())
        intake = Intake(store, revisions, Offers(queue), clock)
        running = asyncio.ensure_future(intake.run())
        try:
            yield intake, store
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
