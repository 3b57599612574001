"""The gateway's process: waits for its database, serves, and answers what is in flight before it ends."""

from __future__ import annotations

import asyncio
import logging

import uvloop

from stepwell.collector import settle
from stepwell.metrics.gateway import GatewayMetrics
from stepwell.metrics.kube import KubeMetrics
from stepwell.process import process
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
    status = Status()
    metrics = GatewayMetrics()
    async with process(settings, "the gateway", metrics, status) as begun:
        if begun is not None:
            await _serve(settings, metrics, status, begun.stopping)


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
