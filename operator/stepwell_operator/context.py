"""What the operator's rooms work with: one of each a process."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from stepwell.actions.registry import default_actions
from stepwell.adapters.kube.client import kube_client
from stepwell.adapters.postgres.intake_store import PostgresIntakeStore
from stepwell.adapters.postgres.run_store import PostgresRunStore
from stepwell.adapters.postgres.session import Session
from stepwell.adapters.redis_queue.queue import ReadyQueue
from stepwell.domain.errors import UsageError
from stepwell.engine.clock import Clock
from stepwell.engine.control import Control
from stepwell.engine.intake import Intake
from stepwell.engine.maintenance.offers import Offers
from stepwell.engine.revisions import Revisions
from stepwell_operator.events import Events
from stepwell_operator.relists import Relists

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

    from kubernetes.aio import client

    from stepwell.domain.action import Actions
    from stepwell.metrics.operator import OperatorMetrics
    from stepwell.settings import Settings


@dataclass(frozen=True, slots=True)
class Context:
    """Shared by all rooms.

    ``reads`` is a session for short statements of anybody; who keeps a connection busy opens one with ``session(name)``.
    ``failed`` ends when a task given to ``work`` does.
    """

    settings: Settings
    metrics: OperatorMetrics
    api: client.ApiClient
    clock: Clock
    queue: ReadyQueue
    actions: Actions
    reads: Session
    store: PostgresIntakeStore
    revisions: Revisions
    intake: Intake
    control: Control
    events: Events
    relists: Relists
    failed: asyncio.Future[None]
    _stack: AsyncExitStack = field(repr=False)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list, repr=False)

    async def session(self, name: str) -> Session:
        """A connection of the caller's own, closed when the operator ends."""
        dsn = self.settings.database_url or ""
        return await self._stack.enter_async_context(Session(dsn, f"operator {name}", self.clock))

    def work(self, name: str, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run it for ever beside the handlers; it is cancelled when the operator ends, and its own end is a defect."""
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        task.add_done_callback(self._ended)
        self._tasks.append(task)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or self.failed.done():
            return
        error = task.exception()
        if error is None:
            self.failed.set_result(None)
        else:
            self.failed.set_exception(error)

    async def close(self) -> None:
        """Cancel what runs, in the reverse order of its beginning."""
        for task in reversed(self._tasks):
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if self.failed.done() and not self.failed.cancelled():
            self.failed.exception()  # whoever waited for it was told
        self.failed.cancel()


@asynccontextmanager
async def opened(settings: Settings, metrics: OperatorMetrics) -> AsyncIterator[Context]:
    """A context with connections of its own and an intake that runs, until the block ends. The schema is there.

    Raises UsageError where no cluster is configured.
    """
    if settings.database_url is None or settings.redis_url is None:
        message = "set DATABASE_URL and REDIS_URL: the operator connects to both"
        raise UsageError(message)
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(kube_client())
        clock = Clock()
        queue = ReadyQueue(settings.redis_url, settings.redis_prefix)
        stack.push_async_callback(queue.close)
        starts, reads = [
            await stack.enter_async_context(Session(settings.database_url, f"operator {name}", clock))
            for name in ("intake", "reads")
        ]
        actions = default_actions()
        runs = PostgresRunStore(reads, reads)
        store = PostgresIntakeStore(starts, settings.idempotency)
        revisions = Revisions(runs.revision, actions)
        reads.on_connect = revisions.clear
        events = Events(api, metrics)
        context = Context(
            settings=settings,
            metrics=metrics,
            api=api,
            clock=clock,
            queue=queue,
            actions=actions,
            reads=reads,
            store=store,
            revisions=revisions,
            intake=Intake(store, revisions, Offers(queue), clock),
            control=Control(runs, queue),
            events=events,
            relists=Relists(),
            failed=asyncio.get_running_loop().create_future(),
            _stack=stack,
        )
        stack.push_async_callback(context.close)
        context.work("intake", context.intake.run())
        context.work("events", events.run())
        yield context
