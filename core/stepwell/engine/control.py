"""What people do to runs from outside."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

from stepwell.domain.errors import UnavailableError
from stepwell.domain.ids import millis_of
from stepwell.engine.ports import ReadyRun

log = logging.getLogger(__name__)


class CancelStore(Protocol):
    """Where a cancel is acknowledged."""

    async def cancel(self, namespace: str, ids: Sequence[str]) -> dict[str, str]:
        """Request the cancel of live runs of a namespace; their status now. Ended and unknown ones are absent."""


class CancelHints(Protocol):
    """How workers hear of a cancel at once."""

    async def publish_cancel(self, run_ids: Sequence[str]) -> None:
        """Tell all workers; whoever does not hear it reads it with the next heartbeat."""

    async def add(self, items: Sequence[ReadyRun]) -> None:
        """Offer runs to the workers; whoever is not offered is found by the leader."""


class Control:
    """Cancels runs: acknowledged once it is committed."""

    def __init__(self, store: CancelStore, hints: CancelHints) -> None:
        self._store = store
        self._hints = hints

    async def cancel(self, namespace: str, ids: Sequence[str]) -> dict[str, str]:
        """Queued and waiting runs end now, or their handlers are due; running ones start no further effect and end within
        seconds, or once their handlers did.

        Returns the status of those that were live. Raises UnavailableError.
        """
        found = await self._store.cancel(namespace, ids)
        running = [run_id for run_id, status in found.items() if status == "running"]
        handled = [ReadyRun(i, namespace, millis_of(i)) for i, status in found.items() if status == "queued"]
        try:
            if running:
                await self._hints.publish_cancel(running)
            if handled:
                await self._hints.add(handled)
        except UnavailableError as exc:
            log.info("the workers hear of the cancel with their next heartbeat: %s", exc)
        return found
