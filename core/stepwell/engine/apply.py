"""What applying a manifest means for the database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from stepwell.domain.compile import revision_hash
from stepwell.domain.documents import JsonValue
from stepwell.domain.spec import WorkflowSpec
from stepwell.domain.support import language_features


@dataclass(frozen=True, slots=True)
class NewRevision:
    """A workflow as it is applied; ``spec`` is serialised JSON, retention in seconds."""

    namespace: str
    name: str
    spec: bytes
    hash: bytes
    features: Sequence[str]
    suspended: bool
    retain_succeeded: float
    retain_failed: float


def revision_of(namespace: str, name: str, raw: JsonValue, spec: WorkflowSpec) -> NewRevision:
    """The revision that a Workflow asks for; ``raw`` is its spec as it is stored."""
    return NewRevision(
        namespace=namespace,
        name=name,
        spec=orjson.dumps(raw),
        hash=revision_hash(spec),
        features=language_features(spec),
        suspended=spec.suspend,
        retain_succeeded=spec.retention.succeeded,
        retain_failed=spec.retention.failed,
    )
