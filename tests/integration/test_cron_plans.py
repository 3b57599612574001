"""What cron's statements read of ten thousand schedules, whatever the planner knows of them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, LiteralString

import psycopg
import pytest
from history import explain

from stepwell.adapters.postgres import queries
from stepwell.adapters.postgres.schedule_store import fire_sets, record_set
from stepwell.engine.clock import as_micros
from stepwell.engine.maintenance import cron as crons
from stepwell.engine.schedules import DueSchedule, Move, Tick

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lending import Databases

SCHEDULES = queries.load("schedules")


@pytest.fixture(scope="module")
def crowded(databases: Databases) -> Iterator[str]:
    """A database with 10,000 schedules, two hundred of them due, and a week of ticks; never analysed."""
    with databases.clone() as dsn:
        with psycopg.connect(dsn, autocommit=True) as connection:
            for statement in _CROWD:
                connection.execute(statement)
        yield dsn


_CROWD: tuple[LiteralString, ...] = (
    "INSERT INTO workflows (namespace, name) SELECT 'n' || i % 100, 'w' || i FROM generate_series(1, 10000) AS i",
    (
        "INSERT INTO workflow_revisions (workflow_id, hash, spec, features, retain_succeeded, retain_failed)"
        " SELECT id, '\\x00', '{}', '{}', interval '1 day', interval '7 days' FROM workflows"
    ),
    "UPDATE workflows w SET active_revision_id = v.id FROM workflow_revisions v WHERE v.workflow_id = w.id",
    "TRUNCATE schedule_changes",
    (
        "INSERT INTO schedules (workflow_id, trigger, revision_id, timing, tick_at, due_at)"
        " SELECT id, 'tick', active_revision_id, '0 * * * * UTC 0', m.due, m.due FROM workflows,"
        " LATERAL (SELECT timestamptz '2026-11-20T12:00Z' + (id - 200) * interval '1 second' AS due) AS m"
    ),
    (
        "INSERT INTO schedule_ticks (workflow_id, trigger, tick_at, decided_at, run_id)"
        " SELECT id, 'tick', t, t, gen_random_uuid() FROM workflows,"
        " generate_series(timestamptz '2026-11-13T12:00Z', '2026-11-20T11:00Z', '24 hours') AS t"
    ),
)

NOW = as_micros(datetime(2026, 11, 20, 12, tzinfo=UTC))


@pytest.mark.parametrize("analysed", [False, True])
def test_a_look_at_ten_thousand_schedules_reads_what_is_due(crowded: str, *, analysed: bool) -> None:
    if analysed:
        with psycopg.connect(crowded, autocommit=True) as connection:
            connection.execute("VACUUM ANALYZE")
    for now, due in ((NOW - 3_600_000_000, 0), (NOW, 200)):
        plan = explain(crowded, SCHEDULES["look"], {"now": now, "limit": crons.LIMIT, "unsupported": []})
        assert plan.rows("schedules") <= 2 * due + 1, plan.text
        assert plan.rows("workflows") <= 2 * due, plan.text
        assert "schedules_due" in plan.indexes, plan.text
        assert plan.rows("schedule_changes") == 0


@pytest.mark.parametrize("batch", [1, 200])
def test_firing_reads_the_schedules_that_are_fired(crowded: str, batch: int) -> None:
    with psycopg.connect(crowded) as connection:
        rows = connection.execute("SELECT workflow_id, revision_id FROM schedules ORDER BY due_at LIMIT %s", [batch])
        due = [DueSchedule(row[0], "tick", row[1], NOW, None) for row in rows]
    hour = 3_600_000_000
    moves = [Move(item.workflow_id, "tick", item.revision_id, NOW, NOW + hour, NOW + hour, None) for item in due]
    ticks = [Tick(item.workflow_id, "tick", NOW, None, "Filtered") for item in due]
    with psycopg.connect(crowded, autocommit=True) as connection:
        connection.execute("UPDATE schedules SET tick_at = '2026-11-20T12:00Z' WHERE due_at <= '2026-11-20T12:00Z'")
    plan = explain(crowded, SCHEDULES["fire"], fire_sets(NOW, moves, ticks, "1 day"))
    assert plan.rows("schedules") <= 6 * batch + 100, plan.text
    assert plan.rows("schedule_ticks") <= 6 * batch + 100, plan.text
    assert plan.days("runs") == set(), "nothing is read of the runs"
    assert plan.compared <= 20 * batch + 1_000, f"a nested loop compared {plan.compared} pairs: {plan.text}"
    earlier = explain(crowded, SCHEDULES["started"], {"schedules": record_set(due), "limit": crons.LOOK_BACK})
    assert earlier.rows("schedule_ticks") <= 20 * batch + 100, earlier.text
