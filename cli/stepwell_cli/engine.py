"""The whole engine within this process: what a gateway, an operator and a worker do in a cluster."""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stepwell.actions.registry import default_actions
from stepwell.adapters.http.outgoing import http_clients
from stepwell.adapters.postgres.approval_store import ApprovalStore
from stepwell.adapters.postgres.history_store import HistoryStore
from stepwell.adapters.postgres.intake_store import PostgresIntakeStore
from stepwell.adapters.postgres.migrate import migrate
from stepwell.adapters.postgres.run_store import PostgresRunStore
from stepwell.adapters.postgres.session import Session
from stepwell.adapters.redis_queue.queue import ReadyQueue
from stepwell.domain.errors import UsageError
from stepwell.engine.apply import revision_of
from stepwell.engine.clock import Clock
from stepwell.engine.control import Control
from stepwell.engine.intake import Intake, Start
from stepwell.engine.maintenance.offers import Offers
from stepwell.engine.observer import SILENT
from stepwell.engine.revisions import Revisions
from stepwell_worker.worker import Worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from stepwell.domain.action import Actions
    from stepwell.domain.documents import JsonValue
    from stepwell.domain.manifest import Document
    from stepwell.domain.secrets import SecretResolver
    from stepwell.domain.spec import Workflow
    from stepwell.engine.observer import Observer
    from stepwell.engine.ports import ActiveWorkflow
    from stepwell.settings import Settings


@dataclass(frozen=True, slots=True)
class Engine:
    """Applies, starts and cancels; a worker executes. ``changed`` is set when a run leaves the worker.

    ``work`` ends only by failing: await it beside whatever waits for a run.
    """

    session: Session
    history: HistoryStore
    changed: asyncio.Event
    work: asyncio.Future[None]
    store: PostgresIntakeStore
    intake: Intake
    control: Control

    async def apply(self, document: Document, workflow: Workflow) -> ActiveWorkflow:
        """Make this the workflow's active revision."""
        revision = revision_of(document.namespace, document.name, document.raw["spec"], workflow.spec)
        return await self.store.apply(revision)

    async def start(self, document: Document, value: JsonValue) -> str:
        """The id of a new run, durable."""
        accepted = await self.intake.start(Start(document.namespace, document.name, value))
        return accepted.id


@asynccontextmanager
async def engine_on(
    settings: Settings,
    secrets: SecretResolver,
    *,
    working: bool = True,
    scheduling: bool = True,
    observer: Observer = SILENT,
) -> AsyncIterator[Engine]:
    """A migrated database and a worker on it, drained when the block ends. Not ``working``: others execute. Not
    ``scheduling``: nothing is started by the clock.
    """
    if settings.database_url is None or settings.redis_url is None:
        raise UsageError("DATABASE_URL and REDIS_URL must be set")
    await migrate(settings.database_url)
    async with AsyncExitStack() as stack:
        clock = Clock()
        queue = ReadyQueue(settings.redis_url, settings.redis_prefix)
        stack.push_async_callback(queue.close)
        clients = await stack.enter_async_context(http_clients(settings, os.environ))
        session = await stack.enter_async_context(Session(settings.database_url, "command line", clock))
        actions = default_actions(clients, secrets, ApprovalStore(session))
        runs = PostgresRunStore(session, session)
        store = PostgresIntakeStore(session, settings.idempotency)
        intake = Intake(store, Revisions(runs.revision, actions), Offers(queue), clock)
        life = _Life(settings, queue, actions, observer, idle=not working, scheduling=scheduling)
        work = await stack.enter_async_context(_working(intake, life))
        yield Engine(session, HistoryStore(session), life.changed, work, store, intake, Control(runs, queue))


@asynccontextmanager
async def _working(intake: Intake, life: _Life) -> AsyncIterator[asyncio.Future[None]]:
    accepting = asyncio.ensure_future(intake.run())
    work = asyncio.ensure_future(life.run())
    try:
        yield work
        life.stopping.set()
        await work
    finally:
        accepting.cancel()
        work.cancel()  # after an error or a second Ctrl-C nobody waits until it has drained
        await asyncio.gather(accepting, work, return_exceptions=True)


class _Life:
    """A worker; another one if it was declared dead (the machine slept). ``idle``: none."""

    def __init__(
        self,
        settings: Settings,
        queue: ReadyQueue,
        actions: Actions,
        observer: Observer,
        *,
        idle: bool,
        scheduling: bool,
    ) -> None:
        self._settings = settings
        self._queue = queue
        self._actions = actions
        self._observer = observer
        self._idle = idle
        self._scheduling = scheduling
        self.stopping = asyncio.Event()
        self.changed = asyncio.Event()

    async def run(self) -> None:
        """Until ``stopping``."""
        if self._idle:
            await self.stopping.wait()
        while not self.stopping.is_set():
            await self._live()

    async def _live(self) -> None:
        worker = Worker(
            self._settings,
            self._queue,
            self._actions,
            on_left=lambda *_: self.changed.set(),
            observer=self._observer,
            scheduling=self._scheduling,
        )
        watcher = asyncio.ensure_future(self.stopping.wait())
        watcher.add_done_callback(worker.stop)
        try:
            await worker.run()
        finally:
            watcher.cancel()
