"""Cursors: the place where the next page of a list begins. Opaque to clients, and of use with that list only.

A cursor is no secret and gives no right: whoever forges one gets another page of what they may read. The digest tells a
cursor that was cut or mixed up from one that a page gave.
"""

from __future__ import annotations

import base64
import binascii
import hashlib

from stepwell_gateway.problems import Problem

_DIGEST = 8  # bytes


def seal(place: str, *about: str | None) -> str:
    """The cursor of a place in the list that is ``about`` these filters."""
    raw = place.encode()
    return base64.urlsafe_b64encode(_digest(raw, about) + raw).rstrip(b"=").decode()


def opened(cursor: str, *about: str | None) -> str:
    """The place. Raises Problem 400 for anything that ``seal`` did not give for the same list."""
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        raw = base64.b64decode(padded, altchars=b"-_", validate=True)
        place = raw[_DIGEST:].decode()
    except (binascii.Error, ValueError):
        raise _refused() from None
    if raw[:_DIGEST] != _digest(raw[_DIGEST:], about) or seal(place, *about) != cursor:
        raise _refused()
    return place


def _digest(place: bytes, about: tuple[str | None, ...]) -> bytes:
    parts = b"".join(b"\0-" if part is None else b"\0+" + part.encode("utf-8", "surrogatepass") for part in about)
    return hashlib.sha256(place + parts).digest()[:_DIGEST]


def _refused() -> Problem:
    return Problem(400, "cursor: it is none that a page of this list gave; leave it out to begin anew")
