"""One delivery to a webhook, as it came."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Delivery:
    """``headers`` have lower-cased names, in their order; ``query`` is what stands behind the question mark."""

    method: str
    headers: Sequence[tuple[bytes, bytes]]
    query: bytes
    body: bytes

    def header(self, name: bytes) -> bytes | None:
        """The value of a header; None where it is absent, and where it stands twice: then nobody can say which counts."""
        found: bytes | None = None
        for key, value in self.headers:
            if key == name:
                if found is not None:
                    return None
                found = value
        return found
