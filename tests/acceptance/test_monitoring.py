"""A real Prometheus watches a worker, a gateway and an operator: every query finds data, alerts fire under faults only.

Its rules and targets are those of deploy/components/monitoring, with seconds for minutes (see `prometheus`). Each alert is
brought about by the fault that it is for. Where there is no API server, the operator's metrics are fed by hand.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import shlex
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import monitored
import monitored_faults as faults
import prometheus
import pytest
import runbooks
from commands import within
from waiting import eventually_sync
from watched_workflows import NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from monitored import System
    from prometheus import Prometheus

pytestmark = pytest.mark.skipif(
    prometheus.program("prometheus") is None, reason=prometheus.MISSING.format("prometheus")
)
DASHBOARD = json.loads((prometheus.MONITORING / "dashboard.json").read_text("utf-8"))
PICTURE = prometheus.MONITORING.parents[2] / "tools" / "dashboard_picture.py"
SOON = 40.0  #: seconds that an alert may take on a busy machine
LOOK = prometheus.LOOK
NORMAL = ("welcome", "orders", "slow")
SLOTS = 4  #: of each worker, once they are to be filled
#: Workers that end, as by a defect, in the first effect that they begin; their deaths are noticed soon.
MORTAL = {
    "STEPWELL_CRASH_AT": "before_effect=raise",
    "STEPWELL_HEARTBEAT": "200ms",
    "STEPWELL_TRUST_WINDOW": "700ms",
    "STEPWELL_DEATH_SILENCE": "1s",
}
#: Queries that find nothing where there is no API server, as the gateway calls none.
IN_CLUSTER = ("stepwell_kube_requests_total",)
#: What this alert's search finds is a defect of Stepwell.
UNSEEN = {"StepwellWebhookErrors"}
#: Alerts that a real operator is needed for.
OF_OPERATOR = {"StepwellOperatorAway", "StepwellWorkflowsNotSynced"}


@pytest.fixture(scope="module")
def ports() -> Iterator[dict[str, dict[str, int]]]:
    with monitored.ports() as made:
        yield made


@pytest.fixture(scope="module")
def watcher(ports: dict[str, dict[str, int]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Begins before there is anything to see."""
    with prometheus.prometheus(tmp_path_factory.mktemp("prometheus"), ports) as made:
        yield made


@pytest.fixture(scope="module")
def system(
    watcher: Prometheus, ports: dict[str, dict[str, int]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[System]:
    with monitored.system(tmp_path_factory.mktemp("system"), ports) as made:
        watcher.watches(sum(len(ports[component]) for component in monitored.PODS))
        yield made


@pytest.fixture(scope="module")
def watching(watcher: Prometheus, system: System) -> Prometheus:
    """Once it has seen every target."""
    assert system.workers()
    return watcher


@pytest.fixture(scope="module")
def told() -> dict[str, dict[str, Any]]:
    """What each alert said when it was first seen under its fault."""
    return {}


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def queries() -> dict[str, str]:
    """All queries of the dashboard and of the rules' records and alerts, as Prometheus reads them, by where they stand."""
    found = {}
    for panel in panels():
        for target in panel["targets"]:
            expression = target["expr"].replace("$__rate_interval", prometheus.RATE)
            found[f"{panel['title']} {target['refId']}"] = re.sub(r"\$(namespace|workflow)", ".*", expression)
    for group in prometheus.rule_groups():
        found.update({each["record"]: prometheus.hurried(each["expr"]) for each in group["rules"] if "record" in each})
    return found


def numbers(samples: list[dict[str, Any]]) -> list[float]:
    values = [float(each["value"][1]) for each in samples]
    return [value for value in values if math.isfinite(value)]


def told_of(
    watching: Prometheus, *names: str, never: tuple[str, ...] = (), meanwhile: Callable[[], object] = bool
) -> dict[str, dict[str, Any]]:
    """Wait until these alerts were active, each at its own time; what they said at first sight. None of ``never`` fires."""
    seen: dict[str, dict[str, Any]] = {}
    fired: set[str] = set()

    def missing() -> set[str]:
        meanwhile()
        for name, found in watching.active().items():
            seen.setdefault(name, found[0])
            fired.update(name for each in found if each["state"] == "firing")
        return set(names) - seen.keys()

    with contextlib.suppress(AssertionError):
        eventually_sync(lambda: not missing(), SOON, pause=LOOK)
    assert not missing(), f"what was active: {sorted(seen)}"
    assert not fired & set(never)
    for name, alert in seen.items():
        assert alert["annotations"]["runbook_url"] == f"docs/runbooks.md#{name.lower()}"
        texts = " ".join(alert["annotations"].values())
        assert not re.search(r"<|\{\{|%!", texts), f"a text that was not rendered: {alert}"
    return {name: seen[name] for name in names}


def silent(watching: Prometheus, *names: str) -> None:
    """Wait until none of these is active any more."""
    eventually_sync(lambda: not set(names) & watching.active().keys(), SOON, pause=LOOK)


def test_no_alert_fires_under_normal_load(system: System, watching: Prometheus) -> None:
    began = time.time()
    with system.load(*NORMAL, pause=0.02):
        eventually_sync(
            lambda: all(
                numbers(watching.query(f'rate(stepwell_runs_total{{workflow="{name}"}}[5s]) > 0')) for name in NORMAL
            ),
            SOON,
            pause=LOOK,
        )
        eventually_sync(lambda: sum(numbers(watching.query("sum(stepwell_runs_total)"))) > 60, SOON, pause=LOOK)
        assert watching.query("max_over_time(stepwell_slots_busy[5s]) > 0"), "something is to be done"
    seconds = math.floor(time.time() - began)
    assert {rule["health"] for rule in watching.rules()} == {"ok"}
    fired = watching.query(f'max_over_time(ALERTS{{alertstate="firing"}}[{seconds}s])')
    assert [each["metric"] for each in fired] == []


@pytest.fixture(scope="module")
def troubled(system: System, watching: Prometheus, told: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """All workers are killed with a run in flight, which kills five more, one after another, as a defect in a step would."""
    system.receiver.open.clear()
    assert system.post("poison")
    eventually_sync(lambda: system.receiver.holding == 1 == faults.running(system), SOON, pause=LOOK)
    for worker in system.workers():
        worker.kill()
    newer = system.post("welcome", 1)
    assert newer
    faults.give_newer_revision(system, newer)
    assert faults.age_queue(system, "newer", 2) == 1
    told |= told_of(watching, "StepwellNoWorker")
    with system.load("broken"):
        system.start_workers(**MORTAL)
        eventually_sync(system.leader, SOON, pause=LOOK)
        silent(watching, "StepwellNoWorker")
        told |= told_of(
            watching,
            *("StepwellRunsStuck", "StepwellWorkflowFailing", "StepwellWorkersDying", "StepwellPoisonPill"),
            never=("StepwellRedisAway", "StepwellQueueOld", "StepwellSlotsBusy"),
            meanwhile=lambda: system.start_workers(**MORTAL),
        )
    system.receiver.open.set()
    return told


def test_workers_that_die_and_what_they_leave_are_told(system: System, troubled: dict[str, dict[str, Any]]) -> None:
    failing, stuck = troubled["StepwellWorkflowFailing"], troubled["StepwellRunsStuck"]
    assert (failing["labels"]["namespace"], failing["labels"]["workflow"]) == (NAMESPACE, "broken")
    assert "100% of the runs of growth/broken fail" in failing["annotations"]["summary"]
    assert stuck["labels"]["namespace"] == NAMESPACE
    ended = faults.rows(
        system, "SELECT error ->> 'reason' FROM runs WHERE status = 'failed' AND error ->> 'reason' <> 'Failed'"
    )
    assert ended == [("PoisonPill",)]


@pytest.fixture(scope="module")
def cable(system: System, troubled: dict[str, dict[str, Any]]) -> Iterator[faults.Cable]:
    """New workers, one of which reaches PostgreSQL through a cable of its own."""
    assert troubled
    for worker in system.workers():
        worker.kill()
    with faults.cable(system.postgres) as made:
        system.start("worker-1", **monitored.HURRY, DATABASE_URL=made.dsn, STEPWELL_SLOTS=str(SLOTS))
        system.start_workers(STEPWELL_SLOTS=str(SLOTS))
        system.ready()
        yield made


@pytest.mark.usefixtures("cable")
def test_full_slots_and_what_is_late_are_told(
    system: System, watching: Prometheus, told: dict[str, dict[str, Any]]
) -> None:
    resting = system.post("resting")
    assert resting
    eventually_sync(lambda: faults.lose_timer(system, resting), SOON, pause=LOOK)
    faults.miss_ticks(system, "skipping")
    system.receiver.open.clear()
    for _ in range(3 * SLOTS):
        system.post("held")
    eventually_sync(lambda: system.receiver.holding == 2 * SLOTS, SOON, pause=LOOK)
    assert faults.age_queue(system, "held", 6) == SLOTS
    told |= told_of(watching, *("StepwellSlotsBusy", "StepwellQueueOld", "StepwellRunsStranded"))
    for alert, count in (("StepwellSlotsBusy", 2 * SLOTS), ("StepwellQueueOld", SLOTS)):
        (statement,) = runbooks.commands(alert, "sql")
        assert (NAMESPACE, "held", count) in [row[:3] for row in faults.rows(system, statement)]
    silent(watching, "StepwellRunsStuck")
    system.receiver.open.set()
    silent(watching, "StepwellSlotsBusy", "StepwellQueueOld")
    told_of(watching, "StepwellRunsStuck")


def test_what_keeps_some_from_their_services_is_told(
    system: System, watching: Prometheus, cable: faults.Cable, told: dict[str, dict[str, Any]]
) -> None:
    with faults.forgotten_transaction(system):
        began = time.monotonic()
        for number in range(1, 5):
            system.post("welcome", number)
        cable.cut()
        system.valkey.kill()
        told |= told_of(
            watching,
            *("StepwellNoLeader", "StepwellRedisAway", "StepwellHeartbeatUntrusted"),
            never=("StepwellDatabaseAway", "StepwellNoWorker"),
        )
        untrusted = watching.query(*runbooks.commands("StepwellHeartbeatUntrusted", "promql"))
        assert "worker-1" in {each["metric"]["pod"] for each in untrusted}
        eventually_sync(lambda: time.monotonic() > began + 1.5, SOON)
        terminate_what_blocks(system)
    cable.mend()
    system.valkey.start()
    told |= told_of(watching, "StepwellJournalSlow", "StepwellScheduleSkipped")
    assert told["StepwellScheduleSkipped"]["labels"]["reason"] == "Missed", "the ticks that were missed a moment ago"
    silent(watching, "StepwellNoLeader", "StepwellRedisAway", "StepwellHeartbeatUntrusted")


def terminate_what_blocks(system: System) -> None:
    """As the runbooks say."""
    look, end = (runbooks.commands("StepwellNoLeader", "sql")[i] for i in (2, -1))
    (blocker,) = faults.rows(system, look)
    assert blocker[3] == "idle in transaction"
    slow = {row[0] for row in faults.rows(system, runbooks.commands("StepwellJournalSlow", "sql")[0])}
    assert blocker[0] in slow
    assert faults.rows(system, runbooks.filled(end, pid=str(blocker[0]))) == [(True,)]


@pytest.mark.usefixtures("cable")
def test_a_database_that_is_away_is_told(system: System, watching: Prometheus, told: dict[str, dict[str, Any]]) -> None:
    awaited = ["StepwellDatabaseAway", "StepwellWebhookErrors"]
    with system.load(*NORMAL):
        system.postgres.kill()
        if system.kube is not None:
            awaited.append("StepwellWorkflowsNotSynced")
            system.touch(0)
        told |= told_of(watching, *awaited, never=("StepwellNoWorker", "StepwellNoLeader"))
        system.postgres.start()
        silent(watching, *{*awaited} - {"StepwellWebhookErrors"})  # this one looks back


@pytest.mark.usefixtures("cable")
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
        faults.miss_ticks(system, "skipping", "yearly")
        with contextlib.suppress(AssertionError):
            eventually_sync(lambda: empty() <= expected, SOON, pause=LOOK)
    assert empty() == expected


@pytest.mark.usefixtures("cable")
def test_the_picture_is_drawn(watching: Prometheus) -> None:
    command = [
        sys.executable,
        str(PICTURE),
        "--prometheus",
        watching.url,
        "--minutes",
        "0.5",
        "--rate",
        prometheus.RATE,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [panel["title"] for panel in panels() if f">{panel['title']}</text>" not in done.stdout] == []
    assert done.stdout.count("<polyline") > len(panels()), "lines in most panels"


@pytest.mark.usefixtures("cable")
def test_what_the_runbooks_ask_is_answered(system: System, watching: Prometheus) -> None:
    for alert, component, search in runbooks.searches():
        logs = sorted(system.directory.glob(f"{component}-*.log"))
        if alert not in UNSEEN and (logs or system.kube is not None):
            assert runbooks.found(search, logs), f"{alert}: {search}"
    empty = set()
    for alert in runbooks.sections():
        for statement in runbooks.commands(alert, "sql"):
            if "pg_terminate_backend" not in statement:
                rows = faults.rows(system, runbooks.filled(statement, namespace=NAMESPACE, workflow="nightly"))
                empty |= set() if rows else {alert}
        for query in runbooks.commands(alert, "promql"):
            watching.query(query)
    now_over = {"StepwellNoLeader", "StepwellQueueOld", "StepwellSlotsBusy", "StepwellJournalSlow"}
    assert empty <= now_over, "what was to be seen under the fault"


@pytest.mark.usefixtures("cable")
def test_what_the_runbooks_do_works(system: System, watching: Prometheus) -> None:
    if system.kube is None:
        pytest.skip("the API and kubectl need an API server")
    (stuck,) = faults.rows(system, runbooks.commands("StepwellRunsStuck", "sql")[0])
    (failed,) = faults.rows(system, "SELECT id FROM runs WHERE error ->> 'reason' = 'Failed' LIMIT 1")
    done = set()
    for alert in prometheus.alerts():
        run = str((stuck if alert == "StepwellRunsStuck" else failed)[0])
        for command in runbooks.commands(alert, "sh"):
            text = runbooks.filled(command, run=run, namespace=NAMESPACE, workflow="broken", pod="worker-0")
            if text not in done:
                tried(system, text)
                done.add(text)
    silent(watching, "StepwellRunsStuck")


def tried(system: System, command: str) -> None:
    """Where it is about what is here: the API and Workflows. Pods, and what is done to them, are not."""
    assert system.kube is not None
    words = shlex.split(command.partition(" | ")[0])
    env = {
        "STEPWELL_SERVER": f"http://127.0.0.1:{system.gateway_port}",
        "STEPWELL_TOKEN": system.kube.token("admin"),
    }
    if words[0] == "stepwell":  # what kubectl changed is known a moment later
        eventually_sync(lambda: within(*words[1:], env=env).returncode == 0, SOON, pause=LOOK)
    elif words[0] == "kubectl":
        system.kube.kubectl(*words[1:])


@pytest.mark.usefixtures("cable")
def test_every_alert_was_told_under_its_fault(
    system: System, watching: Prometheus, told: dict[str, dict[str, Any]]
) -> None:
    for process in system.processes.values():
        process.kill()
    there = OF_OPERATOR if system.kube is not None else set()
    told |= told_of(watching, "StepwellNoWorker", "StepwellNoGateway", *there & {"StepwellOperatorAway"})
    assert told.keys() >= prometheus.alerts().keys() - OF_OPERATOR | there
