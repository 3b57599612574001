"""Secrets of local mode: documents of ``kind: Secret`` in Kubernetes' form, from manifests and from ``--secrets FILE``."""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from typing import TYPE_CHECKING

from stepwell.domain.errors import ManifestError, Problem
from stepwell.domain.secrets import Secret, SecretError, SecretValue

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stepwell.domain.documents import JsonValue
    from stepwell.domain.manifest import Document

MAX_BYTES = 1 << 20  # as in Kubernetes: all values of one Secret
_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}\Z")


class LocalSecrets:
    """A SecretResolver over documents; those that are no Secrets are passed over."""

    def __init__(self, documents: Iterable[Document] = ()) -> None:
        self._secrets: dict[tuple[str, str], Secret] = {}
        self.replace(documents)

    def replace(self, documents: Iterable[Document]) -> None:
        """Take these in the place of all others; of two with one name the last. Raises ManifestError, changing nothing."""
        problems: list[Problem] = []
        found = [_secret(document, problems) for document in documents if document.kind == "Secret"]
        if problems:
            raise ManifestError(problems)
        self._secrets = {(secret.namespace, secret.name): secret for secret in found}

    async def get(self, namespace: str, name: str) -> Secret:
        """The Secret. Raises SecretError where there is none."""
        secret = self._secrets.get((namespace, name))
        if secret is None:
            elsewhere = sorted(other for other, known in self._secrets if known == name)
            hint = f", only in {', '.join(elsewhere)}" if elsewhere else "; give one with --secrets FILE"
            message = f"there is no Secret {name} in namespace {namespace}{hint}"
            raise SecretError("SecretMissing", message)
        return secret


def check_secrets(documents: Iterable[Document]) -> list[Problem]:
    """Every problem in the Secrets among documents."""
    problems: list[Problem] = []
    for document in documents:
        if document.kind == "Secret":
            _secret(document, problems)
    return problems


def _secret(document: Document, problems: list[Problem]) -> Secret:
    found: list[Problem] = []
    raw = document.raw
    data = {key: SecretValue(_decoded(key, text, found)) for key, text in _map(raw, "data", found).items()}
    strings = _map(raw, "stringData", found)
    data |= {key: SecretValue(text.encode()) for key, text in strings.items()}
    if sum(len(value.reveal()) for value in data.values()) > MAX_BYTES:
        found.append(Problem("data", f"holds more than {MAX_BYTES:,} bytes"))
    metadata = raw.get("metadata")
    about = metadata if isinstance(metadata, dict) else {}
    labels = _map(about, "labels", found, "metadata.")
    annotations = _map(about, "annotations", found, "metadata.")
    problems += [document.located(problem) for problem in found]
    return Secret(document.namespace, document.name, data, labels, annotations)


def _map(parent: dict[str, JsonValue], name: str, problems: list[Problem], prefix: str = "") -> dict[str, str]:
    value = parent.get(name)
    if value is None:
        return {}
    place = f"{prefix}{name}"
    if not isinstance(value, dict):
        problems.append(Problem(place, "must be a map of strings"))
        return {}
    for key, text in value.items():
        if not isinstance(text, str):
            problems.append(Problem(f"{place}.{key}", "must be a string; quote it"))
        elif not prefix and not _KEY.match(key):
            problems.append(Problem(f"{place}.{key}", "a key holds letters, digits and -._ only"))
    return {key: text for key, text in value.items() if isinstance(text, str)}


def _decoded(key: str, text: str, problems: list[Problem]) -> bytes:
    try:
        return b64decode(text.replace("\n", "").replace("\r", ""), validate=True)
    except (binascii.Error, ValueError):
        problems.append(Problem(f"data.{key}", "is not Base64; write the plain value under stringData instead"))
        return b""
