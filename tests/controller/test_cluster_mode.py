"""A worker and a gateway as they run in a cluster: their Secrets, allowances and rights are those of a real API server."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import orjson
import psycopg
import pytest
from http_servers import json_response, serve, unused_port
from psycopg import sql
from waiting import eventually

from stepwell.adapters.postgres.intake_store import PostgresIntakeStore
from stepwell.adapters.postgres.run_store import PostgresRunStore
from stepwell.adapters.postgres.secret_troubles import SecretTroubles
from stepwell.adapters.postgres.session import Session
from stepwell.adapters.redis_queue.queue import ReadyQueue
from stepwell.domain.errors import UsageError
from stepwell.engine.apply import NewRevision
from stepwell.engine.clock import Clock
from stepwell.engine.intake import Intake, Start
from stepwell.engine.maintenance.offers import Offers
from stepwell.engine.revisions import Revisions
from stepwell.engine.secret_troubles import TroubleNotes
from stepwell.metrics.gateway import GatewayMetrics
from stepwell.settings import GatewaySettings, KubernetesSettings, Settings
from stepwell_gateway import process as gateway
from stepwell_gateway.status import Status
from stepwell_worker import process as worker
from stepwell_worker.worker import Worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from kube_server import KubeServer

ROOT = Path(__file__).parents[2]
HERE, THERE = "mode-here", "mode-there"  # with and without a RoleBinding for the worker
CANARY = "Kp7wTq2zXv9mRb4Jd6sYh3nLc8"

SETUP = f"""\
apiVersion: v1
kind: Namespace
metadata: {{name: {HERE}}}
---
apiVersion: v1
kind: Namespace
metadata: {{name: {THERE}}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: stepwell, namespace: {HERE}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: stepwell-secret-reader}}
subjects:
  - {{apiGroup: rbac.authorization.k8s.io, kind: User, name: worker}}
  - {{apiGroup: rbac.authorization.k8s.io, kind: User, name: gateway}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{name: test-mode-worker}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: stepwell-worker}}
subjects: [{{apiGroup: rbac.authorization.k8s.io, kind: User, name: worker}}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{name: test-mode-gateway}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: stepwell-gateway}}
subjects: [{{apiGroup: rbac.authorization.k8s.io, kind: User, name: gateway}}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{name: viewer, namespace: {HERE}}}
rules: [{{apiGroups: [stepwell.dev], resources: [workflows, workflows/runs], verbs: [list, get]}}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: viewer, namespace: {HERE}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: viewer}}
subjects: [{{apiGroup: rbac.authorization.k8s.io, kind: User, name: alice}}]
---
apiVersion: v1
kind: Secret
metadata: {{name: api, namespace: {HERE}, labels: {{stepwell.dev/use: "true"}}}}
stringData: {{token: {CANARY}}}
---
apiVersion: v1
kind: Secret
metadata: {{name: plain, namespace: {HERE}}}
stringData: {{token: {CANARY}}}
"""


@pytest.fixture(scope="module")
def cluster(kube: KubeServer) -> KubeServer:
    names = ("secret-reader", "rbac-worker", "rbac-gateway")
    parts = [part for name in names for part in (ROOT / "deploy/base" / f"{name}.yaml").read_text("utf-8").split("\n---\n")]  # fmt: skip
    roles = [part for part in parts if re.search(r"^kind: ClusterRole$", part, re.MULTILINE)]
    kube.kubectl("apply", "--server-side", "-f", "-", given="\n---\n".join([*roles, SETUP]))
    return kube


def settings(dsn: str, url: str) -> Settings:
    return Settings(
        database_url=dsn,
        redis_url=url,
        allow_loopback=True,
        kubernetes=KubernetesSettings(mode="on", secrets_fresh=0.5),
    )


def calling(url: str, secret: str | None = "api") -> dict[str, Any]:
    call: dict[str, Any] = {"method": "POST", "url": url}
    if secret is not None:
        call["auth"] = {"bearer": {"secretRef": {"name": secret, "key": "token"}}}
    return {"steps": [{"name": "call", "httpCall": call, "retry": {"limit": 0}}]}


def hooked(name: str, secret: str) -> NewRevision:
    webhook = {"auth": {"bearer": {"secretRef": {"name": secret, "key": "token"}}}}
    spec = {"triggers": [{"name": "in", "webhook": webhook}], "steps": [{"name": "a", "transform": {"value": 1}}]}
    return NewRevision(HERE, name, orjson.dumps(spec), name.encode().rjust(32), [], False, 3600, 3600)


class Running:
    """Intake and a worker with the actions that the worker's process gives it."""

    def __init__(self, dsn: str, intake: Intake, store: PostgresIntakeStore) -> None:
        self.dsn, self.intake, self.store = dsn, intake, store

    async def apply(self, namespace: str, name: str, spec: dict[str, Any]) -> None:
        document = orjson.dumps(spec)
        await self.store.apply(NewRevision(namespace, name, document, name.encode().rjust(32), [], False, 3600, 3600))

    async def run(self, namespace: str, name: str) -> str:
        """The reason that it failed for, else its status."""
        run = await self.intake.start(Start(namespace, name, {}))

        async def ended() -> tuple[Any, ...] | None:
            async with await psycopg.AsyncConnection.connect(self.dsn) as connection:
                cursor = await connection.execute(
                    "SELECT status, error FROM workflow_runs WHERE id = %s AND finished_at IS NOT NULL", [run.id]
                )
                return await cursor.fetchone()

        status, error = await eventually(ended, 30.0)
        return str(error["reason"]) if error else str(status)


@asynccontextmanager
async def running(dsn: str, url: str, calls: list[tuple[str, str]]) -> AsyncIterator[Running]:
    async with AsyncExitStack() as stack:
        found = settings(dsn, url)
        actions = await stack.enter_async_context(worker._acting(found, dsn, lambda *call: calls.append(call)))
        queue = ReadyQueue(url)
        stack.push_async_callback(queue.close)
        session = await stack.enter_async_context(Session(dsn, "intake"))
        store = PostgresIntakeStore(session)
        intake = Intake(store, Revisions(PostgresRunStore(session, session).revision, actions), Offers(queue), Clock())
        living = Worker(found, queue, actions)
        tasks = [asyncio.ensure_future(intake.run()), asyncio.ensure_future(living.run())]
        try:
            yield Running(dsn, intake, store)
        finally:
            living.stop()
            await tasks[1]
            tasks[0].cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def stored(dsn: str) -> str:
    with psycopg.connect(dsn) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        rows = [connection.execute(sql.SQL("SELECT t::text FROM {} t").format(sql.Identifier(*table))).fetchall() for table in tables]  # fmt: skip
    return json.dumps(rows)


async def test_a_worker_uses_the_secrets_of_the_cluster(
    cluster: KubeServer, database: str, redis_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:  # fmt: skip
    caplog.set_level(logging.DEBUG)
    monkeypatch.setitem(TroubleNotes.__init__.__kwdefaults__, "pause", 0.1)
    monkeypatch.setenv("KUBECONFIG", str(cluster.user("worker")))
    calls: list[tuple[str, str]] = []
    async with serve(json_response('{"ok": true}')) as server, running(database, redis_url, calls) as at:
        for namespace, name, spec in (
            (HERE, "good", calling(server.url)),
            (HERE, "missing", calling(server.url, "nothing")),
            (HERE, "unlabelled", calling(server.url, "plain")),
            (THERE, "forbidden", calling(server.url)),
            (HERE, "to-the-cluster", calling(cluster.url, None)),
        ):
            await at.apply(namespace, name, spec)
        assert await at.run(HERE, "good") == "succeeded"
        assert server.requests[-1].header("authorization") == f"Bearer {CANARY}"
        assert await at.run(HERE, "missing") == "SecretMissing"
        assert await at.run(HERE, "unlabelled") == "SecretNotLabelled"
        assert await at.run(THERE, "forbidden") == "SecretForbidden"
        assert await at.run(HERE, "to-the-cluster") == "AddressNotAllowed"  # though loopback is
        assert len(server.requests) == 1
        async with Session(database, "operator") as session:
            troubles = SecretTroubles(session)

            async def shown() -> set[str]:
                return {trouble.reason for found in (await troubles.troubles()).values() for trouble in found}

            async def are(*reasons: str) -> bool:
                return await shown() == set(reasons)

            await eventually(lambda: are("SecretMissing", "SecretNotLabelled", "SecretForbidden"), 20.0)
            cluster.kubectl("label", "secret", "plain", "stepwell.dev/use=true", namespace=HERE)

            async def runs() -> bool:
                return await at.run(HERE, "unlabelled") == "succeeded"

            await eventually(runs, 20.0)
            await eventually(lambda: are("SecretMissing", "SecretForbidden"), 20.0)
    assert {("Secret", "200"), ("Secret", "403"), ("Secret", "404"), ("Namespace", "200")} <= set(calls)
    assert CANARY not in stored(database)
    for record in caplog.records:
        assert CANARY not in f"{record.getMessage()} {record.__dict__!r}"
        assert cluster.token("worker") not in f"{record.getMessage()} {record.__dict__!r}"


async def test_a_gateway_asks_the_cluster(
    cluster: KubeServer, database: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(cluster.user("gateway")))
    monkeypatch.setitem(TroubleNotes.__init__.__kwdefaults__, "pause", 0.1)
    port, stopping = unused_port(), asyncio.Event()
    wanted = replace(settings(database, redis_url), gateway=GatewaySettings(port=port))
    async with Session(database, "apply") as session:
        for name, secret in (("hook", "api"), ("lost", "nothing")):
            await PostgresIntakeStore(session).apply(hooked(name, secret))
    status = Status()
    serving = asyncio.ensure_future(gateway._serve(wanted, GatewayMetrics(), status, stopping))
    try:
        await eventually(lambda: status.serving or serving.done())
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:

            async def code(method: str, path: str, token: str) -> int:
                answer = await client.request(method, path, headers={"Authorization": f"Bearer {token}"}, json={})
                return answer.status_code

            hook = f"/hooks/{HERE}/hook/in"
            assert (await code("POST", hook, CANARY), await code("POST", hook, "wrong")) == (202, 401)
            runs = f"/api/v1/namespaces/{HERE}/runs"
            assert await code("GET", runs, cluster.token("alice")) == 200
            assert await code("GET", runs, cluster.token("bob")) == 403
            assert await code("GET", runs, "nobody") == 401
            assert await code("GET", f"/api/v1/namespaces/{THERE}/runs", cluster.token("alice")) == 403
            assert await code("POST", f"/hooks/{HERE}/lost/in", CANARY) == 401
        async with Session(database, "operator") as session:
            found = await eventually(SecretTroubles(session).troubles)
        assert [trouble.reason for troubles in found.values() for trouble in troubles] == ["SecretMissing"]
    finally:
        stopping.set()
        await serving


async def test_a_cluster_that_was_asked_for_must_be_there(
    database: str, redis_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(UsageError, match="set KUBECONFIG"):
        async with worker._acting(settings(database, redis_url), database, lambda *_: None):
            pass
    for name, value in (("HOST", "10.0.0.1"), ("PORT", "443")):  # a pod without a service account
        monkeypatch.setenv(f"KUBERNETES_SERVICE_{name}", value)
    in_a_pod = replace(settings(database, redis_url), kubernetes=KubernetesSettings())
    with pytest.raises(UsageError, match="STEPWELL_KUBERNETES=off does without"):
        async with worker._acting(in_a_pod, database, lambda *_: None):
            pass


async def test_elsewhere_nothing_is_asked(
    database: str, redis_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    for mode in ("auto", "off"):
        found = replace(settings(database, redis_url), kubernetes=KubernetesSettings(mode=mode))
        async with worker._acting(found, database, lambda *_: None) as actions:
            assert "httpCall" in actions
