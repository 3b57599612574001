"""What is written to the cluster about WorkflowRuns, and the one thing that is read: which objects there are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import aiohttp
from kubernetes.aio import client

from stepwell.adapters.kube.client import CALL_TIMEOUT, unavailable
from stepwell.domain.errors import DataRefusedError, StepwellError
from stepwell_operator.runs.objects import parse

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from stepwell_operator.runs.objects import RunObject

T = TypeVar("T")
GROUP, VERSION, PLURAL = "stepwell.dev", "v1alpha1", "workflowruns"
MANAGER = "stepwell-operator"
APPLY = "application/apply-patch+yaml"  # of which JSON is a part
NAMES_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
PAGE = 1_000
CONFLICTS = 5  # tries of one write: every conflict means that somebody else wrote


class GoneError(StepwellError):
    """The object is not there any more."""


class Cluster(Protocol):
    """The API server, as the follower needs it. Raises UnavailableError where it gave no usable answer."""

    async def show(self, obj: RunObject, version: str, status: dict[str, Any]) -> str:
        """Make this the object's status; its new resource version. Raises GoneError, and DataRefusedError where the
        schema does not let it in.
        """

    async def read(self, obj: RunObject) -> RunObject:
        """The object as it stands, with its input. Raises GoneError."""

    async def delete(self, obj: RunObject) -> None:
        """Delete the object, unless it is gone already."""

    async def uids(self) -> set[str]:
        """The uids of all objects of the cluster, as they were at some moment after the call began."""


@dataclass(frozen=True, slots=True)
class KubeCluster:
    """The real one."""

    api: client.ApiClient

    async def show(self, obj: RunObject, version: str, status: dict[str, Any]) -> str:
        """See Cluster.

        Server-side apply: a merge patch would lose the nulls within an output, and what an earlier status said goes away by
        itself. It does not compare uids, so the resource version guards against an object of the same name made anew.
        """
        for _ in range(CONFLICTS):
            try:
                return await self._apply(obj, version, status)
            except _ConflictError:
                version = (await self.read(obj)).version
        message = f"{_what(obj)}: it changes faster than its status can be written"
        raise unavailable(message, TimeoutError())

    async def _apply(self, obj: RunObject, version: str, status: dict[str, Any]) -> str:
        metadata = {"name": obj.name, "namespace": obj.namespace, "resourceVersion": version}
        body = {"apiVersion": f"{GROUP}/{VERSION}", "kind": "WorkflowRun", "metadata": metadata, "status": status}
        call = client.CustomObjectsApi(self.api).patch_namespaced_custom_object_status(
            GROUP, VERSION, obj.namespace, PLURAL, obj.name, body,
            field_manager=MANAGER, force=True, _content_type=APPLY, _request_timeout=CALL_TIMEOUT,
        )  # fmt: skip
        answer: Any = await _called(_what(obj), call)
        return str(answer["metadata"]["resourceVersion"])

    async def read(self, obj: RunObject) -> RunObject:
        """See Cluster."""
        call = client.CustomObjectsApi(self.api).get_namespaced_custom_object(
            GROUP, VERSION, obj.namespace, PLURAL, obj.name, _request_timeout=CALL_TIMEOUT
        )
        found: Any = await _called(_what(obj), call)
        if found["metadata"]["uid"] != obj.uid:
            message = f"{_what(obj)}: it was deleted, and another was made under its name"
            raise GoneError(message)
        return parse(found)

    async def delete(self, obj: RunObject) -> None:
        """See Cluster."""
        this_one = client.V1DeleteOptions(preconditions=client.V1Preconditions(uid=obj.uid))
        call = client.CustomObjectsApi(self.api).delete_namespaced_custom_object(
            GROUP, VERSION, obj.namespace, PLURAL, obj.name, body=this_one, _request_timeout=CALL_TIMEOUT
        )
        try:
            await _called(_what(obj), call)
        except (GoneError, _ConflictError):  # a conflict: the one of this name is another
            return

    async def uids(self) -> set[str]:
        """See Cluster. The names only: what the objects hold stays where it is."""
        found: set[str] = set()
        token = ""
        while True:
            page = await _called("the WorkflowRuns of the cluster", self._page(token))
            found |= {item["metadata"]["uid"] for item in page["items"] or ()}  # null where there is none
            token = page["metadata"].get("continue", "")
            if not token:
                return found

    def _page(self, token: str) -> Awaitable[Any]:
        kind = client.CustomObjectsApi(self.api)
        return kind.list_cluster_custom_object(
            GROUP, VERSION, PLURAL, limit=PAGE, _continue=token or None,
            _headers={"Accept": NAMES_ONLY}, _request_timeout=CALL_TIMEOUT,
        )  # fmt: skip


class _ConflictError(StepwellError):
    """The object changed since its version was read."""


def _what(obj: RunObject) -> str:
    return f"WorkflowRun {obj.namespace}/{obj.name}"


async def _called(what: str, call: Awaitable[T]) -> T:
    try:
        return await call
    except client.ApiException as exc:
        if exc.status == 404:
            message = f"{what} is gone"
            raise GoneError(message) from exc
        if exc.status == 409:
            raise _ConflictError(str(exc.reason)) from exc
        if exc.status in {400, 413, 422}:
            message = f"{what}: the API server refused what was written: {exc.status} {exc.reason} {exc.body}"
            raise DataRefusedError(message) from exc
        raise unavailable(what, exc) from exc
    except (aiohttp.ClientError, TimeoutError, OSError) as exc:
        raise unavailable(what, exc) from exc
