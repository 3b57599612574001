"""WorkflowRuns as a part of the operator: their events, the follower, and the sweep."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import kopf

from stepwell.adapters.postgres.run_objects import RunObjectStore
from stepwell.domain.errors import StepwellError
from stepwell_operator.runs.acts import RunActs
from stepwell_operator.runs.cluster import GROUP, PLURAL, VERSION, KubeCluster
from stepwell_operator.runs.follower import Follower
from stepwell_operator.runs.objects import parse
from stepwell_operator.runs.sweep import sweep

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from stepwell_operator.context import Context
    from stepwell_operator.relists import Relists, Sign

SWEEP_AGAIN = 5.0  # seconds after one that failed

log = logging.getLogger(__name__)


@asynccontextmanager
async def workflow_runs(registry: kopf.OperatorRegistry, context: Context) -> AsyncIterator[Follower]:
    """Register the handler; the work beside it runs until the operator ends."""
    store = RunObjectStore(await context.session("runs"))
    cluster = KubeCluster(context.api)
    acts = RunActs(
        context.intake, context.control, store, cluster, context.events, context.metrics, context.settings.public_url
    )
    follower = Follower(store, acts)
    register(registry, follower, context.relists)
    context.work("runs", follower.run())
    context.work("runs sweep", _sweep(store, cluster, follower, context, context.relists.sign()))
    yield follower


def register(registry: kopf.OperatorRegistry, follower: Follower, relists: Relists) -> None:
    """Hear of every WorkflowRun. Bare events: kopf writes nothing on these objects, and adds no finalizer."""

    @kopf.on.event(GROUP, VERSION, PLURAL, id="workflowrun", registry=registry)
    async def heard(event: kopf.RawEvent, **_: Any) -> None:
        take(follower, event, relists)


def take(follower: Follower, event: Any, relists: Relists) -> None:
    """Pass on one event of the watch, or one object of the first list (its type is None)."""
    body = event["object"]
    try:
        obj = parse(body)
    except (KeyError, ValueError) as exc:
        where = body.get("metadata", {})
        log.warning("WorkflowRun %s/%s cannot be read: %s", where.get("namespace"), where.get("name"), exc)
        return
    if event["type"] == "DELETED":
        follower.lost(obj)
        return
    if event["type"] is None and obj.uid in follower.tracks:
        relists.heard()
    follower.observe(obj)


async def _sweep(
    store: RunObjectStore, cluster: KubeCluster, follower: Follower, context: Context, relisted: Sign
) -> None:
    """At the start, every ``STEPWELL_SWEEP``, and when a watch began anew."""
    while True:
        try:
            for _ in range(await sweep(store, cluster, follower)):
                context.metrics.swept("missed_delete")
        except StepwellError as exc:
            log.info("the sweep of WorkflowRuns is tried again: %s", exc)
            await asyncio.sleep(SWEEP_AGAIN)
        else:
            await relisted.within(context.settings.operator.sweep)
