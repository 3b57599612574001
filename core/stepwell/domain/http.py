"""One HTTP exchange as an action asks for it and an adapter performs it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from stepwell.domain.retry import StepFailure

Headers = tuple[tuple[str, str], ...]
"""Name and value of every header, in order; a name may repeat."""


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """``url`` is absolute, ASCII and percent-encoded: it is sent as it stands.

    ``namespace`` is whose request it is: what is allowed to it decides which addresses may be reached. A ``confidential``
    one carries a credential; in plain http it goes to hosts only that are allowed to the namespace. With ``ca`` (PEM)
    the server's certificate must come from there, else from the system's authorities. Only the method is ever shown by
    accident: the rest may hold secrets.
    """

    method: str
    url: str = field(repr=False)
    headers: Headers = field(default=(), repr=False)
    body: bytes | None = field(default=None, repr=False)
    namespace: str = ""
    confidential: bool = False
    ca: bytes | None = field(default=None, repr=False)

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
    reason: str = field(repr=False)
    headers: Headers = field(repr=False)
    body: bytes = field(repr=False)
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
