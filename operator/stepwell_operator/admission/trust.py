"""Keeps two things in step: the certificate that the server shows, and the `caBundle` by which API servers trust it.

Level-triggered, one `Trust.step` after another: it looks at the ValidatingWebhookConfiguration, decides, and patches what
differs. A successor's authority is published beside the current one, and shown only when API servers have had time to learn
of it, so that no call fails meanwhile.
"""

from __future__ import annotations

import base64
import logging
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from stepwell_operator.admission.certificates import Identity, issue, show

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable, Mapping

LONGEST_PAUSE = timedelta(minutes=1)  #: between two looks at the configuration
SETTLE = timedelta(seconds=30)  #: API servers follow a new caBundle in far less
PARTS = 20  #: of a lifetime: no pause is longer than one

log = logging.getLogger(__name__)


class Configurations(Protocol):
    """Where the ValidatingWebhookConfiguration is kept."""

    async def read(self) -> Mapping[str, Any] | None:
        """The object as JSON, None where there is none. Raises UnavailableError."""

    async def trust(self, bundles: Mapping[str, bytes]) -> None:
        """Write the `caBundle` of the webhooks named. Raises UnavailableError."""


@dataclass(slots=True)
class Trust:
    """The certificate in use, and its successor while it is being introduced."""

    configurations: Configurations
    context: ssl.SSLContext
    lifetime: timedelta
    clock: Callable[[], datetime]
    current: Identity | None = None
    successor: Identity | None = None
    _published: datetime | None = field(default=None)
    _missing: bool = field(default=False)

    @property
    def pause(self) -> timedelta:
        """The time until the next step."""
        return min(LONGEST_PAUSE, self.lifetime / PARTS)

    async def step(self) -> bool:
        """Look, and bring everything one step on; whether the server is trusted now. Raises UnavailableError."""
        configuration = await self.configurations.read()
        webhooks = (configuration or {}).get("webhooks") or []
        if not webhooks:
            self._say_missing()
            return False
        self._missing = False
        self._renew(hosts_of(webhooks))
        bundle = b"".join(identity.authority for identity in (self.current, self.successor) if identity is not None)
        wrong = {webhook["name"]: bundle for webhook in webhooks if bundle_of(webhook) != bundle}
        if wrong:
            await self.configurations.trust(wrong)
        if self.successor is not None and self._published is None:
            self._published = self.clock()
        return True

    def _renew(self, hosts: frozenset[str]) -> None:
        now = self.clock()
        if self.current is None or self.current.hosts != hosts or now >= self.current.expires:
            self._show(issue(hosts, now, self.lifetime))
        elif self.successor is not None and self._published is not None:
            if now >= self._published + min(SETTLE, self.pause):
                self._show(self.successor)
        elif self.successor is None and self.current.due(now):
            self.successor = issue(hosts, now, self.lifetime)

    def _show(self, identity: Identity) -> None:
        show(self.context, identity.certificate, identity.key)
        self.current, self.successor, self._published = identity, None, None
        log.info("the admission webhook shows a certificate until %s", f"{identity.expires:%Y-%m-%dT%H:%M:%SZ}")

    def _say_missing(self) -> None:
        if not self._missing:
            log.warning(
                "there is no ValidatingWebhookConfiguration of ours: problems show after the apply, in the status"
            )
        self._missing = True


def hosts_of(webhooks: Iterable[Mapping[str, Any]]) -> frozenset[str]:
    """The names by which API servers call these webhooks."""
    return frozenset(_host(webhook.get("clientConfig") or {}) for webhook in webhooks)


def bundle_of(webhook: Mapping[str, Any]) -> bytes:
    """The authorities that API servers trust for a webhook, as PEM; empty where none are stated."""
    return base64.b64decode((webhook.get("clientConfig") or {}).get("caBundle") or "")


def _host(client: Mapping[str, Any]) -> str:
    service = client.get("service")
    if service:
        return f"{service['name']}.{service['namespace']}.svc"
    return urlsplit(client.get("url") or "").hostname or "localhost"
