"""Follows a run to its end, over its rows: whoever executes it."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from stepwell.domain.errors import UnavailableError
from stepwell_cli.progress import plan, progress

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stepwell_cli.history import History
    from stepwell_cli.progress import PlannedStep, Progress

PERIOD = 0.1  # seconds between two looks, where nothing tells of a change
PATIENCE = 30.0  # seconds that the database may be away: the run outlives that, too


async def follow(
    store: History,
    run_id: str,
    show: Callable[[Progress], None],
    *,
    changed: asyncio.Event | None = None,
    period: float = PERIOD,
) -> Progress:
    """Show the run until it has ended, and return how it did. ``changed`` asks for the next look at once."""
    change = changed or asyncio.Event()
    planned = plan(await store.spec((await store.run(run_id)).revision_id))
    lost: float | None = None
    while True:
        change.clear()
        try:
            current = await _look(store, run_id, planned)
            lost = None
        except UnavailableError:
            lost = lost or time.monotonic()
            if time.monotonic() - lost > PATIENCE:
                raise
            await asyncio.sleep(period)
            continue
        show(current)
        if current.ended:
            return current
        with suppress(TimeoutError):
            await asyncio.wait_for(change.wait(), period)


async def _look(store: History, run_id: str, planned: Sequence[PlannedStep]) -> Progress:
    state = await store.state(run_id)  # before its steps: then those of an ended run are complete
    return progress(planned, state, await store.steps(run_id, documents=False))
