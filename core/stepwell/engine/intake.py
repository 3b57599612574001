"""How runs get in: concurrent starts share a transaction, and each is answered once it is committed.

A start with an idempotency key leads to one run for as long as the key is kept, whoever repeats it. Ids are made here,
so a batch whose answer was lost is sent again as it was.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import time
from dataclasses import dataclass

import orjson

from stepwell.domain.documents import MAX_BYTES as MAX_INPUT
from stepwell.domain.documents import JsonValue, dumps
from stepwell.domain.errors import ConflictError, DataRefusedError, InputError, StepwellError, UnavailableError
from stepwell.domain.ids import uuid7
from stepwell.engine.active import ActiveWorkflows
from stepwell.engine.backoff import Backoff
from stepwell.engine.clock import Clock
from stepwell.engine.maintenance.offers import Offers
from stepwell.engine.ports import PRIORITIES, Accepted, IntakeStore, NewRun, ReadyRun
from stepwell.engine.revisions import Revisions

MAX_BATCH = 1_000  # starts in one transaction
MAX_BYTES = 4 << 20  # of their inputs
HINT_TIME = 1.0  # seconds that stopping waits for the last offers; what is not offered is found by the leader
PATIENCE = 3.0  # seconds that a start waits for the database before it is refused

log = logging.getLogger(__name__)


class SuspendedError(StepwellError):
    """The workflow is suspended: no trigger starts a run of it."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Start:
    """A wish to start a run. ``trigger`` is the door it came through: a trigger's name, or ``api``.

    ``run_id`` is a deterministic one, where Stepwell repeats the start itself: it leads to one run for as long as that run
    exists. ``run_object`` is the name of the WorkflowRun that asks; then ``trigger`` is its uid.
    """

    namespace: str
    workflow: str
    input: JsonValue
    trigger: str = "api"
    key: str | None = None
    priority: str | None = None
    event: bool = False
    run_id: str | None = None
    run_object: str | None = None


@dataclass(slots=True)
class _Waiting:
    run: NewRun
    answer: asyncio.Future[Accepted | None]


class Intake:
    """Accepts starts. ``commits`` counts transactions; ``active`` knows the workflows' active revisions."""

    def __init__(self, store: IntakeStore, revisions: Revisions, offers: Offers, clock: Clock) -> None:
        self._store = store
        self._revisions = revisions
        self._offers = offers
        self._clock = clock
        self._waiting: list[_Waiting] = []
        self._work = asyncio.Event()
        self.active = ActiveWorkflows(store.active_workflows)
        self._hints: set[asyncio.Task[bool]] = set()
        self.commits = 0

    async def start(self, start: Start) -> Accepted:
        """Accept one run; returns once it is durable.

        Raises NotFoundError, SuspendedError, InputError, and UnavailableError: then it is unknown whether the run was
        accepted, and only a start with a key can be repeated safely.
        """
        for _ in range(3):
            run = await self._prepare(start)
            answer = await self._submit(run)
            if answer is not None:
                return answer
            self.active.forget(start.namespace, start.workflow)
        message = f"workflow {start.namespace}/{start.workflow} keeps changing; try again"
        raise UnavailableError(message)

    async def run(self) -> None:
        """Commit batches for ever; cancelled to stop. Nobody is left waiting then."""
        batch: list[_Waiting] = []
        try:
            while True:
                await self._work.wait()
                batch = self._gather()
                await self._accept(batch)
        finally:
            _refuse(batch + self._waiting, UnavailableError("intake stopped before the answer came"))
            if self._hints:
                await asyncio.wait(self._hints, timeout=HINT_TIME)

    def _gather(self) -> list[_Waiting]:
        count = size = 0
        while count < min(len(self._waiting), MAX_BATCH) and size < MAX_BYTES:
            size += len(self._waiting[count].run.input)
            count += 1
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        if not self._waiting:
            self._work.clear()
        return batch

    async def _prepare(self, start: Start) -> NewRun:
        active = await self.active.get(start.namespace, start.workflow)
        if active.suspended:
            message = f"workflow {start.namespace}/{start.workflow} is suspended; set spec.suspend to false"
            raise SuspendedError(message)
        if start.priority is not None and start.priority not in PRIORITIES.values():
            message = f"there is no priority {start.priority!r}; it is one of {', '.join(PRIORITIES.values())}"
            raise InputError(message)
        loaded = await self._revisions.get(active.revision_id)
        if not isinstance(start.input, dict):
            message = "a run's input is a JSON object, such as {}"
            raise InputError(message)
        value = start.input
        if loaded.revision.input_schema is not None:
            value = loaded.revision.input_schema.validate(value)
        document = dumps(value)
        if len(document) > MAX_INPUT:  # numbers such as 1e15 grow when they are written again
            message = f"the run's input has {len(document):,} bytes as it is stored; at most {MAX_INPUT:,} are allowed"
            raise InputError(message)
        now = self._clock.micros()
        return NewRun(
            id=start.run_id or uuid7(now // 1000, os.urandom(10)),
            workflow_id=active.workflow_id,
            revision_id=active.revision_id,
            namespace=start.namespace,
            trigger=start.trigger,
            input=document,
            created_at=now,
            priority=start.priority or loaded.revision.priority,
            key=start.key,
            event_id=uuid7(now // 1000, os.urandom(10)) if start.event else None,
            may_exist=start.run_id is not None,
            run_object=start.run_object,
        )

    def _submit(self, run: NewRun) -> asyncio.Future[Accepted | None]:
        answer = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(run, answer))
        self._work.set()
        return answer

    async def _accept(self, batch: list[_Waiting]) -> None:
        leaders, followers = _without_twins(batch)
        try:
            accepted = await self._commit([w.run for w in leaders])
        except DataRefusedError as exc:
            await self._halve(batch, exc)
            return
        except StepwellError as exc:
            _refuse(batch, exc)
            return
        for waiting in leaders:
            _answer(waiting, accepted.get(waiting.run.id))
        for waiting, leader in followers:
            _answer(waiting, _as_repeat(waiting.run, leader, accepted.get(leader.id)))
        self._hint([w.run for w in leaders if w.run.id in accepted and not accepted[w.run.id].repeated])

    async def _commit(self, runs: list[NewRun]) -> dict[str, Accepted]:
        deadline = time.monotonic() + PATIENCE
        backoff = Backoff()
        again = False
        while True:
            try:
                accepted = await self._store.accept(runs, again=again)
            except (UnavailableError, ConflictError) as exc:
                if time.monotonic() > deadline:
                    raise UnavailableError(str(exc)) from exc
                again |= isinstance(exc, UnavailableError)
                await backoff.pause()
                continue
            self.commits += 1
            return accepted

    async def _halve(self, batch: list[_Waiting], refusal: DataRefusedError) -> None:
        if len(batch) == 1:
            _refuse(batch, refusal)
            return
        middle = len(batch) // 2
        await self._accept(batch[:middle])
        await self._accept(batch[middle:])

    def _hint(self, runs: list[NewRun]) -> None:
        """Offer the runs beside the answers: a slow or absent Redis delays nobody's 202."""
        ready = [ReadyRun(r.id, r.namespace, r.created_at // 1000, r.priority) for r in runs]
        task = asyncio.get_running_loop().create_task(self._offers.add(ready))
        self._hints.add(task)
        task.add_done_callback(self._hints.discard)


def input_hash(document: bytes) -> bytes:
    """What tells whether a repeat brings another input; the order of keys does not matter."""
    return hashlib.sha256(orjson.dumps(orjson.loads(document), option=orjson.OPT_SORT_KEYS)).digest()[:16]


def _without_twins(batch: list[_Waiting]) -> tuple[list[_Waiting], list[tuple[_Waiting, NewRun]]]:
    """One of each key goes into the statement; the others get its answer."""
    first: dict[tuple[int, str, str], NewRun] = {}
    leaders: list[_Waiting] = []
    followers: list[tuple[_Waiting, NewRun]] = []
    for waiting in batch:
        run = waiting.run
        leader = run if run.key is None else first.setdefault((run.workflow_id, run.trigger, run.key), run)
        if leader is run:
            leaders.append(waiting)
        else:
            followers.append((waiting, leader))
    return leaders, followers


def _as_repeat(run: NewRun, leader: NewRun, answer: Accepted | None) -> Accepted | None:
    if answer is None:
        return None
    differs = input_hash(run.input) != input_hash(leader.input)
    return Accepted(answer.id, repeated=True, input_differs=differs or answer.input_differs)


def _answer(waiting: _Waiting, accepted: Accepted | None) -> None:
    if not waiting.answer.done():
        waiting.answer.set_result(accepted)


def _refuse(batch: list[_Waiting], error: StepwellError) -> None:
    for waiting in batch:
        if not waiting.answer.done():
            waiting.answer.set_exception(type(error)(str(error)))
