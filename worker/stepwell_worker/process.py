"""The worker's process: waits for its database, lives, drains on SIGTERM, and begins a new life if declared dead."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvloop

from stepwell.actions.registry import default_actions
from stepwell.adapters.http.clients import HttpClients
from stepwell.adapters.http.outgoing import http_clients
from stepwell.adapters.kube.calls import Observe
from stepwell.adapters.kube.cluster import Cluster, cluster
from stepwell.adapters.postgres.approval_store import ApprovalStore
from stepwell.adapters.postgres.migrate import schema_is_there
from stepwell.adapters.postgres.secret_troubles import noting
from stepwell.adapters.postgres.session import Session
from stepwell.adapters.redis_queue.queue import ReadyQueue
from stepwell.collector import settle
from stepwell.domain.action import Actions
from stepwell.domain.errors import UsageError
from stepwell.engine.observer import Observer, Several
from stepwell.metrics.kube import KubeMetrics
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
                observer = Several(metrics, RunLog())
                called = KubeMetrics(metrics.registry).called
                async with _acting(settings, settings.database_url, called) as actions:
                    await _live(settings, settings.redis_url, actions, observer, status, stopping)
        finally:
            lag.cancel()


@asynccontextmanager
async def _acting(settings: Settings, dsn: str, called: Observe) -> AsyncIterator[Actions]:
    """The actions of this process: in a cluster with its Secrets, and with what its namespaces are allowed."""
    async with (
        cluster(settings, called) as found,
        noting(dsn, "worker", wanted=found is not None) as notes,
        _http(settings, found) as http,
        Session(dsn, "approvals") as session,
    ):
        yield default_actions(http, found.secrets if found else None, ApprovalStore(session), notes)


def _http(settings: Settings, found: Cluster | None) -> HttpClients:
    if found is None:
        return http_clients(settings, os.environ)
    return http_clients(settings, os.environ, allowances=found.allowances, own=found.own)


async def _live(
    settings: Settings, redis_url: str, actions: Actions, observer: Observer, status: Status, stopping: asyncio.Event
) -> None:
    """One worker after another: the next where one was declared dead."""
    queue = ReadyQueue(redis_url, settings.redis_prefix)
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
