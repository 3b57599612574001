"""A fake API server on kmock, for machines without a real one: enough for an operator, and honest about the rest.

It has uids, resource versions, generations, the split of status and spec, conflicts, merge patches, server-side apply of one
manager, finalizers, and watches that resume without a gap. It has no schema: no defaults, no CEL rules, no pruning, no field
managers, no admission, no access control. Tests that need one of those take the fixture `kube`.
"""

from __future__ import annotations

import asyncio
import copy
import json
import uuid
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import kmock
import operating
import yaml
from kube_api import Api

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

RESOURCES = {
    "stepwell.dev/v1alpha1/workflows": ("Workflow", True, {"status"}),
    "stepwell.dev/v1alpha1/workflowruns": ("WorkflowRun", True, {"status"}),
    "v1/events": ("Event", True, set()),
    "v1/namespaces": ("Namespace", False, set()),
    "apiextensions.k8s.io/v1/customresourcedefinitions": ("CustomResourceDefinition", False, set()),
}
VERBS = {"get", "list", "watch", "create", "patch", "update", "delete"}
KEPT = ("uid", "creationTimestamp", "generation", "name", "namespace", "resourceVersion", "deletionTimestamp")

Key = tuple[str, str | None, str]


class RefusalError(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class FakeKube(kmock.KubernetesScaffold):  # type: ignore[misc]
    """Objects by resource, namespace and name; ``log`` holds every event, by its version."""

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        self.kept: dict[Key, dict[str, Any]] = {}
        self.version = 1_000
        self.log: list[tuple[int, str, dict[str, Any]]] = []
        self.changed = asyncio.Event()
        for name, (kind, namespaced, subresources) in RESOURCES.items():
            self.resources[name] = {
                "kind": kind,
                "singular": kind.lower(),
                "namespaced": namespaced,
                "verbs": VERBS,
                "subresources": subresources,
            }

    async def _handle(self, request: kmock.Request) -> Any:
        if request.resource is None or not request.resource.plural:  # discovery
            return await super()._handle(request)
        try:
            answer = self._answer(request)
        except RefusalError as refusal:
            body = {"kind": "Status", "status": "Failure", "code": refusal.status, "message": str(refusal)}
            return await kmock.Response(status=refusal.status, payload=body)(request)
        return await kmock.Response(status=200, payload=answer)(request)

    def _answer(self, request: kmock.Request) -> Any:
        key: Key = (request.resource.plural, request.namespace, request.name or "")
        method = request.method.value
        if method == "GET" and request.name:
            return copy.deepcopy(self._found(key))
        if method == "GET":
            if request.params.get("watch") in {"true", "1", True}:
                return self._watch(key[0], request.namespace, int(request.params.get("resourceVersion") or 0))
            return self._list(key[0], request.namespace)
        if method == "DELETE":
            return self._delete(key, json.loads(request.body or b"{}") or {})
        data = json.loads(request.body)
        if method == "POST":
            return self._create(key, data)
        return self._change(key, data, request.subresource == "status", whole=method == "PUT")

    def _found(self, key: Key) -> dict[str, Any]:
        if key not in self.kept:
            raise RefusalError(404, f"{key} not found")
        return self.kept[key]

    def _list(self, plural: str, namespace: str | None) -> dict[str, Any]:
        items = [item for (kind, space, _), item in self.kept.items() if kind == plural and namespace in {None, space}]
        kind = next(kind for name, (kind, _, _) in RESOURCES.items() if name.endswith(f"/{plural}"))
        return {
            "kind": f"{kind}List",
            "metadata": {"resourceVersion": str(self.version)},
            "items": copy.deepcopy(items),
        }

    async def _watch(self, plural: str, namespace: str | None, after: int) -> AsyncIterator[Any]:
        place = next((index for index, (version, _, _) in enumerate(self.log) if version > after), len(self.log))
        yield b""
        while True:
            for _, kind, event in self.log[place:]:
                if kind == plural and namespace in {None, event["object"]["metadata"].get("namespace")}:
                    yield event
            place = len(self.log)
            self.changed.clear()
            await self.changed.wait()

    def _create(self, key: Key, data: dict[str, Any]) -> dict[str, Any]:
        metadata = data["metadata"]
        key = (key[0], key[1], metadata["name"])
        if key in self.kept:
            raise RefusalError(409, f"{key} exists")
        created = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        metadata |= {"uid": str(uuid.uuid4()), "generation": 1, "creationTimestamp": created}
        if key[1] is not None:
            metadata["namespace"] = key[1]
        data.pop("status", None)
        self.kept[key] = data
        return self._told("ADDED", key)

    def _change(self, key: Key, data: dict[str, Any], status: bool, *, whole: bool) -> dict[str, Any]:
        old = self._found(key)
        version = data.get("metadata", {}).get("resourceVersion")
        if version not in {None, old["metadata"]["resourceVersion"]}:
            raise RefusalError(409, "the object has been modified")
        if status:  # server-side apply by its only manager, or a merge: the operator sends the whole of it
            new = {**old, "status": data.get("status", {})}
        else:
            new = {**(data if whole else merged(old, data))}
            new.pop("status", None)
            new |= {"status": old["status"]} if "status" in old else {}
        new["metadata"] = {**new["metadata"], **{k: old["metadata"][k] for k in KEPT if k in old["metadata"]}}
        if new == old:
            return copy.deepcopy(old)
        if new.get("spec") != old.get("spec"):
            new["metadata"]["generation"] += 1
        self.kept[key] = copy.deepcopy(new)
        return self._told("MODIFIED", key)

    def _delete(self, key: Key, options: dict[str, Any]) -> dict[str, Any]:
        found = self._found(key)
        if options.get("preconditions", {}).get("uid") not in {None, found["metadata"]["uid"]}:
            raise RefusalError(409, "another uid")
        if found["metadata"].get("finalizers"):
            found["metadata"]["deletionTimestamp"] = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            return self._told("MODIFIED", key)
        told = self._told("DELETED", key)
        del self.kept[key]
        return told

    def _told(self, event: str, key: Key) -> dict[str, Any]:
        """Give the object the next version, and tell the watchers."""
        self.version += 1
        self.kept[key]["metadata"]["resourceVersion"] = str(self.version)
        shown = copy.deepcopy(self.kept[key])
        self.log.append((self.version, key[0], {"type": event, "object": shown}))
        self.changed.set()
        return copy.deepcopy(shown)


def merged(old: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    base = dict(old) if isinstance(old, dict) else {}
    for name, value in patch.items():
        if value is None:
            base.pop(name, None)
        else:
            base[name] = merged(base.get(name), value)
    return base


@contextmanager
def fake_api(directory: Path) -> Iterator[Api]:
    """A fake in a thread of its own: kopf, at its end, cancels every younger task of its loop."""
    urls: list[str] = []

    async def main(thread: operating.Thread) -> None:
        async with FakeKube() as fake, kmock.Server(fake) as server:
            urls.append(str(server.url).rstrip("/"))
            thread.ready.set()
            await thread.stopping.wait()

    thread = operating.Thread(main)
    thread.is_ready()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "fake", "cluster": {"server": urls[0]}}],
        "users": [{"name": "admin", "user": {"token": "fake"}}],
        "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "admin"}}],
        "current-context": "fake",
    }
    kubeconfig = directory / "fake.kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(config))
    api = Api(urls[0], kubeconfig, real=False)
    try:
        yield api
    finally:
        api.close()
        thread.stop()
