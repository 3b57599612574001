"""Links by which somebody without an account decides an approval: who holds the link may, once, until it expires.

The token is the run, the step and the expiry, with an HMAC-SHA256 over them under the installation's key. It expires with
the run, so every attempt of a step makes the same one.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from stepwell.domain.action import Outcome
from stepwell.domain.documents import dumps, loads

if TYPE_CHECKING:
    from stepwell.domain.documents import JsonValue
    from stepwell.domain.retry import StepFailure

MASKED = "/approvals/***"

_PURPOSE = b"stepwell approval link\0"
_DIGEST = 32  # bytes
_HEAD = 16 + 8  # bytes: the run, the expiry
_TOKEN = re.compile(r"/approvals/[A-Za-z0-9_-]{30,300}\.[A-Za-z0-9_-]{43}")


class Link(NamedTuple):
    """What a token stands for; ``expires`` in microseconds."""

    run_id: str
    step: str
    expires: int


@dataclass(frozen=True, slots=True)
class ApprovalLinks:
    """Makes and reads links; ``base`` is where the gateway is reached from outside."""

    key: bytes = field(repr=False)
    base: str

    def url(self, link: Link) -> str:
        """The address of the page on which an approval is decided."""
        payload = UUID(link.run_id).bytes + link.expires.to_bytes(8) + link.step.encode()
        return f"{self.base}/approvals/{_text(payload)}.{_text(self._digest(payload))}"

    def read(self, token: str, now: int) -> Link | None:
        """What a token stands for; None for one that is not ours, or that expired."""
        payload, _, digest = token.partition(".")
        try:
            raw, given = _bytes(payload), _bytes(digest)
        except (binascii.Error, ValueError):
            return None
        if not hmac.compare_digest(given, self._digest(raw)) or len(raw) <= _HEAD:
            return None
        link = Link(str(UUID(bytes=raw[:16])), raw[_HEAD:].decode(), int.from_bytes(raw[16:_HEAD]))
        return link if now < link.expires else None

    def _digest(self, payload: bytes) -> bytes:
        return hmac.digest(self.key, _PURPOSE + payload, "sha256")


def approval_links(key: str | None, base: str) -> ApprovalLinks | None:
    """What the settings allow; None where one of both is missing."""
    return ApprovalLinks(key.encode(), base.rstrip("/")) if key and base else None


def without_links(outcome: Outcome) -> Outcome:
    """A result as it may be stored: a link gives a right to whoever reads it."""
    return Outcome(_hidden(outcome.output), _hidden(outcome.http))  # type: ignore[arg-type]  # an object stays one


def hide_links_of(failure: StepFailure) -> StepFailure:
    """The same of a failure, whose message may quote what was sent or answered."""
    http = without_links(Outcome(None, failure.http)).http
    return replace(failure, message=_TOKEN.sub(MASKED, failure.message), http=http)


def _hidden(value: JsonValue) -> JsonValue:
    if value is None:
        return None
    document = dumps(value).decode()
    hidden = _TOKEN.sub(MASKED, document)
    return value if hidden == document else loads(hidden, what="the result")


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    raw = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    if _text(raw) != text:
        raise ValueError(text)
    return raw
