"""The rules by promtool: each alert fires under its fault, after its time, and is silent just below."""

from __future__ import annotations

import copy
import re
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import prometheus
import pytest
import yaml

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(prometheus.program("promtool") is None, reason=prometheus.MISSING.format("promtool"))
W0, W1 = '{job="stepwell-worker", pod="w0"}', '{job="stepwell-worker", pod="w1"}'
HOOK = 'stepwell_webhook_requests_total{namespace="a", workflow="w", code="%s"}'
TRUSTED = {f"stepwell_heartbeat_trusted{W0}": "1x60", f"stepwell_heartbeat_trusted{W1}": "1x60"}

UP = {'up{job="other"}': "1x60"}
UP_LONG = {'up{job="other"}': "1x90"}


@dataclass(frozen=True)
class Case:
    """Series, a sample a minute, under which an alert fires at ``minute`` and not a minute before its `for` is over.

    ``below``: series just below its threshold; it never fires.
    """

    alert: str
    series: dict[str, str]
    below: dict[str, str]
    minute: int
    labels: dict[str, str] | None = None
    silent: int | None = None
    """A minute at which it is silent with ``series``; None: it fires at once."""


def runs(failed: str, succeeded: str) -> dict[str, str]:
    """Counters of a workflow."""
    return {
        'stepwell_runs_total{namespace="a", workflow="w", status="failed"}': failed,
        'stepwell_runs_total{namespace="a", workflow="w", status="succeeded"}': succeeded,
    }


def slots(busy: int, namespace_oldest: str) -> dict[str, str]:
    """One worker of 100 slots, and the age of the oldest run of namespace a, as two leaders show it for a while."""
    return {
        f"stepwell_slots{W0}": "100x60",
        f"stepwell_slots_busy{W0}": f"{busy}x60",
        'stepwell_queue_oldest_seconds{namespace="a", pod="w0"}': namespace_oldest,
        'stepwell_queue_oldest_seconds{namespace="a", pod="w1"}': "0x60",
    }


def flushes(slow: str) -> dict[str, str]:
    """A histogram of which 1,000 a minute are fast and ``slow`` over a second."""
    name = 'stepwell_journal_flush_seconds_bucket{pod="w0", le="%s"}'
    return {name % "1.0": "0+1000x60", name % "2.5": f"0+{slow}x60", name % "+Inf": f"0+{slow}x60"}


def skipped(reason: str, values: str) -> dict[str, str]:
    return {f'stepwell_schedule_skipped_total{{namespace="a", workflow="w", reason="{reason}"}}': values}


AW = {"namespace": "a", "workflow": "w"}
CASES = (
    Case("StepwellNoWorker", {f"up{W0}": "1x5 0x50"}, {f"up{W0}": "0x60", f"up{W1}": "1x60"}, 9, {}, 7),
    Case("StepwellNoWorker", {"stepwell_none": "1x60"}, {f"up{W1}": "1x60"}, 3, {}, 1),
    Case("StepwellNoGateway", {'up{job="stepwell-gateway"}': "1x5 0x50"}, {'up{job="stepwell-gateway"}': "1x60"}, 9,
         {}, 7),
    Case("StepwellOperatorAway", {'up{job="stepwell-operator"}': "1x5 0x50"}, {'up{job="stepwell-operator"}': "1x5 0x8 1x50"}, 17,
         {}, 14),
    Case("StepwellDatabaseAway", dict.fromkeys(TRUSTED, "1x5 0x50"), {f"stepwell_heartbeat_trusted{W0}": "0x60", f"stepwell_heartbeat_trusted{W1}": "1x60"}, 7,
         {}, 6),
    Case("StepwellHeartbeatUntrusted", {f"stepwell_heartbeat_trusted{W0}": "0x60", f"stepwell_heartbeat_trusted{W1}": "1x60"}, TRUSTED, 6, {}, 4),
    Case("StepwellHeartbeatUntrusted", {f"stepwell_heartbeat_trusted{W0}": "0x60", f"stepwell_heartbeat_trusted{W1}": "1x60"},
         dict.fromkeys(TRUSTED, "0x60"), 6, {}, 4),
    Case("StepwellNoLeader", TRUSTED | {f"stepwell_leader{W0}": "1x5 0x50", f"stepwell_leader{W1}": "0x60"},
         TRUSTED | {f"stepwell_leader{W0}": "1x5 0 0x50", f"stepwell_leader{W1}": "0x6 1x50"}, 8, {}, 6),
    Case("StepwellNoLeader", TRUSTED | {f"stepwell_leader{W0}": "0x60"},
         dict.fromkeys(TRUSTED, "0x60") | {f"stepwell_leader{W0}": "0x60"}, 2, {}, 0),
    Case("StepwellRedisAway", TRUSTED | {f"stepwell_redis_available{W0}": "0x60", f"stepwell_redis_available{W1}": "1x60"},
         dict.fromkeys(TRUSTED, "0x60") | {f"stepwell_redis_available{W0}": "0x60"}, 6, {}, 4),
    Case("StepwellSlotsBusy", slots(96, "0x60"), slots(95, "0x60"), 16, {}, 14),
    Case("StepwellRunsStuck", slots(89, "61x60"), slots(89, "60x60"), 4, {"namespace": "a"}, 2),
    Case("StepwellRunsStuck", slots(0, "61x60"), slots(90, "61x60"), 4, {"namespace": "a"}, 2),
    Case("StepwellQueueOld", slots(100, "301x60"), slots(100, "300x60"), 6, {"namespace": "a"}, 4),
    Case("StepwellJournalSlow", flushes("1011"), flushes("1009"), 16, {}, 9),
    Case("StepwellWorkersDying", {"stepwell_recoveries_total": "0x5 10x8 20x8 30x40"}, {"stepwell_recoveries_total": "0x5 500x54"}, 23, {}, 19),
    Case("StepwellPoisonPill", {"stepwell_poison_pills_total": "0x5 1x50"}, {"stepwell_poison_pills_total": "3x60"}, 7, {}, 5),
    Case("StepwellRunsStranded", {"stepwell_stranded_total": "0x5 1x50"}, {"stepwell_stranded_total": "2x60"}, 7, {}, 5),
    Case("StepwellPoisonPill", UP | {"stepwell_poison_pills_total": "_x20 1x40"}, UP | {"stepwell_poison_pills_total": "_x20 0x40"}, 22, {}, 19),
    Case("StepwellPoisonPill", {'stepwell_poison_pills_total{pod="w0"}': "0x29 1x30"}, {"stepwell_poison_pills_total": "_x9 1x50"}, 31, {}, 28),
    Case("StepwellRunsStranded", UP_LONG | {"stepwell_stranded_total": "_x70 1x20"}, UP_LONG | {"stepwell_stranded_total": "_x70 0x20"}, 72, {}, 69),
    Case("StepwellWorkflowFailing", runs("0+1x60", "0+2.9x60"), runs("0+1x60", "0+3.1x60"), 40, AW, 6),
    Case("StepwellWorkflowFailing", runs("0+1x60", "0x60"), runs("0+0.3x60", "0x60"), 40, AW, 8),
    Case("StepwellScheduleSkipped", UP | skipped("Missed", "_x20 1x40"), UP | skipped("Forbidden", "_x20 1+1x40"), 22, AW | {"reason": "Missed"}, 19),
    Case("StepwellScheduleSkipped", skipped("InvalidInput", "1x30 2x30"), skipped("Missed", "2x60"), 32, AW | {"reason": "InvalidInput"}, 29),
    Case("StepwellWebhookErrors", {HOOK % 503: "0+6x60", HOOK % 202: "0+100x60"}, {HOOK % 503: "0+5x60", HOOK % 202: "0+100x60"}, 10, {}, 5),
    Case("StepwellWebhookErrors", {HOOK % 500: "0+2x60"}, {HOOK % 500: "0+1x60"}, 10, {}, 5),
    Case("StepwellWebhookErrors", {HOOK % 503: "0+60x60", HOOK % 202: "0+100x60"},
         {HOOK % 503: "0+60x60", HOOK % 202: "0+100x60", 'stepwell_webhook_suspended_total{namespace="a", workflow="w"}': "0+60x60"}, 10, {}, 5),
    Case("StepwellWorkflowsNotSynced", {"stepwell_operator_unsynced": "1x60"},
         {"stepwell_operator_unsynced": "0x5 3x8 0x50", 'stepwell_operator_workflows{ready="False"}': "5x60"}, 11, {}, 9),
)  # fmt: skip


def promtool(directory: Path, command: str, file: str) -> subprocess.CompletedProcess[str]:
    program = prometheus.program("promtool")
    assert program is not None
    return subprocess.run([program, *command.split(), file], cwd=directory, capture_output=True, text=True, check=False)


def written(directory: Path, groups: list[dict[str, Any]]) -> Path:
    (directory / "rules.yaml").write_text(yaml.safe_dump({"groups": groups}), "utf-8")
    return directory


def bare() -> list[dict[str, Any]]:
    """The groups without annotations: promtool compares them with texts that would be repeated here."""
    groups = copy.deepcopy(prometheus.rule_groups())
    for group in groups:
        for rule in group["rules"]:
            rule.pop("annotations", None)
    return groups


def unit_tests(cases: tuple[Case, ...]) -> list[dict[str, Any]]:
    """As promtool reads them."""
    severity = {name: rule["labels"]["severity"] for name, rule in prometheus.alerts().items()}
    made = []
    for case in cases:
        fires = [{"exp_labels": {**(case.labels or {}), "severity": severity[case.alert]}}]
        looks = [{"eval_time": f"{case.minute}m", "alertname": case.alert, "exp_alerts": fires}]
        if case.silent is not None:
            looks.append({"eval_time": f"{case.silent}m", "alertname": case.alert, "exp_alerts": []})
        never = [{"eval_time": f"{minute}m", "alertname": case.alert, "exp_alerts": []} for minute in range(1, 60, 2)]
        for series, tests in ((case.series, looks), (case.below, never)):
            given = [{"series": name, "values": values} for name, values in series.items()]
            made.append({"interval": "1m", "input_series": given, "alert_rule_test": tests})
    return made


def judged(directory: Path, groups: list[dict[str, Any]], cases: tuple[Case, ...]) -> subprocess.CompletedProcess[str]:
    written(directory, groups)
    document = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": unit_tests(cases)}
    (directory / "tests.yaml").write_text(yaml.safe_dump(document), "utf-8")
    return promtool(directory, "test rules", "tests.yaml")


def test_promtool_finds_no_fault(tmp_path: Path) -> None:
    done = promtool(written(tmp_path, prometheus.rule_groups()), "check rules --lint-fatal", "rules.yaml")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    count = sum(len(group["rules"]) for group in prometheus.rule_groups())
    assert f"{count} rules found" in done.stdout


def test_every_alert_fires_at_its_fault_and_is_silent_below(tmp_path: Path) -> None:
    assert {case.alert for case in CASES} == prometheus.alerts().keys()
    done = judged(tmp_path, bare(), CASES)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "change", [(r"> 60 ", "> 62 "), (r"> 60 ", "> 59 "), (r"< 0\.9", "< 0.89"), (r"and on \(\) .*", "")]
)
def test_another_threshold_would_be_found(tmp_path: Path, change: tuple[str, str]) -> None:
    groups = bare()
    (rule,) = [rule for group in groups for rule in group["rules"] if rule.get("alert") == "StepwellRunsStuck"]
    rule["expr"] = re.sub(*change, rule["expr"])
    done = judged(tmp_path, groups, tuple(case for case in CASES if case.alert == "StepwellRunsStuck"))
    assert done.returncode == 1, done.stdout
