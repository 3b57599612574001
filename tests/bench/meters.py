"""What the database, Redis and the kernel count, before and after a workload."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg
import redis

_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Reading:
    """Counters at one moment; CPU in seconds."""

    writes: int
    statements: int
    redis_calls: int
    cpu: float

    def __sub__(self, other: Reading) -> Reading:
        return Reading(
            self.writes - other.writes,
            self.statements - other.statements,
            self.redis_calls - other.redis_calls,
            self.cpu - other.cpu,
        )


class Meters:
    """Reads the counters of one database, one Redis and some processes."""

    def __init__(self, dsn: str, url: str) -> None:
        self._database = psycopg.connect(dsn, autocommit=True)
        self._redis = redis.Redis.from_url(url)

    def read(self, processes: Sequence[int] = ()) -> Reading:
        """Now, with the CPU time of these processes. Statements are transactions of this database."""
        row = self._database.execute(
            "SELECT pg_stat_clear_snapshot(), pg_snapshot_xmax(pg_current_snapshot())::text::bigint,"
            " (SELECT xact_commit FROM pg_stat_database WHERE datname = current_database())"
        ).fetchone()
        assert row is not None
        calls = self._redis.info("stats")["total_commands_processed"]
        return Reading(row[1], row[2], calls, sum(cpu_of(p) for p in processes))

    def wal_position(self) -> str:
        """Where the WAL ends now."""
        row = self._database.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
        assert row is not None
        return str(row[0])

    def wal_since(self, position: str) -> int:
        """Bytes of WAL records since then, full-page images apart."""
        self._database.execute("CREATE EXTENSION IF NOT EXISTS pg_walinspect")
        row = self._database.execute(
            "SELECT sum(record_size)::bigint FROM pg_get_wal_stats(%s, pg_current_wal_flush_lsn())", [position]
        ).fetchone()
        assert row is not None
        return int(row[0])

    def disk(self) -> int:
        """Bytes of all tables with their indexes, as they stand on disk."""
        row = self._database.execute(
            "SELECT sum(pg_total_relation_size(c.oid))::bigint FROM pg_class c"
            " WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace"
        ).fetchone()
        assert row is not None
        return int(row[0])

    def close(self) -> None:
        self._database.close()
        self._redis.close()


def cpu_of(process: int) -> float:
    """CPU seconds that a process has used, user and system."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def rss_of(process: int) -> float:
    """Resident memory in MB."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * _PAGE / 1e6
