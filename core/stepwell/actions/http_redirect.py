"""Following a redirect: the request that comes next.

The fetch standard's rules (https://fetch.spec.whatwg.org/#http-redirect-fetch), with one more: to another origin go only
headers that are known to hold no credential, because nobody can tell what ``X-Api-Key`` and its like hold.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urljoin

from stepwell.actions.http_answer import readable, request_line, shown
from stepwell.actions.http_url import UnusableUrlError, clean_url, origin
from stepwell.domain.retry import StepFailure

if TYPE_CHECKING:
    from stepwell.domain.http import HttpRequest, HttpResponse
    from stepwell.domain.masking import Mask

MAX_REDIRECTS = 3
STATUSES = frozenset({301, 302, 303, 307, 308})

_HARMLESS = frozenset(
    {
        "accept",
        "accept-encoding",
        "accept-language",
        "content-language",
        "content-type",
        "idempotency-key",
        "traceparent",
        "user-agent",
    }
)


def follow(request: HttpRequest, response: HttpResponse, followed: int, mask: Mask) -> HttpRequest:
    """The request that the answer redirects to. Raises StepFailure where it cannot or must not be followed.

    ``request`` is without what the step's secrets add to it.
    """
    refuse = _Refusal(request, response, mask)
    if followed >= MAX_REDIRECTS:
        raise refuse("TooManyRedirects", f"redirects more than {MAX_REDIRECTS} times")
    location = response.header("location")
    if location is None:
        raise refuse("InvalidRedirect", "redirects, but says not where to (no Location)")
    url = _target(request, readable(location), mask, refuse)
    if request.url.startswith("https:") and not url.startswith("https:"):
        raise refuse("InvalidRedirect", f"redirects from https to {mask.text(url)[:200]!r}")
    method = _method(request.method, response.status)
    headers = request.headers
    if method != request.method:
        headers = tuple(pair for pair in headers if not pair[0].lower().startswith("content-"))
    if origin(url) != origin(request.url):
        if mask.found(url):
            raise refuse("InvalidRedirect", "redirects to another server with a secret in the URL")
        headers = tuple(pair for pair in headers if pair[0].lower() in _HARMLESS)
    body = request.body if method == request.method else None
    return replace(request, method=method, url=url, headers=headers, body=body)


def _method(method: str, status: int) -> str:
    if status == 303 and method != "HEAD":
        return "GET"
    return "GET" if status in {301, 302} and method == "POST" else method


def _target(request: HttpRequest, location: str, mask: Mask, refuse: _Refusal) -> str:
    try:
        return clean_url(urljoin(request.url, location.strip()))
    except ValueError as exc:
        text = mask.text(location)
        shown = text if len(text) <= 200 else f"{text[:200]}…"
        why = exc.why if isinstance(exc, UnusableUrlError) else "it is none at all"
    raise refuse("InvalidRedirect", f"redirects to {shown!r}, which is not a URL that httpCall can use: {why}")


class _Refusal:
    """Makes the failures of one answer."""

    def __init__(self, request: HttpRequest, response: HttpResponse, mask: Mask) -> None:
        self._line = request_line(request, mask)
        self._http = shown(response, mask)

    def __call__(self, reason: str, why: str) -> StepFailure:
        status = self._http["status"]
        return StepFailure(
            reason,
            f"{self._line} {why}",
            status=status if isinstance(status, int) else None,
            http=self._http,
            final=True,
        )
