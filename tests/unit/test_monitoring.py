"""The monitoring component as files: alerts with runbooks, panels that say what they show, and targets that exist."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import manifests
import prometheus
import pytest
import runbooks
import yaml
from manifests import DEPLOY, ROOT, kustomize, of, parsed, pods, rendered

from stepwell.metrics import names
from stepwell.metrics.instruments import Description

if TYPE_CHECKING:
    from pathlib import Path

DASHBOARD = json.loads((prometheus.MONITORING / "dashboard.json").read_text("utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
UNITS = {"short", "s", "ops", "reqps", "bytes", "percentunit"}
METRIC = re.compile(r"\bstepwell_[a-z0-9_]+")
RECORD = re.compile(r"\w+(:\w+)+")
needs_kubectl = pytest.mark.skipif(
    manifests.kubectl() is None, reason="no kubectl, whose kustomize renders the manifests"
)


def expressions() -> list[str]:
    """All queries of dashboard and rules, without the names of records, which have a colon."""
    rules = [rule["expr"] for group in prometheus.rule_groups() for rule in group["rules"]]
    variables = [each["query"]["query"] for each in DASHBOARD["templating"]["list"] if each["type"] == "query"]
    asked = [query for alert in runbooks.sections() for query in runbooks.commands(alert, "promql")]
    found = asked + rules + variables + [target["expr"] for panel in PANELS for target in panel["targets"]]
    return [RECORD.sub("recorded", text) for text in found]


@pytest.mark.parametrize("alert", prometheus.alerts())
def test_every_alert_says_what_to_do(alert: str) -> None:
    rule = prometheus.alerts()[alert]
    assert rule["labels"].keys() == {"severity"}
    severity = rule["labels"]["severity"]
    assert severity in {"critical", "warning"}
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"docs/runbooks.md#{alert.lower()}"
    runbook = runbooks.sections()[alert]
    assert f"`{severity}`" in runbook
    for word in ("**Users feel:**", "**Look at:**", "**Do:**"):
        assert word in runbook, word
    if "for" in rule:
        assert f"after {rule['for'].replace('m', ' min')}" in runbook or "again and again" in runbook


def test_every_runbook_has_its_alert() -> None:
    assert runbooks.sections().keys() == prometheus.alerts().keys()


def test_links_between_runbooks_lead_somewhere() -> None:
    linked = set(re.findall(r"\]\(#(\w+)\)", runbooks.PAGE))
    assert linked <= {name.lower() for name in runbooks.sections()}


@needs_kubectl
@pytest.mark.parametrize("alert", prometheus.alerts())
def test_every_runbook_has_commands_for_what_exists(alert: str) -> None:
    lines = runbooks.commands(alert, "sh")
    assert lines or runbooks.commands(alert, "sql")
    workloads = pods(rendered("base"))
    labels = {template["metadata"]["labels"]["app.kubernetes.io/component"] for template in workloads.values()}
    for line in lines:
        assert re.match(r"k |kubectl |stepwell ", line), line
        assert set(re.findall(r"deployment/([\w-]+)", line)) <= workloads.keys()
        assert set(re.findall(r"app\.kubernetes\.io/component=(\w+)", line)) <= labels
        if " -l " in line and " logs " in line:
            assert "--tail=" in line, "or ten lines of each pod are all that is seen"


def test_what_runbooks_look_for_in_logs_is_logged() -> None:
    roots = [ROOT / name for name in ("core", "operator", "gateway", "worker")]
    source = "".join(file.read_text("utf-8") for root in roots for file in root.rglob("*.py"))
    for _, _, search in runbooks.searches():
        found = re.search(r"grep (?:-E )?'([^']+)'", search)
        assert found, search
        for words in found[1].split("|"):
            assert words in source, words


def test_every_metric_asked_for_exists() -> None:
    known = {found.name for found in vars(names).values() if isinstance(found, Description)}
    known |= {f"{name}_{part}" for name in known for part in ("bucket", "sum", "count")}
    asked = {name for text in expressions() for name in METRIC.findall(text)}
    assert asked - known == set()
    assert len(asked) >= 30


def test_gauges_of_the_leader_are_never_summed_over_workers() -> None:
    for text in expressions():
        for name in ("stepwell_queue_depth", "stepwell_queue_oldest_seconds", "stepwell_leader"):
            for found in re.finditer(name, text):
                assert re.search(r"max (by \([a-z, ]+\) )?\($|max\($", text[: found.start()]), text


def test_every_panel_says_what_it_shows() -> None:
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    for panel in PANELS:
        assert len(panel["description"]) > 10, panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS, panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        for target in panel["targets"]:
            assert target["legendFormat"], panel["title"]
            assert not re.search(r"\[\d", target["expr"]), "windows follow the time that is shown"


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        grid = panel["gridPos"]
        cells = {
            (x, y) for x in range(grid["x"], grid["x"] + grid["w"]) for y in range(grid["y"], grid["y"] + grid["h"])
        }
        assert not cells & taken, panel["title"]
        assert grid["x"] + grid["w"] <= 24
        taken |= cells


def test_the_variables_narrow_every_query_that_can_be_narrowed() -> None:
    for panel in PANELS:
        for target in panel["targets"]:
            for name in ("stepwell_runs_total", "stepwell_steps_total", "stepwell_webhook_requests_total"):
                found = re.findall(name + r"\{([^}]*)\}", target["expr"])
                assert len(found) == target["expr"].count(name), target["expr"]
                assert all('namespace=~"$namespace", workflow=~"$workflow"' in each for each in found)


def overlaid(directory: Path, target: str, **more: Any) -> list[dict[str, Any]]:
    """What an overlay with the component renders."""
    relative = os.path.relpath(DEPLOY, directory.resolve())
    overlay = {"resources": [f"{relative}/{target}"], "components": [f"{relative}/components/monitoring"], **more}
    (directory / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    done = kustomize(directory)
    assert (done.returncode, done.stderr) == (0, "")
    return parsed(done.stdout)


def links(documents: list[dict[str, Any]]) -> dict[str, str]:
    """The runbook of each alert."""
    groups = of(documents, "PrometheusRule")["stepwell"]["spec"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    return {rule["alert"]: rule["annotations"]["runbook_url"] for rule in rules if "alert" in rule}


@needs_kubectl
def test_an_overlay_says_where_the_runbooks_are(tmp_path: Path) -> None:
    page = "https://git.example.com/stepwell/blob/v0.1.0/docs/runbooks.md"
    kept = {"name": "stepwell-monitoring", "behavior": "merge", "literals": [f"runbooks={page}"]}
    documents = overlaid(tmp_path, "overlays/production", configMapGenerator=[kept])
    assert links(documents) == {name: f"{page}#{name.lower()}" for name in prometheus.alerts()}
    assert "stepwell-monitoring" not in of(documents, "ConfigMap")
    told = (prometheus.MONITORING / "kustomization.yaml").read_text("utf-8")
    assert f"literals: [runbooks={page}]" in told, "as it is explained"
    assert f"literals: [runbooks={page}]" in runbooks.PAGE


@needs_kubectl
@pytest.mark.parametrize("target", ["base", "overlays/kind", "overlays/production"])
def test_it_fits_the_manifests(tmp_path: Path, target: str) -> None:
    documents = overlaid(tmp_path, target)
    assert links(documents) == {name: f"docs/runbooks.md#{name.lower()}" for name in prometheus.alerts()}
    (dashboard,) = [each for name, each in of(documents, "ConfigMap").items() if name == "stepwell-dashboard"]
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(dashboard["data"]["stepwell.json"]) == DASHBOARD
    monitors = of(documents, "PodMonitor")
    assert monitors.keys() == {"stepwell-worker", "stepwell-gateway", "stepwell-operator"}
    for name, monitor in monitors.items():
        _scrapes(monitor, pods(documents)[name])
    assert {each["metadata"]["namespace"] for each in [*monitors.values(), dashboard]} == {"stepwell-system"}
    others = [each for each in documents if each["kind"] not in {"PodMonitor", "PrometheusRule"} and each != dashboard]
    assert others == rendered(target), "it changes nothing else"


def _scrapes(monitor: dict[str, Any], template: dict[str, Any]) -> None:
    wanted = monitor["spec"]["selector"]["matchLabels"]
    assert wanted.items() <= template["metadata"]["labels"].items()
    ports = {port["name"]: port["containerPort"] for each in template["spec"]["containers"] for port in each["ports"]}
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert ports[endpoint["port"]] == 9090
    assert endpoint["honorLabels"] is True
    assert endpoint["relabelings"] == [{"targetLabel": "job", "replacement": monitor["metadata"]["name"]}]


def test_every_job_asked_for_is_one_of_a_pod_monitor() -> None:
    jobs = {monitor["metadata"]["name"] for monitor in prometheus.documents("podmonitors.yaml")}
    asked = {name for text in expressions() for name in re.findall(r'job="([^"]+)"', text)}
    assert asked == jobs


def test_the_picture_shows_a_prometheus_that_is_not_there_as_an_error() -> None:
    command = [sys.executable, str(ROOT / "tools" / "dashboard_picture.py"), "--prometheus", "http://127.0.0.1:1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert done.stdout == ""
