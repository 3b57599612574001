"""Reading history: pages walk an index from the cursor down, whatever the size of the rest."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from stepwell.adapters.postgres import queries
from stepwell.adapters.postgres.history_store import HistoryStore, Selection
from stepwell.adapters.postgres.session import Session
from stepwell.domain.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator

FILL = """
WITH w AS (
  INSERT INTO workflows (namespace, name) VALUES ('default', 'rare'), ('default', 'busy') RETURNING id, name
), v AS (
  INSERT INTO workflow_revisions (workflow_id, hash, spec, features, retain_succeeded, retain_failed)
  SELECT id, '\\x00', '{"steps": []}', '{}', '1 day', '1 day' FROM w RETURNING id, workflow_id
)
INSERT INTO runs (id, workflow_id, revision_id, created_at, namespace, trigger, input_data, status, finished_at, expires_at)
SELECT overlay(uuid_floor(moment)::text PLACING lpad(to_hex(i), 12, '0') FROM 25)::uuid, v.workflow_id, v.id, moment,
  'default', 'api', '{}', 'succeeded', moment, now() + interval '1 day'
FROM generate_series(1, 4000) AS i, LATERAL (SELECT now() - interval '1 day' + i * interval '20 seconds' AS moment) AS m,
  v JOIN w ON w.id = v.workflow_id
WHERE w.name = CASE WHEN i % 100 = 0 THEN 'rare' ELSE 'busy' END
"""


@pytest.fixture
def filled(database: str) -> Iterator[str]:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(FILL)
        connection.execute("ANALYZE")
    return database


async def pages(store: HistoryStore, **selection: Any) -> list[str]:
    seen: list[str] = []
    cursor: str | None = None
    while True:
        page = await store.page(Selection(**selection, cursor=cursor))
        seen += [run.id for run in page.runs]
        cursor = page.cursor
        if cursor is None:
            return seen


@pytest.mark.parametrize(
    ("selection", "count"),
    [
        ({"limit": 1000}, 4000),
        ({"limit": 7, "namespace": "default", "workflow": "rare"}, 40),
        ({"limit": 1000, "namespace": "other"}, 0),
        ({"limit": 10, "namespace": "default", "workflow": "none"}, 0),
    ],
)
async def test_pages_hold_every_run_once_newest_first(filled: str, selection: dict[str, Any], count: int) -> None:
    async with Session(filled, "test") as session:
        seen = await pages(HistoryStore(session), **selection)
    assert len(seen) == len(set(seen)) == count
    assert seen == sorted(seen, reverse=True)


async def test_since(filled: str) -> None:
    moment = datetime.now(UTC) - timedelta(hours=20)
    async with Session(filled, "test") as session:
        page = await HistoryStore(session).page(Selection("default", "rare", since=moment))
    assert page.runs
    assert all(run.created_at >= moment for run in page.runs)


@pytest.mark.parametrize("run_id", ["01a204fa-6da3-7c86-ac89-a0ef3fe87dff", "", "1"])
async def test_an_unknown_run(database: str, run_id: str) -> None:
    async with Session(database, "test") as session:
        store = HistoryStore(session)
        for read in store.run, store.state:
            with pytest.raises(NotFoundError, match="there is no run"):
                await read(run_id)


@pytest.mark.parametrize(("name", "workflow"), [("of_workflow", "rare"), ("page", None)])
def test_a_page_reads_what_it_shows(filled: str, name: str, workflow: str | None) -> None:
    params: dict[str, Any] = {
        "namespace": "default",
        "workflow": workflow,
        "status": None,
        "since": datetime(1970, 1, 1, tzinfo=UTC),
        "before": "ffffffff-ffff-ffff-ffff-ffffffffffff",
        "limit": 10,
    }
    with psycopg.connect(filled, autocommit=True) as connection:
        found = connection.execute(queries.load("history")["workflow_id"], params).fetchone()
        params["workflow_id"] = found[0] if found else None
        query = "EXPLAIN (ANALYZE, FORMAT JSON) " + queries.load("history")[name]
        row = connection.execute(query, params, prepare=False).fetchone()
    assert row
    nodes = list(_nodes(row[0][0]["Plan"]))
    assert not [node["Node Type"] for node in nodes if "Sort" in node["Node Type"]]
    read = sum(
        node["Actual Rows"] * node["Actual Loops"] + node.get("Rows Removed by Filter", 0)
        for node in nodes
        if node.get("Relation Name", "").startswith("runs_")
    )
    assert read <= 12


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from _nodes(child)
