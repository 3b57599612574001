"""Quotas of a namespace, and rates of triggers: who exceeds one is answered 429 with its name."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from stepwell.engine.rates import Limit
from stepwell_gateway.problems import Problem

if TYPE_CHECKING:
    from stepwell.engine.backlogs import Backlogs
    from stepwell.engine.rates import Rates
    from stepwell.settings import GatewaySettings

QUEUED = "queued"
STARTS = "starts"
RATE_LIMIT = "rateLimit"
RETRY_QUEUED = 10  # seconds after which a backlog may have become smaller

_WORDS = {
    QUEUED: "the namespace has as many queued runs as it may have",
    STARTS: "the namespace starts as many runs a second as it may",
    RATE_LIMIT: "the trigger accepts no more calls in this time",
}


class Quotas:
    """Asked once before each start from outside."""

    def __init__(self, settings: GatewaySettings, rates: Rates, backlogs: Backlogs) -> None:
        self._queued = settings.quota_queued
        self._starts = settings.quota_starts
        self._rates = rates
        self._backlogs = backlogs

    async def admit(self, namespace: str, *own: Limit) -> None:
        """Count a start by the namespace's quotas and the ``own`` limits of its door. Raises Problem 429."""
        if self._queued and await self._backlogs.queued(namespace) >= self._queued:
            raise _refusal(QUEUED, RETRY_QUEUED)
        limits = [*own, Limit(namespace, self._starts, 1000)] if self._starts else own
        if limits and (refused := await self._rates.take(limits)) is not None:
            which, wait = refused
            raise _refusal(RATE_LIMIT if which < len(own) else STARTS, math.ceil(wait / 1000))

    def started(self, namespace: str) -> None:
        """The start led to a run."""
        self._backlogs.started(namespace)


def _refusal(quota: str, seconds: int) -> Problem:
    headers = {"Retry-After": str(max(1, seconds))}
    return Problem(429, f"{_WORDS[quota]} (quota {quota})", headers=headers, more={"quota": quota})
