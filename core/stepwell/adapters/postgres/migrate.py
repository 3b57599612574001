"""Brings a database to this version's schema: numbered files, forward only, each in a transaction of its own.

An advisory lock lets any number of processes start at once; exactly one applies. It belongs to the transaction, not to the
session, so that PgBouncer in transaction mode may stand between. A file that was applied and changed since is refused by
its hash.

A line ``-- oldest: NNNN`` in a file says which versions go on working beside it: those whose last migration is NNNN, and newer
ones. It is stored with the migration, so that a version that does not know the file knows whether it may work; without the line
it may not.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psycopg

from stepwell.adapters.postgres.errors import retyping
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
    """One file; ``digest`` is the SHA-256 of its bytes in hex, ``oldest`` the last migration of the oldest version beside it."""

    name: str
    digest: str
    sql: str
    oldest: str


@dataclass(frozen=True, slots=True)
class Schema:
    """A database as this version finds it, by names of migrations."""

    missing: list[str]
    newer: list[str]
    """Those that this version does not know."""
    refusing: list[str]
    """Those of them that it cannot work with."""

    def why_not(self) -> str | None:
        """Why this version cannot work with it."""
        if self.refusing:
            return f"the database has migrations that this version cannot work with ({', '.join(self.refusing)}); use a newer Stepwell"
        if self.missing:
            return f"the database lacks the migrations {', '.join(self.missing)}; run `stepwell migrate`"
        return None


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
    return [_read(file) for file in files]


def _read(file: Path) -> Migration:
    text = file.read_text("utf-8")
    own, said = file.name[:4], re.search(r"^-- oldest: *(.*)$", text, re.MULTILINE)
    oldest = said[1] if said else own
    if not re.fullmatch(r"\d{4}", oldest) or oldest > own:
        message = f"{file.name}: `-- oldest: {oldest}` should name the number of a migration, at most {own}"
        raise SchemaError(message)
    return Migration(file.stem, hashlib.sha256(file.read_bytes()).hexdigest(), text, oldest)


async def migrate(dsn: str, directory: Path | None = None) -> list[str]:
    """Apply what is missing and return the names of what was applied now.

    Raises UnavailableError where the database cannot be reached, SchemaError where it was changed, or is newer than this
    version can work with.
    """
    migrations = load(directory)
    with retyping("migrating the database"):
        async with await _connected(dsn) as connection:
            done: list[str] = []
            while (name := await _apply_next(connection, migrations)) is not None:
                done.append(name)
            return done


async def migrate_once_there(dsn: str, patience: float, tell: Callable[[str], None]) -> list[str]:
    """`migrate`, which asks a database that is away again for ``patience`` seconds; ``tell`` hears each other reason once."""
    backoff, told = Backoff(initial=0.2, maximum=5.0), ""
    end = asyncio.get_running_loop().time() + patience
    while True:
        try:
            return await migrate(dsn)
        except UnavailableError as exc:
            left = end - asyncio.get_running_loop().time()
            if left <= 0:
                raise
            if (why := str(exc)) != told:
                tell(told := why)
            await asyncio.sleep(min(left, backoff.next()))


async def pending(dsn: str, directory: Path | None = None) -> list[str]:
    """The names of migrations that the database lacks."""
    return (await look(dsn, directory)).missing


async def look(dsn: str, directory: Path | None = None) -> Schema:
    """What the database has, beside what this version knows."""
    with retyping("reading the schema's version"):
        async with await _connected(dsn) as connection:
            applied = await _applied(connection)
    return _compared(applied, load(directory))


async def schema_is_there(dsn: str, stopping: asyncio.Event, tell: Callable[[str | None], None]) -> bool:
    """Wait for the schema of this version, before which nothing may be read or written. False: stopped meanwhile.

    ``tell`` hears why it is not there, and None once it is.
    """
    backoff = Backoff(initial=0.2, maximum=5.0)
    while not stopping.is_set():
        try:
            async with asyncio.timeout(PATIENCE):
                schema = await look(dsn)
        except (UnavailableError, TimeoutError) as exc:
            why: str | None = str(exc) or "PostgreSQL did not answer"
        else:
            why = schema.why_not()
            if why is None:
                _remark(schema)
                tell(None)
                return True
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
            "CREATE TABLE IF NOT EXISTS schema_migrations (name text PRIMARY KEY, digest text NOT NULL,"
            " applied_at timestamptz NOT NULL DEFAULT now(), oldest text)"
        )
        applied = await _applied(connection)
        _refuse(applied, migrations)
        migration = next((m for m in migrations if m.name not in applied), None)
        if migration is None:
            _remark(_compared(applied, migrations))
            return None
        await connection.execute("ALTER TABLE schema_migrations ADD COLUMN IF NOT EXISTS oldest text")
        # The files are part of the program, so their text is as trusted as its source.
        await connection.execute(migration.sql.encode())
        await connection.execute(
            "INSERT INTO schema_migrations (name, digest, oldest) VALUES (%s, %s, %s)",
            [migration.name, migration.digest, migration.oldest],
        )
        return migration.name


@dataclass(frozen=True, slots=True)
class _Applied:
    """A row of the table. It has no ``oldest`` where it was applied before there was one."""

    digest: str
    oldest: str | None


async def _applied(connection: psycopg.AsyncConnection) -> dict[str, _Applied]:
    found = await connection.execute("SELECT to_regclass('schema_migrations') IS NOT NULL")
    row = await found.fetchone()
    if not (row and row[0]):
        return {}
    rows = await connection.execute("SELECT name, digest, to_jsonb(s) ->> 'oldest' FROM schema_migrations s")
    return {name: _Applied(digest, oldest) for name, digest, oldest in await rows.fetchall()}


def _compared(applied: Mapping[str, _Applied], migrations: list[Migration]) -> Schema:
    known = {m.name for m in migrations}
    last = migrations[-1].name[:4]
    newer = sorted(set(applied) - known)
    return Schema(
        missing=[m.name for m in migrations if m.name not in applied],
        newer=newer,
        refusing=[name for name in newer if (applied[name].oldest or name[:4]) > last],
    )


def _refuse(applied: Mapping[str, _Applied], migrations: list[Migration]) -> None:
    schema = _compared(applied, migrations)
    if schema.refusing:
        raise SchemaError(schema.why_not())
    changed = sorted(m.name for m in migrations if m.name in applied and applied[m.name].digest != m.digest)
    if changed:
        message = f"these migrations were changed after they were applied: {', '.join(changed)}; restore the files"
        raise SchemaError(message)


def _remark(schema: Schema) -> None:
    if schema.newer:
        log.warning("the database is of a newer version (%s), which this one can work with", ", ".join(schema.newer))
