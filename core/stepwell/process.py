"""What worker, gateway and operator do first: heed signals, serve the operations port, and wait for their database."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from prometheus_client import CollectorRegistry

from stepwell.adapters.postgres.migrate import schema_is_there
from stepwell.domain.errors import UsageError
from stepwell.metrics.serving import measure_lag, serving
from stepwell.settings import Settings


class Measured(Protocol):
    """The metrics of a process."""

    registry: CollectorRegistry

    def lagged(self, seconds: float) -> None:
        """A sleep of the event loop lasted so much too long."""


class Readiness(Protocol):
    """What a process is ready for."""

    def told(self, schema: str | None) -> None:
        """Why the schema cannot be used; None: it can."""

    def missing(self) -> dict[str, str]:
        """What readiness lacks, with the reasons."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process whose database is there. ``stopping`` is set by SIGTERM and SIGINT."""

    database_url: str
    redis_url: str
    stopping: asyncio.Event


@asynccontextmanager
async def process(
    settings: Settings, who: str, metrics: Measured, readiness: Readiness
) -> AsyncIterator[Process | None]:
    """Gives the process once its schema is there; None where it was asked to end before.

    Raises UsageError where a setting is missing, UnavailableError where the operations port cannot be bound.
    """
    if settings.database_url is None or settings.redis_url is None:
        message = f"set DATABASE_URL and REDIS_URL: {who} connects to both"
        raise UsageError(message)
    stopping = asyncio.Event()
    heed(stopping)
    async with serving(settings.operations, metrics.registry, readiness.missing):
        lag = asyncio.ensure_future(measure_lag(metrics.lagged))
        try:
            there = await schema_is_there(settings.database_url, stopping, readiness.told)
            yield Process(settings.database_url, settings.redis_url, stopping) if there else None
        finally:
            lag.cancel()


def heed(stopping: asyncio.Event) -> None:
    """Let SIGTERM and SIGINT set the event; in another thread than the main one there are no signals."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stopping.set)
