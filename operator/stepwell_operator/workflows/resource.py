"""A Workflow object as the operator sees it, and whether its spec is sound."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from stepwell.adapters.postgres.resource_store import NewResource, ResourceName
from stepwell.domain.manifest import read_object
from stepwell.domain.spec import API_VERSION, Workflow
from stepwell.domain.validation import validate_documents
from stepwell.engine.apply import revision_of
from stepwell.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stepwell.domain.action import Actions
    from stepwell.domain.errors import Problem

ON_DELETE = "stepwell.dev/on-delete"  # the annotation; its value Cancel cancels accepted runs at the deletion


class TriggerName(NamedTuple):
    """A trigger as the status shows it: with an address, or with its next time."""

    name: str
    webhook: bool


@dataclass(frozen=True, slots=True)
class Resource:
    """One Workflow. ``spec`` and ``status`` are as the API server has them."""

    name: ResourceName
    uid: str
    generation: int
    version: int
    spec: dict[str, Any]
    status: dict[str, Any]
    cancels: bool

    @property
    def digest(self) -> bytes:
        """Of all that syncing depends on, this version of Stepwell included: another one may judge differently."""
        state = orjson.dumps([VERSION, self.cancels, self.spec], option=orjson.OPT_SORT_KEYS)
        return hashlib.sha256(state).digest()

    @property
    def suspended(self) -> bool:
        """Whether no trigger starts a run."""
        return self.spec.get("suspend") is True

    @property
    def triggers(self) -> tuple[TriggerName, ...]:
        """Of a sound spec."""
        return tuple(TriggerName(item["name"], "webhook" in item) for item in self.spec.get("triggers") or ())


def resource_of(body: Mapping[str, Any]) -> Resource:
    """From an object of the API server."""
    metadata = body["metadata"]
    return Resource(
        name=ResourceName(metadata["namespace"], metadata["name"]),
        uid=metadata["uid"],
        generation=metadata.get("generation", 1),
        version=_number(metadata.get("resourceVersion")),
        spec=dict(body.get("spec") or {}),
        status=dict(body.get("status") or {}),
        cancels=(metadata.get("annotations") or {}).get(ON_DELETE) == "Cancel",
    )


def checked(resource: Resource, actions: Actions) -> NewResource | list[Problem]:
    """What is to stand in the database, or every problem: the checks of ``stepwell validate``."""
    document, problems = read_object(
        {
            "apiVersion": API_VERSION,
            "kind": "Workflow",
            "metadata": {"name": resource.name.name, "namespace": resource.name.namespace},
            "spec": resource.spec,
        }
    )
    if document is not None:
        problems = validate_documents([document], actions)
    if problems or document is None or not isinstance(document.model, Workflow):
        return [replace(problem, file=None, line=None) for problem in problems]
    revision = revision_of(*resource.name, document.raw["spec"], document.model.spec)
    return NewResource(revision, resource.uid, resource.digest, resource.cancels)


def _number(version: str | None) -> int:
    """Resource versions grow, since Kubernetes 1.35 by contract; one that is no number is older than all."""
    return int(version) if version is not None and version.isdigit() else 0
