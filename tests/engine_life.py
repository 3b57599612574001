"""A worker's engine without processes: real dispatcher, executions and journal over a store in memory."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import orjson
from memory_store import Database, MemoryQueue, MemoryStore
from virtual_time import VirtualClock

from stepwell.actions.registry import default_actions
from stepwell.domain.action import Call, Compiler, Outcome
from stepwell.domain.compile import compile_revision
from stepwell.domain.errors import StepwellError
from stepwell.domain.retry import NEVER, RetryPolicy
from stepwell.domain.spec import WorkflowSpec
from stepwell.engine.dispatch import Dispatcher
from stepwell.engine.ports import ReadyRun, StoredRevision
from stepwell.engine.revisions import LoadedRevision, Revisions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from stepwell.domain.action import Actions
    from stepwell.domain.expressions import Context


@dataclass(slots=True)
class World:
    """What effects do, and what they were asked for. ``perform`` is told the call and the rendered body."""

    perform: Callable[[Call, Any], Awaitable[Any]]
    calls: list[tuple[Call, Any]] = field(default_factory=list)

    def asked(self, step: str) -> list[Any]:
        """The requests of one step, in order."""
        return [body for call, body in self.calls if call.step == step]


class EffectType:
    """Stands for ``httpCall``: the body is rendered, then the world acts."""

    name: ClassVar[str] = "httpCall"
    effect: ClassVar[bool] = True

    def __init__(self, world: World) -> None:
        self._world = world

    def compile(self, spec: Any, compiler: Compiler) -> Any:
        return _Effect(self._world, compiler.at(".body").template(spec.body))

    def retry(self, spec: Any) -> RetryPolicy:
        return NEVER

    def shape(self, spec: Any, given: Any) -> None:
        return None


@dataclass(slots=True)
class _Effect:
    world: World
    body: Any

    def render(self, value: Any, context: Context) -> Any:
        return self.body.render(context)

    async def perform(self, request: Any, call: Call, context: Context) -> Outcome:
        self.world.calls.append((call, request))
        given = await self.world.perform(call, request)
        return given if isinstance(given, Outcome) else Outcome(given)


def actions_of(world: World, **others: Any) -> Actions:
    return {**default_actions(), "httpCall": EffectType(world), **others}


def load(spec: dict[str, Any], actions: Actions, revision_id: int = 1) -> LoadedRevision:
    """Compile a workflow's spec."""
    revision = compile_revision(WorkflowSpec.model_validate(spec), actions)
    steps = {step.name: step for step in revision.steps}
    return LoadedRevision(revision_id, 1, "default", "test", revision, steps)


def stored(spec: dict[str, Any], revision_id: int = 1) -> StoredRevision:
    return StoredRevision(revision_id, 1, "default", "test", [], orjson.dumps(spec).decode())


@dataclass(slots=True)
class Trusting:
    """A trust that a test gives and takes."""

    given: bool = True

    def holds(self) -> bool:
        return self.given


class Life:
    """One worker from its start to its end or its death."""

    numbers = itertools.count(1)

    def __init__(
        self,
        database: Database,
        queue: MemoryQueue,
        actions: Actions,
        *,
        slots: int = 10,
        suspects: bool = False,
        **more: Any,
    ) -> None:
        self.worker = next(self.numbers)
        self.database = database
        self.queue = queue
        self.store = MemoryStore(database)
        self.trust = Trusting()
        self.left: list[tuple[str, Any]] = []
        self.dispatcher = Dispatcher(
            worker=self.worker,
            store=self.store,
            queue=queue,
            revisions=Revisions(self.store.revision, actions),
            clock=VirtualClock(),  # type: ignore[arg-type]
            trust=self.trust,  # type: ignore[arg-type]
            slots=slots,
            on_left=lambda execution, kept: self.left.append((execution.run.id, kept)),
            **more,
        )
        self.suspects = suspects
        self.tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self.database.alive.add(self.worker)
        self.tasks = [
            asyncio.ensure_future(self.dispatcher.run()),
            asyncio.ensure_future(self.dispatcher.journal.run()),
        ]
        if self.suspects:
            self.tasks.append(asyncio.ensure_future(self._try_suspects()))

    async def _try_suspects(self) -> None:
        while True:
            with contextlib.suppress(StepwellError):
                await self.dispatcher.suspects.take()
            await asyncio.sleep(2.0)

    def failed(self) -> BaseException | None:
        """What ended one of the worker's own tasks."""
        ended = [t for t in self.tasks if t.done() and not t.cancelled()]
        return next((t.exception() for t in ended if t.exception()), None)

    async def kill(self) -> None:
        """As kill -9: nothing more is done or written."""
        self.database.alive.discard(self.worker)
        for task in self.tasks:
            task.cancel()
        for execution in list(self.dispatcher.active.values()):
            execution.abandon()
        await asyncio.gather(*self.tasks, return_exceptions=True)


@dataclass(slots=True)
class Scene:
    """A database, a queue and one worker."""

    database: Database
    queue: MemoryQueue
    life: Life

    @property
    def store(self) -> MemoryStore:
        return self.life.store

    @property
    def dispatcher(self) -> Dispatcher:
        return self.life.dispatcher

    async def submit(self, run_id: str = "r1", **fields: Any) -> None:
        self.database.add(run_id, **fields)
        await self.offer(run_id)

    async def offer(self, run_id: str) -> None:
        row = self.database.rows[run_id]
        await self.queue.add([ReadyRun(run_id, row.namespace, row.created_at // 1000)])

    async def ended(self, run_id: str = "r1", *, within: float = 3600.0) -> str:
        """The final status."""
        await until(lambda: self.database.rows[run_id].final, within)
        return self.database.rows[run_id].status


async def until(condition: Callable[[], object], within: float = 3600.0) -> None:
    """Wait in virtual time."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within
    pause = 0.001
    while not condition():
        assert loop.time() < deadline, f"after {within:g} s it is still not so"
        await asyncio.sleep(pause)
        pause = min(0.1, pause * 1.2)


@contextlib.asynccontextmanager
async def scene(spec: dict[str, Any] | None, world: World | None = None, **more: Any) -> AsyncIterator[Scene]:
    """One started worker that knows one revision."""
    others = more.pop("actions", {})
    database = Database(VirtualClock().micros)
    if spec is not None:
        database.revisions[1] = stored(spec)
    queue = MemoryQueue()
    life = Life(database, queue, actions_of(world or World(nothing), **others), **more)
    life.start()
    try:
        yield Scene(database, queue, life)
        assert life.failed() is None
    finally:
        await life.kill()


async def nothing(call: Call, body: Any) -> Any:
    """An effect without an effect."""
    return {"done": call.step}
