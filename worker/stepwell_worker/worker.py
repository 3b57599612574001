"""One life of a worker: put together, run, drained."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any

from stepwell.adapters.postgres.liveness import Liveness
from stepwell.adapters.postgres.run_store import PostgresRunStore
from stepwell.adapters.postgres.schedule_store import PostgresScheduleStore
from stepwell.adapters.postgres.session import Session
from stepwell.adapters.postgres.upkeep_store import PostgresUpkeepStore
from stepwell.adapters.redis_queue.queue import ReadyQueue
from stepwell.domain.action import Actions
from stepwell.domain.approval_links import approval_links
from stepwell.domain.errors import StepwellError, UnavailableError
from stepwell.engine.backoff import Backoff
from stepwell.engine.clock import Clock
from stepwell.engine.control import Control
from stepwell.engine.dispatch import Dispatcher
from stepwell.engine.execution import Execution
from stepwell.engine.maintenance.audit import WaitingAudit
from stepwell.engine.maintenance.cron import Cron
from stepwell.engine.maintenance.gauges import QueueGauges
from stepwell.engine.maintenance.job import Job
from stepwell.engine.maintenance.leader import Leader
from stepwell.engine.maintenance.offers import Offers
from stepwell.engine.maintenance.old_ticks import OldTicks
from stepwell.engine.maintenance.partitions import Partitions
from stepwell.engine.maintenance.readd import ReAdder
from stepwell.engine.maintenance.reaper import Reaper
from stepwell.engine.maintenance.retention import Retention
from stepwell.engine.maintenance.timers import Timers
from stepwell.engine.observer import SILENT, Observer
from stepwell.engine.ports import Kept, RunStore
from stepwell.engine.revisions import Revisions
from stepwell.engine.trust import Trust
from stepwell.settings import Settings
from stepwell.version import VERSION
from stepwell_worker.heartbeat import Heartbeat
from stepwell_worker.ownership import OwnershipAudit
from stepwell_worker.status import Life, Status

RESIGNING = 2.0  # seconds that giving up the lease may take beyond the drain

log = logging.getLogger(__name__)


class Worker:
    """A worker under one id. ``run`` returns True once it drained, False where it was declared dead: then a new life,
    with a new id, may begin. Without ``scheduling`` it fires no cron trigger when it leads.
    """

    def __init__(
        self,
        settings: Settings,
        queue: ReadyQueue,
        actions: Actions,
        *,
        on_left: Callable[[Execution, Kept | None], None] | None = None,
        observer: Observer = SILENT,
        status: Status | None = None,
        scheduling: bool = True,
    ) -> None:
        if settings.database_url is None:
            message = "DATABASE_URL is not set"
            raise ValueError(message)
        self._dsn = settings.database_url
        self._settings = settings
        self._queue = queue
        self._actions = actions
        self._on_left = on_left
        self._observer = observer
        self._status = status or Status()
        self._scheduling = scheduling
        self._stop = asyncio.Event()
        self._dead = False
        self.dispatcher: Dispatcher | None = None
        self.started = asyncio.Event()

    def stop(self, _: object = None) -> None:
        """Begin to drain; fit to be the callback of a future."""
        self._stop.set()

    async def run(self) -> bool:
        """Live until stopped or declared dead."""
        loop = asyncio.get_running_loop()
        liveness = Liveness(self._dsn)
        worker = await self._registered(liveness)
        if worker is None:
            return True
        log.info("worker %d starts with %d slots", worker, self._settings.worker.slots)
        trust = Trust(self._settings.worker.trust)
        async with AsyncExitStack() as stack:
            clock = Clock()
            claims, journal, upkeep = [
                await stack.enter_async_context(Session(self._dsn, name, clock))
                for name in ("claims", "journal", "upkeep")
            ]
            store = PostgresRunStore(claims, journal)
            revisions = Revisions(store.revision, self._actions)
            claims.on_connect = revisions.clear
            self.dispatcher = dispatcher = self._dispatcher(worker, store, revisions, clock, trust)
            heartbeat = Heartbeat(
                liveness,
                worker,
                trust,
                on_cancels=lambda ids: _call(loop, lambda: dispatcher.cancel(ids)),
                on_dead=lambda: _call(loop, self._declared_dead),
                period=self._settings.worker.heartbeat,
            )
            upkeep_store = PostgresUpkeepStore(upkeep)
            jobs = self._schedule_jobs(PostgresScheduleStore(upkeep), revisions, Control(store, self._queue), clock)
            leader = self._leader(upkeep_store, worker, *jobs)
            await asyncio.to_thread(heartbeat.start)
            self._status.life = Life(self._settings.worker.slots, trust, dispatcher, leader)
            tasks = [
                loop.create_task(work, name=name)
                for name, work in (
                    ("take", dispatcher.run()),
                    ("defects", dispatcher.broken()),
                    ("journal", dispatcher.journal.run()),
                    ("maintenance", leader.run()),
                    ("turns", _every(1.0, heartbeat.turned)),
                    ("cancels", self._hear_cancels(dispatcher, store)),
                    ("suspects", dispatcher.suspects.run()),
                    ("ownership", OwnershipAudit(store, dispatcher, worker).run()),
                    ("partitions", self._status.watch_partitions(upkeep_store)),
                )
            ]
            try:
                self.started.set()
                await self._stopped(tasks)
                if not self._dead:
                    await self._drain(dispatcher, leader)
            finally:
                self._status.life = None
                await _end(tasks)
                for execution in list(dispatcher.active.values()):
                    execution.abandon()
                await asyncio.to_thread(heartbeat.stop)
        return not self._dead

    async def _registered(self, liveness: Liveness) -> int | None:
        """The id of this life, None where it was stopped before it could begin."""
        backoff = Backoff(initial=0.2, maximum=2.0)
        while not self._stop.is_set():
            try:
                return await asyncio.to_thread(liveness.register, socket.gethostname(), os.getpid(), VERSION)
            except UnavailableError as exc:
                log.warning("the worker cannot register yet: %s", exc)
                await backoff.pause()
        return None

    def _dispatcher(self, worker: int, store: RunStore, revisions: Revisions, clock: Clock, trust: Trust) -> Dispatcher:
        return Dispatcher(
            worker=worker,
            store=store,
            queue=self._queue,
            revisions=revisions,
            clock=clock,
            trust=trust,
            slots=self._settings.worker.slots,
            on_left=self._on_left,
            observer=self._observer,
            links=approval_links(self._settings.approval_key, self._settings.public_url),
        )

    def _leader(self, store: PostgresUpkeepStore, worker: int, *more: Job) -> Leader:
        offers = Offers(self._queue)
        silence = self._settings.worker.silence
        jobs: list[Job] = [
            Timers(store, offers),
            Reaper(store, offers, silence=silence, observer=self._observer),
            ReAdder(store, offers, self._queue),
            WaitingAudit(store, offers, self._observer),
            Partitions(store),
            Retention(store),
            QueueGauges(store, self._observer),
            *more,
        ]
        return Leader(store, worker, jobs, term=silence / 2)

    def _schedule_jobs(
        self, schedules: PostgresScheduleStore, revisions: Revisions, control: Control, clock: Clock
    ) -> list[Job]:
        if not self._scheduling:
            return []
        cron = Cron(schedules, revisions, Offers(self._queue), control, clock, self._observer)
        return [cron, OldTicks(schedules, clock)]

    async def _hear_cancels(self, dispatcher: Dispatcher, store: PostgresRunStore) -> None:
        """Hints only: what they say is asked of the database, from which the heartbeat reads the same later."""
        backoff = Backoff(initial=1.0, maximum=10.0)
        while True:
            try:
                async for ids in self._queue.cancels():
                    backoff.reset()
                    ours = [run_id for run_id in ids if run_id in dispatcher.active]
                    if ours:
                        dispatcher.cancel(await store.cancel_requested(ours))
            except UnavailableError:
                await backoff.pause()

    def _declared_dead(self) -> None:
        self._dead = True
        self._stop.set()

    async def _stopped(self, tasks: list[asyncio.Task[None]]) -> None:
        """Until asked to stop; a task of ours that ends by itself is a defect and ends the worker."""
        waiter = asyncio.ensure_future(self._stop.wait())
        try:
            done, _ = await asyncio.wait([waiter, *tasks], return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiter.cancel()
        for task in done:
            if task is not waiter:
                task.result()

    async def _drain(self, dispatcher: Dispatcher, leader: Leader) -> None:
        log.info("draining: %d runs are active", len(dispatcher.active))
        resigning = asyncio.ensure_future(_resign(leader))
        try:
            await dispatcher.drain(self._settings.worker.grace)
        except StepwellError as exc:
            log.warning("draining ended early; others will take the runs over: %s", exc)
        finally:
            await asyncio.wait([resigning], timeout=RESIGNING)
            await _end([resigning])


async def _resign(leader: Leader) -> None:
    try:
        await leader.resign()
    except StepwellError as exc:
        log.warning("the maintenance lease runs out by itself: %s", exc)


def _call(loop: asyncio.AbstractEventLoop, what: Callable[[], None]) -> None:
    """Call from the heartbeat's thread; the loop may be gone already."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(what)


async def _every(seconds: float, what: Callable[[], Coroutine[Any, Any, None] | None]) -> None:
    while True:
        try:
            pending = what()
            if pending is not None:
                await pending
        except StepwellError as exc:
            log.warning("%s", exc)
        await asyncio.sleep(seconds)


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
