"""The worker's process: waits for its database, lives, drains on SIGTERM, and begins a new life if declared dead."""

from __future__ import annotations

import asyncio
import logging
import os
import signal

import uvloop

from stepwell.actions.registry import default_actions
from stepwell.adapters.http.outgoing import http_clients
from stepwell.adapters.postgres.approval_store import ApprovalStore
from stepwell.adapters.postgres.migrate import schema_is_there
from stepwell.adapters.postgres.session import Session
from stepwell.adapters.redis_queue.queue import ReadyQueue
from stepwell.collector import settle
from stepwell.domain.errors import UsageError
from stepwell.engine.observer import Observer, Several
from stepwell.metrics.serving import measure_lag, serving
from stepwell.metrics.worker import WorkerMetrics
from stepwell.run_log import RunLog
from stepwell.settings import Settings
from stepwell_worker.status import Status
from stepwell_worker.worker import Worker

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
            if await schema_is_there(settings.database_url, stopping, status.told):
                await _live(
                    settings, settings.database_url, settings.redis_url, Several(metrics, RunLog()), status, stopping
                )
        finally:
            lag.cancel()


async def _live(
    settings: Settings, dsn: str, redis_url: str, observer: Observer, status: Status, stopping: asyncio.Event
) -> None:
    """One worker after another: the next where one was declared dead."""
    queue = ReadyQueue(redis_url, settings.redis_prefix)
    async with http_clients(settings, os.environ) as http, Session(dsn, "approvals") as session:
        actions = default_actions(http, questions=ApprovalStore(session))
        settle()
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
