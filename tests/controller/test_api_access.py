"""The gateway's API behind a real API server: tokens of people and of a service account, and the roles that are shipped."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from api import Api, api
from gateways import NAMESPACE
from kube_access import BASE, bind, namespace
from kube_clients import calls_as

from stepwell.adapters.kube.access import KubeAccess
from stepwell.domain.states import RunStatus

if TYPE_CHECKING:
    from kube_server import KubeServer

OTHER = "api-elsewhere"


@pytest.fixture(scope="module")
def cluster(kube: KubeServer) -> KubeServer:
    """alice views NAMESPACE and bob edits it; both edit another. The gateway has the rights that it is shipped with."""
    namespace(kube, "stepwell-system")
    kube.apply(BASE / "rbac-gateway.yaml", BASE / "roles-aggregated.yaml")
    bind(kube, "gateway", "stepwell-gateway")
    namespace(kube, NAMESPACE)
    namespace(kube, OTHER)
    bind(kube, "alice", "stepwell-view", namespace=NAMESPACE)
    bind(kube, "bob", "stepwell-view", "stepwell-edit", namespace=NAMESPACE)
    return kube


async def test_people_and_service_accounts_may_what_their_roles_say(
    cluster: KubeServer, database: str, redis_url: str
) -> None:
    cluster.kubectl("create", "serviceaccount", "ci", namespace=NAMESPACE, check=False)
    binding = ("create", "rolebinding", "ci", "--clusterrole=stepwell-edit", f"--serviceaccount={NAMESPACE}:ci")
    cluster.kubectl(*binding, namespace=NAMESPACE, check=False)
    ci = cluster.kubectl("create", "token", "ci", namespace=NAMESPACE).stdout.strip()
    alice, bob, admin = map(cluster.token, ("alice", "bob", "admin"))
    async with calls_as(cluster, "gateway") as calls:
        access = KubeAccess(calls)
        async with api(database, redis_url, lambda context: replace(context, access=access)) as a:
            failed = await a.ended(status=RunStatus.FAILED)
            await a.apply("order", namespace=OTHER)
            foreign = await a.ended(namespace=OTHER)
            assert await table(a, alice, failed, foreign) == [200, 200, 404, 403, 403, 403, 403]
            assert await table(a, bob, failed, foreign) == [200, 200, 404, 403, 202, 202, 202]
            assert await table(a, ci, failed, foreign) == [403, 403, 403, 403, 202, 202, 202], (
                "edit by itself does not read"
            )
            assert await table(a, admin, failed, foreign) == [200, 200, 404, 200, 202, 202, 202]
            for nobody in ("", "nobody", ci + "x"):
                assert set(await table(a, nobody, failed, foreign)) == {401}
            assert "note" in await a.get(f"/runs/{failed}", alice)
            assert (await a.get(f"/runs/{failed}", bob))["input"] == {"n": 1}


async def table(a: Api, token: str, run: str, foreign: str) -> list[int]:
    """What somebody is answered."""
    calls = (
        ("GET", "/runs", NAMESPACE),
        ("GET", f"/runs/{run}", NAMESPACE),
        ("GET", f"/runs/{foreign}", NAMESPACE),
        ("GET", "/runs", OTHER),
        ("POST", "/workflows/order/runs", NAMESPACE),
        ("POST", f"/runs/{run}:retry", NAMESPACE),
        ("POST", f"/runs/{run}:rerun", NAMESPACE),
    )
    return [(await a.call(method, path, token, namespace=where)).status_code for method, path, where in calls]
