"""httpCall and redirects: what is followed, with which method and body, and what does not cross origins."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest
from http_calls import call_of, compile_call, failure, perform
from http_servers import Received, json_response, response, serve

from stepwell.domain.expressions import Context
from stepwell.domain.http import HttpRequest, HttpResponse


def redirect(location: str, status: str = "302 Found") -> bytes:
    return response(b"elsewhere", f"Location: {location}", status=status)


async def test_a_redirect_is_not_followed_by_default() -> None:
    async with serve(redirect("/next")) as server:
        failed = await failure({"url": server.url})
        assert len(server.requests) == 1
    assert (failed.reason, failed.status) == ("UnexpectedStatus", 302)


@pytest.mark.parametrize(
    ("status", "method", "then", "body"),
    [
        ("301 Moved", "POST", "GET", b""),
        ("301 Moved", "DELETE", "DELETE", b'{"a":1}'),
        ("302 Found", "POST", "GET", b""),
        ("302 Found", "PUT", "PUT", b'{"a":1}'),
        ("302 Found", "PATCH", "PATCH", b'{"a":1}'),
        ("303 See Other", "PUT", "GET", b""),
        ("303 See Other", "POST", "GET", b""),
        ("303 See Other", "HEAD", "HEAD", b'{"a":1}'),
        ("307 Temporary", "POST", "POST", b'{"a":1}'),
        ("307 Temporary", "GET", "GET", b'{"a":1}'),
        ("308 Permanent", "POST", "POST", b'{"a":1}'),
        ("308 Permanent", "OPTIONS", "OPTIONS", b'{"a":1}'),
    ],
)
async def test_a_redirect_within_the_origin(status: str, method: str, then: str, body: bytes) -> None:
    async def answer(request: Received, writer: asyncio.StreamWriter) -> None:
        whole = redirect("sub/next?q=1#f", status) if request.target == "/a/b" else json_response("1")
        head, _, rest = whole.partition(b"\r\n\r\n")
        writer.write(head + b"\r\n\r\n" + (b"" if request.line.startswith("HEAD") else rest))

    async with serve(answer) as server:
        spec = {"url": f"{server.url}/a/b", "method": method, "body": {"a": 1}, "headers": {"Authorization": "x"}}
        assert (await perform({**spec, "followRedirects": True})).output == (None if then == "HEAD" else 1)
        second = server.requests[1]
    assert second.line == f"{then} /a/sub/next?q=1 HTTP/1.1"
    assert second.body == body
    assert (second.header("content-type") is not None) == bool(body)
    assert second.header("authorization") == "x"


async def test_credentials_do_not_cross_origins() -> None:
    async with serve(json_response("1")) as other, serve(redirect(f"{other.url}/", "307 Go")) as server:
        headers = {"Authorization": "x", "Cookie": "a=1", "X-Api-Key": "k", "Accept-Language": "de"}
        await perform({"url": server.url, "method": "POST", "headers": headers, "text": "t", "followRedirects": True})
        (request,) = other.requests
    assert request.body == b"t"
    names = {name.lower() for name, _ in request.headers}
    assert names == {
        "host", "accept", "accept-encoding", "accept-language", "content-type", "content-length",
        "idempotency-key", "traceparent", "user-agent",
    }  # fmt: skip


async def test_at_most_three_redirects() -> None:
    async with serve(redirect("/again")) as server:
        failed = await failure({"url": server.url, "followRedirects": True})
        assert len(server.requests) == 4
    assert (failed.reason, failed.final) == ("TooManyRedirects", True)


@pytest.mark.parametrize(
    "location", ["ftp://a/", "http://u:p@a/", "http://[", "javascript:1", "http://a b/", "/a/%2e%2e/b", "file:///etc"]
)
async def test_a_redirect_to_no_usable_url(location: str) -> None:
    async with serve(redirect(location)) as server:
        failed = await failure({"url": server.url, "followRedirects": True})
    assert failed.reason == "InvalidRedirect"


async def test_a_redirect_without_location() -> None:
    async with serve(response(b"", status="302 Found")) as server:
        assert (await failure({"url": server.url, "followRedirects": True})).reason == "InvalidRedirect"


async def test_a_redirect_passes_the_guard_again() -> None:
    async with serve(redirect("http://169.254.169.254/latest/meta-data")) as server:
        failed = await failure({"url": server.url, "method": "POST", "followRedirects": True})
    assert failed.reason == "AddressNotAllowed"
    assert failed.sent  # the first request was


class Redirecting:
    """A client that redirects once, and remembers how many seconds each request was given."""

    def __init__(self) -> None:
        self.given: list[float] = []

    async def send(self, request: HttpRequest, *, seconds: float, max_bytes: int) -> HttpResponse:
        self.given.append(seconds)
        clock = asyncio.get_running_loop().time
        began = clock()
        while clock() == began:  # noqa: ASYNC110 - uvloop's clock counts milliseconds, and only while it turns
            await asyncio.sleep(0)
        headers = (("location", "/next"),)
        return HttpResponse(302 if len(self.given) == 1 else 204, "", headers, b"")


async def test_the_timeout_spans_the_redirects() -> None:
    redirecting = Redirecting()
    action, _ = compile_call({"url": "http://a.example/", "followRedirects": True}, redirecting)
    context = Context({"input": None, "run": {}, "steps": {}}, now=datetime.now(UTC))
    await action.perform(action.render(None, context), call_of(10), context)
    first, second = redirecting.given
    assert second < first <= 10


async def test_a_redirect_that_does_not_end_takes_the_timeout() -> None:
    async def half(request: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(response(b"ab", "Location: /next", status="302 Found", length=10))

    async with serve(half) as server:
        failed = await failure({"url": server.url, "followRedirects": True}, call=call_of(0.2))
        assert len(server.requests) == 1
    assert (failed.reason, failed.sent) == ("Timeout", True)
    assert failed.message == f"GET {server.url}: no complete answer within 0.2 s"


async def test_a_timeout_behind_a_redirect_says_whose_time_it_was() -> None:
    async def silent(request: Received, writer: asyncio.StreamWriter) -> None:
        if request.target == "/":
            writer.write(redirect("/next"))

    async with serve(silent) as server:
        failed = await failure({"url": f"{server.url}/", "method": "POST", "followRedirects": True}, call=call_of(0.3))
    assert (failed.reason, failed.sent) == ("Timeout", True)
    assert failed.message.startswith(f"GET {server.url}/next: no complete answer within 0.")
    assert failed.message.endswith(" s, which is what the requests before it had left of the timeout")
