"""A PostgreSQL with a streaming replica, both ours, to be killed and promoted at will."""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, LiteralString

import psycopg
from psycopg.conninfo import conninfo_to_dict
from waiting import eventually_sync

from stepwell.adapters.postgres.migrate import migrate
from stepwell_cli.embedded import EmbeddedPostgres
from stepwell_cli.embedded.owner import server_owner
from stepwell_cli.embedded.wheels import postgres_programs

if TYPE_CHECKING:
    from collections.abc import Iterator

#: What replication needs, and what makes a crash and a promotion quick where nothing is synced that matters here.
SETTINGS = {
    "max_wal_senders": "4",
    "wal_keep_size": "64MB",
    "recovery_init_sync_method": "syncfs",
    "wal_retrieve_retry_interval": "100ms",
}


@dataclass
class Pair:
    """``standby`` follows ``primary``."""

    primary: EmbeddedPostgres
    standby: EmbeddedPostgres

    @property
    def dsn(self) -> str:
        """Whichever of them can be written to."""
        hosts = [str(conninfo_to_dict(server.dsn())["host"]) for server in (self.primary, self.standby)]
        return f"postgresql://postgres@/postgres?host={','.join(hosts)}&target_session_attrs=read-write"

    def follow(self) -> None:
        """Wait until the standby has all that the primary has."""
        eventually_sync(lambda: ask(self.primary, _BEHIND) == [("streaming", 0)], 20)

    def synchronous(self) -> None:
        """From now on the primary answers no commit that the standby does not have."""
        ask(self.primary, "ALTER SYSTEM SET synchronous_standby_names = '*'")
        ask(self.primary, "SELECT pg_reload_conf()")
        eventually_sync(lambda: ask(self.primary, "SELECT sync_state FROM pg_stat_replication") == [("sync",)], 20)

    def lonely(self) -> None:
        """The standby was promoted, and from now on answers no commit that a standby of its own does not have: none has."""
        ask(self.standby, "ALTER SYSTEM SET synchronous_standby_names = '*'")
        ask(self.standby, "SELECT pg_reload_conf()")
        eventually_sync(lambda: ask(self.standby, "SHOW synchronous_standby_names") == [("*",)], 20)

    def part(self) -> None:
        """The standby hears nothing from now on."""
        ask(self.standby, "ALTER SYSTEM SET primary_conninfo = ''")
        ask(self.standby, "SELECT pg_reload_conf()")
        eventually_sync(lambda: ask(self.primary, "SELECT FROM pg_stat_replication") == [], 20)


_BEHIND: LiteralString = "SELECT state, pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn) FROM pg_stat_replication"


def ask(server: EmbeddedPostgres, query: LiteralString) -> list[tuple[object, ...]]:
    """The rows of one statement."""
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        cursor = connection.execute(query)
        return cursor.fetchall() if cursor.description else []


@contextmanager
def pair() -> Iterator[Pair]:
    """Both, with all migrations applied to the database ``postgres``."""
    with (
        EmbeddedPostgres(settings=SETTINGS) as primary,
        tempfile.TemporaryDirectory(prefix="stepwell-standby-") as place,
    ):
        asyncio.run(migrate(primary.dsn()))
        Path(place).chmod(0o711)
        _copy(primary, Path(place) / "data")
        with EmbeddedPostgres(Path(place), SETTINGS) as standby:
            found = Pair(primary, standby)
            found.follow()
            yield found


def _copy(primary: EmbeddedPostgres, data: Path) -> None:
    command = [postgres_programs() / "pg_basebackup", "--pgdata", data, "--write-recovery-conf", "--checkpoint=fast"]
    subprocess.run([*command, "--no-sync", "--dbname", primary.dsn()], check=True, capture_output=True)
    owner = server_owner()
    if owner is not None:
        for path in (data, *data.rglob("*")):
            os.chown(path, *owner)
