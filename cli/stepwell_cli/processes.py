"""The processes of the image, as the command line starts them."""

from __future__ import annotations

import asyncio

from stepwell.domain.errors import UsageError
from stepwell.settings import read
from stepwell.telemetry import setup_logging
from stepwell_cli.console import print_json


def migrate(*, json: bool) -> None:
    """Apply what the database lacks, and say what that was."""
    from stepwell.adapters.postgres.migrate import migrate as apply

    settings = read()
    if settings.database_url is None:
        raise UsageError("set DATABASE_URL to the database that is to be migrated")
    applied = asyncio.run(apply(settings.database_url))
    if json:
        print_json({"applied": applied})
    else:
        print("\n".join(f"applied {name}" for name in applied) or "nothing to apply: the schema is this version's")


def worker() -> None:
    """A worker until SIGTERM."""
    from stepwell_worker.process import main

    settings = read()
    setup_logging(settings.logs)
    main(settings)


def operator() -> None:
    """An operator until SIGTERM."""
    from stepwell_operator.process import main

    settings = read()
    setup_logging(settings.logs)
    main(settings)


def gateway() -> None:
    """A gateway until SIGTERM."""
    from stepwell_gateway.process import main

    settings = read()
    setup_logging(settings.logs)
    main(settings)
