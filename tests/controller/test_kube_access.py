"""Who a token belongs to and what they may do, asked of a real API server with the gateway's own rights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from kube_clients import calls_as
from waiting import eventually

from stepwell.adapters.kube.access import KubeAccess
from stepwell.domain.access import Identity, UnauthenticatedError
from stepwell.domain.errors import UnavailableError

if TYPE_CHECKING:
    from kube_server import KubeServer

ROOT = Path(__file__).parents[2]
SHOP, OTHER = "access-shop", "access-other"

SETUP = f"""\
apiVersion: v1
kind: Namespace
metadata: {{name: {SHOP}}}
---
apiVersion: v1
kind: Namespace
metadata: {{name: {OTHER}}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{name: test-gateway}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: stepwell-gateway}}
subjects: [{{apiGroup: rbac.authorization.k8s.io, kind: User, name: gateway}}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{name: starts-orders, namespace: {SHOP}}}
rules: [{{apiGroups: [stepwell.dev], resources: [workflows/runs], resourceNames: [orders], verbs: [create, get]}}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: alice, namespace: {SHOP}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: starts-orders}}
subjects: [{{apiGroup: rbac.authorization.k8s.io, kind: User, name: alice}}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{name: lists, namespace: {SHOP}}}
rules: [{{apiGroups: [stepwell.dev], resources: [workflows/runs], verbs: [list]}}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: people, namespace: {SHOP}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: lists}}
subjects: [{{apiGroup: rbac.authorization.k8s.io, kind: Group, name: people}}]
---
apiVersion: v1
kind: ServiceAccount
metadata: {{name: ci, namespace: {SHOP}}}
"""


@pytest.fixture(scope="module")
def cluster(kube: KubeServer) -> KubeServer:
    text = (ROOT / "deploy/base/rbac-gateway.yaml").read_text("utf-8")
    role = [part for part in text.split("\n---\n") if re.search(r"^kind: ClusterRole$", part, re.MULTILINE)]
    kube.kubectl("apply", "--server-side", "-f", "-", given="\n---\n".join([*role, SETUP]))
    return kube


async def test_whose_token_it_is(cluster: KubeServer) -> None:
    async with calls_as(cluster, "gateway") as calls:
        access = KubeAccess(calls)
        alice = await access.identify(cluster.token("alice"))
        with pytest.raises(UnauthenticatedError) as caught:
            await access.identify("not-a-token-of-anybody")
    assert (alice.user, alice.uid) == ("alice", "alice")
    assert set(alice.groups) == {"people", "system:authenticated"}
    assert "not-a-token-of-anybody" not in repr(caught.value)


async def test_a_service_account_brings_its_groups_and_extra(cluster: KubeServer) -> None:
    token = cluster.kubectl("create", "token", "ci", namespace=SHOP).stdout.strip()
    async with calls_as(cluster, "gateway") as calls:
        access = KubeAccess(calls)
        found = await access.identify(token)
        assert not await access.allowed(found, "list", "runs", SHOP, "")
    assert found.user == f"system:serviceaccount:{SHOP}:ci"
    assert f"system:serviceaccounts:{SHOP}" in found.groups
    assert any(key.startswith("authentication.kubernetes.io/") for key, _ in found.extra)
    assert hash(found) == hash(Identity(found.user, found.uid, found.groups, found.extra))


async def test_a_token_for_others_is_not_for_us(cluster: KubeServer) -> None:
    """The API server takes tokens of other audiences for itself no more than we do."""
    ours = cluster.kubectl("create", "token", "ci", "--audience=stepwell", namespace=SHOP).stdout.strip()
    general = cluster.kubectl("create", "token", "ci", namespace=SHOP).stdout.strip()
    async with calls_as(cluster, "gateway") as calls:
        assert (await KubeAccess(calls, ("stepwell",)).identify(ours)).user.endswith(":ci")
        for access, token in ((KubeAccess(calls, ("stepwell",)), general), (KubeAccess(calls), ours)):
            with pytest.raises(UnauthenticatedError):
                await access.identify(token)


ALLOWED = [
    ("alice", "create", "runs", SHOP, "orders"),
    ("alice", "get", "runs", SHOP, "orders"),
    ("alice", "list", "runs", SHOP, ""),
    ("bob", "list", "runs", SHOP, ""),  # by a group
    ("admin", "update", "approvals", OTHER, "orders"),  # by a group, everywhere
]
DENIED = [
    ("alice", "create", "runs", SHOP, "payments"),
    ("alice", "create", "runs", SHOP, ""),
    ("alice", "create", "runs", OTHER, "orders"),
    ("alice", "update", "runs", SHOP, "orders"),
    ("alice", "get", "payloads", SHOP, "orders"),
    ("alice", "get", "", SHOP, "orders"),
    ("alice", "create", "runs", SHOP, "../orders"),
    ("alice", "create", "runs", "", "orders"),
    ("bob", "create", "runs", SHOP, "orders"),
    ("bob", "list", "runs", OTHER, ""),
    ("gateway", "create", "runs", OTHER, "orders"),
]


async def test_who_may(cluster: KubeServer) -> None:
    async with calls_as(cluster, "gateway") as calls:
        access = KubeAccess(calls)
        people = {name: await access.identify(cluster.token(name)) for name in ("alice", "bob", "admin", "gateway")}
        found = {question: await access.allowed(people[question[0]], *question[1:]) for question in ALLOWED + DENIED}
    assert found == dict.fromkeys(ALLOWED, True) | dict.fromkeys(DENIED, False)


async def test_user_groups_and_extra_are_all_passed_on(cluster: KubeServer) -> None:
    """A right hangs on each of them; none is the gateway's."""
    async with calls_as(cluster, "gateway") as calls:
        access = KubeAccess(calls)
        assert await access.allowed(Identity("alice"), "create", "runs", SHOP, "orders")
        assert await access.allowed(Identity("x", groups=("people",)), "list", "runs", SHOP, "")
        assert not await access.allowed(Identity("x", extra=(("groups", ("people",)),)), "list", "runs", SHOP, "")
        sent: list[dict[str, object]] = []
        review = access._review

        async def recorded(group: str, kind: str, spec: dict[str, object]) -> dict[str, object]:
            sent.append(spec)
            return await review(group, kind, spec)

        access._review = recorded  # type: ignore[method-assign, assignment]
        identity = Identity("x", "u-1", ("g",), (("example.com/scopes", ("a", "b")),))
        assert not await access.allowed(identity, "get", "payloads", SHOP, "orders")
    assert sent[0] == {
        "user": "x",
        "uid": "u-1",
        "groups": ["g"],
        "extra": {"example.com/scopes": ["a", "b"]},
        "resourceAttributes": {
            "group": "stepwell.dev", "version": "v1alpha1", "resource": "workflows", "subresource": "payloads",
            "verb": "get", "namespace": SHOP, "name": "orders",
        },
    }  # fmt: skip


async def test_changed_rights_are_seen_within_the_time_of_the_cache(cluster: KubeServer) -> None:
    async with calls_as(cluster, "gateway") as calls:
        access = KubeAccess(calls, fresh=0.2, fresh_failure=0.1)
        bob = await access.identify(cluster.token("bob"))

        async def may() -> bool:
            return await access.allowed(bob, "create", "runs", SHOP, "orders")

        async def may_not() -> bool:
            return not await may()

        assert await may_not()
        cluster.kubectl("create", "rolebinding", "bob", "--role=starts-orders", "--user=bob", namespace=SHOP)
        await eventually(may)
        cluster.kubectl("delete", "rolebinding", "bob", namespace=SHOP)
        await eventually(may_not)


async def test_a_gateway_without_rights_says_so_and_lets_nobody_in(cluster: KubeServer) -> None:
    async with calls_as(cluster, "bob") as calls:
        access = KubeAccess(calls)
        with pytest.raises(UnavailableError, match="TokenReview was answered 403"):
            await access.identify(cluster.token("alice"))
        with pytest.raises(UnavailableError, match="SubjectAccessReview was answered 403"):
            await access.allowed(Identity("admin", groups=("system:masters",)), "list", "runs", SHOP, "")
