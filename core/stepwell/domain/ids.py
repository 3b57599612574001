"""Identifiers: UUIDv7 (RFC 9562, section 5.7), whose order is that of their milliseconds."""

from __future__ import annotations

import hashlib


def uuid7(milliseconds: int, randomness: bytes) -> str:
    """The UUIDv7 of a Unix time in milliseconds; ``randomness`` holds at least 10 bytes."""
    tail = bytearray(randomness[:10])
    tail[0] = 0x70 | tail[0] & 0x0F
    tail[2] = 0x80 | tail[2] & 0x3F
    digits = f"{milliseconds:012x}{tail.hex()}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def millis_of(identifier: str) -> int:
    """The Unix time of a UUIDv7 in milliseconds."""
    return int(identifier[:8] + identifier[9:13], 16)


def deterministic_uuid7(milliseconds: int, identity: str) -> str:
    """The UUIDv7 of a cause's own time and identity: whoever repeats the cause makes the same id."""
    return uuid7(milliseconds, hashlib.sha256(identity.encode()).digest())
