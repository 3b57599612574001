"""httpCall against servers that misbehave, on loopback."""

from __future__ import annotations

import asyncio
import gzip
import random
import socket
import tracemalloc
import zlib
from datetime import UTC, datetime
from typing import Any

import pytest
from http_calls import RUN, call_of, client, compile_call, failure, perform
from http_servers import Received, json_response, reset, response, serve, unused_port

from stepwell.adapters.http.guard import AddressPolicy
from stepwell.domain.expressions import Context

# What is sent


async def test_a_request_as_it_goes_over_the_wire() -> None:
    async with serve(json_response('{"ok": true}')) as server:
        spec = {
            "method": "POST",
            "url": f"{server.url}/users/{{{{ name }}}}?a={{{{ name }}}}",
            "headers": {"X-Name": "n {{ name }}"},
            "query": {"tag": "{{ tags }}", "n": "{{ 3 }}", "none": "{{ null }}"},
            "body": {"email": "{{ name }}", "n": 1},
        }
        outcome = await perform(spec, {"name": "a/b?c&d é", "tags": ["x y", "z"]})
        (request,) = server.requests
    assert outcome.output == {"ok": True}
    encoded = "a%2Fb%3Fc%26d%20%C3%A9"
    assert request.target == f"/users/{encoded}?a={encoded}&tag=x%20y&tag=z&n=3"
    assert request.body == '{"email":"a/b?c&d é","n":1}'.encode()
    names = [name for name, _ in request.headers]
    assert names == [
        "Host", "X-Name", "Accept", "Accept-Encoding", "User-Agent", "Content-Type",
        "Idempotency-Key", "traceparent", "Content-Length",
    ]  # fmt: skip
    assert request.header("idempotency-key") == f"{RUN}/notify"
    assert (request.header("traceparent") or "").startswith("00-018f3a5c111172228333944444444444-")
    assert (request.header("user-agent") or "").startswith("stepwell/")
    assert request.header("content-type") == "application/json"


async def test_every_attempt_sends_the_same_bytes() -> None:
    async with serve(json_response("1")) as server:
        spec = {"method": "POST", "url": f"{server.url}/", "body": {"b": "{{ x }}", "a": [1.5, None]}}
        for attempt in (1, 2):
            await perform(spec, {"x": {"k": 1}}, call=call_of(attempt=attempt))
        first, second = server.requests
    assert first == second


async def test_the_manifest_s_own_headers_win() -> None:
    own = {"Idempotency-Key": "mine", "user-agent": "me", "TRACEPARENT": "t", "Content-Type": "text/csv"}
    async with serve(json_response("1")) as server:
        await perform({"method": "PUT", "url": server.url, "headers": own, "text": "a,b\n{{ x }}"}, {"x": 1})
        (request,) = server.requests
    assert {name: request.header(name) for name in own} == own
    assert len([name for name, _ in request.headers if name.lower() in {key.lower() for key in own}]) == len(own)
    assert request.body == b"a,b\n1"


async def test_cookies_are_not_kept() -> None:
    async def loopback(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    async with serve(response(b"", "Set-Cookie: a=1")) as server, client(lookup=loopback) as opened:
        for _ in range(2):  # by name: of addresses even a cookie jar keeps none
            outcome = await perform({"url": f"http://a.example:{server.port}/"}, through=opened)
            assert outcome.http
            assert "set-cookie" not in str(outcome.http)
        assert server.connections == 1
        assert server.requests[1].header("cookie") is None


async def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{unused_port()}")
    async with serve(json_response("1")) as server:
        assert (await perform({"url": server.url})).output == 1


# What comes back


@pytest.mark.parametrize(
    ("answer", "output"),
    [
        (json_response('{"a": [1, null]}'), {"a": [1, None]}),
        (response(b"[1]", "Content-Type: application/problem+json; charset=utf-8"), [1]),
        (response(b"\xef\xbb\xbf[1]", "Content-Type: text/json"), [1]),
        (response(b'"\xe9"', "Content-Type: application/json; charset=latin-1"), "é"),
        (response(b"[1]"), [1]),
        (response(b"plain"), "plain"),
        (response(b"[1]", "Content-Type: text/plain"), "[1]"),
        (response(b"caf\xe9", "Content-Type: text/plain; charset=iso-8859-1"), "café"),
        (response(b"caf\xe9", 'Content-Type: text/plain; a=";"; Charset="ISO_8859-1:1987"; b=c'), "café"),
        (response("café".encode("utf-16"), "Content-Type: text/plain ;charset = UTF-16"), "café"),
        (response("ціна".encode("koi8-u"), "Content-Type: text/plain; charset=koi8-u"), "ціна"),
        (response(b"", "Content-Type: application/json"), None),
        (b"HTTP/1.1 204 No Content\r\n\r\n", None),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + json_response("7"), 7),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n[1\r\n1\r\n]\r\n0\r\n\r\n", [1]),
        (response(gzip.compress(b"[1]", mtime=0), "Content-Encoding: gzip"), [1]),
        (response(gzip.compress(b"[1", mtime=0) + gzip.compress(b"]", mtime=0), "Content-Encoding: x-gzip"), [1]),
        (response(zlib.compress(b"[1]"), "Content-Encoding: deflate"), [1]),
        (response(b"", "Content-Encoding: gzip"), None),
    ],
)
async def test_output(answer: bytes, output: Any) -> None:
    async with serve(answer) as server:
        assert (await perform({"url": server.url})).output == output


async def test_head_has_no_body() -> None:
    async with serve(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n") as server:
        outcome = await perform({"url": server.url, "method": "HEAD"})
    assert outcome.output is None
    assert outcome.http == {"status": 200, "headers": {"content-type": "application/json", "content-length": "99"}}


async def test_head_of_a_body_in_an_encoding_that_stepwell_does_not_read() -> None:
    async with serve(b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: 9\r\n\r\n") as server:
        assert (await perform({"url": server.url, "method": "HEAD"})).output is None


async def test_http_is_bounded_and_holds_no_credentials() -> None:
    headers = [f"X-{number}: {number}" for number in range(90)]
    private = [
        "Set-Cookie: a=1",
        "WWW-Authenticate: Basic",
        "X-Long: " + "x" * 5000,
        "VIA: a",
        "via: b",
        "X-Raw: \udcff",
    ]
    async with serve(response(b"", *private, *headers)) as server:
        http = (await perform({"url": server.url})).http
    assert http
    shown: Any = http["headers"]
    assert len(shown) == 64
    assert len(shown["x-long"]) == 1024
    assert shown["via"] == "a, b"
    assert shown["x-raw"] == "\ufffd"
    assert not {"set-cookie", "www-authenticate"} & set(shown)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (json_response('{"a": '), "not valid JSON"),
        (json_response(r'{"a": "\u0000"}'), "NUL"),
        (json_response(r'"\ud800"'), "surrogate"),
        (json_response("1" * 30), "beyond 64 bits"),
        (json_response("[" * 80 + "]" * 80), "nested deeper"),
        (json_response(b'"\xff"'), "UTF-8"),
        (response(b"\xff\xfe\xfd", "Content-Type: text/plain"), "not utf-8 text"),
        (response(b"a\x00b", "Content-Type: text/plain"), "NUL"),
        (response(b"x", "Content-Type: text/plain; charset=zip"), "does not read"),
        (response(b"x", "Content-Type: text/plain; charset=idna"), "does not read"),
        (response(b"x", "Content-Type: text/plain; charset=klingon"), "does not read"),
        (response(b"x", "Content-Type: text/plain; charset=../../x"), "does not read"),
        (response(b"x", "Content-Type: text/plain; charset=-utf-7"), "does not read"),
        (response(b"x", "Content-Type: text/plain; charset='unicode escape'"), "does not read"),
        (response(b"x", f"Content-Type: text/plain; charset={'x' * 5000}"), f"text in '{'x' * 40}', which"),
        (response(b"\x89PNG\r\n\xff", "Content-Type: image/png"), "binary"),
        (response(b"not gzip", "Content-Encoding: gzip"), "cannot be read"),
        (response(gzip.compress(b"x" * 999, mtime=0)[:-9], "Content-Encoding: gzip"), "ends too early"),
        (response(gzip.compress(b"", mtime=0) * 99, "Content-Encoding: gzip"), "members"),
        (response(b"x", "Content-Encoding: br"), "reads gzip and deflate"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "not valid HTTP"),
        (b"\x00\x01\x02 garbage\r\n\r\n", "not valid HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 20_000 + b"\r\n\r\n", "not valid HTTP"),
    ],
)
async def test_an_answer_that_cannot_be_kept(answer: bytes, said: str) -> None:
    async with serve(answer) as server:
        failed = await failure({"url": f"{server.url}/x", "method": "POST"})
    assert (failed.reason, failed.kind, failed.sent, failed.final) == ("InvalidResponse", "Error", True, False)
    assert said in failed.message
    assert failed.message.startswith(f"POST {server.url}/x: ")


@pytest.mark.parametrize("encoding", ["", "gzip"])
async def test_an_endless_body_is_cut_at_the_limit(encoding: str) -> None:
    packer = zlib.compressobj(wbits=31)

    async def endless(request: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Encoding: {encoding}\r\n\r\n".encode())
        while True:
            block = random.randbytes(1 << 16)
            writer.write(packer.compress(block) + packer.flush(zlib.Z_SYNC_FLUSH) if encoding else block)
            await writer.drain()

    async with serve(endless) as server:
        failed = await failure({"url": server.url, "maxResponseBytes": 100_000})
    assert failed.reason == "ResponseTooLarge"
    assert "100,000 bytes (maxResponseBytes)" in failed.message


async def test_a_gzip_bomb_is_not_unpacked() -> None:
    bomb = gzip.compress(bytes(50_000_000), mtime=0)
    async with serve(response(bomb, "Content-Encoding: gzip")) as server:
        tracemalloc.start()
        try:
            failed = await failure({"url": server.url})
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert failed.reason == "ResponseTooLarge"
    assert peak < 10_000_000


async def test_a_body_of_exactly_the_limit() -> None:
    for answer in (response(b"x" * 1000), response(gzip.compress(b"x" * 1000, mtime=0), "Content-Encoding: gzip")):
        async with serve(answer) as server:
            assert (await perform({"url": server.url, "maxResponseBytes": 1000})).output == "x" * 1000
            assert (await failure({"url": server.url, "maxResponseBytes": 999})).reason == "ResponseTooLarge"


# Statuses


async def test_an_unexpected_status() -> None:
    body = b'{"error":"no\x00 such\n user"}' + b"x" * 1000
    answer = response(body, "Retry-After: 7", "Content-Type: application/json", status="429 Too Many Requests")
    async with serve(answer) as server:
        failed = await failure({"url": f"{server.url}/u?x=1"})
    assert (failed.reason, failed.status, failed.retry_after, failed.sent) == ("UnexpectedStatus", 429, 7.0, True)
    said = f'GET {server.url}/u?x=1 answered 429 Too Many Requests: {{"error":"no such user"}}xxx'
    assert failed.message.startswith(said)
    assert len(failed.message) < len(said) + 300
    assert failed.http
    assert failed.http["status"] == 429


@pytest.mark.parametrize(
    ("asked", "pause"),
    [
        ("3", 3.0),
        ("Wed, 21 Oct 2015 07:28:30 GMT", 30.0),
        ("Wed, 21 Oct 2015 07:27:00 GMT", 0.0),
        ("Wednesday, 21-Oct-15 07:28:30 GMT", 30.0),
        ("Wed Oct 21 07:28:30 2015", 30.0),
        ("soon", None),
        ("-3", None),
        ("²", None),
        ("Wed, 99 Oct 99999 07:28:30 GMT", None),
    ],
)
async def test_retry_after(asked: str, pause: float | None) -> None:
    headers = (f"Retry-After: {asked}", "Date: Wed, 21 Oct 2015 07:28:00 GMT")
    async with serve(response(b"", *headers, status="503 Busy")) as server:
        assert (await failure({"url": server.url})).retry_after == pause


async def test_expected_statuses() -> None:
    async with serve(json_response('{"gone": true}', status="404 Not Found")) as server:
        for status in (["404"], [200, "4xx"], [404]):
            expected = [int(mark) if mark == "404" else mark for mark in status]
            outcome = await perform({"url": server.url, "expect": {"status": expected}})
            assert outcome.output == {"gone": True}
        assert (await failure({"url": server.url, "expect": {"status": [200, "5xx"]}})).status == 404


async def test_the_body_of_a_bad_status_may_be_broken() -> None:
    async with serve(response(b"oops", status="500 Oh", length=99) + b"") as server:
        failed = await failure({"url": server.url}, call=call_of(0.2))
    assert (failed.reason, failed.status) == ("UnexpectedStatus", 500)
    assert failed.message.endswith("answered 500 Oh: oops")


async def test_switching_protocols_is_no_answer() -> None:
    async with serve(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nxyz") as server:
        failed = await failure({"url": server.url}, call=call_of(5))
    assert (failed.reason, failed.status) == ("UnexpectedStatus", 101)


# Connections


async def test_nobody_listens() -> None:
    failed = await failure({"url": f"http://127.0.0.1:{unused_port()}/", "method": "POST"})
    assert (failed.reason, failed.kind, failed.sent) == ("ConnectionFailed", "Network", False)
    assert failed.message.endswith("/: no connection: Connection refused")


async def test_a_name_that_does_not_resolve() -> None:
    async def unknown(host: str, port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    failed = await failure({"url": "http://nowhere.example/"}, lookup=unknown)
    assert (failed.reason, failed.kind, failed.sent) == ("NameNotResolved", "Network", False)
    assert failed.message.endswith("the host name does not resolve: Name or service not known")


async def test_a_name_that_is_none() -> None:
    failed = await failure({"url": f"http://{'a' * 70}.example/"})
    assert (failed.reason, failed.kind, failed.sent) == ("NameNotResolved", "Network", False)


async def test_no_tls_on_the_other_side() -> None:
    def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(response(b"plain"))
        writer.close()

    async with await asyncio.start_server(plain, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        failed = await failure({"url": f"https://127.0.0.1:{port}/", "method": "POST"})
    assert (failed.reason, failed.kind, failed.sent) == ("TlsFailed", "Network", False)


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_the_connection_is_reset_before_the_answer(method: str) -> None:
    async def drop(request: Received, writer: asyncio.StreamWriter) -> None:
        reset(writer)

    async with serve(drop) as server:
        failed = await failure({"url": server.url, "method": method})
        assert len(server.requests) == 1  # aiohttp must not try again by itself
    assert (failed.reason, failed.kind, failed.sent) == ("ConnectionLost", "Network", True)


async def test_the_connection_is_closed_without_an_answer() -> None:
    async def close(request: Received, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with serve(close) as server:
        failed = await failure({"url": server.url, "method": "PUT"})
        assert len(server.requests) == 1
    assert (failed.reason, failed.kind, failed.sent) == ("ConnectionLost", "Network", True)


async def test_the_answer_breaks_off() -> None:
    async def half(request: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(response(b"[1,", length=10))
        await writer.drain()
        writer.close()

    async with serve(half) as server:
        failed = await failure({"url": server.url})
    assert (failed.reason, failed.kind, failed.sent) == ("ConnectionLost", "Network", True)


async def test_a_second_answer_to_one_request_does_not_answer_the_next() -> None:
    async with serve(json_response("[1]") + json_response("[2]")) as server, client() as opened:
        action, _ = compile_call({"url": server.url}, opened)
        context = Context({"input": None, "run": {}, "steps": {}}, now=datetime.now(UTC))
        for _ in range(3):
            outcome = await action.perform(action.render(None, context), call_of(), context)
            assert outcome.output == [1]


async def never(request: Received, writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def headers_only(request: Received, writer: asyncio.StreamWriter) -> None:
    writer.write(response(b"[1", length=100))
    await asyncio.Event().wait()


@pytest.mark.parametrize("answer", [never, headers_only])
async def test_the_timeout_covers_the_whole_exchange(answer: Any) -> None:
    async with serve(answer) as server:
        failed = await failure({"url": server.url}, call=call_of(0.1))
    assert (failed.reason, failed.kind, failed.sent) == ("Timeout", "Timeout", True)
    assert failed.message == f"GET {server.url}: no complete answer within 0.1 s"


async def test_a_body_that_drips_does_not_stretch_the_timeout() -> None:
    async def dripping(request: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(response(b"[", length=1 << 30))
        while True:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.01)  # the drip itself

    async with serve(dripping) as server:
        failed = await failure({"url": server.url}, call=call_of(0.1))
    assert (failed.reason, failed.kind, failed.sent) == ("Timeout", "Timeout", True)


async def test_a_timeout_before_there_is_a_connection_sent_nothing() -> None:
    async def slow(host: str, port: int) -> list[str]:
        await asyncio.Event().wait()
        return []

    failed = await failure({"url": "http://slow.example/"}, call=call_of(0.1), lookup=slow)
    assert (failed.reason, failed.sent) == ("Timeout", False)
    assert "no connection within 0.1 s" in failed.message


async def test_a_cancelled_call_leaves_nothing_open() -> None:
    arrived = asyncio.Event()

    async def silent(request: Received, writer: asyncio.StreamWriter) -> None:
        arrived.set()

    async with serve(silent) as server, client() as opened:
        action, _ = compile_call({"url": server.url}, opened)
        context = Context({"input": None, "run": {}, "steps": {}}, now=datetime.now(UTC))
        task = asyncio.ensure_future(action.perform(action.render(None, context), call_of(), context))
        await asyncio.wait_for(arrived.wait(), 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(server.left.wait(), 5)


async def test_connections_are_kept_for_the_next_call() -> None:
    async with serve(json_response("1")) as server, client() as opened:
        action, _ = compile_call({"url": server.url}, opened)
        context = Context({"input": None, "run": {}, "steps": {}}, now=datetime.now(UTC))
        for _ in range(5):
            await action.perform(action.render(None, context), call_of(), context)
        assert server.connections == 1


# Addresses; nothing here reaches anything but loopback


async def test_loopback_is_refused_without_local_mode() -> None:
    async with serve(json_response("1")) as server:
        failed = await failure({"url": server.url}, policy=AddressPolicy())
        assert not server.connections
    assert (failed.reason, failed.sent, failed.final) == ("AddressNotAllowed", False, True)
    assert "127.0.0.1 is a loopback address" in failed.message


@pytest.mark.parametrize(
    "host",
    [
        "10.0.0.1",
        "169.254.169.254",
        "[fe80::1]",
        "[::ffff:10.0.0.1]",
        "[64:ff9b::a00:1]",
        "[::]",
        "0.0.0.0",
        "\uff11\uff10.0.0.1",
    ],
)
async def test_a_literal_address_does_not_slip_past_the_resolver(host: str) -> None:
    async def unexpected(name: str, port: int) -> list[str]:
        raise AssertionError(name)

    failed = await failure({"url": f"http://{host}/"}, lookup=unexpected)
    assert (failed.reason, failed.sent, failed.final) == ("AddressNotAllowed", False, True)


@pytest.mark.parametrize("host", ["2852039166", "127.1", "0251.0376.0251.0376", "127.0.0.1.", "0"])
async def test_an_odd_spelling_of_an_address_is_no_host(host: str) -> None:
    failed = await failure({"url": f"http://{host}/"})
    assert (failed.reason, failed.sent, failed.final) == ("InvalidRequest", False, True)


@pytest.mark.parametrize("host", ["0x7f.1", "0xa9fea9fe", "0x0a000001"])
async def test_a_hexadecimal_address_is_resolved_and_then_refused(host: str) -> None:
    failed = await failure({"url": f"http://{host}/"}, policy=AddressPolicy())
    assert (failed.reason, failed.sent) == ("AddressNotAllowed", False)


async def test_one_forbidden_address_of_a_name_forbids_the_name() -> None:
    async def both(host: str, port: int) -> list[str]:
        return ["127.0.0.1", "10.0.0.7"]

    async with serve(json_response("1")) as server:
        failed = await failure({"url": f"http://two.example:{server.port}/"}, lookup=both)
        assert not server.connections
    assert failed.reason == "AddressNotAllowed"
    assert "two.example resolves to 10.0.0.7, which is a private address" in failed.message


async def test_a_name_that_rebinds_is_refused_and_each_connection_asks_once() -> None:
    answers = [["127.0.0.1"], ["169.254.169.254"]]
    asked: list[str] = []

    async def rebinding(host: str, port: int) -> list[str]:
        asked.append(host)
        return answers[len(asked) - 1]

    async def once(request: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(response(b"1", "Connection: close"))
        writer.close()

    async with serve(once) as server:
        spec = {"url": f"http://rebind.example:{server.port}/"}
        assert (await perform(spec, lookup=rebinding)).output == 1
        assert (await failure(spec, lookup=rebinding)).reason == "AddressNotAllowed"
        assert server.requests[0].header("host") == f"rebind.example:{server.port}"
    assert asked == ["rebind.example"] * 2
