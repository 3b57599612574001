"""What a run costs in commits, WAL, statements and Redis calls. Wall-clock figures are for ``make bench``, not for CI."""

from __future__ import annotations

import pytest
import uvloop
from bench.run import drain
from bench.system import receiver
from bench.workloads import USERS

DOCUMENTS = {"one_step": 65, "three_step": 228}
"""Bytes of the distinct documents of one run: input, outputs, and what stands beside an HTTP answer."""

DISK = {"one_step": 1100, "three_step": 1900}
"""Bytes of tables and indexes: docs/operations/sizing.md counts with these, and what was measured is a fifth less."""


@pytest.mark.parametrize(
    ("name", "runs", "commits", "wal"), [("one_step", 3000, 0.05, 1400), ("three_step", 1500, 0.5, 2000)]
)
def test_a_drained_run_costs_no_more_than_the_budget(
    database: str, redis_url: str, name: str, runs: int, commits: float, wal: int
) -> None:
    with receiver() as (port, _):
        cost = uvloop.run(drain(database, redis_url, name, port, runs, 1))
    assert cost["commits_per_run"] <= commits
    assert cost["statements_per_run"] <= commits + 0.1
    assert cost["redis_calls_per_run"] <= 0.5
    assert 500 < cost["wal_bytes_per_run"] <= wal + DOCUMENTS[name]
    assert 500 < cost["disk_bytes_per_run"] <= DISK[name]


@pytest.mark.parametrize(("name", "commits", "wal"), [("thousand_items", 700, 500), ("thousand_documents", 30, 8_000)])
def test_a_run_of_a_thousand_items_costs_a_row_an_item(
    database: str, redis_url: str, name: str, commits: int, wal: int
) -> None:
    """``wal`` in bytes an item, its documents included; the list of outputs stands nowhere a second time."""
    with receiver() as (port, _):
        cost = uvloop.run(drain(database, redis_url, name, port, 2, 1, USERS))
    assert cost["wal_bytes_per_run"] <= wal * 1_000
    assert cost["commits_per_run"] <= commits
    assert cost["rss_mb"] <= 300


def test_forty_pure_steps_cost_hardly_more_commits_than_one(database: str, redis_url: str) -> None:
    cost = uvloop.run(drain(database, redis_url, "forty_step", 0, 300, 1))
    assert cost["commits_per_run"] <= 0.1
