"""The operator's process: waits for its database, opens what the rooms work with, and runs kopf until SIGTERM.

How to plug in: a room is an asynchronous context manager ``room(registry, context)`` and has a line in `rooms.py`. It is entered
before kopf starts and left after it ended. Inside it registers its handlers (explicit ids, no finalizers: ``optional=True``
for deletions, and see `framework.py` for what kopf may store), opens what it needs, and hands what runs beside the handlers
to ``context.work(name, coroutine)``: such a task runs for ever, and one that ends by itself ends the process.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import kopf
import uvloop

from stepwell.collector import settle
from stepwell.metrics.operator import OperatorMetrics
from stepwell.process import heed, process
from stepwell_operator.context import Context, opened
from stepwell_operator.framework import new_registry, new_settings
from stepwell_operator.readiness import Readiness
from stepwell_operator.rooms import ROOMS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stepwell.settings import Settings
    from stepwell_operator.rooms import Room

log = logging.getLogger(__name__)


def main(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT. Raises UsageError where a setting or a cluster is missing."""
    uvloop.run(serve(settings))


async def serve(settings: Settings, rooms: Sequence[Room] = ROOMS) -> None:
    """The same within a running loop."""
    readiness = Readiness()
    metrics = OperatorMetrics()
    async with process(settings, "the operator", metrics, readiness) as begun:
        if begun is not None:
            async with opened(settings, metrics) as context:
                await operate(context, begun.stopping, readiness, rooms)


async def operate(
    context: Context, stopping: asyncio.Event, readiness: Readiness, rooms: Sequence[Room] = ROOMS
) -> None:
    """Watch the cluster until ``stopping``, a signal, or the end of a task that should never end."""
    registry = new_registry()
    async with AsyncExitStack() as stack:
        for room in rooms:
            await stack.enter_async_context(room(registry, context))
        settle()
        watching = asyncio.ensure_future(_watch(registry, stopping, readiness))
        heeding = asyncio.ensure_future(_heed_again(stopping, readiness))
        try:
            await asyncio.wait([watching, context.failed], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.set()
            heeding.cancel()
            readiness.watching.clear()
            await asyncio.wait([watching])
        if context.failed.done():
            context.failed.result()
        watching.result()
    log.info("the operator has stopped")


async def _heed_again(stopping: asyncio.Event, readiness: Readiness) -> None:
    """Kopf took the signals over. Stopped by one, it waits 5 s for its own task that waits for ``stopping``."""
    await readiness.watching.wait()
    heed(stopping)


async def _watch(registry: kopf.OperatorRegistry, stopping: asyncio.Event, readiness: Readiness) -> None:
    """Kopf's part. It cancels every task that began after it did, so whatever is to outlive it begins before."""
    await kopf.operator(
        registry=registry,
        settings=new_settings(),
        lifecycle=kopf.lifecycles.all_at_once,
        clusterwide=True,
        standalone=True,
        stop_flag=stopping,
        ready_flag=readiness.watching,
    )
