"""What the operator reads and writes of Workflow objects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import aiohttp
from kubernetes.aio import client

from stepwell.adapters.kube.client import CALL_TIMEOUT, unavailable
from stepwell.adapters.postgres.resource_store import ResourceName
from stepwell.domain.errors import DataRefusedError, NotFoundError
from stepwell_operator.workflows.resource import Resource, resource_of

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from stepwell_operator.workflows.decide import Status

T = TypeVar("T")
GROUP, VERSION, PLURAL = "stepwell.dev", "v1alpha1", "workflows"
MANAGER = "stepwell-operator"
APPLY = "application/apply-patch+yaml"  # of which JSON is a part
NAMES_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
PAGE = 1_000
WRITE_TIME = 30.0  # seconds: the API server looks through all of an object at each write, 2 s for one of 195 steps


class Listed(NamedTuple):
    """An object of the cluster, without what it holds."""

    name: ResourceName
    uid: str
    generation: int


@dataclass(frozen=True, slots=True)
class Cluster:
    """The API server. Raises UnavailableError where it gave no usable answer."""

    api: client.ApiClient

    async def show(self, name: ResourceName, status: Status) -> tuple[int, Status]:
        """Make this the object's status; its new resource version, and the status as it is stored.

        Server-side apply: what an earlier status said and this one does not goes away by itself. Raises NotFoundError,
        and DataRefusedError where the schema does not let it in.
        """
        body = {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": "Workflow",
            "metadata": {"name": name.name, "namespace": name.namespace},
            "status": status,
        }
        call = client.CustomObjectsApi(self.api).patch_namespaced_custom_object_status(
            GROUP, VERSION, name.namespace, PLURAL, name.name, body,
            field_manager=MANAGER, force=True, _content_type=APPLY, _request_timeout=WRITE_TIME,
        )  # fmt: skip
        found: Any = await _called(f"Workflow {name}", call)
        written = resource_of(found)
        return written.version, written.status

    async def read(self, name: ResourceName) -> Resource | None:
        """The object as it is now, None where it is gone or being deleted."""
        call = client.CustomObjectsApi(self.api).get_namespaced_custom_object(
            GROUP, VERSION, name.namespace, PLURAL, name.name, _request_timeout=CALL_TIMEOUT
        )
        try:
            found: Any = await _called(f"Workflow {name}", call)
        except NotFoundError:
            return None
        return None if "deletionTimestamp" in found["metadata"] else resource_of(found)

    async def listed(self) -> list[Listed]:
        """All objects that are not being deleted, as they were at some moment after the call began."""
        found: list[Listed] = []
        token = ""
        while True:
            call = client.CustomObjectsApi(self.api).list_cluster_custom_object(
                GROUP, VERSION, PLURAL, limit=PAGE, _continue=token or None,
                _headers={"Accept": NAMES_ONLY}, _request_timeout=CALL_TIMEOUT,
            )  # fmt: skip
            page: Any = await _called("the Workflows of the cluster", call)
            found += [
                _listed(item["metadata"]) for item in page["items"] or () if "deletionTimestamp" not in item["metadata"]
            ]
            token = page["metadata"].get("continue", "")
            if not token:
                return found


def _listed(metadata: dict[str, Any]) -> Listed:
    return Listed(ResourceName(metadata["namespace"], metadata["name"]), metadata["uid"], metadata.get("generation", 1))


async def _called(what: str, call: Awaitable[T]) -> T:
    try:
        return await call
    except client.ApiException as exc:
        if exc.status == 404:
            message = f"{what} is gone"
            raise NotFoundError(message) from exc
        if exc.status in {400, 413, 422}:  # a conflict passes: others wrote at the same time
            message = f"{what}: the API server refused what was written: {exc.status} {exc.reason} {exc.body}"
            raise DataRefusedError(message) from exc
        raise unavailable(what, exc) from exc
    except (aiohttp.ClientError, TimeoutError, OSError) as exc:
        raise unavailable(what, exc) from exc
