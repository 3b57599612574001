"""The processes of the image, as the command line starts them."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from stepwell.domain.durations import parse_duration
from stepwell.domain.errors import UsageError
from stepwell.settings import read
from stepwell.telemetry import setup_logging
from stepwell_cli.console import print_json


def migrate(wait: str | None, *, json: bool) -> None:
    """Apply what the database lacks, and say what that was. ``wait``: how long one that is away is waited for."""
    from stepwell.adapters.postgres.migrate import migrate_once_there

    settings = read()
    if settings.database_url is None:
        raise UsageError("set DATABASE_URL to the database that is to be migrated")
    try:
        patience = parse_duration(wait) if wait else 0.0
    except ValueError as exc:
        message = f"--wait: {exc}"
        raise UsageError(message) from exc
    with _interrupted_by_sigterm():
        applied = asyncio.run(migrate_once_there(settings.database_url, patience, _waiting))
    if json:
        print_json({"applied": applied})
    else:
        print("\n".join(f"applied {name}" for name in applied) or "nothing to apply: no migration is missing")


def _waiting(why: str) -> None:
    print(f"{why}; waiting", file=sys.stderr, flush=True)


@contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """Until a process listens itself. The first one of a container does not get a signal that it has not asked for: it would
    start as if nothing had been said, and be killed at the end of its grace period.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def worker() -> None:
    """A worker until SIGTERM."""
    with _interrupted_by_sigterm():
        from stepwell_worker.process import main

        settings = read()
        setup_logging(settings.logs)
        main(settings)


def operator() -> None:
    """An operator until SIGTERM."""
    with _interrupted_by_sigterm():
        from stepwell_operator.process import main

        settings = read()
        setup_logging(settings.logs)
        main(settings)


def gateway() -> None:
    """A gateway until SIGTERM."""
    with _interrupted_by_sigterm():
        from stepwell_gateway.process import main

        settings = read()
        setup_logging(settings.logs)
        main(settings)
