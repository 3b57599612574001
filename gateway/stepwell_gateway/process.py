"""The gateway's process: waits for its database, serves, and answers what is in flight before it ends."""

from __future__ import annotations

import asyncio
import logging
import signal

import uvloop

from stepwell.adapters.postgres.migrate import schema_is_there
from stepwell.collector import settle
from stepwell.domain.errors import UsageError
from stepwell.metrics.gateway import GatewayMetrics
from stepwell.metrics.kube import KubeMetrics
from stepwell.metrics.serving import measure_lag
from stepwell.metrics.serving import serving as operations
from stepwell.settings import Settings
from stepwell_gateway.cluster import surroundings
from stepwell_gateway.context import opened
from stepwell_gateway.serving import serving
from stepwell_gateway.status import Status

log = logging.getLogger(__name__)


def main(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT. Raises UsageError where a setting is missing."""
    uvloop.run(serve(settings))


async def serve(settings: Settings) -> None:
    """The same within a running loop."""
    if settings.database_url is None or settings.redis_url is None:
        message = "set DATABASE_URL and REDIS_URL: the gateway connects to both"
        raise UsageError(message)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    status = Status()
    metrics = GatewayMetrics()
    async with operations(settings.operations, metrics.registry, status.missing):
        lag = asyncio.ensure_future(measure_lag(metrics.lagged))
        try:
            if await schema_is_there(settings.database_url, stopping, status.told):
                await _serve(settings, metrics, status, stopping)
        finally:
            lag.cancel()


async def _serve(settings: Settings, metrics: GatewayMetrics, status: Status, stopping: asyncio.Event) -> None:
    gateway = settings.gateway
    async with (
        surroundings(settings, KubeMetrics(metrics.registry).called) as found,
        opened(settings, found.secrets, metrics=metrics, access=found.access, notes=found.notes) as context,
        serving(context, address=gateway.address, port=gateway.port) as port,
    ):
        settle()
        status.serving = True
        log.info("hooks and the API are served on %s port %d", gateway.address, port)
        await stopping.wait()
        status.serving = False
        log.info("draining: requests in flight are answered")
