"""Workflow resources as a part of the operator."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from stepwell.adapters.postgres.resource_store import ResourceStore
from stepwell.adapters.postgres.secret_troubles import SecretTroubles
from stepwell.domain.errors import StepwellError
from stepwell_operator.workflows.cancels import Cancels
from stepwell_operator.workflows.cluster import Cluster
from stepwell_operator.workflows.counting import Counting
from stepwell_operator.workflows.entries import Entries
from stepwell_operator.workflows.handlers import register
from stepwell_operator.workflows.refresh import Pace, Refresh, Secrets
from stepwell_operator.workflows.showing import WRITERS, Showing
from stepwell_operator.workflows.sweep import Sweep
from stepwell_operator.workflows.syncer import Syncer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import kopf

    from stepwell_operator.context import Context
    from stepwell_operator.relists import Sign

SWEEP_AGAIN = 5.0  # seconds after one that failed

log = logging.getLogger(__name__)


@asynccontextmanager
async def workflows(
    registry: kopf.OperatorRegistry, context: Context, *, secrets: Secrets | None = None, pace: Pace | None = None
) -> AsyncIterator[Entries]:
    """Register the handlers; the work beside them runs until the operator ends. ``secrets`` tells of their troubles."""
    entries = Entries()
    cluster = Cluster(context.api)
    store = ResourceStore(await context.session("workflows"))
    facts = ResourceStore(await context.session("counts"))
    cancels = Cancels(facts, context.control)
    settings = context.settings.operator
    showing = Showing(cluster, entries, context.events, context.metrics, context.settings.public_url)
    refresh = Refresh(
        entries, Counting(facts), facts, secrets or SecretTroubles(context.reads), showing, pace or Pace()
    )
    syncer = Syncer(
        store, entries, context.actions, context.metrics, on_outcome=refresh.settled, on_gone=cancels.wanted
    )
    register(registry, syncer, entries, showing, context.relists)
    context.metrics.look = entries.readiness
    context.metrics.unsynced = entries.unsynced
    context.work("sync", syncer.run())
    for number in range(WRITERS):
        context.work(f"status {number}", showing.run())
    context.work("refresh", refresh.run())
    context.work("cancels", cancels.run())
    sweep = Sweep(facts, cluster, entries, syncer, context.metrics)
    context.work("sweep", _sweep(sweep, settings.sweep, context.relists.sign()))
    yield entries


async def _sweep(sweep: Sweep, period: float, relisted: Sign) -> None:
    """At the start, every ``period`` seconds, and when a watch began anew."""
    began = time.monotonic()
    while True:
        try:
            await sweep.run(changes=time.monotonic() - began >= period)
        except StepwellError as exc:
            log.info("the sweep of Workflows is tried again: %s", exc)
            await asyncio.sleep(SWEEP_AGAIN)
        else:
            await relisted.within(period)
