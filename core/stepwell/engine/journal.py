"""The journal: one flusher writes what all runs of the process gathered while the last flush was committing.

There is no timer: an idle process commits at once, a busy one hundreds of runs together. A flush that fails on data is
halved until the guilty run stands alone; a flush whose answer was lost is sent again as it was.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from itertools import accumulate
from typing import Protocol

from stepwell.domain.errors import ConflictError, DataRefusedError, UnavailableError
from stepwell.engine.backoff import Backoff
from stepwell.engine.crashpoints import crashpoint
from stepwell.engine.ports import AttemptRecord, FlushEntry, Kept

MAX_ROWS = 2_000  # attempts and runs in one flush
MAX_BYTES = 4 << 20

_FEW = 4  # attempts of which a flush holds all, whatever their documents

log = logging.getLogger(__name__)


def portion(records: Sequence[AttemptRecord]) -> int:
    """How many of a run's records, from the first on, one flush takes."""
    if len(records) <= _FEW:
        return len(records)
    sizes = accumulate(record.size for record in records)
    return min(len(records), MAX_ROWS, 1 + sum(size < MAX_BYTES for size in sizes))


class Writer(Protocol):
    """A run that has something to record."""

    def collect(self) -> FlushEntry:
        """Everything gathered so far; it is the journal's from now on."""

    def flushed(self, kept: Kept | None) -> None:
        """What was collected is durable, or (None) the run is no longer ours."""

    def refused(self, message: str) -> None:
        """The store refused this run's rows."""


class Flush(Protocol):
    """Writes entries in one transaction."""

    async def __call__(self, entries: Sequence[FlushEntry]) -> dict[str, Kept]:
        """See RunStore.flush."""


class Journal:
    """Collects from dirty writers in the order in which they became so. ``flushes`` counts commits."""

    def __init__(self, flush: Flush) -> None:
        self._flush = flush
        self._dirty: dict[Writer, None] = {}
        self._work = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self.flushes = 0
        self.entries = 0

    @property
    def backlog(self) -> int:
        """How many writers wait for a flush."""
        return len(self._dirty)

    def dirty(self, writer: Writer) -> None:
        """The writer has something to record."""
        self._dirty[writer] = None
        self._work.set()
        self._idle.clear()

    def forget(self, writer: Writer) -> None:
        """Drop what the writer had to say."""
        self._dirty.pop(writer, None)

    async def drained(self) -> None:
        """Wait until nothing is left to write."""
        await self._idle.wait()

    async def run(self) -> None:
        """Flush for ever; cancelled to stop."""
        while True:
            await self._work.wait()
            batch = self._gather()
            if batch:
                await self._write(batch)
            if not self._dirty:
                self._work.clear()
                self._idle.set()

    def _gather(self) -> list[tuple[Writer, FlushEntry]]:
        batch: list[tuple[Writer, FlushEntry]] = []
        rows = size = 0
        while self._dirty and rows < MAX_ROWS and size < MAX_BYTES:
            writer = next(iter(self._dirty))
            del self._dirty[writer]
            entry = writer.collect()
            rows += 1 + len(entry.attempts)
            size += entry.size
            batch.append((writer, entry))
        return batch

    async def _write(self, batch: list[tuple[Writer, FlushEntry]]) -> None:
        try:
            kept = await self._commit([entry for _, entry in batch])
        except DataRefusedError as exc:
            await self._halve(batch, exc)
            return
        crashpoint("after_flush_before_answer")
        for writer, entry in batch:
            try:
                writer.flushed(kept.get(entry.run_id))
            except Exception:  # one writer's defect must not keep the others from their answers
                log.exception("run %s could not take its answer", entry.run_id, extra={"run": entry.run_id})

    async def _halve(self, batch: list[tuple[Writer, FlushEntry]], refusal: DataRefusedError) -> None:
        if len(batch) == 1:
            writer, entry = batch[0]
            log.error("run %s: its records were refused: %s", entry.run_id, refusal, extra={"run": entry.run_id})
            writer.refused(str(refusal))
            return
        middle = len(batch) // 2
        await self._write(batch[:middle])
        await self._write(batch[middle:])

    async def _commit(self, entries: list[FlushEntry]) -> dict[str, Kept]:
        """Until the store answers: nothing of a run may be dropped while its worker lives."""
        backoff = Backoff()
        while True:
            crashpoint("before_flush")
            try:
                kept = await self._flush(entries)
            except (UnavailableError, ConflictError) as exc:
                log.warning("%s; %d runs wait for their flush", exc, len(entries))
                await backoff.pause()
                continue
            self.flushes += 1
            self.entries += len(entries)
            return kept
