"""What a worker counts: only what is durable and its own, under few labels, by the names that are documented."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from engine_life import scene, until
from engine_specs import CONTINUE, effect, failing, failure, retry, scripted, value
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from virtual_time import virtual_time

from stepwell.engine.observer import NamespaceLoad, Ticked
from stepwell.engine.ports import ReadyRun, Reaped
from stepwell.metrics import names, worker
from stepwell.metrics.gateway import GatewayMetrics
from stepwell.metrics.instruments import Buckets, Counter, Description
from stepwell.metrics.kube import KubeMetrics
from stepwell.metrics.operator import OperatorMetrics
from stepwell.metrics.worker import Reading, WorkerMetrics

if TYPE_CHECKING:
    from prometheus_client.core import Metric

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"
LEADING = Reading(slots=7, busy=3, backlog=2, leads=True, redis=True, trusted=False)


def slow_to_flush(statement: str) -> tuple[float, float]:
    """Seconds before and after a statement's effect."""
    return (1.0, 0.0) if statement == "flush" else (0.0, 0.0)


def metrics(reading: Reading | None = LEADING) -> WorkerMetrics:
    return WorkerMetrics(lambda: reading)


def shown(counted: WorkerMetrics | GatewayMetrics) -> dict[str, Metric]:
    """What Prometheus would read, by the names of the families."""
    text = generate_latest(counted.registry).decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


def samples(counted: WorkerMetrics, name: str) -> dict[tuple[str, ...], float]:
    """The samples of this name by the values of their labels, in the order of the labels' names."""
    found = [s for family in shown(counted).values() for s in family.samples if s.name == name]
    return {tuple(value for _, value in sorted(s.labels.items())): s.value for s in found}


# -- runs and steps --------------------------------------------------------------------------------------------------------


@virtual_time
async def test_runs_and_attempts_are_counted_by_how_they_ended() -> None:
    counted = metrics()
    spec = {"steps": [effect("a", retry=retry(1)), value("b", 1, **{"if": "false"}), failing("c")]}
    async with scene(spec, scripted(failure(), 1), observer=counted) as s:
        await s.submit()
        assert await s.ended() == "failed"
        await until(lambda: not s.dispatcher.active)
    assert samples(counted, "stepwell_runs_total") == {("default", "failed", "test"): 1}
    assert samples(counted, "stepwell_steps_total") == {
        ("httpCall", "default", "retried", "test"): 1,
        ("httpCall", "default", "succeeded", "test"): 1,
        ("transform", "default", "skipped", "test"): 1,
        ("fail", "default", "failed", "test"): 1,
    }
    assert samples(counted, "stepwell_step_duration_seconds_count") == {("httpCall",): 2, ("fail",): 1}
    assert samples(counted, "stepwell_run_duration_seconds_count") == {("failed",): 1}
    assert samples(counted, "stepwell_run_duration_seconds_sum")[("failed",)] >= 1.0, "the pause of the retry is in it"


@virtual_time
async def test_items_are_counted_as_attempts_and_what_sums_them_up_is_not() -> None:
    counted = metrics()
    each = {"forEach": {"items": [1, 2, 3]}}
    skipped = {**value("b", 1, **each), "if": "size(run.id) == 0"}
    async with scene({"steps": [value("a", "{{ item }}", **each), skipped]}, observer=counted) as s:
        await s.submit()
        await s.ended()
        await until(lambda: not s.dispatcher.active)
    found = samples(counted, "stepwell_steps_total")
    assert found == {("transform", "default", "succeeded", "test"): 3, ("transform", "default", "skipped", "test"): 1}


@virtual_time
async def test_the_way_to_the_start_and_the_journal_are_measured() -> None:
    counted = metrics()
    async with scene({"steps": [value("a", 1)]}, observer=counted) as s:
        for n in range(3):
            await s.submit(f"r{n}")
        await until(lambda: all(row.final for row in s.database.rows.values()))
        await until(lambda: not s.dispatcher.active)
        flushes = s.dispatcher.journal.flushes
    assert samples(counted, "stepwell_trigger_to_start_seconds_count") == {(): 3}
    assert samples(counted, "stepwell_journal_flush_seconds_count") == {(): flushes}
    assert samples(counted, "stepwell_journal_batch_size_sum") == {(): 3}


@virtual_time
async def test_a_run_that_goes_on_after_a_wait_has_started_before() -> None:
    counted = metrics()
    world = scripted(failure(retry_after=30.0), 1)
    async with scene({"steps": [effect("a", retry=retry(1))]}, world, observer=counted) as s:
        await s.submit()
        await until(lambda: s.database.rows["r1"].status == "waiting")
        await asyncio.sleep(30)
        s.database.wake("r1")
        await s.offer("r1")
        assert await s.ended() == "succeeded"
    assert samples(counted, "stepwell_trigger_to_start_seconds_count") == {(): 1}


@virtual_time
async def test_what_another_worker_took_over_is_not_counted() -> None:
    counted = metrics()
    async with scene({"steps": [value("a", 1)]}, observer=counted) as s:
        s.store.latency = slow_to_flush
        await s.submit()
        await until(lambda: "flush" in s.store.calls)
        s.database.rows["r1"].fence = -1
        await until(lambda: not s.dispatcher.active)
    assert samples(counted, "stepwell_runs_total") == {}
    assert samples(counted, "stepwell_steps_total") == {}


@virtual_time
async def test_a_success_that_a_cancel_voided_counts_as_cancelled() -> None:
    counted = metrics()
    async with scene({"steps": [value("a", 1)]}, observer=counted) as s:
        s.store.latency = slow_to_flush
        await s.submit()
        await until(lambda: "flush" in s.store.calls)
        s.database.cancel("r1")
        assert await s.ended() == "cancelled"
        await until(lambda: not s.dispatcher.active)
    assert samples(counted, "stepwell_runs_total") == {("default", "cancelled", "test"): 1}


@virtual_time
async def test_workflows_beyond_the_bound_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "MAX_WORKFLOWS", 0)
    counted = metrics()
    async with scene({"steps": [failing("a", **CONTINUE)]}, observer=counted) as s:
        await s.submit()
        assert await s.ended() == "succeeded"
        await until(lambda: not s.dispatcher.active)
    assert samples(counted, "stepwell_runs_total") == {("_other", "succeeded", "_other"): 1}
    assert samples(counted, "stepwell_steps_total") == {("fail", "_other", "failed", "_other"): 1}


# -- the leader ------------------------------------------------------------------------------------------------------------


def test_the_queue_is_shown_by_the_leader_only() -> None:
    load = {"a": NamespaceLoad({"queued": 5, "waiting": 1}, 2.5)}
    led, followed = metrics(), metrics(LEADING._replace(leads=False))
    for counted in (led, followed):
        counted.counted(load)
    depth = samples(led, "stepwell_queue_depth")
    assert depth == {("a", "queued"): 5, ("a", "running"): 0, ("a", "waiting"): 1}
    assert samples(led, "stepwell_queue_oldest_seconds") == {("a",): 2.5}
    assert samples(followed, "stepwell_queue_depth") == {}


def test_a_namespace_that_was_shown_goes_on_as_empty() -> None:
    counted = metrics()
    counted.counted({"a": NamespaceLoad({"queued": 5}, 2.5)})
    counted.counted({"b": NamespaceLoad({"queued": 1}, 0.5)})
    assert samples(counted, "stepwell_queue_oldest_seconds") == {("a",): 0, ("b",): 0.5}


def test_namespaces_beyond_the_bound_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "MAX_NAMESPACES", 1)
    counted = metrics()
    for _ in range(2):
        counted.counted({name: NamespaceLoad({"queued": n}, n) for n, name in enumerate(("a", "b", "c"), 1)})
        depth = samples(counted, "stepwell_queue_depth")
        assert (depth[("a", "queued")], depth[("_other", "queued")]) == (1, 5)
        assert samples(counted, "stepwell_queue_oldest_seconds") == {("a",): 1, ("_other",): 3}


def test_recoveries_poison_pills_and_stranded_runs() -> None:
    counted = metrics()
    run = ReadyRun("r1", "a", 1)
    counted.recovered([Reaped(run, "queued", suspect=False), Reaped(run, "failed", suspect=True, poisonous=True)])
    counted.stranded([run])
    found = [samples(counted, f"stepwell_{name}_total")[()] for name in ("recoveries", "poison_pills", "stranded")]
    assert found == [2, 1, 1]


def test_ticks_are_counted_by_why_they_started_nothing_and_by_how_late_they_were(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker, "MAX_WORKFLOWS", 1)
    counted = metrics()
    counted.ticked([Ticked("a", "w", "night", [0.02, 2.0], {})])
    for _ in range(2):
        counted.ticked(
            [Ticked("a", "w", "night", [], {"Missed": 3, "Forbidden": 1}), Ticked("b", "w", "t", [], {"Missed": 1})]
        )
    assert samples(counted, "stepwell_schedule_skipped_total") == {
        ("a", "Missed", "w"): 6, ("a", "Forbidden", "w"): 2, ("_other", "Missed", "_other"): 2
    }  # fmt: skip
    assert samples(counted, "stepwell_schedule_lateness_seconds_count") == {(): 2}
    assert samples(counted, "stepwell_schedule_lateness_seconds_sum") == {(): 2.02}


def test_the_gauges_are_those_of_the_moment() -> None:
    found = {name: family.samples[0].value for name, family in shown(metrics()).items() if family.samples}
    assert (found["stepwell_slots"], found["stepwell_slots_busy"], found["stepwell_journal_backlog"]) == (7, 3, 2)
    assert (found["stepwell_leader"], found["stepwell_heartbeat_trusted"]) == (1, 0)
    assert shown(metrics(None))["stepwell_slots"].samples[0].value == 0, "before the worker is registered"


# -- instruments -----------------------------------------------------------------------------------------------------------


def test_a_value_is_counted_up_to_its_bound_and_by_all_above() -> None:
    buckets = Buckets((1.0, 2.0))
    for observed in (0.5, 1.0, 1.5, 9.0):
        buckets.observe(observed)
    assert buckets.cumulated() == ([("1.0", 2), ("2.0", 3), ("+Inf", 4)], 12.0)


def test_labels_of_any_text_are_shown_as_one_line() -> None:
    counter = Counter(Description("a_total", "What.", ("name",)))
    counter.add(('quo"te\nback\\slash',))
    assert counter.family().samples[0].labels == {"name": 'quo"te\nback\\slash'}


# -- names -----------------------------------------------------------------------------------------------------------------


def described() -> list[Description]:
    return [found for found in vars(names).values() if isinstance(found, Description)]


def of_all_processes() -> dict[str, Metric]:
    gateway = GatewayMetrics()
    KubeMetrics(gateway.registry).called("Secret", "200")
    return shown(metrics()) | shown(gateway) | shown(OperatorMetrics())


def test_names_follow_the_rules_of_prometheus() -> None:
    families = of_all_processes()
    for name, _, labels in described():
        family = families[name.removesuffix("_total")]
        assert re.fullmatch(r"stepwell(_[a-z]+)+", name)
        assert name.endswith("_total") == (family.type == "counter"), name
        assert not name.endswith(("_count", "_sum", "_bucket", "_created")), name
        assert not {"le", "quantile", "job", "instance"} & set(labels), name
    assert len(described()) == sum(name.startswith("stepwell_") for name in families)


def test_durations_are_in_seconds_and_bounds_grow() -> None:
    for name, bounds in vars(names).items():
        if isinstance(bounds, tuple) and not isinstance(bounds, Description) and name.isupper() and name[0] != "_":
            assert list(bounds) == sorted(set(bounds)), name
            assert len(bounds) <= 16, f"{name}: every bound is a series"


def test_the_documented_table_is_what_is_shown() -> None:
    rows = re.findall(r"^\| `(stepwell_\w+)` \| (\w+) \| ?(.*?) ?\| .+ \|$", DOCS.read_text("utf-8"), re.MULTILINE)
    families = of_all_processes()
    documented = {name: (kind, re.findall(r"`(\w+)`", labels)) for name, kind, labels in rows}
    assert len(documented) == len(rows), "a metric stands twice"
    assert documented == {
        name: (families[name.removesuffix("_total")].type, list(labels)) for name, _, labels in described()
    }


def test_nobody_shares_the_registry() -> None:
    """Two workers of a process, as in tests and in local mode, count apart."""
    one, other = metrics(), metrics()
    one.stranded([ReadyRun("r1", "a", 1)])
    assert samples(other, "stepwell_stranded_total") == {(): 0}
