"""Kopf's handlers of Workflows: they hand over what they see, wait until it was tried once, and never raise.

A Workflow has no finalizer, so kopf calls no handler of deletions for it (an ``optional`` one neither, without a finalizer of
kopf's own on the object): its end is heard as a bare event.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import kopf

from stepwell.adapters.postgres.resource_store import GoneResource
from stepwell_operator.workflows.cluster import GROUP, PLURAL, VERSION
from stepwell_operator.workflows.resource import resource_of

if TYPE_CHECKING:
    from stepwell_operator.relists import Relists
    from stepwell_operator.workflows.entries import Entries
    from stepwell_operator.workflows.showing import Showing
    from stepwell_operator.workflows.syncer import Syncer


def register(
    registry: kopf.OperatorRegistry, syncer: Syncer, entries: Entries, showing: Showing, relists: Relists
) -> None:
    """Hear of every Workflow of the cluster."""

    @kopf.on.resume(GROUP, VERSION, PLURAL, id="workflow", registry=registry)
    @kopf.on.create(GROUP, VERSION, PLURAL, id="workflow", registry=registry)
    @kopf.on.update(GROUP, VERSION, PLURAL, id="workflow", registry=registry)
    async def changed(body: kopf.Body, **_: Any) -> None:
        await syncer.observe(resource_of(body))

    @kopf.on.event(GROUP, VERSION, PLURAL, id="workflow-heard", registry=registry)
    async def heard(event: kopf.RawEvent, **_: Any) -> None:
        body: Any = event["object"]
        resource = resource_of(body)
        if event["type"] == "DELETED" or "deletionTimestamp" in body["metadata"]:
            syncer.gone(GoneResource(resource.name, resource.uid, resource.cancels))
            return
        entry = entries.get(resource.name)
        if entry is not None and entry.uid == resource.uid:
            if event["type"] is None:
                relists.heard()
            entry.heard(resource, time.monotonic())
            if entry.outcome is not None and not syncer.waits(resource.name):
                showing.wanted(entry)
