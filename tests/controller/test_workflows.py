"""Workflows against an API server: synced, versioned, shown, deleted; with the operator there, away, and back."""

from __future__ import annotations

import json
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, LiteralString

import lending
import operating
import psycopg
import pytest
import services
from fault_proxy import FaultProxy, Mode
from kube_api import condition
from psycopg.conninfo import make_conninfo
from waiting import eventually, eventually_sync

from stepwell.adapters.postgres.secret_troubles import PostgresTroubleStore
from stepwell.engine.intake import Start
from stepwell.engine.secret_troubles import Met, Use
from stepwell_operator.workflows.cluster import Cluster
from stepwell_operator.workflows.refresh import Pace
from stepwell_operator.workflows.room import workflows

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    import kopf
    from kube_api import Api
    from kube_server import KubeServer

    from stepwell.settings import Settings
    from stepwell_operator.context import Context
    from stepwell_operator.workflows.entries import Entries

STEPS = [{"name": "pick", "transform": {"value": "{{ input }}"}}]
SPEC = {
    "steps": STEPS,
    "triggers": [
        {"name": "hook", "webhook": {"auth": {"public": {}}}},
        {"name": "nightly", "cron": {"schedule": "0 3 * * *"}},
    ],
}
BROKEN = {"steps": [{"name": "pick", "transform": {"value": "{{ nothing. }}"}}]}


class World:
    """An operator that can be stopped and started over one database, and one API server."""

    def __init__(self, api: Api, settings: Settings) -> None:
        self.api = api
        self.settings = settings
        self.entries: Entries | None = None
        self.context: Context | None = None
        self.thread: operating.Thread | None = None
        self.writes: list[str] = []
        self.held = ""
        self._stack = ExitStack()

    def start(self) -> None:
        @asynccontextmanager
        async def room(registry: kopf.OperatorRegistry, context: Context) -> AsyncIterator[None]:
            pace = Pace(look=0.1, per_object=0.1)
            async with workflows(registry, context, pace=pace) as entries:
                self.entries, self.context = entries, context
                yield

        self.thread = self._stack.enter_context(operating.operator(self.api, self.settings, [room]))  # type: ignore[arg-type]

    def stop(self) -> None:
        self._stack.close()
        self.entries = self.context = self.thread = None

    def settled(self) -> bool:
        """Whether the operator knows of every object and has shown all that it knows."""
        assert self.entries is not None
        known = {e.uid for e in self.entries.all() if e.outcome is not None and (e.facts.runs or e.workflow_id is None)}
        return known == {item["metadata"]["uid"] for item in self.api.all()}

    def rows(self, query: LiteralString, *params: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.settings.database_url or "", autocommit=True) as connection:
            return connection.execute(query, params).fetchall()

    def standing(self, name: str) -> tuple[int, bool] | None:
        """The active revision and suspension of a workflow that is not deleted."""
        rows = self.rows(
            "SELECT active_revision_id, suspended FROM workflows WHERE name = %s AND deleted_at IS NULL", name
        )
        return rows[0] if rows else None  # type: ignore[return-value]

    def state(self, run_id: str) -> str:
        """The status of a run."""
        return str(self.rows("SELECT status FROM runs WHERE id = %s", run_id)[0][0])

    def run(self, workflow: str) -> str:
        """Accept a run."""
        assert self.thread is not None
        assert self.context is not None
        return self.thread.call(self.context.intake.start(Start("default", workflow, {}))).id

    def synced(self, name: str) -> dict[str, Any]:
        """The status, once its present generation is synced."""
        eventually_sync(lambda: self.api.ready(name) == ("True", "Synced"), 30)
        return self.api.status(name)


@pytest.fixture(scope="module")
def world(api: Api, databases: lending.Databases, valkey_server: str) -> Iterator[World]:
    with databases.lent() as dsn, pytest.MonkeyPatch.context() as patch:
        world = World(api, operating.settings_for(dsn, valkey_server, "workflows"))
        real = Cluster.show

        async def show(self: Cluster, name: Any, status: Any) -> Any:
            world.writes.append(name.name)
            await eventually(lambda: world.held != name.name, 60)
            return await real(self, name, status)

        patch.setattr(Cluster, "show", show)
        world.start()
        try:
            yield world
        finally:
            world.stop()


def test_a_workflow_is_synced_and_says_so(world: World) -> None:
    world.api.create("plain", SPEC)
    status = world.synced("plain")
    standing = world.standing("plain")
    assert standing is not None
    assert status["revision"] == standing[0]
    assert condition(status, "Suspended") == ("False", "NotSuspended")
    assert condition(status, "SecretsAvailable") == ("True", "Available")
    assert [trigger["name"] for trigger in status["triggers"]] == ["hook", "nightly"]
    assert status["triggers"][0]["url"] == "/hooks/default/plain/hook"
    assert status["runs"] == {"active": 0, "succeeded": 0, "failed": 0}
    assert all(each["observedGeneration"] == 1 for each in status["conditions"])
    found = eventually_sync(lambda: world.api.events("plain"))
    assert found == [("Normal", "Synced", f"revision {standing[0]} is active")]


def test_all_that_is_kept_on_an_object_is_a_hash(world: World) -> None:
    world.api.create("marked", SPEC)
    world.synced("marked")
    annotations = eventually_sync(lambda: world.api.get("marked")["metadata"].get("annotations"))
    assert list(annotations) == ["stepwell.dev/last-handled"]
    assert len(annotations["stepwell.dev/last-handled"]) == 32
    metadata = world.api.get("marked")["metadata"]
    assert "finalizers" not in metadata
    assert world.writes.count("marked") == 1, "the first status says everything"


def test_an_edit_makes_a_revision_and_going_back_the_old_one(world: World) -> None:
    world.api.create("edited", {"steps": STEPS})
    first = world.synced("edited")["revision"]
    world.api.patch("edited", {"spec": {"description": "other"}})
    second = world.synced("edited")
    assert (second["revision"] != first, second["observedGeneration"]) == (True, 2)
    world.api.patch("edited", {"spec": {"description": None}})
    assert world.synced("edited")["revision"] == first
    events = eventually_sync(lambda: len(found := world.api.events("edited")) == 3 and found)
    assert [(reason, message) for _, reason, message in events] == [
        ("Synced", f"revision {number} is active") for number in (first, second["revision"], first)
    ]


def test_a_default_written_out_makes_no_revision(world: World) -> None:
    world.api.create("defaults", {"steps": STEPS})
    first = world.synced("defaults")["revision"]
    world.api.patch("defaults", {"spec": {"timeout": "720h", "priority": "Normal", "steps": STEPS}})
    world.api.patch("defaults", {"spec": {"retention": {"failed": "720h"}, "triggers": []}})
    assert world.synced("defaults")["revision"] == first
    assert world.rows("SELECT count(*) FROM workflow_revisions WHERE id >= %s AND workflow_id = "
                      "(SELECT id FROM workflows WHERE name = 'defaults')", first) == [(1,)]  # fmt: skip


def test_a_broken_spec_leaves_the_last_good_revision(world: World) -> None:
    world.api.create("broken", {"steps": STEPS, "triggers": SPEC["triggers"]})
    good = world.synced("broken")
    world.api.patch("broken", {"spec": BROKEN})
    eventually_sync(lambda: world.api.ready("broken") == ("False", "InvalidSpec"))
    bad = world.api.status("broken")
    ready = next(each for each in bad["conditions"] if each["type"] == "Ready")
    assert ready["message"].startswith("spec.steps[0].transform.value: ")
    assert ready["message"].endswith(f"revision {good['revision']} goes on")
    assert (bad["revision"], bad["triggers"]) == (good["revision"], good["triggers"])
    assert world.standing("broken") == (good["revision"], False)
    world.run("broken")
    found = eventually_sync(lambda: len(e := world.api.events("broken")) == 2 and e)
    assert [each[:2] for each in found] == [("Normal", "Synced"), ("Warning", "InvalidSpec")]
    world.api.patch("broken", {"spec": {"steps": STEPS}})
    again = world.synced("broken")
    assert again["revision"] == good["revision"]


def test_a_late_status_says_nothing_of_an_object_that_was_made_anew(world: World) -> None:
    """Server-side apply compares no uids; a new object must not tell of a revision that is gone with the one before."""
    world.held = "remade"
    world.api.create("remade", {"steps": STEPS})
    eventually_sync(lambda: "remade" in world.writes)
    world.api.delete("remade")
    world.api.create("remade", BROKEN)
    world.held = ""
    eventually_sync(lambda: world.api.ready("remade") == ("False", "InvalidSpec"))
    status = world.api.status("remade")
    assert "revision" not in status
    assert "goes on" not in next(each["message"] for each in status["conditions"] if each["type"] == "Ready")
    assert world.standing("remade") is None


def test_a_condition_keeps_the_time_of_its_last_change(world: World) -> None:
    world.api.create("timed", {"steps": STEPS})
    before = {each["type"]: each["lastTransitionTime"] for each in world.synced("timed")["conditions"]}
    eventually_sync(
        lambda: world.rows("SELECT now() > %s::timestamptz + interval '1.1 s'", before["Ready"]) == [(True,)]
    )
    world.api.patch("timed", {"spec": {"suspend": True}})
    eventually_sync(lambda: condition(world.api.status("timed"), "Suspended") == ("True", "Suspended"))
    after = {each["type"]: each["lastTransitionTime"] for each in world.synced("timed")["conditions"]}
    assert after["Ready"] == before["Ready"]
    assert after["Suspended"] > before["Suspended"]
    found = world.standing("timed")
    assert found is not None
    assert found[1], "it stands suspended"


def test_the_next_time_of_a_schedule_is_shown(world: World) -> None:
    world.api.create("scheduled", SPEC)
    world.synced("scheduled")
    world.rows(
        "INSERT INTO schedules (workflow_id, trigger, revision_id, timing, tick_at) SELECT id, 'nightly', active_revision_id, "
        "'', '2026-12-01 03:00:00+00' FROM workflows WHERE name = 'scheduled' RETURNING 1"
    )
    nightly = {"name": "nightly", "nextRunTime": "2026-12-01T03:00:00Z"}
    eventually_sync(lambda: world.api.status("scheduled")["triggers"][1] == nightly)


def test_what_workers_met_of_secrets_comes_and_goes(world: World) -> None:
    world.api.create("secretive", {"steps": STEPS})
    world.synced("secretive")
    assert world.thread is not None
    assert world.context is not None
    store, use = PostgresTroubleStore(world.context.reads, "worker"), Use("default", "secretive", "api")
    world.thread.call(store.write({use: Met("SecretNotLabelled", "the Secret api lacks the label")}, []))
    eventually_sync(
        lambda: condition(world.api.status("secretive"), "SecretsAvailable") == ("False", "SecretNotLabelled")
    )
    assert world.api.ready("secretive") == ("True", "Synced"), "its spec is in effect"
    found = eventually_sync(lambda: len(e := world.api.events("secretive")) == 2 and e)
    assert found[1] == ("Warning", "SecretNotLabelled", "the Secret api lacks the label")
    world.thread.call(store.write({}, [use]))
    eventually_sync(lambda: condition(world.api.status("secretive"), "SecretsAvailable") == ("True", "Available"))


def test_runs_are_counted_in_the_status(world: World) -> None:
    world.api.create("counted", {"steps": STEPS})
    world.synced("counted")
    run_id = world.run("counted")
    runs = eventually_sync(lambda: (r := world.api.status("counted")["runs"])["active"] == 1 and r)
    assert (runs["lastRunId"], runs["lastRunStatus"], runs["succeeded"]) == (run_id, "Queued", 0)
    world.rows("UPDATE runs SET status = 'succeeded', finished_at = now(), expires_at = now() + interval '1 h' "
               "WHERE id = %s RETURNING id", run_id)  # fmt: skip
    runs = eventually_sync(lambda: (r := world.api.status("counted")["runs"])["succeeded"] == 1 and r)
    assert (runs["active"], runs["failed"], runs["lastRunStatus"]) == (0, 0, "Succeeded")


def test_deleting_stops_starts_and_accepted_runs_go_on(world: World) -> None:
    world.api.create("deleted", {"steps": STEPS})
    world.synced("deleted")
    run_id = world.run("deleted")
    before = world.rows("SELECT id FROM workflows WHERE name = 'deleted'")
    world.api.delete("deleted")
    eventually_sync(lambda: world.standing("deleted") is None)
    assert world.rows("SELECT cancel_requested_at FROM runs WHERE id = %s", run_id) == [(None,)]
    world.api.create("deleted", {"steps": STEPS})
    world.synced("deleted")
    assert world.rows("SELECT id FROM workflows WHERE name = 'deleted'") == before, "its history goes on"
    assert eventually_sync(lambda: world.api.status("deleted")["runs"]["active"] == 1)


def test_a_deletion_cancels_where_the_annotation_says_so(world: World) -> None:
    world.api.create("cancelling", {"steps": STEPS}, on_delete="Cancel")
    world.synced("cancelling")
    run_id = world.run("cancelling")
    world.api.delete("cancelling")
    eventually_sync(lambda: world.rows("SELECT status FROM runs WHERE id = %s", run_id) == [("cancelled",)], 20)
    eventually_sync(lambda: world.rows("SELECT count(*) FROM workflow_cancels") == [(0,)])


def test_the_annotation_counts_from_when_it_is_set(world: World) -> None:
    world.api.create("annotated", {"steps": STEPS})
    world.synced("annotated")
    world.api.patch("annotated", {"metadata": {"annotations": {"stepwell.dev/on-delete": "Cancel"}}})
    where = "SELECT cancels FROM synced_workflows s JOIN workflows w ON w.id = s.workflow_id WHERE name = 'annotated'"
    eventually_sync(lambda: world.rows(where) == [(True,)])


def test_a_restart_writes_nothing(world: World) -> None:
    for name in ("still-1", "still-2"):
        world.api.create(name, SPEC)
        world.synced(name)
    world.api.create("still-broken", {"steps": [{"name": "a", "fail": {"message": "{{ 1 + }}"}}]})
    eventually_sync(lambda: world.api.ready("still-broken") == ("False", "InvalidSpec"))
    eventually_sync(world.settled, 20)
    world.stop()
    before, rows = world.api.versions(), world.rows("SELECT id, updated_at FROM workflows ORDER BY id")
    world.writes.clear()
    world.start()
    eventually_sync(world.settled, 20)
    world.api.create("last", {"steps": STEPS})  # what comes after all of them
    world.synced("last")
    world.stop()  # nothing is under way any more
    after = world.api.versions()
    assert {uid: after[uid] for uid in before} == before
    assert world.writes == ["last"]
    assert world.rows("SELECT id, updated_at FROM workflows ORDER BY id")[: len(rows)] == rows
    world.start()


def test_what_happened_while_the_operator_was_away_is_made_up_for(world: World) -> None:
    for name in ("goes", "stays", "replaced", "cancelled-away"):
        world.api.create(name, {"steps": STEPS}, **({"on_delete": "Cancel"} if name != "stays" else {}))
        world.synced(name)
    runs = {name: world.run(name) for name in ("goes", "stays", "replaced")}
    world.stop()
    world.api.delete("goes")
    world.api.delete("replaced")
    world.api.patch("stays", {"spec": {"description": "edited"}})
    again = world.api.create("replaced", {"steps": STEPS})
    world.api.create("made", {"steps": STEPS})
    world.start()
    eventually_sync(lambda: world.standing("goes") is None, 20)
    for name in ("stays", "replaced", "made"):
        world.synced(name)
    assert world.api.get("replaced")["metadata"]["uid"] == again["metadata"]["uid"]
    for name in ("goes", "replaced"):
        eventually_sync(lambda run_id=runs[name]: world.state(run_id) == "cancelled", 20)  # type: ignore[misc]
    assert world.rows("SELECT cancel_requested_at FROM runs WHERE id = %s", runs["stays"]) == [(None,)]


def test_a_large_spec_syncs_and_a_larger_one_is_refused_clearly(world: World) -> None:
    def spec(steps: int) -> dict[str, Any]:
        return {"steps": [{"name": f"s{index}", "transform": {"value": "x" * 9_000}} for index in range(steps)]}

    world.api.create("large", spec(22))
    assert len(json.dumps(world.api.get("large")["spec"])) > 194 * 1024
    world.synced("large")
    world.api.create("too-large", spec(24))
    eventually_sync(lambda: world.api.ready("too-large") == ("False", "InvalidSpec"), 30)
    message = next(c["message"] for c in world.api.status("too-large")["conditions"] if c["type"] == "Ready")
    assert "bytes as JSON; at most 204,800 are allowed" in message
    assert world.standing("too-large") is None


def test_what_the_ways_of_kubectl_do(world: World, kube: KubeServer) -> None:
    """Only a real API server has managers of fields, and kubectl apply's third state."""
    manifest = {"apiVersion": "stepwell.dev/v1alpha1", "kind": "Workflow", "metadata": {"name": "ways"}}
    steps = {**manifest, "spec": {"steps": STEPS}}
    kube.kubectl("apply", "-f", "-", given=json.dumps(steps))
    first = world.synced("ways")["revision"]
    kube.kubectl("apply", "-f", "-", given=json.dumps(steps))
    assert world.api.get("ways")["metadata"]["generation"] == 1, "the operator's annotation and status are not undone"
    described = {**manifest, "spec": {"description": "by another manager"}}
    kube.kubectl(
        "apply", "--server-side", "--force-conflicts", "--field-manager=one", "-f", "-", given=json.dumps(steps)
    )
    kube.kubectl("apply", "--server-side", "--field-manager=two", "-f", "-", given=json.dumps(described))
    second = world.synced("ways")
    assert second["revision"] != first
    assert world.api.get("ways")["spec"]["description"] == "by another manager"
    conflict = kube.kubectl(
        "apply", "--server-side", "--field-manager=two", "-f", "-", check=False,
        given=json.dumps({**manifest, "spec": {"steps": [{"name": "other", "transform": {"value": 1}}]}}),
    )  # fmt: skip
    assert "conflict" in conflict.stderr, "the list of steps has one owner"
    workflow = world.rows("SELECT id FROM workflows WHERE name = 'ways'")
    run_id = world.run("ways")
    kube.kubectl("replace", "--force", "-f", "-", given=json.dumps(steps))
    assert world.synced("ways")["revision"] == first, "the same spec is the same revision"
    kube.kubectl("delete", "swf", "ways")
    kube.kubectl("create", "-f", "-", given=json.dumps(steps))
    assert world.synced("ways")["revision"] == first
    assert world.rows("SELECT id FROM workflows WHERE name = 'ways'") == workflow
    assert world.rows("SELECT cancel_requested_at FROM runs WHERE id = %s", run_id) == [(None,)]
    header, row = kube.kubectl("get", "swf", "ways").stdout.splitlines()
    assert header.split("  ")[0] == "NAME"
    assert row.split()[:2] == ["ways", "True"]
    world.api.create("columns", SPEC)
    world.synced("columns")
    header, row = kube.kubectl("get", "swf", "columns", "-o", "wide").stdout.splitlines()
    columns = {name: row[header.index(name) :].split()[0] for name in ("READY", "URL", "ACTIVE", "REASON", "REVISION")}
    revision = str(world.api.status("columns")["revision"])
    assert list(columns.values()) == ["True", "/hooks/default/columns/hook", "0", "Synced", revision]
    assert "Synced" in kube.kubectl("describe", "swf", "ways").stdout


def test_an_absent_database_is_said_and_waited_for(world: World) -> None:
    """Through a proxy that turns every connection away for a while."""
    found: list[FaultProxy] = []

    async def main(thread: operating.Thread) -> None:
        async with FaultProxy(services.postgres_address(world.settings.database_url or "")) as proxy:
            found.append(proxy)
            thread.ready.set()
            await thread.stopping.wait()

    async def switch(mode: Mode) -> None:
        found[0].mode = mode

    thread = operating.Thread(main)
    thread.is_ready()
    direct, proxy = world.settings, found[0]
    dsn = make_conninfo(direct.database_url or "", host=proxy.host, port=proxy.port)
    world.api.create("edited-away", {"steps": STEPS})
    world.synced("edited-away")
    eventually_sync(lambda: world.api.events("edited-away"))  # an Event that waits to be posted ends with its operator
    world.stop()
    try:
        world.settings = replace(direct, database_url=dsn)
        world.start()
        world.settings = direct
        eventually_sync(world.settled, 20)
        thread.call(switch(Mode.REFUSE))
        world.api.patch("edited-away", {"spec": {"description": "while the database is away"}})
        eventually_sync(lambda: world.api.ready("edited-away") == ("False", "DatabaseUnavailable"), 30)
        thread.call(switch(Mode.PASS))
        world.synced("edited-away")
        reasons = eventually_sync(lambda: len(e := [each[1] for each in world.api.events("edited-away")]) >= 3 and e)
        assert reasons[:3] == ["Synced", "DatabaseUnavailable", "Synced"]
    finally:
        world.settings = direct
        world.stop()
        thread.stop()
        world.start()
