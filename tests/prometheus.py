"""A real Prometheus with the rules and targets of deploy/components/monitoring, as prometheus-operator would set it up.

Its minutes are seconds: every duration that Prometheus reads (windows, offsets, `for`, the intervals of scrapes) is a sixtieth.
Nothing else of a rule is changed; its thresholds are those that ship. An alert is active as soon as its expression holds, and
fires once it has held for its `for`.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import yaml
from http_servers import unused_port
from waiting import eventually_sync

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MONITORING = Path(__file__).parents[1] / "deploy" / "components" / "monitoring"
MISSING = "no {} (Debian's package prometheus has it)"
START = 60.0  #: seconds that it may take on a busy machine
HASTE = 60  #: by how much all durations are shorter
RATE = "5s"  #: what Grafana would take for `$__rate_interval`, shortened likewise
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
LOOK = 0.1  #: seconds between two looks at what it says


def program(name: str) -> str | None:
    """Where ``prometheus`` or ``promtool`` is."""
    return shutil.which(name)


def documents(name: str) -> list[dict[str, Any]]:
    """Those of one of the component's files."""
    return list(yaml.safe_load_all((MONITORING / name).read_text("utf-8")))


def rule_groups() -> list[dict[str, Any]]:
    """The groups of the PrometheusRule."""
    (found,) = documents("rules.yaml")
    return list(found["spec"]["groups"])


def alerts() -> dict[str, dict[str, Any]]:
    """The alerts by name."""
    return {rule["alert"]: rule for group in rule_groups() for rule in group["rules"] if "alert" in rule}


def hurried(text: str) -> str:
    """The same in less time: each duration in it, such as ``15m``, is shorter."""
    return re.sub(r"\b(\d+)([smh])\b", lambda found: f"{int(found[1]) * UNITS[found[2]] * 1000 / HASTE:.0f}ms", text)


def hurried_groups() -> list[dict[str, Any]]:
    """The rules in less time."""
    return [
        {
            "name": group["name"],
            "rules": [
                {key: hurried(value) if key in {"expr", "for"} else value for key, value in rule.items()}
                for rule in group["rules"]
            ],
        }
        for group in rule_groups()
    ]


def scrape_configs(pods: Mapping[str, Mapping[str, int]]) -> list[dict[str, Any]]:
    """What prometheus-operator makes of the PodMonitors, for pods (name: port) of each component."""
    made = []
    for monitor in documents("podmonitors.yaml"):
        name, component = monitor["metadata"]["name"], monitor["metadata"]["labels"]["app.kubernetes.io/component"]
        (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
        common = {
            "job": f"stepwell-system/{name}",
            "namespace": "stepwell-system",
            "container": component,
            "endpoint": endpoint["port"],
        }
        made.append(
            {
                "job_name": f"podMonitor/stepwell-system/{name}/0",
                "scrape_interval": hurried(endpoint["interval"]),
                "honor_labels": endpoint["honorLabels"],
                "relabel_configs": [
                    {re.sub("[A-Z]", lambda found: f"_{found[0].lower()}", key): value for key, value in each.items()}
                    for each in endpoint["relabelings"]
                ],
                "static_configs": [
                    {"targets": [f"127.0.0.1:{port}"], "labels": common | {"pod": pod}}
                    for pod, port in pods.get(component, {}).items()
                ],
            }
        )
    return made


@dataclass(frozen=True)
class Prometheus:
    """A running one."""

    url: str
    client: httpx.Client
    process: subprocess.Popen[bytes]
    directory: Path

    def watches(self, targets: int) -> None:
        """Wait until it scrapes so many."""
        eventually_sync(self._ready, START, pause=LOOK)
        eventually_sync(lambda: len(self.query("up == 1")) == targets, START, pause=LOOK)

    def _ready(self) -> bool:
        assert self.process.poll() is None, (self.directory / "prometheus.log").read_text()
        with contextlib.suppress(httpx.TransportError):
            return self.client.get(f"{self.url}/-/ready").status_code == 200
        return False

    def get(self, path: str, **parameters: str) -> Any:
        """``data`` of an answer of its API."""
        answer = self.client.get(f"{self.url}/api/v1/{path}", params=parameters)
        assert answer.status_code == 200, f"{parameters}: {answer.text}"
        return answer.json()["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The samples of an instant query."""
        return list(self.get("query", query=expression)["result"])

    def active(self) -> dict[str, list[dict[str, Any]]]:
        """The alerts by name whose expression holds."""
        found: dict[str, list[dict[str, Any]]] = {}
        for alert in self.get("alerts")["alerts"]:
            found.setdefault(alert["labels"]["alertname"], []).append(alert)
        return found

    def rules(self) -> list[dict[str, Any]]:
        """All rules, with their health."""
        return [rule for group in self.get("rules")["groups"] for rule in group["rules"]]


@contextlib.contextmanager
def prometheus(directory: Path, pods: Mapping[str, Mapping[str, int]]) -> Iterator[Prometheus]:
    """Scrapes ``pods`` and evaluates the hurried rules. It has been started; `Prometheus.watches` waits for it."""
    binary = program("prometheus")
    assert binary is not None
    (directory / "rules.yaml").write_text(yaml.safe_dump({"groups": hurried_groups()}), "utf-8")
    config = {
        "global": {"scrape_timeout": "250ms", "evaluation_interval": hurried("15s")},
        "rule_files": [str(directory / "rules.yaml")],
        "scrape_configs": scrape_configs(pods),
    }
    (directory / "prometheus.yaml").write_text(yaml.safe_dump(config), "utf-8")
    address = f"127.0.0.1:{unused_port()}"
    command = [
        *(binary, f"--config.file={directory / 'prometheus.yaml'}", f"--storage.tsdb.path={directory / 'data'}"),
        *(f"--web.listen-address={address}", "--log.level=warn"),
    ]
    with (directory / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=directory)
    try:
        with httpx.Client(timeout=30) as client:
            yield Prometheus(f"http://{address}", client, process, directory)
    finally:
        process.kill()
        process.wait()
