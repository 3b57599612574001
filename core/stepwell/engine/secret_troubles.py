"""What this process met when it used Secrets, gathered beside its work and written for the operator's statuses.

A note is taken in memory and costs a look into a dictionary. What is known to stand as it was met is not written again, so a
workflow that fails a thousand times a second writes one row, and one whose Secrets are fine writes none.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from stepwell.domain.errors import DataRefusedError, StepwellError
from stepwell.domain.secrets import SecretError

PAUSE = 5.0  # seconds between two writes at least
RELOAD = 15.0  # seconds between two looks at what all processes of this kind have noted
REPEAT = 600.0  # seconds after which what is still so is written again, so that it does not grow old
TIDY = 3600.0  # seconds between two removals of what is old
MOST = 10_000  # notes that wait, and troubles that are known
MAX_MESSAGE = 1_000  # characters

log = logging.getLogger(__name__)


class Use(NamedTuple):
    """A Secret as a workflow of its namespace uses it."""

    namespace: str
    workflow: str
    secret: str


@dataclass(frozen=True, slots=True)
class Met:
    """Why it could not be used, as in SecretError; an empty reason: it was fine."""

    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Standing:
    """A trouble that is written, ``age`` seconds ago."""

    reason: str
    age: float


class TroubleStore(Protocol):
    """Keeps the troubles that one kind of process met. Raises UnavailableError, DataRefusedError."""

    async def standing(self, limit: int) -> Mapping[Use, Standing]:
        """What is written."""

    async def write(self, troubles: Mapping[Use, Met], fine: Sequence[Use]) -> None:
        """Write the first in the place of what was written of them, and remove the second."""

    async def tidy(self) -> None:
        """Remove what is old, and what is about specs that are not active any more."""


class TroubleNotes:
    """Implements stepwell.domain.secrets.SecretNotes; ``run`` writes."""

    def __init__(
        self, store: TroubleStore, *, pause: float = PAUSE, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._pause = pause
        self._monotonic = monotonic
        self._pending: dict[Use, Met] = {}
        self._standing: dict[Use, tuple[str, float]] = {}
        self._loaded = self._tidied = float("-inf")
        self._wake = asyncio.Event()

    def met(self, namespace: str, workflow: str, secret: str, error: SecretError | None) -> None:
        """See SecretNotes. An API server that is away is no trouble of a Secret."""
        if error is not None and error.passing:
            return
        use = Use(namespace, workflow, secret)
        reason = error.reason if error is not None else ""
        if use not in self._pending:
            if self._known(use, reason) or len(self._pending) >= MOST:
                return
            self._wake.set()
        self._pending[use] = Met(reason, str(error)[:MAX_MESSAGE]) if error is not None else Met()

    def _known(self, use: Use, reason: str) -> bool:
        stands, written = self._standing.get(use, ("", float("-inf")))
        return stands == reason and (not reason or self._monotonic() - written < REPEAT)

    async def run(self) -> None:
        """Write for ever; cancelled to stop. What cannot be written now waits."""
        while True:
            try:
                await self.look()
            except StepwellError as exc:
                log.info("what was met of Secrets is not written now: %s", exc)
            except Exception:  # a defect here must not end what nobody waits for
                log.exception("what was met of Secrets could not be written")
            await asyncio.sleep(self._pause)
            try:
                async with asyncio.timeout(max(0.0, RELOAD - self._pause)):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def look(self) -> None:
        """Learn what others wrote, and write what is new. Raises StepwellError."""
        if self._monotonic() - self._loaded >= RELOAD:
            await self._load()
        await self._write()
        if self._monotonic() - self._tidied >= TIDY:
            await self._store.tidy()
            self._tidied = self._monotonic()

    async def _load(self) -> None:
        found = await self._store.standing(MOST)
        now = self._monotonic()
        self._standing = {use: (standing.reason, now - standing.age) for use, standing in found.items()}
        self._loaded = now

    async def _write(self) -> None:
        self._wake.clear()
        batch, self._pending = self._pending, {}
        if not batch:
            return
        troubles = {use: met for use, met in batch.items() if met.reason}
        fine = [use for use, met in batch.items() if not met.reason]
        try:
            await self._store.write(troubles, fine)
        except DataRefusedError as exc:
            log.warning("%d notes about Secrets cannot be written and are dropped: %s", len(batch), exc)
            return
        except StepwellError:
            self._pending = batch | self._pending
            raise
        now = self._monotonic()
        self._standing |= {use: (met.reason, now) for use, met in troubles.items()}
        for use in fine:
            self._standing.pop(use, None)
