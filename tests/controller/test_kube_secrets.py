"""Secrets and allowances against a real API server, with the rights that `deploy/base` and a namespace's RoleBinding give."""

from __future__ import annotations

import re
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from kube_clients import calls_as, calls_to
from waiting import eventually

from stepwell.adapters.http.allowances import AllowanceError
from stepwell.adapters.http.guard import AddressPolicy
from stepwell.adapters.kube.allowances import KubeAllowances
from stepwell.adapters.kube.secrets import KubeSecrets
from stepwell.domain.secrets import SecretError, usable_secret

if TYPE_CHECKING:
    from kube_server import KubeServer

ROOT = Path(__file__).parents[2]
OPEN, CLOSED = "secrets-open", "secrets-closed"  # namespaces with and without the RoleBinding

SETUP = f"""\
apiVersion: v1
kind: Namespace
metadata: {{name: {OPEN}, annotations: {{stepwell.dev/http-allow: "orders.shop.svc:80, 10.1.0.0/16"}}}}
---
apiVersion: v1
kind: Namespace
metadata: {{name: {CLOSED}}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: stepwell, namespace: {OPEN}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: stepwell-secret-reader}}
subjects: [{{apiGroup: rbac.authorization.k8s.io, kind: User, name: worker}}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{name: test-worker-namespaces}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: stepwell-worker}}
subjects: [{{apiGroup: rbac.authorization.k8s.io, kind: User, name: worker}}]
---
apiVersion: v1
kind: Secret
metadata: {{name: api, namespace: {OPEN}, labels: {{stepwell.dev/use: "true"}}, annotations: {{stepwell.dev/hosts: a.example}}}}
data: {{token: czNjcjN0LXZhbHVl, binary: AP8ACg==, empty: ""}}
---
apiVersion: v1
kind: Secret
metadata: {{name: plain, namespace: {OPEN}}}
stringData: {{token: not-for-workflows}}
---
apiVersion: v1
kind: Secret
metadata: {{name: api, namespace: {CLOSED}, labels: {{stepwell.dev/use: "true"}}}}
stringData: {{token: not-to-be-read}}
"""


@pytest.fixture(scope="module")
def cluster(kube: KubeServer) -> KubeServer:
    roles = [(ROOT / "deploy/base" / f"{name}.yaml").read_text("utf-8") for name in ("secret-reader", "rbac-worker")]
    documents = [part for text in roles for part in text.split("\n---\n") if re.search(r"^kind: ClusterRole$", part, re.MULTILINE)]  # fmt: skip
    kube.kubectl("apply", "--server-side", "-f", "-", given="\n---\n".join([*documents, SETUP]))
    return kube


async def refusal(secrets: KubeSecrets, namespace: str, name: str) -> SecretError:
    with pytest.raises(SecretError) as caught:
        await usable_secret(secrets, namespace, name)
    return caught.value


async def test_a_secret_is_read_as_it_is_stored(cluster: KubeServer) -> None:
    async with calls_as(cluster, "worker") as calls:
        secret = await usable_secret(KubeSecrets(calls), OPEN, "api")
    values = {key: secret.value(key).reveal() for key in secret.data}
    assert values == {"token": b"s3cr3t-value", "binary": b"\x00\xff\x00\n", "empty": b""}
    assert (secret.namespace, secret.name) == (OPEN, "api")
    assert secret.allows("a.example", 443)
    assert not secret.allows("b.example", 443)


async def test_why_one_cannot_be_used(cluster: KubeServer) -> None:
    async with calls_as(cluster, "worker") as calls:
        secrets = KubeSecrets(calls)
        missing = await refusal(secrets, OPEN, "nothing")
        forbidden = await refusal(secrets, CLOSED, "api")
        nowhere = await refusal(secrets, "secrets-nowhere", "api")
        unlabelled = await refusal(secrets, OPEN, "plain")
    reasons = [error.reason for error in (missing, forbidden, nowhere, unlabelled)]
    assert reasons == ["SecretMissing", "SecretForbidden", "SecretForbidden", "SecretNotLabelled"]
    assert "stepwell rbac" in str(forbidden)
    assert not any(error.passing for error in (missing, forbidden, nowhere, unlabelled))


async def test_a_name_never_leads_elsewhere(cluster: KubeServer) -> None:
    """The administrator could read all of these paths."""
    async with calls_as(cluster, "admin") as calls:
        secrets = KubeSecrets(calls)
        for namespace, name in ((CLOSED, f"../../{OPEN}/secrets/api"), (CLOSED, ".."), (f"{OPEN}/secrets/api?x=", "api"), (OPEN, "api/"), (OPEN, "API"), (OPEN, "")):  # fmt: skip
            assert (await refusal(secrets, namespace, name)).reason == "SecretMissing"


async def test_what_changes_is_seen_within_the_time_of_the_cache(cluster: KubeServer) -> None:
    async with calls_as(cluster, "worker") as calls:
        secrets = KubeSecrets(calls, fresh=0.2, fresh_refusal=0.1)

        async def token(namespace: str, name: str) -> bytes | str:
            try:
                return (await usable_secret(secrets, namespace, name)).value("token").reveal()
            except SecretError as exc:
                return exc.reason

        async def token_is(wanted: bytes | str, namespace: str = OPEN, name: str = "plain") -> bool:
            return await token(namespace, name) == wanted

        def patch(name: str, text: str) -> None:
            cluster.kubectl("patch", "secret", name, "-p", text, namespace=OPEN)

        assert await token(OPEN, "plain") == "SecretNotLabelled"
        patch("plain", '{"metadata": {"labels": {"stepwell.dev/use": "true"}}, "stringData": {"token": "first"}}')
        await eventually(lambda: token_is(b"first"))
        patch("plain", '{"stringData": {"token": "rotated"}}')
        await eventually(lambda: token_is(b"rotated"))
        cluster.kubectl("delete", "secret", "plain", namespace=OPEN)
        await eventually(lambda: token_is("SecretMissing"))
        bind = ("create", "rolebinding", "late", "--clusterrole=stepwell-secret-reader", "--user=worker")
        assert await token(CLOSED, "api") == "SecretForbidden"
        cluster.kubectl(*bind, namespace=CLOSED)
        await eventually(lambda: token_is(b"not-to-be-read", CLOSED, "api"))
        cluster.kubectl("delete", "rolebinding", "late", namespace=CLOSED)
        await eventually(lambda: token_is("SecretForbidden", CLOSED, "api"))


async def test_credentials_that_are_not_known_may_become_known_again(cluster: KubeServer) -> None:
    async with calls_as(cluster, "worker") as calls:
        calls._client.configuration.api_key["BearerToken"] = "Bearer stale"
        error = await refusal(KubeSecrets(calls), OPEN, "api")
    assert error.passing
    assert "401" in str(error)


async def test_a_server_that_is_not_there(cluster: KubeServer) -> None:
    async with calls_to("https://127.0.0.1:1") as calls:
        error = await refusal(KubeSecrets(calls), OPEN, "api")
    assert error.passing


async def test_allowances_follow_the_annotation(cluster: KubeServer) -> None:
    base = AddressPolicy()
    async with calls_as(cluster, "worker") as calls:
        allowances = KubeAllowances(calls, base, fresh=0.1)
        policy = await allowances.policy(OPEN)
        assert policy.hosts == {("orders.shop.svc", 80)}
        assert policy.networks == {ip_network("10.1.0.0/16")}
        assert await allowances.policy(CLOSED) == base
        assert await allowances.policy("secrets-nowhere") == base
        assert await allowances.policy("../x") == base
        cluster.kubectl("annotate", "namespace", OPEN, "--overwrite", "stepwell.dev/http-allow=127.0.0.1:80")

        async def refused() -> bool:
            try:
                await allowances.policy(OPEN)
            except AllowanceError as exc:
                return "loopback" in str(exc)
            return False

        await eventually(refused)


async def test_without_the_right_to_read_namespaces_nothing_more_is_allowed(
    cluster: KubeServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with calls_as(cluster, "bob") as calls:
        allowances = KubeAllowances(calls, AddressPolicy(), fresh=0.0)
        for _ in range(3):
            assert await allowances.policy(OPEN) == AddressPolicy()
    assert [record.name for record in caplog.records if "may not get Namespaces" in record.message] == [
        "stepwell.adapters.kube.allowances"
    ]
