"""Which Secrets a Workflow names, by who reads them: the worker those of steps, the gateway those of webhooks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stepwell.domain.model import BasicAuth, Model, SecretKeyRef

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stepwell.domain.spec import WorkflowSpec


@dataclass(frozen=True, slots=True)
class SecretUses:
    """Names of Secrets of the workflow's own namespace."""

    steps: frozenset[str]
    webhooks: frozenset[str]


def secret_uses(spec: WorkflowSpec) -> SecretUses:
    """All that a spec names; whatever is referred to is found, wherever a model holds it."""
    steps = (*spec.steps, *spec.on_failure, *spec.finally_)
    return SecretUses(
        steps=frozenset(name for step in steps for name in _named(step)),
        webhooks=frozenset(name for trigger in spec.triggers for name in _named(trigger)),
    )


def _named(value: object) -> Iterator[str]:
    if isinstance(value, SecretKeyRef):
        yield value.name
    elif isinstance(value, BasicAuth):
        yield value.secret_name
    elif isinstance(value, Model):
        for name in type(value).model_fields:
            yield from _named(getattr(value, name))
    elif isinstance(value, tuple):
        for item in value:
            yield from _named(item)
