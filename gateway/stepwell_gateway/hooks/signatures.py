"""Signatures over raw bodies: the schemes of vendors, and one of anybody's own.

Whatever is wrong with a signature, the answer is the same and takes the same work: all keys are tried, and a delivery
that cannot be read is checked against a signature that fits nothing.

* GitHub: ``X-Hub-Signature-256: sha256=<hex>`` over the body.
* Stripe: ``Stripe-Signature: t=<seconds>,v1=<hex>[,v1=…]`` over ``t.body``.
* Slack: ``X-Slack-Signature: v0=<hex>`` over ``v0:<X-Slack-Request-Timestamp>:body``.
* Standard Webhooks 1.0.0: ``webhook-signature: v1,<base64>[ v1,…]`` over ``<webhook-id>.<webhook-timestamp>.body``.
* one's own: ``<header>: <prefix><signature>`` over the body, or over ``<timestampHeader>.body``.
"""

from __future__ import annotations

import binascii
import hmac
import re
from base64 import b64decode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stepwell.domain.triggers import Hmac
    from stepwell_gateway.hooks.delivery import Delivery

MAX_SIGNATURES = 16  # of one delivery; senders that rotate keys send a few

_HEX = re.compile(rb"[0-9a-fA-F]+\Z")
_SECONDS = re.compile(rb"[0-9]{1,12}\Z")
_SIZES = {"SHA256": 32, "SHA512": 64}
_NO_KEY = b"a key that signs nothing, for the same work"


@dataclass(frozen=True, slots=True)
class Claim:
    """What a delivery says of itself: what is signed before the body, its signatures, and when it was sent (seconds)."""

    prefix: bytes
    signatures: Sequence[bytes]
    sent_at: int | None = None


_NOTHING = Claim(b"", (bytes(32),))


def is_signed(spec: Hmac, keys: Sequence[bytes], delivery: Delivery, now: float) -> bool:
    """Whether one of the keys made one of the signatures, and lately, where the scheme says when."""
    claim = claim_of(spec, delivery)
    told = claim or _NOTHING
    signed = _matches(spec.algorithm.lower() if spec.preset is None else "sha256", keys, told, delivery.body)
    fresh = told.sent_at is None or abs(now - told.sent_at) <= spec.tolerance
    return claim is not None and bool(keys) and signed and fresh


def work_in_vain(delivery: Delivery) -> None:
    """What checking a signature takes, where there is nothing to check."""
    _matches("sha256", (), _NOTHING, delivery.body)


def claim_of(spec: Hmac, delivery: Delivery) -> Claim | None:
    """What the delivery claims; None where it is not in the scheme's form."""
    return _SCHEMES[spec.preset](spec, delivery)


def _matches(algorithm: str, keys: Sequence[bytes], claim: Claim, body: bytes) -> bool:
    signed = claim.prefix + body if claim.prefix else body
    found = False
    for key in keys or (_NO_KEY,):
        digest = hmac.digest(key, signed, algorithm)
        for signature in claim.signatures:
            found |= hmac.compare_digest(digest, signature)
    return found


def _github(_: Hmac, delivery: Delivery) -> Claim | None:
    return _plain(delivery, b"x-hub-signature-256", b"sha256=", lambda text: _hex(text, 32))


def _stripe(_: Hmac, delivery: Delivery) -> Claim | None:
    pairs = [item.partition(b"=") for item in (delivery.header(b"stripe-signature") or b"").split(b",")]
    times = [value for name, _, value in pairs if name == b"t"]
    if len(times) != 1:
        return None
    found = [_hex(value, 32) for name, _, value in pairs if name == b"v1"]
    return _dated(times[0] + b".", found, times[0])


def _slack(_: Hmac, delivery: Delivery) -> Claim | None:
    sent = delivery.header(b"x-slack-request-timestamp")
    text = delivery.header(b"x-slack-signature") or b""
    if sent is None or not text.startswith(b"v0="):
        return None
    return _dated(b"v0:" + sent + b":", [_hex(text[3:], 32)], sent)


def _standard(_: Hmac, delivery: Delivery) -> Claim | None:
    message, sent = delivery.header(b"webhook-id"), delivery.header(b"webhook-timestamp")
    if not message or sent is None:
        return None
    items = [item.partition(b",") for item in (delivery.header(b"webhook-signature") or b"").split(b" ")]
    found = [_base64(value, 32) for version, _, value in items if version == b"v1"]
    return _dated(message + b"." + sent + b".", found, sent)


def _own(spec: Hmac, delivery: Delivery) -> Claim | None:
    decode = _hex if spec.encoding == "Hex" else _base64
    size = _SIZES[spec.algorithm]
    header = (spec.header or "").lower().encode()
    claim = _plain(delivery, header, (spec.prefix or "").encode(), lambda text: decode(text, size))
    if claim is None or spec.timestamp_header is None:
        return claim
    sent = delivery.header(spec.timestamp_header.lower().encode())
    return None if sent is None else _dated(sent + b".", claim.signatures, sent)


def _plain(delivery: Delivery, header: bytes, prefix: bytes, decode: Callable[[bytes], bytes | None]) -> Claim | None:
    text = delivery.header(header)
    if text is None or not text.startswith(prefix):
        return None
    signature = decode(text[len(prefix) :])
    return None if signature is None else Claim(b"", (signature,))


def _dated(prefix: bytes, signatures: Sequence[bytes | None], sent: bytes) -> Claim | None:
    found = [signature for signature in signatures if signature is not None]
    if not found or len(found) > MAX_SIGNATURES or not _SECONDS.match(sent):
        return None
    return Claim(prefix, found, int(sent))


def _hex(text: bytes, size: int) -> bytes | None:
    return bytes.fromhex(text.decode()) if len(text) == 2 * size and _HEX.match(text) else None


def _base64(text: bytes, size: int) -> bytes | None:
    try:
        found = b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return found if len(found) == size else None


_SCHEMES: dict[str | None, Callable[[Hmac, Delivery], Claim | None]] = {
    "GitHub": _github,
    "Stripe": _stripe,
    "Slack": _slack,
    "StandardWebhooks": _standard,
    None: _own,
}
