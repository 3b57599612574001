"""The services that local mode stands on: what the environment names, else embedded ones."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from stepwell_cli.embedded import EmbeddedPostgres, EmbeddedValkey

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from stepwell.settings import Settings


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
    loop = asyncio.get_running_loop()
    try:
        tasks = [*(server.start for server in servers), meanwhile]
        await asyncio.gather(*(loop.run_in_executor(executor, task) for task in tasks))
        yield replace(
            settings,
            database_url=postgres.dsn() if postgres else settings.database_url,
            redis_url=valkey.url if valkey else settings.redis_url,
            allow_loopback=True,
        )
    finally:
        executor.shutdown()  # a start under way comes to its end: only what stands can be stopped
        for server in servers:
            server.stop()
