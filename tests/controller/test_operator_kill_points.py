"""An operator that is killed between any two of its acts: the next one makes up for it, and nothing is lost or doubled.

Every victim starts upon what the one before it left behind, and finds one more change of the cluster to carry out.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, LiteralString

import operating
import psycopg
import pytest
from kube_api import GROUP, condition
from operator_victims import Victims
from waiting import eventually_sync

if TYPE_CHECKING:
    from collections.abc import Callable

    from kube_api import Api

    from stepwell.settings import Settings

SPEC = {"steps": [{"name": "pick", "transform": {"value": "{{ input }}"}}]}


class Drill:
    """The cluster as people change it while no operator is there. Nobody executes: a run that was accepted stays queued."""

    def __init__(self, api: Api, settings: Settings, logs: Path) -> None:
        self.api = api
        self.settings = settings
        self.logs = logs
        self.workflows: list[str] = []
        self.started: list[str] = []
        self.cancelled: list[str] = []
        self.gone: list[str] = []

    def workflow(self, name: str, **annotations: str) -> None:
        self.api.create(name, SPEC, **annotations)
        self.workflows.append(name)

    def run(self, name: str, workflow: str = "kept", **spec: Any) -> None:
        body = {
            "apiVersion": "stepwell.dev/v1alpha1",
            "kind": "WorkflowRun",
            "metadata": {"name": name},
            "spec": {"workflowRef": {"name": workflow}, "input": {"is": name}, **spec},
        }
        self.api.call("POST", self.path(), body)
        self.started.append(name)

    def unwanted(self, name: str) -> None:
        """Delete a WorkflowRun."""
        self.api.call("DELETE", self.path(name))
        self.cancelled.append(name)

    def delete(self, name: str) -> None:
        """Delete a Workflow."""
        self.api.delete(name)
        self.workflows.remove(name)
        self.gone.append(name)

    def short_lived(self, name: str) -> None:
        """Cancel a WorkflowRun whose object goes a moment after its run."""
        patch = {"spec": {"cancel": True, "ttlAfterFinished": "1ms"}}
        self.api.call("PATCH", self.path(name), patch, {"Content-Type": "application/merge-patch+json"})
        self.cancelled.append(name)

    def path(self, name: str = "") -> str:
        return f"{GROUP}/namespaces/default/workflowruns" + (f"/{name}" if name else "")

    def objects(self) -> dict[str, Any]:
        return {item["metadata"]["name"]: item for item in self.api.call("GET", self.path())["items"] or []}

    def rows(self, query: LiteralString, *params: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.settings.database_url or "", autocommit=True) as connection:
            return connection.execute(query, params).fetchall()

    def victims(self) -> Victims:
        environment = {
            "DATABASE_URL": self.settings.database_url or "",
            "REDIS_URL": self.settings.redis_url or "",
            "STEPWELL_REDIS_PREFIX": self.settings.redis_prefix,
            "KUBECONFIG": str(self.api.kubeconfig),
            "STEPWELL_METRICS_PORT": "0",
            "STEPWELL_ADMISSION_PORT": "0",
        }
        return Victims(environment, self.logs / "victims.log")


POINTS: dict[str, Callable[[Drill], None]] = {
    "operator_before_sync": lambda drill: drill.workflow("new-1"),
    "operator_after_sync": lambda drill: drill.workflow("new-2"),
    "operator_before_status": lambda drill: drill.workflow("new-3"),
    "operator_after_status": lambda drill: drill.workflow("new-4"),
    "operator_after_withdraw": lambda drill: drill.delete("goes"),
    "operator_after_cancel": lambda drill: drill.delete("cancels"),
    "run_object_after_commit": lambda drill: drill.run("run-1"),
    "run_object_before_status": lambda drill: drill.run("run-2"),
    "run_object_after_status": lambda drill: drill.run("run-3"),
    "run_object_after_cancel": lambda drill: drill.unwanted("unwanted"),
    "run_object_before_deletion": lambda drill: drill.short_lived("short-lived"),
}
"""Every named point of the operator, with the change of the cluster that leads to it."""


@pytest.fixture
def drill(api: Api, database: str, valkey_server: str, tmp_path: Path) -> Drill:
    return Drill(api, operating.settings_for(database, valkey_server, "kill-points"), tmp_path)


def test_a_kill_at_every_point_loses_and_doubles_nothing(drill: Drill) -> None:
    for name in ("kept", "goes"):
        drill.workflow(name)
    drill.workflow("cancels", on_delete="Cancel")
    drill.run("of-goes", "goes")
    drill.run("of-cancels", "cancels")
    for name in ("unwanted", "short-lived"):
        drill.run(name)
    with operating.operator(drill.api, drill.settings):  # type: ignore[arg-type]
        eventually_sync(lambda: all_shown(drill) and drill.rows(RUNS) == [(len(drill.started),)], 30)
    with drill.victims() as victims:
        for point, change in POINTS.items():
            change(drill)
            victims.die(point)
    with operating.operator(drill.api, drill.settings):  # type: ignore[arg-type]
        eventually_sync(lambda: all_shown(drill), 30)
        drill.cancelled.append("of-cancels")
        eventually_sync(lambda: dict(drill.rows(STATES)) == expected(drill), 30)
        eventually_sync(lambda: drill.rows("SELECT count(*) FROM workflow_cancels") == [(0,)])
        eventually_sync(lambda: "short-lived" not in drill.objects(), 30)
    assert drill.rows(RUNS) == [(len(drill.started),)], "one run an object, whoever started it"
    assert drill.rows(STANDING) == [(name,) for name in sorted(drill.workflows)]
    assert drill.rows("SELECT count(*), count(DISTINCT (workflow_id, hash)) FROM workflow_revisions") == [
        (len(drill.workflows) + len(drill.gone),) * 2
    ]


RUNS: LiteralString = "SELECT count(*) FROM runs"  # an object that waits for its Workflow shows something, too
STATES: LiteralString = "SELECT input_data ->> 'is', status FROM runs"
STANDING: LiteralString = "SELECT name FROM workflows WHERE deleted_at IS NULL ORDER BY name"


def expected(drill: Drill) -> dict[str, str]:
    """What is to become of each run, by the object that started it."""
    return {name: "cancelled" if name in drill.cancelled else "queued" for name in drill.started}


def all_shown(drill: Drill) -> bool:
    """Whether every object that stands says what it has to."""
    objects = drill.objects()
    runs = [objects[name] for name in drill.started if name in objects]
    workflows = [drill.api.ready(name) for name in drill.workflows]
    shown = [condition(each.get("status") or {}, "Succeeded") for each in runs]
    return all(ready == ("True", "Synced") for ready in workflows) and all(shown)


def test_every_point_is_in_the_list() -> None:
    room = Path(__file__).parents[2] / "operator"
    named = {point for file in room.rglob("*.py") for point in re.findall(r'crashpoint\("(\w+)"\)', file.read_text())}
    assert named == POINTS.keys()
