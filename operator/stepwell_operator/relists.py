"""Tells the sweeps that a watch began anew with a list: what was deleted before that is in no event."""

from __future__ import annotations

import asyncio
import contextlib

FIRST = 30.0  # seconds between the first two sweeps: the first may be over before the watch has made its list
SETTLE = 1.0  # seconds in which the rest of a list comes


class Relists:
    """One a process: where the API server restarts all watches break, and the list of one kind may be empty then."""

    def __init__(self) -> None:
        self._signs: list[Sign] = []

    def heard(self) -> None:
        """An object that was known came in a list again."""
        for sign in self._signs:
            sign.seen.set()

    def sign(self) -> Sign:
        """For one sweep."""
        self._signs.append(Sign())
        return self._signs[-1]


class Sign:
    """What one sweep waits for."""

    def __init__(self) -> None:
        self.seen = asyncio.Event()
        self._longest = FIRST

    async def within(self, period: float) -> None:
        """Wait for ``period`` seconds, or for a list that was heard since the last call ended, whatever comes first."""
        with contextlib.suppress(TimeoutError):
            # no wait_for: its task would be younger than kopf, which waits for such
            async with asyncio.timeout(min(period, self._longest)):
                await self.seen.wait()
                await asyncio.sleep(SETTLE)
        self._longest = period
        self.seen.clear()
