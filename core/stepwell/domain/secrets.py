"""Secrets of Kubernetes: what may be read of them, and how their values are kept out of sight.

A value lives in a ``SecretValue``, which shows itself as ``***`` wherever it is printed, formatted or logged by accident.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, NoReturn, Protocol

from stepwell.domain.errors import StepwellError

USE_LABEL = "stepwell.dev/use"
HOSTS_ANNOTATION = "stepwell.dev/hosts"


class SecretError(StepwellError):
    """A Secret cannot be used.

    ``reason`` is ``SecretMissing``, ``SecretForbidden``, ``SecretNotLabelled``, ``SecretKeyMissing``, ``SecretInvalid`` or
    ``SecretsUnavailable``. Only the last one may be gone by itself (``passing``).
    """

    exit_code = 2

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    @property
    def passing(self) -> bool:
        """Whether a later try may succeed."""
        return self.reason == "SecretsUnavailable"


class SecretValue:
    """One value of a Secret; ``reveal`` is the only way to it."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = value

    def reveal(self) -> bytes:
        """The value itself, for the moment of its use."""
        return self._value

    def __repr__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SecretValue) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce__(self) -> NoReturn:
        message = "a secret value is not to be pickled"
        raise TypeError(message)


@dataclass(frozen=True, slots=True)
class Secret:
    """A Secret as it was read."""

    namespace: str
    name: str
    data: Mapping[str, SecretValue]
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)

    def value(self, key: str) -> SecretValue:
        """One value. Raises SecretError where the key is missing."""
        found = self.data.get(key)
        if found is None:
            there = ", ".join(sorted(self.data)) or "none"
            message = f"the Secret {self.name} has no key {key}; its keys are: {there}"
            raise SecretError("SecretKeyMissing", message)
        return found

    def allows(self, host: str, port: int | None) -> bool:
        """Whether the values may be sent to a host: any, where the annotation is not set."""
        listed = self.annotations.get(HOSTS_ANNOTATION)
        if listed is None:
            return True
        plain = host.lower().rstrip(".")
        hosts = {entry.strip().lower().rstrip(".") for entry in listed.split(",")}
        return bool(plain) and bool({plain, f"{plain}:{port}", f"[{plain}]", f"[{plain}]:{port}"} & hosts)


class SecretResolver(Protocol):
    """Reads Secrets where they are kept."""

    async def get(self, namespace: str, name: str) -> Secret:
        """The Secret as it stands now. Raises SecretError: missing, forbidden or unavailable."""


class Trouble(NamedTuple):
    """A Secret that a worker or a gateway could not use: why, as in SecretError."""

    reason: str
    message: str


class SecretNotes(Protocol):
    """Takes down how the use of Secrets went, for the workflow's status. Costs nothing, waits for nothing, never fails."""

    def met(self, namespace: str, workflow: str, secret: str, error: SecretError | None) -> None:
        """The workflow used a value of the Secret; ``error`` is why it could not."""


class NoNotes:
    """Nobody wants to know."""

    def met(self, namespace: str, workflow: str, secret: str, error: SecretError | None) -> None:
        """See SecretNotes."""


NO_NOTES = NoNotes()


async def usable_secret(resolver: SecretResolver, namespace: str, name: str) -> Secret:
    """A Secret that workflows may use: it carries the label. Raises SecretError."""
    secret = await resolver.get(namespace, name)
    if secret.labels.get(USE_LABEL) != "true":
        message = (
            f'the Secret {name} of namespace {namespace} is not for workflows: it lacks the label {USE_LABEL}: "true"'
            f" (kubectl -n {namespace} label secret {name} {USE_LABEL}=true)"
        )
        raise SecretError("SecretNotLabelled", message)
    return secret
