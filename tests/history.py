"""Fills a database with months of runs in a second, and reads from EXPLAIN what a statement touched."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, LiteralString

import psycopg

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

DAYS = 30  #: days of history before today; with those ahead, 38 partitions a table

_PAST = """
SELECT add_partitions((now() AT TIME ZONE 'UTC')::date - %(days)s - 1, %(days)s + 1)  -- just after midnight it reaches further
"""

_WORKFLOW = """
WITH w AS (INSERT INTO workflows (namespace, name) VALUES ('shop', 'order') RETURNING id)
INSERT INTO workflow_revisions (workflow_id, hash, spec, features, retain_succeeded, retain_failed)
SELECT id, '\\x00', '{}', '{}', interval '1 day', interval '7 days' FROM w RETURNING workflow_id, id
"""

# Ids are spread over the days, so that every partition has its share; `past` 0 puts all of them into the last minutes.
_RUNS = """
WITH made AS (
  SELECT i, uuid_floor(moment)::text AS floor, md5(%(status)s::text || i) AS noise, moment
  FROM generate_series(%(made)s::int + 1, %(made)s::int + %(count)s::int) AS i,
       LATERAL (SELECT now() - interval '10 minutes' - %(past)s * interval '1 day' * (i - %(made)s) / %(count)s AS moment) AS m
)
INSERT INTO runs (id, workflow_id, revision_id, created_at, status, claims, fence, worker_id, claim_token, started_at,
                  finished_at, expires_at, cancel_requested_at, namespace, trigger, input_data, output_data)
SELECT (left(floor, 13) || '-7' || substr(noise, 1, 3) || '-8' || substr(noise, 4, 3) || '-' || substr(noise, 7, 12))::uuid,
  %(workflow)s, %(revision)s, moment, %(status)s, 1, i, %(worker)s, i, moment,
  CASE WHEN %(status)s IN ('succeeded', 'failed') THEN moment END,
  CASE WHEN %(status)s IN ('succeeded', 'failed') THEN moment + interval '1 day' END,
  NULL, 'shop-' || i %% %(namespaces)s, 'api', '{"order": 1}', NULL
FROM made
RETURNING id::text
"""

_STEPS = """
INSERT INTO run_steps (run_id, fence, step, attempt, status, started_at, finished_at, input_from, output_data)
SELECT r.id, coalesce(r.fence, 0), s.step, 1, 'succeeded', r.created_at, r.created_at, '"$run"', '{"ok": true}'
FROM runs r, unnest(ARRAY['one', 'two', 'three']) AS s (step) WHERE r.finished_at IS NOT NULL
ON CONFLICT DO NOTHING
"""

# What the planner knows is the test's to say.
_LEFT_ALONE = """
DO $$ DECLARE child regclass; BEGIN
  FOR child IN SELECT inhrelid FROM pg_inherits WHERE inhparent IN ('runs'::regclass, 'run_steps'::regclass) LOOP
    EXECUTE format('ALTER TABLE %s SET (autovacuum_enabled = false)', child);
  END LOOP;
END $$
"""

_OTHER_WORKFLOWS = """
INSERT INTO workflows (namespace, name) SELECT 'tenant-' || i % 100, 'w' || i FROM generate_series(1, 5000) AS i
"""

_FETCHED = """
SELECT relname, (seq_tup_read + coalesce(idx_tup_fetch, 0))::bigint FROM pg_stat_xact_user_tables
WHERE seq_tup_read + coalesce(idx_tup_fetch, 0) > 0
"""

_TIMERS = """
INSERT INTO timers
SELECT id, now() + CASE WHEN row_number() OVER () % 2 = 0 THEN interval '1 hour' ELSE interval '-1 hour' END
FROM runs WHERE status = 'waiting'
ON CONFLICT DO NOTHING
"""

_KEYS = """
INSERT INTO idempotency_keys (workflow_id, run_id, expires_at, door, key, input_hash)
SELECT workflow_id, id, now() + interval '1 day', 'api', id::text, '\\x00' FROM runs LIMIT 20000
ON CONFLICT DO NOTHING
"""


@dataclass(slots=True)
class History:
    """A database with something in it, and the workflow of its runs. Lists of ids are oldest first."""

    dsn: str
    workflow: int
    revision: int
    version: int  #: of the server, such as 180006
    worker: int = 0
    ended: list[str] = field(default_factory=list)
    queued: list[str] = field(default_factory=list)
    running: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)

    @classmethod
    def begin(cls, dsn: str) -> History:
        """Partitions for a month, a workflow among 5,000 others, no run."""
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(_PAST, {"days": DAYS})
            row = connection.execute(_WORKFLOW).fetchone()
            assert row is not None
            connection.execute("UPDATE workflows SET active_revision_id = %s", [row[1]])
            connection.execute(_OTHER_WORKFLOWS)
            connection.execute(_LEFT_ALONE)
            version = connection.info.server_version
        return cls(dsn, *row, version)

    def fill(self, ended: int, queued: int, running: int, waiting: int, worker: int) -> None:
        """A month of ended runs with three steps each; in the last minutes a backlog in three namespaces, what ``worker``
        holds, and runs that wait: half of their timers are due.
        """
        self._add(self.ended, ended, "succeeded", past=DAYS)
        self._add(self.queued, queued, "queued", namespaces=3)
        self._add(self.running, running, "running", worker=worker)
        self._add(self.waiting, waiting, "waiting")
        self.execute(_STEPS)
        self.execute(_TIMERS)
        self.execute(_KEYS)
        self.worker = worker

    def fences(self) -> dict[str, int]:
        """The running runs with their fences."""
        with psycopg.connect(self.dsn) as connection:
            rows = connection.execute(
                "SELECT id::text, fence FROM runs WHERE status = 'running' ORDER BY id"
            ).fetchall()
        return dict(rows)

    def analyze(self) -> None:
        """Fresh statistics."""
        self.execute("VACUUM ANALYZE")

    def execute(self, statement: LiteralString) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(statement)

    def _add(
        self,
        ids: list[str],
        count: int,
        status: str,
        *,
        past: float = 0,
        worker: int | None = None,
        namespaces: int = 1,
    ) -> None:
        params = {
            "made": len(ids), "count": count, "status": status, "past": past, "worker": worker, "namespaces": namespaces,
            "workflow": self.workflow, "revision": self.revision,
        }  # fmt: skip
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            ids += [row[0] for row in connection.execute(_RUNS, params).fetchall()]
        ids.sort()


@dataclass(slots=True)
class Plan:
    """What one execution of a statement really touched."""

    root: dict[str, Any]
    partitions: set[str] = field(default_factory=set)
    read: dict[str, int] = field(default_factory=dict)  #: rows by table, CTE or function, with those thrown away
    indexes: set[str] = field(default_factory=set)
    compared: int = 0  #: pairs of rows that nested loops held against each other
    milliseconds: float = 0.0
    fetched: dict[str, int] = field(default_factory=dict)  #: rows by table as the server counts them, in functions too

    @property
    def text(self) -> str:
        """For messages: to write it out takes as long as to plan."""
        return str(self.root)

    def rows(self, table: str) -> int:
        """Rows read of a table with all its partitions."""
        return max(_total(self.read, table), _total(self.fetched, table))

    def days(self, table: str) -> set[str]:
        """The partitions of a table that were touched."""
        return {name for name in self.partitions if name.startswith(f"{table}_2")}


def explain(dsn: str, query: LiteralString, params: Mapping[str, object]) -> Plan:
    """Execute and roll back, planned just as a Session has it planned: with its values, unprepared."""
    with psycopg.connect(dsn) as connection:
        return explain_over(connection, query, params)


def explain_over(connection: psycopg.Connection, query: LiteralString, params: Mapping[str, object]) -> Plan:
    """The same over a connection that knows the tables, as a Session's does: to learn 38 partitions takes longer."""
    text: LiteralString = "EXPLAIN (ANALYZE, VERBOSE, FORMAT JSON, TIMING OFF) "
    row = connection.execute(text + query, params, prepare=False).fetchone()
    fetched: dict[str, int] = dict(connection.execute(_FETCHED).fetchall())
    connection.execute("SELECT pg_stat_force_next_flush()")  # or the next statement counts these rows as well
    connection.rollback()
    assert row is not None
    (root,) = row[0]
    assert "JIT" not in root, "compiling the plan takes longer than running it"
    plan = Plan(root, fetched=fetched, milliseconds=root["Planning Time"] + root["Execution Time"])
    for node in _nodes(root["Plan"]):
        _note(plan, node)
    return plan


def _total(counts: Mapping[str, int], table: str) -> int:
    return sum(count for name, count in counts.items() if name == table or name.startswith(f"{table}_2"))


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from _nodes(child)


def _note(plan: Plan, node: dict[str, Any]) -> None:
    loops = node["Actual Loops"]
    thrown = sum(node.get(f"Rows Removed by {what}", 0) for what in ("Filter", "Index Recheck"))
    if node["Node Type"].endswith(("Scan",)) and loops:
        name = node.get("Relation Name") or node.get("CTE Name") or node.get("Function Name") or node["Node Type"]
        plan.read[name] = plan.read.get(name, 0) + round((node["Actual Rows"] + thrown) * loops)
        if "Relation Name" in node:
            plan.partitions.add(name)
        if "Index Name" in node:
            plan.indexes.add(node["Index Name"])
    if node["Node Type"] == "Nested Loop":
        joined = node["Actual Rows"] + node.get("Rows Removed by Join Filter", 0)
        plan.compared += round(joined * loops)
