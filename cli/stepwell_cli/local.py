"""The services that local mode stands on: what the environment names, else embedded ones."""

from __future__ import annotations

import asyncio
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from stepwell.domain.errors import UnavailableError
from stepwell_cli.embedded import EmbeddedPostgres, EmbeddedValkey

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from stepwell.settings import Settings

PERIOD = 0.5  # seconds between two looks whether our servers run

log = logging.getLogger(__name__)


@asynccontextmanager
async def services(
    settings: Settings, meanwhile: Callable[[], object], *, directory: Path | None = None
) -> AsyncIterator[Settings]:
    """The settings with both services running; those that we started end when the block does.

    ``meanwhile`` is called in a thread while they start. Their data is kept in ``directory``, else it goes with them.
    """
    # libpq and the drivers would otherwise mix a user's own PGHOST and the like into an embedded server's address.
    if settings.database_url is None:
        for name in [name for name in os.environ if name.startswith("PG")]:
            del os.environ[name]
    postgres = EmbeddedPostgres(directory and directory / "postgres") if settings.database_url is None else None
    valkey = EmbeddedValkey(directory and directory / "valkey") if settings.redis_url is None else None
    servers = [server for server in (postgres, valkey) if server is not None]
    executor = ThreadPoolExecutor()
    watching: asyncio.Future[None] | None = None
    loop = asyncio.get_running_loop()
    try:
        tasks = [*(server.start for server in servers), meanwhile]
        await asyncio.gather(*(loop.run_in_executor(executor, task) for task in tasks))
        watching = asyncio.ensure_future(_watch(servers, executor))
        yield replace(
            settings,
            database_url=postgres.dsn() if postgres else settings.database_url,
            redis_url=valkey.url if valkey else settings.redis_url,
            allow_loopback=True,
        )
    finally:
        if watching is not None:
            watching.cancel()
        executor.shutdown()  # a start under way comes to its end: only what stands can be stopped
        for server in servers:
            server.stop()


async def _watch(servers: Sequence[EmbeddedPostgres | EmbeddedValkey], executor: ThreadPoolExecutor) -> None:
    """Start again what ended by itself, or by a hand that meant something else; it comes back under the same address."""
    while True:
        await asyncio.sleep(PERIOD)
        for server in servers:
            if not server.running:
                log.warning("the local %s ended; it is started again", type(server).__name__.removeprefix("Embedded"))
                try:
                    await asyncio.get_running_loop().run_in_executor(executor, server.start)
                except UnavailableError as exc:
                    log.warning("%s", exc)
