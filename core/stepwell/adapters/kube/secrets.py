"""Secrets of the cluster, one at a time, with the right to ``get`` that the namespace gave."""

from __future__ import annotations

import binascii
from base64 import b64decode
from typing import TYPE_CHECKING, Any, NamedTuple

from stepwell.adapters.kube.answers import Answers
from stepwell.adapters.kube.names import is_name, object_path
from stepwell.domain.errors import UnavailableError
from stepwell.domain.secrets import Secret, SecretError, SecretValue

if TYPE_CHECKING:
    from stepwell.adapters.kube.calls import KubeCalls

FRESH = 3.0  # seconds that a Secret is believed: a rotated value is used after them at the latest
FRESH_REFUSAL = 1.0  # seconds that one is believed to be missing, forbidden or out of reach
ENTRIES = 1_000
WEIGHT = 16 << 20  # bytes of all values that are kept

NAMES = 100  # bytes that an entry weighs beside its values


class _Refusal(NamedTuple):
    """What a SecretError is made of, anew for each who asked: an exception would gather the traces of all."""

    reason: str
    message: str


class KubeSecrets:
    """A SecretResolver over the API server."""

    def __init__(self, calls: KubeCalls, *, fresh: float = FRESH, fresh_refusal: float = FRESH_REFUSAL) -> None:
        self._calls = calls
        self._fresh = fresh
        self._fresh_refusal = fresh_refusal
        self._answers: Answers[tuple[str, str], Secret | _Refusal] = Answers(
            entries=ENTRIES, weight=WEIGHT, weigh=_weight
        )

    async def get(self, namespace: str, name: str) -> Secret:
        """The Secret as it stood at most some seconds ago. Raises SecretError."""
        found = await self._answers.get((namespace, name), lambda: self._ask(namespace, name))
        if isinstance(found, _Refusal):
            raise SecretError(found.reason, found.message)
        return found

    async def _ask(self, namespace: str, name: str) -> tuple[Secret | _Refusal, float]:
        found = await self._read(namespace, name)
        return found, self._fresh_refusal if isinstance(found, _Refusal) else self._fresh

    async def _read(self, namespace: str, name: str) -> Secret | _Refusal:
        if not is_name(namespace) or not is_name(name):
            return _missing(namespace, name)
        try:
            answer = await self._calls.get("Secret", object_path("secrets", namespace, name))
        except UnavailableError as exc:
            message = f"the Secret {name} of namespace {namespace} cannot be read right now: {exc}"
            return _Refusal("SecretsUnavailable", message)
        if answer.status == 404:
            return _missing(namespace, name)
        if answer.status == 403:
            return _forbidden(namespace, name)
        if answer.status != 200:
            message = (
                f"the Secret {name} of namespace {namespace} cannot be read right now:"
                f" the API server answered {answer.status}"
            )
            return _Refusal("SecretsUnavailable", message)
        return secret_of(answer.document, namespace, name)


def secret_of(document: dict[str, Any], namespace: str, name: str) -> Secret | _Refusal:
    """The Secret that an answer holds."""
    about = document.get("metadata")
    if document.get("kind") != "Secret" or not isinstance(about, dict) or about.get("name") != name:
        message = f"the Secret {name} of namespace {namespace} cannot be read: the API server answered something else"
        return _Refusal("SecretsUnavailable", message)
    data: dict[str, SecretValue] = {}
    for key, text in _strings(document.get("data")).items():
        value = _decoded(text)
        if value is None:
            message = f"the key {key} of the Secret {name} is not Base64; store it again"
            return _Refusal("SecretInvalid", message)
        data[key] = SecretValue(value)
    return Secret(namespace, name, data, _strings(about.get("labels")), _strings(about.get("annotations")))


def _strings(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        return {}
    return {key: text for key, text in value.items() if isinstance(text, str)}


def _decoded(text: str) -> bytes | None:
    try:
        return b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None


def _weight(found: Secret | _Refusal) -> int:
    if isinstance(found, _Refusal):
        return NAMES
    return NAMES + sum(len(value.reveal()) for value in found.data.values())


def _missing(namespace: str, name: str) -> _Refusal:
    return _Refusal("SecretMissing", f"there is no Secret {name} in namespace {namespace}; create it there")


def _forbidden(namespace: str, name: str) -> _Refusal:
    message = (
        f"the Secret {name} of namespace {namespace} may not be read: no RoleBinding there allows it"
        f" (`stepwell rbac FILE` prints the Role and the RoleBinding)"
    )
    return _Refusal("SecretForbidden", message)
