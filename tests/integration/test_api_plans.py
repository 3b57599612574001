"""What lists of runs read: a page, however long the history is and however rare what is asked for is in it.

Over 38 partitions, with statistics and without; a namespace with a hundredth of the runs, and a status with one in ten
thousand, among runs of others. The shape of the plan does not change with more rows: index walks that stop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from history import History, Plan, explain

from stepwell.adapters.postgres import queries

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lending import Databases

SQL = queries.load("reading")
RUNS = 40_000
LIMIT = 51
PLANNING = 150  # rows that the planner itself looks at: the ends of each day's index
LAST = "ffffffff-ffff-ffff-ffff-ffffffffffff"

FILL = """
WITH w AS (
  INSERT INTO workflows (namespace, name) VALUES ('busy', 'main'), ('rare', 'one'), ('rare', 'two'), ('rare', 'never')
  RETURNING id, namespace, name
), v AS (
  INSERT INTO workflow_revisions (workflow_id, hash, spec, features, retain_succeeded, retain_failed)
  SELECT id, '\\x00', '{}', '{}', '90 days', '90 days' FROM w RETURNING id, workflow_id
), made AS (
  SELECT i, now() - interval '30 days' * i / %(runs)s AS moment,
    CASE WHEN i %% 100 <> 0 THEN 'main' WHEN i %% 200 = 0 THEN 'one' ELSE 'two' END AS name,
    CASE WHEN i %% 10000 = 9999 THEN 'timed_out' WHEN i < 200 AND i %% 4 = 1 THEN 'queued' ELSE 'succeeded' END AS status
  FROM generate_series(1, %(runs)s) AS i
)
INSERT INTO runs (id, workflow_id, revision_id, created_at, namespace, trigger, input_data, status, finished_at, expires_at, error)
SELECT overlay(uuid_floor(m.moment)::text PLACING lpad(to_hex(m.i), 12, '0') FROM 25)::uuid, v.workflow_id, v.id, m.moment,
  w.namespace, 'api', '{}', m.status,
  CASE WHEN m.status <> 'queued' THEN m.moment END, CASE WHEN m.status <> 'queued' THEN now() + interval '9 days' END,
  CASE WHEN m.status = 'timed_out' THEN '{"reason":"RunTimedOut"}'::json END
FROM made m JOIN w ON w.name = m.name JOIN v ON v.workflow_id = w.id
"""


@pytest.fixture(scope="module", params=["without statistics", "analysed"])
def filled(request: pytest.FixtureRequest, databases: Databases) -> Iterator[str]:
    with databases.clone() as dsn:
        History.begin(dsn)
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(FILL, {"runs": RUNS})
            if request.param == "analysed":
                connection.execute("ANALYZE")
        yield dsn


def listed(
    dsn: str, name: str, namespace: str, workflow: str | None, status: str | None, **more: Any
) -> tuple[Plan, int]:
    """The plan of a list and how many runs it found."""
    params = {
        "namespace": namespace, "workflow": workflow, "status": status, "since": "1970-01-01T00:00:00Z", "before": LAST,
        "limit": LIMIT, **more,
    }  # fmt: skip
    with psycopg.connect(dsn, autocommit=True) as connection:
        found = connection.execute(SQL[name], params, prepare=False).fetchall()  # type: ignore[arg-type]
    return explain(dsn, SQL[name], params), len(found)


@pytest.mark.parametrize(
    ("name", "namespace", "workflow", "status", "count", "rows"),
    [
        ("page", "busy", None, None, LIMIT, 200),
        ("page", "busy", "main", None, LIMIT, 200),
        ("page", "rare", None, None, LIMIT, 400),
        ("page", "rare", "two", None, LIMIT, 200),
        ("page", "rare", "never", None, 0, 50),
        ("page", "rare", None, "succeeded", LIMIT, 400),
        ("page_of_gone_wrong", "busy", None, "timed_out", 4, 100),
        ("page_of_gone_wrong", "busy", None, "cancelled", 0, 100),
        ("page_of_gone_wrong", "rare", None, "timed_out", 0, 100),
        ("page_of_live", "busy", None, "queued", 50, 300),
        ("page_of_live", "busy", "main", "queued", 50, 300),
        ("page_of_live", "rare", None, "queued", 0, 50),
    ],
)
def test_a_list_reads_a_page(
    filled: str, name: str, namespace: str, workflow: str | None, status: str | None, count: int, rows: int
) -> None:
    plan, found = listed(filled, name, namespace, workflow, status)
    assert found == count
    assert plan.rows("runs") <= rows + PLANNING, plan.text


def test_since_and_the_cursor_leave_other_days_alone(filled: str) -> None:
    with psycopg.connect(filled) as connection:
        row = connection.execute(
            "SELECT now() - interval '2 days', uuid_floor(now() - interval '1 day')::text"
        ).fetchone()
    assert row is not None
    for name, status in (("page", None), ("page_of_gone_wrong", "failed"), ("page_of_live", "queued")):
        plan, _ = listed(filled, name, "busy", None, status, since=row[0], before=row[1], limit=LIMIT)
        assert plan.rows("runs") <= 300, plan.text


def test_one_run_and_its_steps_are_read_of_their_day(filled: str) -> None:
    with psycopg.connect(filled) as connection:
        row = connection.execute("SELECT id::text FROM runs WHERE namespace = 'rare' ORDER BY id LIMIT 1").fetchone()
    assert row is not None
    run = row[0]
    plan = explain(filled, SQL["runs"], {"ids": "{" + run + "}", "namespace": "rare"})
    assert plan.rows("runs") <= 10
    assert plan.rows("workflows") <= 10, "of 5,000"
    steps = {"run": run, "seen": 0, "limit": 50, "documents": True, "bytes": 1 << 20}
    assert len(explain(filled, SQL["steps"], steps).days("run_steps")) <= 1
    plan = explain(filled, SQL["progress"], {"ids": "{" + run + "}"})
    assert plan.rows("runs") <= 10
    assert len(plan.days("run_steps")) <= 1
    assert len(plan.days("runs")) <= 1
