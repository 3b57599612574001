"""Reads the Secrets of one request, and says why one cannot be used for it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from stepwell.domain.retry import StepFailure
from stepwell.domain.secrets import HOSTS_ANNOTATION, Secret, SecretError, SecretResolver, usable_secret

if TYPE_CHECKING:
    from stepwell.domain.model import SecretKeyRef

MAX_TEXT = 8192  # characters

Note = Callable[[str, SecretError | None], None]
"""Told the name of each Secret that was used, and why it could not be."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Reader:
    """Reads each Secret once, so that user name and password are of one version."""

    def __init__(self, resolver: SecretResolver, namespace: str, note: Note) -> None:
        self._resolver = resolver
        self._namespace = namespace
        self._note = note
        self._secrets: dict[str, Secret] = {}
        self._sent: dict[str, Secret] = {}

    async def text(self, name: str, key: str, limit: int = MAX_TEXT) -> str:
        """A value that is to be sent. Raises StepFailure for one that cannot stand in a header or a URL."""
        value = await self._bytes(name, key)
        self._sent[name] = self._secrets[name]
        try:
            text = value.decode()
        except UnicodeDecodeError:
            raise self.invalid(name, key, "is not UTF-8 text") from None
        if not text:
            raise self.invalid(name, key, "is empty")
        if text.endswith("\n") and text.rstrip("\r\n").isprintable():
            why = "ends with a line break, as text files do; store it without (printf %s instead of echo)"
            raise self.invalid(name, key, why)
        if _CONTROL.search(text):
            raise self.invalid(name, key, "holds a control character, such as a line break")
        if text != text.strip():
            raise self.invalid(name, key, "begins or ends with white space")
        if len(text) > limit:
            raise self.invalid(name, key, f"has more than {limit:,} characters")
        return text

    async def certificates(self, ref: SecretKeyRef) -> bytes:
        """Certificates in PEM form; the client finds out whether they are."""
        value = await self._bytes(ref.name, ref.key)
        if b"-----BEGIN CERTIFICATE-----" not in value:
            raise self.invalid(ref.name, ref.key, "holds no certificate in PEM form")
        return value

    def check_hosts(self, host: str, port: int | None) -> None:
        """Raise StepFailure where a Secret that is to be sent may not go to this host."""
        for name, secret in self._sent.items():
            if not secret.allows(host, port):
                listed = secret.annotations.get(HOSTS_ANNOTATION, "").strip() or "no host"
                message = (
                    f"the Secret {name} may not be sent to {host}:{port};"
                    f" its annotation {HOSTS_ANNOTATION} lists {listed[:200]}"
                )
                raise StepFailure("HostNotAllowed", message, sent=False, final=True)

    def invalid(self, name: str, key: str, why: str) -> StepFailure:
        """The failure for a value that cannot be used."""
        message = f"the key {key} of the Secret {name} {why}"
        return StepFailure("SecretInvalid", message, sent=False, final=True)

    async def _bytes(self, name: str, key: str) -> bytes:
        try:
            if name not in self._secrets:
                self._secrets[name] = await usable_secret(self._resolver, self._namespace, name)
            value = self._secrets[name].value(key).reveal()
        except SecretError as exc:
            self._note(name, exc)
            failure = _failure(exc)
        else:
            self._note(name, None)
            return value
        raise failure


def _failure(exc: SecretError) -> StepFailure:
    """Nothing was sent; what may pass by itself is retried like a network that is away."""
    kind = "Network" if exc.passing else "Error"
    return StepFailure(exc.reason, str(exc), kind=kind, sent=False, final=not exc.passing)
