"""The roles of docs/operations/security-model.md: they do what they are for, and nothing else."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, LiteralString

import psycopg
import pytest
import services
import yaml
from api import api
from commands import ROOT
from documented import Shell, blocks
from gateways import trigger
from manifests import DEPLOY, kubectl, kustomize, of, parsed, rendered
from psycopg.conninfo import make_conninfo

from stepwell.adapters.postgres.migrate import pending
from stepwell.domain.states import RunStatus

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GATEWAY, SECRET, READER = blocks("operations/security-model.md", "Roles of PostgreSQL")

needs_own = pytest.mark.skipif(services.EXTERNAL, reason="roles belong to the whole server: it has to be ours")


@contextmanager
def role(dsn: str, directory: Path, block: str, name: str) -> Iterator[str]:
    """The DSN of a role that the documented commands make; without it at the end."""
    shell = Shell(directory, dsn, PASSWORD='it\'s "secret"')
    try:
        shell.run(f"cd {ROOT}\n{block}")
        yield make_conninfo(dsn, user=name, password='it\'s "secret"')
    finally:
        with psycopg.connect(dsn, autocommit=True) as owner:
            owner.execute(f"DROP OWNED BY {name} CASCADE".encode())
            owner.execute(f"DROP ROLE {name}".encode())


def allowed(dsn: str, *statements: LiteralString) -> list[str]:
    """Those that are not refused for want of a right."""
    found: list[str] = []
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements:
            try:
                connection.execute(statement)
            except psycopg.errors.InsufficientPrivilege:
                continue
            found.append(statement)
    return found


@needs_own
async def test_a_gateway_does_all_its_work_with_its_own_role(database: str, redis_url: str, tmp_path: Path) -> None:
    """The statements of every room: webhooks with a key, starts, pages, cancels, retries, reruns, approvals."""
    with role(database, tmp_path, GATEWAY, "stepwell_gateway") as gateways_own:
        async with api(database, redis_url, role=gateways_own) as a:
            await a.gateway.apply(trigger(idempotencyKey="{{ body.id }}"))
            deliveries = [await a.gateway.post('{"id": "x"}') for _ in range(2)]
            assert [answer.status_code for answer in deliveries] == [202, 200], deliveries[0].text
            assert (await a.post("/workflows/order/runs", {"input": {"n": 2}})).status_code == 202
            done, failed, live = await a.ended(), await a.ended(status=RunStatus.FAILED), await a.queued()
            ids = {run["id"] for run in (await a.get("/runs"))["runs"]}
            assert {done, failed, live} <= ids
            assert len((await a.get(f"/runs/{done}/steps"))["steps"]) == 2
            assert (await a.post(f"/runs/{live}:cancel")).status_code == 202
            assert (await a.post(f"/runs/{failed}:retry")).status_code == 202
            assert (await a.post(f"/runs/{done}:rerun", {"fromStep": "two"})).status_code == 202
            asked = await a.asked()
            assert len((await a.get("/approvals"))["approvals"]) == 1
            assert (await a.post(f"/runs/{asked}/steps/ask:approve", {"comment": "fine"})).status_code == 200
            assert [workflow["name"] for workflow in (await a.get("/workflows"))["workflows"]] == ["order", "welcome"]
        assert await pending(gateways_own) == []


@needs_own
def test_the_gateways_role_can_change_no_program_and_remove_nothing(database: str, tmp_path: Path) -> None:
    with role(database, tmp_path, GATEWAY, "stepwell_gateway") as dsn:
        assert allowed(dsn, "SELECT spec FROM workflow_revisions", "UPDATE runs SET error = NULL WHERE false") == [
            "SELECT spec FROM workflow_revisions",
            "UPDATE runs SET error = NULL WHERE false",
        ]
        found = allowed(
            dsn,
            "INSERT INTO workflow_revisions (workflow_id, hash, spec, features, retain_succeeded, retain_failed)"
            " VALUES (1, '', '{}', '{}', '1 d', '1 d')",
            "UPDATE workflows SET active_revision_id = NULL",
            "INSERT INTO workflows (namespace, name) VALUES ('a', 'b')",
            "UPDATE runs SET revision_id = 1",
            "UPDATE runs SET input_data = '{}'",
            "UPDATE runs SET worker_id = 1, fence = 1",
            "UPDATE run_steps SET output_data = '{}'",
            "DELETE FROM runs",
            "DELETE FROM run_steps",
            "DELETE FROM idempotency_keys",
            "UPDATE leases SET holder = 1",
            "UPDATE workers SET dead_at = now()",
            "SELECT add_partitions('2000-01-01', 1)",
            "DROP TABLE timers",
            "CREATE TABLE mine (id int)",
            "CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "SELECT drop_day(to_char(now() - interval '2 days', 'YYYYMMDD'))",
        )
        assert found == []


@needs_own
def test_readers_see_what_ran_and_no_document(database: str, tmp_path: Path) -> None:
    with role(database, tmp_path, READER, "stepwell_reader") as dsn:
        good: tuple[LiteralString, ...] = (
            "SELECT namespace, workflow, status, started_at FROM workflow_runs",
            "SELECT step, status, attempt FROM step_runs",
            "SELECT depth FROM worker_demand",
            "SELECT host FROM workers",
        )
        assert allowed(dsn, *good) == list(good)
        assert allowed(dsn, "SELECT input_data FROM workflow_runs", "SELECT output_data FROM step_runs",
                       "SELECT error FROM workflow_runs", "TABLE runs", "SELECT spec FROM workflow_revisions") == []  # fmt: skip


@pytest.mark.skipif(kubectl() is None, reason="no kubectl")
def test_the_component_gives_the_gateway_its_own_secret(tmp_path: Path) -> None:
    here = os.path.relpath(DEPLOY, tmp_path.resolve())
    overlay = {"resources": [f"{here}/base"], "components": [f"{here}/components/gateway-role"]}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    before, after = (
        {name: each["spec"]["template"]["spec"]["containers"] for name, each in of(documents, "Deployment").items()}
        for documents in (rendered("base"), parsed(kustomize(tmp_path).stdout))
    )
    assert {name for name in before if before[name] != after[name]} == {"stepwell-gateway"}
    (was,), (now,) = before["stepwell-gateway"], after["stepwell-gateway"]
    assert [each["name"] for each in now["env"]] == [each["name"] for each in was["env"]]
    own = [each["valueFrom"]["secretKeyRef"] for each in now["env"] if each not in was["env"]]
    assert own == [{"name": "stepwell-gateway", "key": "DATABASE_URL"}]
    assert "secret generic stepwell-gateway " in SECRET
