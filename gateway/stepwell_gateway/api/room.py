"""What the API works with, beside what all of the gateway does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stepwell.adapters.postgres.approval_store import ApprovalStore
from stepwell.adapters.postgres.rerun_store import PostgresRerunStore
from stepwell.adapters.postgres.run_reader import RunReader
from stepwell.engine.approvals import Approvals
from stepwell.engine.maintenance.offers import Offers
from stepwell.engine.reruns import Reruns
from stepwell_gateway.api.listeners import Listeners

if TYPE_CHECKING:
    import asyncio

    from stepwell.domain.access import Access
    from stepwell.engine.control import Control
    from stepwell.engine.intake import Intake
    from stepwell_gateway.bodies import Bodies
    from stepwell_gateway.context import Context
    from stepwell_gateway.quotas import Quotas


@dataclass(frozen=True, slots=True)
class Room:
    """One a process."""

    access: Access
    reader: RunReader
    intake: Intake
    reruns: Reruns
    questions: ApprovalStore
    approvals: Approvals
    control: Control
    quotas: Quotas
    bodies: Bodies
    listeners: Listeners
    stopping: asyncio.Event


def room_of(context: Context) -> Room:
    """The room over the gateway's context."""
    reader = RunReader(context.readers)
    store = PostgresRerunStore(context.reads, context.settings.idempotency)
    questions = ApprovalStore(context.reads)
    offers = Offers(context.queue)
    return Room(
        access=context.access,
        reader=reader,
        intake=context.intake,
        reruns=Reruns(store, context.revisions, offers, context.clock),
        questions=questions,
        approvals=Approvals(questions, offers),
        control=context.control,
        quotas=context.quotas,
        bodies=context.bodies,
        listeners=Listeners(reader),
        stopping=context.stopping,
    )
