"""Following a redirect: the request that comes next.

The fetch standard's rules (https://fetch.spec.whatwg.org/#http-redirect-fetch), with one more: to another origin go only
headers that are known to hold no credential, because nobody can tell what ``X-Api-Key`` and its like hold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urljoin

from stepwell.actions.http_answer import readable, request_line, shown
from stepwell.actions.http_url import clean_url, origin
from stepwell.domain.http import HttpRequest
from stepwell.domain.retry import StepFailure

if TYPE_CHECKING:
    from stepwell.domain.http import HttpResponse

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


def follow(request: HttpRequest, response: HttpResponse, followed: int) -> HttpRequest:
    """The request that the answer redirects to. Raises StepFailure where it cannot or must not be followed."""
    if followed >= MAX_REDIRECTS:
        raise _refused(request, response, "TooManyRedirects", f"redirects more than {MAX_REDIRECTS} times")
    location = response.header("location")
    if location is None:
        raise _refused(request, response, "InvalidRedirect", "redirects, but says not where to (no Location)")
    url = _target(request, response, readable(location))
    if request.url.startswith("https:") and not url.startswith("https:"):
        raise _refused(request, response, "InvalidRedirect", f"redirects from https to {url[:200]!r}")
    method = _method(request.method, response.status)
    headers = request.headers
    if method != request.method:
        headers = tuple(pair for pair in headers if not pair[0].lower().startswith("content-"))
    if origin(url) != origin(request.url):
        headers = tuple(pair for pair in headers if pair[0].lower() in _HARMLESS)
    return HttpRequest(method, url, headers, request.body if method == request.method else None)


def _method(method: str, status: int) -> str:
    if status == 303 and method != "HEAD":
        return "GET"
    return "GET" if status in {301, 302} and method == "POST" else method


def _target(request: HttpRequest, response: HttpResponse, location: str) -> str:
    try:
        return clean_url(urljoin(request.url, location.strip()))
    except (StepFailure, ValueError) as exc:
        raise _refused(request, response, "InvalidRedirect", f"redirects to no usable URL: {exc}") from exc


def _refused(request: HttpRequest, response: HttpResponse, reason: str, why: str) -> StepFailure:
    message = f"{request_line(request)} {why}"
    return StepFailure(reason, message, status=response.status, http=dict(shown(response)), final=True)
