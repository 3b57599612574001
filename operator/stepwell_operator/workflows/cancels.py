"""Cancels the runs of Workflows whose deletion asked for it. What is to be done stands in the database until it is."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Protocol

from stepwell.domain.errors import StepwellError
from stepwell.engine.crashpoints import crashpoint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stepwell.adapters.postgres.resource_store import Cancel

PERIOD = 10.0  # seconds between two looks that nobody asked for

log = logging.getLogger(__name__)


class Store(Protocol):
    """Raises UnavailableError."""

    async def cancels(self) -> list[Cancel]:
        """The deletions whose runs are still to be cancelled."""

    async def to_cancel(self, cancel: Cancel) -> list[str]:
        """Some ids of live runs whose cancel was not requested yet."""

    async def cancelled(self, cancel: Cancel) -> None:
        """Nothing of it is left to be cancelled."""


class Control(Protocol):
    """Raises UnavailableError."""

    async def cancel(self, namespace: str, ids: Sequence[str]) -> dict[str, str]:
        """Acknowledge the cancel of these runs."""


class Cancels:
    """``wanted`` asks for a look soon."""

    def __init__(self, store: Store, control: Control) -> None:
        self._store = store
        self._control = control
        self._work = asyncio.Event()

    def wanted(self) -> None:
        """There may be something to cancel."""
        self._work.set()

    async def run(self) -> None:
        """For ever; cancelled to stop."""
        while True:
            try:
                await self.look()
            except StepwellError as exc:
                log.info("runs of deleted Workflows are cancelled later: %s", exc)
            with contextlib.suppress(
                TimeoutError
            ):  # no wait_for: its task would be younger than kopf, which waits for such
                async with asyncio.timeout(PERIOD):
                    await self._work.wait()
            self._work.clear()

    async def look(self) -> None:
        """Cancel all that is to be cancelled. Raises UnavailableError."""
        for cancel in await self._store.cancels():
            count = 0
            while ids := await self._store.to_cancel(cancel):
                await self._control.cancel(cancel.name.namespace, ids)
                crashpoint("operator_after_cancel")
                count += len(ids)
            await self._store.cancelled(cancel)
            log.info("Workflow %s was deleted with its runs: %d were cancelled", cancel.name, count)
