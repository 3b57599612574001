"""Brings a database to this version's schema: numbered files, forward only, each in a transaction of its own.

An advisory lock lets any number of processes start at once; exactly one applies. It belongs to the transaction, not to the
session, so that PgBouncer in transaction mode may stand between. A file that was applied and changed since is refused by
its hash.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psycopg

from stepwell.adapters.postgres.errors import retyped
from stepwell.domain.errors import StepwellError, UnavailableError
from stepwell.engine.backoff import Backoff

PATIENCE = 10.0  # seconds that a look at the schema's version may take

_LOCK = 0x57E9_3E11  # any constant of our own

_CHECKOUT = Path(__file__).parents[4] / "migrations"
_PACKAGED = Path(__file__).parent / "migrations"

log = logging.getLogger(__name__)


class SchemaError(StepwellError):
    """The database's schema does not fit this version of Stepwell."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file; ``digest`` is the SHA-256 of its bytes in hex."""

    name: str
    digest: str
    sql: str


def load(directory: Path | None = None) -> list[Migration]:
    """The migrations in order: from ``directory``, else the checkout's, else those packaged with this module.

    Raises SchemaError for a file that is not named ``NNNN_slug.sql`` or whose number is not the next one.
    """
    where = directory or (_CHECKOUT if _CHECKOUT.is_dir() else _PACKAGED)
    files = sorted(where.glob("*.sql"))
    if not files:
        message = f"no migrations found in {where}"
        raise SchemaError(message)
    for number, file in enumerate(files, start=1):
        if not re.fullmatch(rf"{number:04}_[a-z0-9_]+\.sql", file.name):
            message = f"migrations are numbered without gaps: {file.name} should be {number:04}_<slug>.sql"
            raise SchemaError(message)
    return [Migration(f.stem, hashlib.sha256(f.read_bytes()).hexdigest(), f.read_text("utf-8")) for f in files]


async def migrate(dsn: str, directory: Path | None = None) -> list[str]:
    """Apply what is missing and return the names of what was applied now.

    Raises UnavailableError where the database cannot be reached, SchemaError where it is newer or was changed.
    """
    migrations = load(directory)
    with retyped("migrating the database"):
        async with await _connected(dsn) as connection:
            done: list[str] = []
            while (name := await _apply_next(connection, migrations)) is not None:
                done.append(name)
            return done


async def pending(dsn: str, directory: Path | None = None) -> list[str]:
    """The names of migrations that the database lacks."""
    with retyped("reading the schema's version"):
        async with await _connected(dsn) as connection:
            applied = await _applied(connection)
    return [m.name for m in load(directory) if m.name not in applied]


async def schema_is_there(dsn: str, stopping: asyncio.Event, tell: Callable[[str | None], None]) -> bool:
    """Wait for the schema of this version, before which nothing may be read or written. False: stopped meanwhile.

    ``tell`` hears why it is not there, and None once it is.
    """
    backoff = Backoff(initial=0.2, maximum=5.0)
    while not stopping.is_set():
        try:
            async with asyncio.timeout(PATIENCE):
                missing = await pending(dsn)
        except (UnavailableError, TimeoutError) as exc:
            why = str(exc) or "PostgreSQL did not answer"
        else:
            if not missing:
                tell(None)
                return True
            why = f"the database lacks the migrations {', '.join(missing)}; run `stepwell migrate`"
        tell(why)
        log.warning("%s", why)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), backoff.next())
    return False


async def _connected(dsn: str) -> psycopg.AsyncConnection:
    return await psycopg.AsyncConnection.connect(dsn, autocommit=True, prepare_threshold=None)


async def _apply_next(connection: psycopg.AsyncConnection, migrations: list[Migration]) -> str | None:
    """Apply the first migration that is missing, under the lock; None where there is none."""
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS schema_migrations"
            " (name text PRIMARY KEY, digest text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
        )
        applied = await _applied(connection)
        _refuse_drift(applied, migrations)
        migration = next((m for m in migrations if m.name not in applied), None)
        if migration is None:
            return None
        # The files are part of the program, so their text is as trusted as its source.
        await connection.execute(migration.sql.encode())
        await connection.execute(
            "INSERT INTO schema_migrations (name, digest) VALUES (%s, %s)", [migration.name, migration.digest]
        )
        return migration.name


async def _applied(connection: psycopg.AsyncConnection) -> dict[str, str]:
    found = await connection.execute("SELECT to_regclass('schema_migrations') IS NOT NULL")
    row = await found.fetchone()
    if not (row and row[0]):
        return {}
    rows = await connection.execute("SELECT name, digest FROM schema_migrations")
    return dict(await rows.fetchall())


def _refuse_drift(applied: dict[str, str], migrations: list[Migration]) -> None:
    known = {m.name: m.digest for m in migrations}
    newer = sorted(set(applied) - set(known))
    if newer:
        message = (
            f"the database has migrations that this version does not know ({', '.join(newer)}); use a newer Stepwell"
        )
        raise SchemaError(message)
    changed = sorted(name for name, digest in applied.items() if known[name] != digest)
    if changed:
        message = f"these migrations were changed after they were applied: {', '.join(changed)}; restore the files"
        raise SchemaError(message)
