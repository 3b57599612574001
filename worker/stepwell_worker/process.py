"""The worker's process: waits for its database, lives, drains on SIGTERM, and begins a new life if declared dead."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal

import uvloop

from stepwell.actions.registry import default_actions
from stepwell.adapters.http.outgoing import http_clients
from stepwell.adapters.postgres.migrate import pending
from stepwell.adapters.redis_queue.queue import ReadyQueue
from stepwell.domain.errors import UnavailableError, UsageError
from stepwell.engine.backoff import Backoff
from stepwell.engine.observer import Observer, Several
from stepwell.metrics.worker import WorkerMetrics
from stepwell.run_log import RunLog
from stepwell.settings import Settings
from stepwell_worker.health import measure_lag, serving
from stepwell_worker.status import Status
from stepwell_worker.worker import Worker

SCHEMA_PATIENCE = 10.0  # seconds that a look at the schema's version may take

log = logging.getLogger(__name__)


def main(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT. Raises UsageError where a setting is missing."""
    uvloop.run(serve(settings))


async def serve(settings: Settings) -> None:
    """The same within a running loop."""
    if settings.database_url is None or settings.redis_url is None:
        message = "set DATABASE_URL and REDIS_URL: a worker connects to both"
        raise UsageError(message)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    status = Status()
    metrics = WorkerMetrics(status.reading)
    async with serving(settings.operations, metrics.registry, status.missing):
        lag = asyncio.ensure_future(measure_lag(metrics.lagged))
        try:
            if await _schema_is_there(settings.database_url, status, stopping):
                await _live(settings, settings.redis_url, Several(metrics, RunLog()), status, stopping)
        finally:
            lag.cancel()


async def _live(
    settings: Settings, redis_url: str, observer: Observer, status: Status, stopping: asyncio.Event
) -> None:
    """One worker after another: the next where one was declared dead."""
    queue = ReadyQueue(redis_url, settings.redis_prefix)
    async with http_clients(settings, os.environ) as http:
        actions = default_actions(http)
        while not stopping.is_set():
            worker = Worker(settings, queue, actions, observer=observer, status=status)
            watcher = asyncio.ensure_future(stopping.wait())
            watcher.add_done_callback(worker.stop)
            try:
                if not await worker.run():
                    log.error("this worker was declared dead; it begins anew under another id")
            finally:
                watcher.cancel()
    await queue.close()


async def _schema_is_there(dsn: str, status: Status, stopping: asyncio.Event) -> bool:
    """Wait for the schema that this version writes, because nothing may be claimed before. False: stopped meanwhile."""
    backoff = Backoff(initial=0.2, maximum=5.0)
    while not stopping.is_set():
        try:
            async with asyncio.timeout(SCHEMA_PATIENCE):
                missing = await pending(dsn)
        except (UnavailableError, TimeoutError) as exc:
            status.schema = str(exc) or "PostgreSQL did not answer"
        else:
            if not missing:
                status.schema = None
                return True
            status.schema = f"the database lacks the migrations {', '.join(missing)}; run `stepwell migrate`"
        log.warning("%s", status.schema)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), backoff.next())
    return False
