"""A real Prometheus watches a worker, a gateway and an operator: every query finds data, alerts fire under faults only.

Its rules and targets are those of deploy/components/monitoring, over seconds instead of minutes and at once instead of after a
while. Where there is an API server, the operator is real; else its metrics are fed by hand.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import monitored
import prometheus
import pytest
from waiting import eventually_sync

if TYPE_CHECKING:
    from collections.abc import Iterator

    from monitored import System
    from prometheus import Prometheus

pytestmark = pytest.mark.skipif(
    prometheus.program("prometheus") is None, reason=prometheus.MISSING.format("prometheus")
)
DASHBOARD = json.loads((prometheus.MONITORING / "dashboard.json").read_text("utf-8"))
PICTURE = prometheus.MONITORING.parents[2] / "tools" / "dashboard_picture.py"
SOON = 40.0  #: seconds that an alert may take on a busy machine
NORMAL = ("welcome", "orders", "slow")
#: Queries that find nothing where there is no API server, as the gateway calls none.
IN_CLUSTER = ("stepwell_kube_requests_total",)
#: Series of faults that are not provoked here: each worker dies five times with a run, and a defect of Stepwell.
NEVER = ("stepwell_poison_pills_total", "stepwell_stranded_total")


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with monitored.system(tmp_path_factory.mktemp("system")) as made:
        yield made


@pytest.fixture(scope="module")
def watching(system: System, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Once it has seen every target."""
    pods = system.pods()
    with prometheus.prometheus(tmp_path_factory.mktemp("prometheus"), pods) as made:
        count = sum(map(len, pods.values()))
        eventually_sync(lambda: len(made.query("up == 1")) == count, SOON)
        yield made


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def queries() -> dict[str, str]:
    """All queries of the dashboard and of the rules' records and alerts, as Prometheus reads them, by where they stand."""
    found = {}
    for panel in panels():
        for target in panel["targets"]:
            expression = target["expr"].replace("$__rate_interval", prometheus.WINDOW)
            found[f"{panel['title']} {target['refId']}"] = re.sub(r"\$(namespace|workflow)", ".*", expression)
    for group in prometheus.rule_groups():
        found.update({each["record"]: prometheus.hurried(each["expr"]) for each in group["rules"] if "record" in each})
    return found


def numbers(samples: list[dict[str, Any]]) -> list[float]:
    values = [float(each["value"][1]) for each in samples]
    return [value for value in values if math.isfinite(value)]


def fires(watching: Prometheus, *names: str) -> dict[str, dict[str, Any]]:
    """Wait until these alerts have fired, each within its own time; what they said at their first sight."""
    seen: dict[str, dict[str, Any]] = {}

    def missing() -> set[str]:
        for name, found in watching.firing().items():
            seen.setdefault(name, found[0])
        return set(names) - seen.keys()

    with contextlib.suppress(AssertionError):
        eventually_sync(lambda: not missing(), SOON)
    assert not missing(), f"what fired: {sorted(seen)}"
    for alert in seen.values():
        texts = " ".join(alert["annotations"].values())
        assert not re.search(r"<|\{\{|%!", texts), f"a text that was not rendered: {alert}"
    return seen


def silent(watching: Prometheus, *names: str) -> None:
    """Wait until none of these fires any more."""
    eventually_sync(lambda: not set(names) & watching.firing().keys(), SOON)


def test_no_alert_fires_under_normal_load(system: System, watching: Prometheus) -> None:
    began = time.time()
    with system.load(*NORMAL):
        eventually_sync(
            lambda: all(
                numbers(watching.query(f'rate(stepwell_runs_total{{workflow="{name}"}}[5s]) > 0')) for name in NORMAL
            ),
            SOON,
        )
        eventually_sync(lambda: sum(numbers(watching.query("sum(stepwell_runs_total)"))) > 60, SOON)
        assert watching.query("stepwell_slots_busy > 0"), "something is to be done"
    seconds = math.floor(time.time() - began)
    assert {rule["health"] for rule in watching.rules()} == {"ok"}
    assert [each["metric"] for each in watching.query(f"max_over_time(ALERTS[{seconds}s])")] == []


@pytest.fixture(scope="module")
def troubled(system: System, watching: Prometheus) -> dict[str, dict[str, Any]]:
    """The alerts after the leader died with runs in flight, while a workflow fails."""
    leader = system.leader()
    assert leader is not None
    survivors = [each for each in system.workers() if each is not leader]
    with system.load("slow", "broken", "slow", "broken", "welcome"):
        eventually_sync(lambda: leader.metric("stepwell_slots_busy ") > 3, SOON)  # some of them are slow
        leader.kill()
        seen = fires(watching, "StepwellNoLeader", "StepwellWorkflowFailing")
        silent(watching, "StepwellNoLeader")
        assert system.leader() in survivors
        seen |= fires(watching, "StepwellWorkersDying")
    return seen


def test_a_dead_leader_and_a_failing_workflow_are_told(troubled: dict[str, dict[str, Any]]) -> None:
    failing = troubled["StepwellWorkflowFailing"]
    assert (failing["labels"]["namespace"], failing["labels"]["workflow"]) == (monitored.NAMESPACE, "broken")
    assert "100% of the runs of growth/broken fail" in failing["annotations"]["summary"]
    assert not troubled.keys() & {"StepwellNoWorker", "StepwellDatabaseAway", "StepwellRedisAway", "StepwellNoGateway"}


@pytest.mark.usefixtures("troubled")
def test_every_query_of_dashboard_and_rules_finds_data(system: System, watching: Prometheus) -> None:
    if system.kube is None:
        expected = {where for where, query in queries().items() if any(name in query for name in IN_CLUSTER)}
    else:
        expected = set()
    found: set[str] = set()

    def empty() -> set[str]:
        asked = {where: query for where, query in queries().items() if where not in found}
        found.update(where for where, query in asked.items() if numbers(watching.query(query)))
        return queries().keys() - found

    with system.load(*NORMAL, "broken", "paused"):
        system.miss_ticks()
        skipped = fires(watching, "StepwellScheduleSkipped")["StepwellScheduleSkipped"]
        with contextlib.suppress(AssertionError):
            eventually_sync(lambda: empty() <= expected, SOON)
    assert skipped["labels"]["reason"] == "Missed"
    assert empty() == expected
    for name in NEVER:
        assert numbers(watching.query(name)) == [0.0], f"{name} is shown from the start"


@pytest.mark.usefixtures("troubled")
def test_the_picture_is_drawn(watching: Prometheus) -> None:
    command = [
        sys.executable,
        str(PICTURE),
        "--prometheus",
        watching.url,
        "--minutes",
        "0.5",
        "--rate",
        prometheus.WINDOW,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [panel["title"] for panel in panels() if f">{panel['title']}</text>" not in done.stdout] == []
    assert done.stdout.count("<polyline") > len(panels()), "lines in most panels"


@pytest.mark.usefixtures("troubled")
def test_services_that_are_away_are_told(system: System, watching: Prometheus) -> None:
    with system.load(*NORMAL):
        system.valkey.kill()
        seen = fires(watching, "StepwellRedisAway")
        assert "StepwellDatabaseAway" not in seen
        system.valkey.start()
        silent(watching, "StepwellRedisAway")
        system.postgres.kill()
        told = ["StepwellDatabaseAway", "StepwellWebhookErrors"]
        if system.kube is not None:
            told.append("StepwellWorkflowsNotSynced")
            system.touch(0)
        seen = fires(watching, *told)
        assert "StepwellNoWorker" not in seen
        system.postgres.start()
        silent(watching, *{*told} - {"StepwellWebhookErrors"})  # this one looks back


@pytest.mark.usefixtures("troubled")
def test_processes_that_are_away_are_told(system: System, watching: Prometheus) -> None:
    for process in system.processes.values():
        process.kill()
    awaited = ["StepwellNoWorker", "StepwellNoGateway"] + ["StepwellOperatorAway"] * (system.kube is not None)
    fires(watching, *awaited)
