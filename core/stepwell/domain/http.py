"""One HTTP exchange as an action asks for it and an adapter performs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from stepwell.domain.retry import StepFailure

Headers = tuple[tuple[str, str], ...]
"""Name and value of every header, in order; a name may repeat."""


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """``url`` is absolute, ASCII and percent-encoded: it is sent as it stands."""

    method: str
    url: str
    headers: Headers = ()
    body: bytes | None = None

    def header(self, name: str) -> str | None:
        """The first header of this (lower-case) name."""
        return next((value for key, value in self.headers if key.lower() == name), None)


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """``headers`` have lower-case names. ``body`` is decompressed.

    With ``failure`` the body broke off (too large, timed out, connection lost, not decodable), and ``body`` is what had
    arrived until then: enough for a message, never a result.
    """

    status: int
    reason: str
    headers: Headers
    body: bytes
    failure: StepFailure | None = None

    def header(self, name: str) -> str | None:
        """The first header of this (lower-case) name."""
        return next((value for key, value in self.headers if key == name), None)


class HttpClient(Protocol):
    """Performs one exchange: no redirects, no cookies, no second try."""

    async def send(self, request: HttpRequest, *, seconds: float, max_bytes: int) -> HttpResponse:
        """Send the request; the whole exchange ends within ``seconds``, the body within ``max_bytes``.

        Raises StepFailure where there was no answer; its ``sent`` is False only where no byte left this machine.
        """
