"""What a preset knows of its vendor beside the signature: the handshake, and what names a delivery."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from stepwell.domain.trigger_plan import MAX_KEY_BYTES

if TYPE_CHECKING:
    from stepwell.domain.documents import JsonObject, JsonValue
    from stepwell_gateway.hooks.delivery import Delivery


def handshake(preset: str | None, delivery: Delivery, body: JsonValue) -> JsonObject | None:
    """The answer to a vendor that asks whether the hook is there; None for anything else."""
    if preset == "GitHub" and delivery.header(b"x-github-event") == b"ping":
        return {"status": "Pong"}
    if preset == "Slack" and isinstance(body, dict) and body.get("type") == "url_verification":
        return {"challenge": body.get("challenge")}
    return None


def default_key(preset: str | None, delivery: Delivery, body: JsonValue) -> str | None:
    """The idempotency key of a delivery by the vendor's own name for it, the same at every retry; None: it has none."""
    if preset == "GitHub":
        return _fit(_text(delivery.header(b"x-github-delivery")))
    if preset == "StandardWebhooks":
        return _fit(_text(delivery.header(b"webhook-id")))
    if not isinstance(body, dict):
        return None
    if preset == "Stripe":
        return _fit(body.get("id"))
    if preset == "Slack":
        return _fit(body.get("event_id") or body.get("trigger_id"))
    return None


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")


def _fit(name: JsonValue) -> str | None:
    if not isinstance(name, str) or not name:
        return None
    return name if len(name.encode()) <= MAX_KEY_BYTES else hashlib.sha256(name.encode()).hexdigest()
