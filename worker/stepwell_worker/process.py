"""The worker's process: waits for its database, lives, drains on SIGTERM, and begins a new life if declared dead."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvloop

from stepwell.actions.registry import default_actions
from stepwell.adapters.http.clients import HttpClients
from stepwell.adapters.http.outgoing import http_clients
from stepwell.adapters.kube.calls import Observe
from stepwell.adapters.kube.cluster import Cluster, cluster
from stepwell.adapters.postgres.approval_store import ApprovalStore
from stepwell.adapters.postgres.secret_troubles import noting
from stepwell.adapters.postgres.session import Session
from stepwell.adapters.redis_queue.queue import ReadyQueue
from stepwell.collector import settle
from stepwell.domain.action import Actions
from stepwell.engine.observer import Observer, Several
from stepwell.metrics.kube import KubeMetrics
from stepwell.metrics.worker import WorkerMetrics
from stepwell.process import process
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
    status = Status()
    metrics = WorkerMetrics(status.reading)
    async with process(settings, "a worker", metrics, status) as begun:
        if begun is not None:
            observer = Several(metrics, RunLog())
            called = KubeMetrics(metrics.registry).called
            async with _acting(settings, begun.database_url, called) as actions:
                await _live(settings, begun.redis_url, actions, observer, status, begun.stopping)


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
