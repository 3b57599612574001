"""WorkflowRuns against a real API server, an operator and a worker, used as people do: with kubectl."""

from __future__ import annotations

import itertools
import json
import re
import threading
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, LiteralString

import kube_api
import lending
import operating
import psycopg
import pytest
from kopf._cogs.clients import watching
from kubernetes.aio import client, config
from waiting import eventually_sync

from stepwell_operator import relists
from stepwell_operator.runs import acts
from stepwell_operator.runs.cluster import GoneError, KubeCluster
from stepwell_operator.runs.objects import parse
from stepwell_operator.runs.room import workflow_runs
from stepwell_operator.workflows.room import workflows

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from kube_server import KubeServer

    from stepwell.settings import Settings
    from stepwell_operator.runs.objects import RunObject

STEPS: dict[str, list[dict[str, Any]]] = {
    "quick": [
        {"name": "pick", "transform": {"set": {"n": "{{ run.input.n }}"}}},
        {"name": "result", "transform": {"value": {"n": "{{ n }}", "nothing": "{{ null }}", "list": ["{{ null }}"]}}},
    ],
    "fails": [{"name": "check", "fail": {"message": "no stock of {{ run.input.n }}"}}],
    "waits": [{"name": "pause", "wait": {"duration": "1h"}}],
    "naps": [{"name": "pause", "wait": {"duration": "3s"}}],
    "retries": [
        {
            "name": "call",
            "httpCall": {"url": "http://127.0.0.1:9/"},
            "retry": {"limit": 3, "backoff": {"initial": "30s", "jitter": "None"}},
        }
    ],
    "large": [{"name": "big", "transform": {"value": {"text": "x" * 5000}}}],
}


OBJECTS = f"{kube_api.GROUP}/namespaces/default/workflowruns"
SCHEMA = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer", "minimum": 1}}}


def workflow(name: str, steps: list[dict[str, Any]], **spec: Any) -> dict[str, Any]:
    spec = {"steps": steps, **spec}
    return {"apiVersion": "stepwell.dev/v1alpha1", "kind": "Workflow", "metadata": {"name": name}, "spec": spec}


def listed(*documents: dict[str, Any]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": documents})


class World:
    """A cluster with an operator, a database, and what tests ask of them."""

    def __init__(self, kube: KubeServer, settings: Settings) -> None:
        self.kube = kube
        self.settings = settings
        self.writes: list[str] = []
        self.blind = threading.Event()
        self.api = kube_api.of_server(kube)
        self._names = itertools.count(1)
        self._operator = ExitStack()

    def start(self) -> None:
        """An operator begins."""
        self._operator.enter_context(operating.operator(self.kube, self.settings, (workflows, workflow_runs)))

    def stop(self) -> None:
        """It ends."""
        self._operator.close()

    @contextmanager
    def without_operator(self) -> Iterator[None]:
        """Nobody watches during the block; another operator comes after it."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    def apply(self, *workflows: dict[str, Any]) -> None:
        """Apply workflows with kubectl, and wait until they are synced."""
        self.kube.kubectl("apply", "-f", "-", given=listed(*workflows))
        names = [f"swf/{workflow['metadata']['name']}" for workflow in workflows]
        self.kube.kubectl("wait", "--for=condition=Ready", "--timeout=30s", *names)

    def manifest(self, workflow: str, name: str | None = None, **spec: Any) -> dict[str, Any]:
        return {
            "apiVersion": "stepwell.dev/v1alpha1",
            "kind": "WorkflowRun",
            "metadata": {"name": name or f"{workflow}-{next(self._names)}"},
            "spec": {"workflowRef": {"name": workflow}, **spec},
        }

    def create(self, workflow: str, **spec: Any) -> str:
        """Create an object with kubectl; its name."""
        manifest = self.manifest(workflow, **spec)
        self.kube.kubectl("create", "-f", "-", given=json.dumps(manifest))
        return str(manifest["metadata"]["name"])

    def get(self, name: str) -> dict[str, Any]:
        return dict(self.api.call("GET", f"{OBJECTS}/{name}"))

    def gone(self, name: str) -> bool:
        return all(item["metadata"]["name"] != name for item in self.api.call("GET", OBJECTS)["items"])

    def status(self, name: str) -> dict[str, Any]:
        return dict(self.get(name).get("status", {}))

    def finished(self, name: str) -> dict[str, Any]:
        """The status, once `kubectl wait` says that it is an end."""
        self.kube.kubectl("wait", "--for=condition=Finished", f"swr/{name}", "--timeout=30s")
        return self.status(name)

    def shows(self, name: str, phase: str) -> dict[str, Any]:
        """The status, once its phase is this one."""
        return eventually_sync(lambda: (s := self.status(name)).get("phase") == phase and s, 30.0)

    def rows(self, query: LiteralString, *params: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.settings.database_url or "", autocommit=True) as connection:
            return connection.execute(query, params).fetchall()

    def run_of(self, name: str) -> str:
        """The run's status in the database; "" where there is none."""
        rows = self.rows(
            "SELECT r.status FROM runs r JOIN workflow_run_objects o ON o.run_id = r.id WHERE o.name = %s", name
        )
        assert len(rows) <= 1
        return str(rows[0][0]) if rows else ""

    def events(self, name: str) -> list[tuple[str, str]]:
        return [(kind, reason) for kind, reason, _ in self.api.events(name)]


@pytest.fixture(scope="module")
def settings(databases: lending.Databases, valkey_server: str) -> Iterator[Settings]:
    with databases.lent() as dsn:
        yield operating.settings_for(dsn, valkey_server, "workflow-runs")


@pytest.fixture(scope="module")
def working(settings: Settings) -> Iterator[None]:
    with operating.worker(settings):
        yield


@pytest.fixture(scope="module")
def world(kube: KubeServer, settings: Settings, working: None) -> Iterator[World]:
    world = World(kube, settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(acts, "RETRY", 0.2)
        counted(patch, world.writes)
        broken(patch, world.blind)
        world.start()
        try:
            world.apply(
                *[workflow(name, steps) for name, steps in STEPS.items()],
                workflow("checked", STEPS["quick"], inputSchema=SCHEMA),
            )
            yield world
        finally:
            world.stop()
            world.api.close()


def counted(patch: pytest.MonkeyPatch, writes: list[str]) -> None:
    """Note the name of the object at each write to the API server, Events apart."""
    for method in ("show", "delete"):
        real = getattr(KubeCluster, method)

        async def writing(self: KubeCluster, obj: RunObject, *arguments: Any, real: Any = real) -> Any:
            writes.append(obj.name)
            return await real(self, obj, *arguments)

        patch.setattr(KubeCluster, method, writing)


def broken(patch: pytest.MonkeyPatch, blind: threading.Event) -> None:
    """Let watches see nothing while ``blind`` is set; the next event is that what came meanwhile is not kept any more."""
    real = watching.watch_objs

    async def watch(**given: Any) -> AsyncIterator[Any]:
        missed = False
        async for event in real(**given):
            missed = missed or blind.is_set()
            if blind.is_set():
                continue
            yield {"type": "ERROR", "object": {"code": 410}} if missed else event

    patch.setattr(watching, "watch_objs", watch)
    patch.setattr(relists, "FIRST", 600.0)


def test_a_run_is_started_waited_for_and_described(world: World) -> None:
    name = world.create("quick", input={"n": 7})
    status = world.finished(name)
    conditions = {condition["type"]: condition for condition in status["conditions"]}
    assert (conditions["Succeeded"]["status"], conditions["Succeeded"]["reason"]) == ("True", "Succeeded")
    assert conditions["Finished"]["status"] == "True"
    assert status["output"] == {"n": 7, "nothing": None, "list": [None]}
    assert [(step["name"], step["status"], step["attempts"]) for step in status["steps"]] == [
        ("pick", "Succeeded", 1),
        ("result", "Succeeded", 1),
    ]
    assert world.rows("SELECT id::text, trigger FROM runs WHERE id = %s", status["runId"]) == [
        (status["runId"], world.get(name)["metadata"]["uid"])
    ]
    described = eventually_sync(
        lambda: "Succeeded" in (text := world.kube.kubectl("describe", "swr", name).stdout).split("Events:")[1] and text
    )
    assert "pick" in described
    header, row = world.kube.kubectl("get", "swr", name).stdout.splitlines()
    assert header.split() == ["NAME", "WORKFLOW", "PHASE", "STARTED", "FINISHED", "AGE"]
    assert row.split()[:3] == [name, "quick", "Succeeded"]
    assert name in world.kube.kubectl("get", "swr", "--field-selector", "spec.workflowRef.name=quick").stdout
    assert name not in world.kube.kubectl("get", "swr", "--field-selector", "spec.workflowRef.name=fails").stdout
    assert world.get(name)["metadata"].keys() & {"annotations", "finalizers"} == set()
    assert world.writes.count(name) <= 4
    assert world.events(name) in ([("Normal", "Succeeded")], [("Normal", "Started"), ("Normal", "Succeeded")])


def reason(status: dict[str, Any]) -> tuple[str, str]:
    """The condition Succeeded."""
    return next((c["status"], c["reason"]) for c in status["conditions"] if c["type"] == "Succeeded")


def test_an_edit_during_a_run_is_for_the_next_one(world: World) -> None:
    def version(number: int) -> dict[str, Any]:
        waits = {"name": "pause", "wait": {"duration": "3s" if number == 1 else "1ms"}}
        return workflow("versioned", [waits, {"name": "tell", "transform": {"value": {"version": number}}}])

    world.apply(version(1))
    first = world.create("versioned")
    eventually_sync(lambda: world.run_of(first) == "waiting")
    world.apply(version(2))
    synced = "--for=jsonpath={.status.observedGeneration}=2"
    world.kube.kubectl("wait", synced, "swf/versioned", "--timeout=30s")
    second = world.create("versioned")
    assert world.finished(second)["output"] == {"version": 2}
    assert world.finished(first)["output"] == {"version": 1}


def test_its_priority_is_the_runs(world: World) -> None:
    name = world.create("quick", input={"n": 1}, priority="High")
    run_id = world.finished(name)["runId"]
    other = world.finished(world.create("quick", input={"n": 1}))["runId"]
    rows = world.rows("SELECT priority FROM runs WHERE id = ANY(%s::uuid[])", [run_id, other])
    assert len(set(rows)) == 2


def test_a_failure_says_which_step_and_why(world: World) -> None:
    name = world.create("fails", input={"n": 3})
    status = world.finished(name)
    assert reason(status) == ("False", "Failed")
    assert status["message"] == "step check: no stock of 3"
    assert status["steps"][0]["message"] == "no stock of 3"
    assert "output" not in status
    assert ("Warning", "Failed") in eventually_sync(lambda: world.events(name))


def test_an_input_that_does_not_fit_ends_with_what_the_schema_says(world: World) -> None:
    name = world.create("checked", input={"n": 0})
    status = world.finished(name)
    assert reason(status) == ("False", "InvalidInput")
    assert status["message"] == "input.n: 0 is less than the minimum of 1"
    assert "runId" not in status
    assert world.run_of(name) == ""


def test_an_input_over_64_kib_is_refused(world: World) -> None:
    room = 64 * 1024 - len('{"n":1,"text":""}')
    fits, over = [world.create("quick", input={"n": 1, "text": "x" * size}) for size in (room, room + 1)]
    assert reason(world.finished(fits)) == ("True", "Succeeded")
    status = world.finished(over)
    assert reason(status) == ("False", "InvalidInput")
    assert status["message"].startswith("spec.input has 65537 bytes; at most 65536")


def test_an_input_that_cannot_be_stored_says_why(world: World) -> None:
    status = world.finished(world.create("quick", input={"n": 1, "text": "a\0b"}))
    assert reason(status) == ("False", "InvalidInput")
    assert status["message"].startswith("spec.input holds a NUL character")


def test_a_workflow_that_comes_a_moment_later_is_waited_for(world: World) -> None:
    name = world.create("later", input={"n": 1})
    assert "waits up to" in world.shows(name, "Queued")["message"]
    world.apply(workflow("later", STEPS["quick"]))
    assert reason(world.finished(name)) == ("True", "Succeeded")


def test_both_in_one_file_whatever_comes_first(world: World) -> None:
    run = world.manifest("together", "together", input={"n": 1})
    world.kube.kubectl("apply", "-f", "-", given=listed(run, workflow("together", STEPS["quick"])))
    assert reason(world.finished("together")) == ("True", "Succeeded")


def test_a_workflow_that_does_not_come_ends_the_wait(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acts, "GRACE", 1.0)
    name = world.create("never")
    status = world.finished(name)
    assert reason(status) == ("False", "WorkflowNotFound")
    why = "there is no workflow default/never whose spec was ever valid (kubectl describe swf never)"
    assert status["message"] == why
    assert world.writes.count(name) <= 2


def test_a_suspended_workflow_is_waited_for_and_a_cancel_meanwhile_starts_nothing(world: World) -> None:
    world.apply(workflow("suspended", STEPS["quick"], suspend=True))
    first, second = [world.create("suspended", input={"n": 1}) for _ in range(2)]
    for name in (first, second):
        assert "is suspended" in world.shows(name, "Queued")["message"]
    world.kube.kubectl("patch", "swr", second, "--type=merge", "-p", '{"spec":{"cancel":true}}')
    assert reason(world.finished(second)) == ("False", "Cancelled")
    world.apply(workflow("suspended", STEPS["quick"]))
    assert reason(world.finished(first)) == ("True", "Succeeded")
    assert (world.run_of(first), world.run_of(second)) == ("succeeded", "")


def test_cancel(world: World) -> None:
    name = world.create("waits")
    status = world.shows(name, "Waiting")
    assert reason(status) == ("Unknown", "Waiting")
    assert re.fullmatch(r"until \S+Z", status["message"])
    assert next(c["status"] for c in status["conditions"] if c["type"] == "Finished") == "False"
    world.kube.kubectl("patch", "swr", name, "--type=merge", "-p", '{"spec":{"cancel":true}}')
    assert reason(world.finished(name)) == ("False", "Cancelled")
    assert world.run_of(name) == "cancelled"


def test_a_step_that_is_tried_again_says_when_and_why(world: World) -> None:
    name = world.create("retries")
    status = world.shows(name, "Waiting")
    assert re.match(r"step call is tried again at \S+Z: .*127\.0\.0\.1", status["message"])
    (step,) = status["steps"]
    assert (step["status"], step["attempts"]) == ("Retrying", 1)
    world.kube.kubectl("delete", "swr", name)


def test_only_cancel_and_ttl_may_change(world: World) -> None:
    name = world.create("never", input={"n": 1}, cancel=True)
    for patch, words in [
        ({"cancel": False}, "a cancel cannot be taken back"),
        ({"workflowRef": {"name": "other"}}, "workflowRef cannot change"),
        ({"input": {"n": 2}}, "input cannot change"),
        ({"priority": "High"}, "priority cannot change"),
        ({"ttlAfterFinished": "0s"}, "a duration must be over 0s"),
    ]:
        spec = json.dumps({"spec": patch})
        assert words in world.kube.kubectl("patch", "swr", name, "--type=merge", "-p", spec, check=False).stderr
    removed = json.dumps([{"op": "remove", "path": "/spec/input"}])
    assert (
        "input cannot change"
        in world.kube.kubectl("patch", "swr", name, "--type=json", "-p", removed, check=False).stderr
    )
    other = json.dumps(world.manifest("other", name))
    forced = ("apply", "--server-side", "--force-conflicts", "-f", "-")
    assert "workflowRef cannot change" in world.kube.kubectl(*forced, given=other, check=False).stderr
    world.kube.kubectl(*forced, "--subresource=status", given=other)
    assert world.get(name)["spec"]["workflowRef"] == {"name": "never"}, "a status holds no spec"
    assert reason(world.finished(name)) == ("False", "Cancelled")


def test_deleting_the_object_cancels_its_run(world: World) -> None:
    name = world.create("waits")
    world.shows(name, "Waiting")
    uid = world.get(name)["metadata"]["uid"]
    world.kube.kubectl("delete", "swr", name, "--timeout=5s")
    eventually_sync(lambda: world.rows("SELECT 1 FROM runs WHERE trigger = %s AND status = 'cancelled'", uid))
    eventually_sync(lambda: not world.rows("SELECT 1 FROM workflow_run_objects WHERE uid = %s", uid))


def test_what_was_deleted_while_the_watch_was_broken_is_found_at_once(world: World) -> None:
    """A watch that lasted too long begins anew with a list, which tells of no deletion; the sweep is minutes away."""
    world.apply(workflow("doomed", STEPS["quick"]))
    name = world.create("waits")
    world.shows(name, "Waiting")
    uid = world.get(name)["metadata"]["uid"]
    world.blind.set()
    world.kube.kubectl("delete", f"swr/{name}", "swf/doomed")
    world.blind.clear()
    world.kube.kubectl("label", "swf", "quick", "seen=again")
    eventually_sync(lambda: world.rows("SELECT 1 FROM runs WHERE trigger = %s AND status = 'cancelled'", uid), 15.0)
    eventually_sync(
        lambda: world.rows("SELECT 1 FROM workflows WHERE name = 'doomed' AND deleted_at IS NOT NULL"), 15.0
    )


def test_an_object_of_the_same_name_made_anew_has_a_run_of_its_own(world: World) -> None:
    name = world.create("quick", input={"n": 1})
    first = world.finished(name)["runId"]
    world.kube.kubectl("replace", "--force", "-f", "-", given=json.dumps(world.manifest("quick", name, input={"n": 2})))
    status = world.finished(name)
    assert status["runId"] != first
    assert status["output"]["n"] == 2


def test_a_late_status_never_lands_on_an_object_that_was_made_anew(world: World, run: Callable[..., Any]) -> None:
    """Server-side apply compares no uids: it would say of the new object that it is finished."""
    name = world.create("quick", input={"n": 1})
    world.finished(name)
    old = parse(world.get(name))
    world.kube.kubectl("delete", "swr", name)
    manifest = json.dumps(world.manifest("never", name))
    world.kube.kubectl("create", "-f", "-", given=manifest)

    async def late() -> None:
        configuration = client.Configuration()
        await config.load_kube_config(str(world.kube.kubeconfig), client_configuration=configuration)
        async with client.ApiClient(configuration) as api:
            with pytest.raises(GoneError):
                await KubeCluster(api).show(old, old.version, {"phase": "Late"})
            await KubeCluster(api).delete(old)

    run(late())
    assert world.get(name)["metadata"]["uid"] != old.uid
    assert world.status(name).get("phase") != "Late"
    world.kube.kubectl("delete", "swr", name)


def test_an_object_is_deleted_some_time_after_the_end_of_its_run(world: World) -> None:
    name = world.create("quick", input={"n": 1}, ttlAfterFinished="1s")
    kept = world.create("quick", input={"n": 1})
    run_id = world.finished(kept)["runId"]
    eventually_sync(lambda: world.gone(name), 20.0)
    assert world.rows("SELECT count(*) FROM runs WHERE status = 'cancelled' AND input_data ->> 'n' = '1'") == [(0,)]
    world.kube.kubectl("patch", "swr", kept, "--type=merge", "-p", '{"spec":{"ttlAfterFinished":"1s"}}')
    eventually_sync(lambda: world.gone(kept), 20.0)
    assert world.rows("SELECT status FROM runs WHERE id = %s", run_id) == [("succeeded",)]
    assert world.writes.count(name) <= 4


def test_a_large_output_stays_in_the_database(world: World) -> None:
    status = world.finished(world.create("large"))
    assert status["outputTruncated"] is True
    assert status["outputUrl"] == f"/api/v1/namespaces/default/runs/{status['runId']}"
    assert "output" not in status


def test_generated_names(world: World) -> None:
    manifest = world.manifest("quick", input={"n": 5})
    manifest["metadata"] = {"generateName": "made-"}
    created = [
        world.kube.kubectl("create", "-o", "name", "-f", "-", given=json.dumps(manifest)).stdout.strip()
        for _ in range(2)
    ]
    runs = {world.finished(name.partition("/")[2])["runId"] for name in created}
    assert len(runs) == 2


def test_a_long_run_is_written_four_times_at_most_and_tells_two_events(world: World) -> None:
    name = world.create("naps")
    assert reason(world.finished(name)) == ("True", "Succeeded")
    assert world.writes.count(name) <= 4
    eventually_sync(lambda: world.events(name) == [("Normal", "Started"), ("Normal", "Succeeded")])


def test_restarts(world: World) -> None:
    """One operator goes, things happen unseen, and another comes."""
    ended = world.create("quick", input={"n": 1})
    world.finished(ended)
    ends, deleted, goes_on = [world.create(workflow) for workflow in ("naps", "waits", "waits")]
    eventually_sync(lambda: world.run_of(ends), 20.0)
    for name in (deleted, goes_on):
        world.shows(name, "Waiting")
    uid = world.get(deleted)["metadata"]["uid"]
    before = len(world.rows("SELECT id FROM runs"))
    with world.without_operator():
        world.kube.kubectl("delete", "swr", deleted)
        created = world.create("quick", input={"n": 9})
        eventually_sync(lambda: world.run_of(ends) == "succeeded", 20.0)
        world.rows("DELETE FROM runs WHERE id = %s RETURNING id", world.status(ended)["runId"])
        world.writes.clear()
    assert world.finished(created)["output"]["n"] == 9
    assert reason(world.finished(ends)) == ("True", "Succeeded")
    eventually_sync(lambda: world.rows("SELECT 1 FROM runs WHERE trigger = %s AND status = 'cancelled'", uid))
    assert world.run_of(goes_on) == "waiting"
    assert len(world.rows("SELECT id FROM runs")) == before, "one was removed, one was created"
    assert created in world.writes
    assert set(world.writes) <= {created, ends}, "what did not change is not written again"
    world.kube.kubectl("delete", "swr", goes_on)
