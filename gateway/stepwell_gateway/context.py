"""What the routes work with: one of each a process."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from stepwell.actions.registry import default_actions
from stepwell.adapters.http.outgoing import http_clients
from stepwell.adapters.postgres.history_store import HistoryStore
from stepwell.adapters.postgres.intake_store import PostgresIntakeStore
from stepwell.adapters.postgres.outcome_store import PostgresOutcomeStore
from stepwell.adapters.postgres.run_store import PostgresRunStore
from stepwell.adapters.postgres.session import Session
from stepwell.adapters.postgres.sessions import Sessions
from stepwell.adapters.redis_queue.queue import ReadyQueue
from stepwell.adapters.redis_queue.rates import RedisRates
from stepwell.domain.access import Access
from stepwell.domain.errors import UsageError
from stepwell.domain.secrets import NO_NOTES, SecretNotes, SecretResolver
from stepwell.engine.backlogs import Backlogs
from stepwell.engine.clock import Clock
from stepwell.engine.control import Control
from stepwell.engine.intake import Intake
from stepwell.engine.maintenance.offers import Offers
from stepwell.engine.outcomes import Outcomes
from stepwell.engine.rates import Rates
from stepwell.engine.revisions import Revisions
from stepwell.engine.together import Together
from stepwell.metrics.gateway import GatewayMetrics
from stepwell.settings import Settings
from stepwell_gateway.bodies import Bodies
from stepwell_gateway.local import LocalAccess, NoAccess
from stepwell_gateway.quotas import Quotas

__all__ = ["Context", "LocalAccess", "opened"]

READERS = 4  # connections of the API, opened when first used: a large page delays nobody else
PATIENCE = 5.0  # seconds that a statement may take: who waits for an answer is told to come again


@dataclass(frozen=True, slots=True)
class Context:
    """Shared by all requests. ``reads``, ``readers`` and ``access`` are for the API; ``statuses`` tells a run's by its id;
    ``local`` is set in local mode.

    ``stopping`` is set when the process begins to drain: whatever waits for something then answers at once.
    """

    settings: Settings
    clock: Clock
    queue: ReadyQueue
    reads: Session
    history: HistoryStore
    intake: Intake
    revisions: Revisions
    control: Control
    secrets: SecretResolver
    metrics: GatewayMetrics
    quotas: Quotas
    outcomes: Outcomes
    statuses: Together[str, str]
    readers: Sessions
    access: Access = field(default_factory=NoAccess)
    notes: SecretNotes = NO_NOTES
    local: LocalAccess | None = None
    bodies: Bodies = field(default_factory=Bodies)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)


@asynccontextmanager
async def opened(
    settings: Settings,
    secrets: SecretResolver,
    *,
    metrics: GatewayMetrics | None = None,
    access: Access | None = None,
    notes: SecretNotes = NO_NOTES,
    local: LocalAccess | None = None,
) -> AsyncIterator[Context]:
    """A context with connections of its own and an intake that runs, until the block ends. The schema is there.

    ``access`` is the cluster's; in local mode ``local`` stands for it, and without either nobody may use the API.
    """
    if settings.database_url is None or settings.redis_url is None:
        message = "set DATABASE_URL and REDIS_URL: the gateway connects to both"
        raise UsageError(message)
    async with AsyncExitStack() as stack:
        clock = Clock()
        queue = ReadyQueue(settings.redis_url, settings.redis_prefix)
        stack.push_async_callback(queue.close)
        commits, lookups, reads = [
            await stack.enter_async_context(Session(settings.database_url, f"gateway {name}", clock, patience=PATIENCE))
            for name in ("intake", "lookups", "reads")
        ]
        readers = [
            await stack.enter_async_context(Session(settings.database_url, f"gateway API {n}", patience=PATIENCE))
            for n in range(1, READERS + 1)
        ]
        http = await stack.enter_async_context(http_clients(settings, os.environ))
        revisions = Revisions(PostgresRunStore(lookups, lookups).revision, default_actions(http))
        lookups.on_connect = revisions.clear
        store = PostgresIntakeStore(commits, settings.idempotency, lookups=lookups)
        intake = Intake(store, revisions, Offers(queue), clock)
        rates = RedisRates(settings.redis_url, settings.redis_prefix)
        stack.push_async_callback(rates.close)
        outcomes = PostgresOutcomeStore(reads)
        backlogs = Backlogs(rates, outcomes, settings.gateway.quota_queued)
        await stack.enter_async_context(_running(intake))
        yield Context(
            settings=settings,
            clock=clock,
            queue=queue,
            reads=reads,
            history=HistoryStore(reads),
            intake=intake,
            revisions=revisions,
            control=Control(PostgresRunStore(reads, reads), queue),
            secrets=secrets,
            metrics=metrics or GatewayMetrics(),
            quotas=Quotas(settings.gateway, Rates(rates), backlogs),
            outcomes=Outcomes(outcomes),
            statuses=Together(outcomes.statuses),
            readers=Sessions(readers),
            access=local or access or NoAccess(),
            notes=notes,
            local=local,
        )


@asynccontextmanager
async def _running(intake: Intake) -> AsyncIterator[None]:
    accepting = asyncio.ensure_future(intake.run())
    try:
        yield
    finally:
        accepting.cancel()
        await asyncio.gather(accepting, return_exceptions=True)
