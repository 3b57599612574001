"""What admission reads and writes of the cluster."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

import aiohttp
from kubernetes.aio import client
from kubernetes.aio.client.exceptions import ApiException

from stepwell.adapters.kube.client import CALL_TIMEOUT, unavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping

    from stepwell.domain.documents import JsonObject

T = TypeVar("T")
MERGE = "application/strategic-merge-patch+json"  # webhooks are merged by their names


@dataclass(frozen=True, slots=True)
class KubeConfigurations:
    """One ValidatingWebhookConfiguration, by its name."""

    api: client.ApiClient
    name: str

    async def read(self) -> Mapping[str, Any] | None:
        """See `trust.Configurations`."""
        kind = client.AdmissionregistrationV1Api(self.api)
        found = await _called(
            self._what, kind.read_validating_webhook_configuration(self.name, _request_timeout=CALL_TIMEOUT)
        )
        if found is None:
            return None
        plain: Mapping[str, Any] = self.api.sanitize_for_serialization(found)  # type: ignore[no-untyped-call]
        return plain

    async def trust(self, bundles: Mapping[str, bytes]) -> None:
        """See `trust.Configurations`."""
        webhooks = [
            {"name": name, "clientConfig": {"caBundle": base64.b64encode(bundle).decode()}}
            for name, bundle in bundles.items()
        ]
        kind = client.AdmissionregistrationV1Api(self.api)
        patch = kind.patch_validating_webhook_configuration(
            self.name, {"webhooks": webhooks}, _content_type=MERGE, _request_timeout=CALL_TIMEOUT
        )
        await _called(self._what, patch)

    @property
    def _what(self) -> str:
        return f"the ValidatingWebhookConfiguration {self.name}"


@dataclass(frozen=True, slots=True)
class KubeWorkflows:
    """Workflows as they stand in the cluster."""

    api: client.ApiClient

    async def find(self, namespace: str, name: str) -> JsonObject | None:
        """See `server.Workflows`."""
        kind = client.CustomObjectsApi(self.api)
        call = kind.get_namespaced_custom_object(
            "stepwell.dev", "v1alpha1", namespace, "workflows", name, _request_timeout=CALL_TIMEOUT
        )
        found: Any = await _called(f"the Workflow {namespace}/{name}", call)
        return cast("JsonObject | None", found)


async def _called(what: str, call: Awaitable[T]) -> T | None:
    """The answer of a call, None for "not found". Raises UnavailableError for any other refusal."""
    try:
        return await call
    except ApiException as exc:
        if exc.status == 404:
            return None
        raise unavailable(what, exc) from exc
    except (aiohttp.ClientError, TimeoutError, OSError) as exc:
        raise unavailable(what, exc) from exc
