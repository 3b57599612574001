"""httpCall with Secrets: what is sent, to whom, and what is shown of it."""

from __future__ import annotations

import asyncio
import gzip
import json
from base64 import b64decode, b64encode
from typing import TYPE_CHECKING, Any

import pytest
from http_calls import NAMESPACE, Secrets, call_of, compile_call, context_of, failure, perform, ref, secret
from http_servers import Received, json_response, redirect, response, serve

from stepwell.adapters.http.allowances import with_annotation
from stepwell.adapters.http.guard import AddressPolicy
from stepwell.domain.retry import StepFailure
from stepwell.domain.secrets import SecretError

if TYPE_CHECKING:
    from stepwell.domain.secrets import Secret

TOKEN = "tok_7f3a9c/1e+5b=="
API = secret("api", token=TOKEN, username="stepwell-bot", password="pa:ss wörd/1")
BEARER = {"bearer": ref("api", "token")}


def secrets(*more: Secret) -> Secrets:
    return Secrets(API, *more)


# What is sent


async def test_bearer() -> None:
    async with serve(json_response("1")) as server:
        assert (await perform({"url": server.url, "auth": BEARER}, secrets=secrets())).output == 1
    assert server.requests[0].header("authorization") == f"Bearer {TOKEN}"


async def test_basic() -> None:
    async with serve(json_response("1")) as server:
        await perform({"url": server.url, "auth": {"basic": {"secretName": "api"}}}, secrets=secrets())
    scheme, _, pair = (server.requests[0].header("authorization") or "").partition(" ")
    assert (scheme, b64decode(pair).decode()) == ("Basic", "stepwell-bot:pa:ss wörd/1")


async def test_headers() -> None:
    auth = {
        "headers": [
            {"name": "X-Api-Key", **ref("api", "token")},
            {"name": "Authorization", **ref("api", "token"), "prefix": "Token "},
            {"name": "User-Agent", **ref("api", "username")},
            {"name": "ACCEPT", **ref("api", "username")},
        ]
    }
    async with serve(json_response("1")) as server:
        await perform({"url": server.url, "auth": auth, "headers": {"X-Own": "a"}}, secrets=secrets())
    (request,) = server.requests
    assert request.header("x-api-key") == TOKEN
    assert request.header("authorization") == f"Token {TOKEN}"
    assert request.header("x-own") == "a"
    for own in ("user-agent", "accept"):
        assert [value for name, value in request.headers if name.lower() == own] == ["stepwell-bot"]


async def test_query() -> None:
    auth = {"query": [{"name": "api key", **ref("api", "token")}]}
    async with serve(json_response("1")) as server:
        await perform({"url": f"{server.url}/x?a=1", "query": {"b": "2"}, "auth": auth}, secrets=secrets())
    assert server.requests[0].target == "/x?a=1&b=2&api%20key=tok_7f3a9c%2F1e%2B5b%3D%3D"


async def test_url_from() -> None:
    async with serve(json_response('"ok"')) as server:
        hook = secret("chat", url=f"{server.url}/services/T0/{TOKEN}?wait=1")
        spec = {"urlFrom": ref("chat", "url"), "method": "POST", "body": {"t": 1}, "query": {"a": "b c"}}
        assert (await perform(spec, secrets=secrets(hook))).output == "ok"
    assert server.requests[0].line == f"POST /services/T0/{TOKEN}?wait=1&a=b%20c HTTP/1.1"


async def test_url_from_without_a_query_and_with_auth() -> None:
    async with serve(json_response("1")) as server:
        hook = secret("chat", url=f"{server.url}/h")
        spec = {"urlFrom": ref("chat", "url"), "query": {"a": "b"}, "auth": BEARER}
        await perform(spec, secrets=secrets(hook))
    assert server.requests[0].target == "/h?a=b"
    assert server.requests[0].header("authorization") == f"Bearer {TOKEN}"


async def test_a_secret_is_read_when_it_is_used_from_the_namespace_of_the_run() -> None:
    known = secrets()
    async with serve(json_response("1")) as server:
        action, _ = compile_call({"url": server.url, "auth": {"basic": {"secretName": "api"}}}, None, known)
        assert "stepwell-bot" not in repr(action.render(None, context_of()))
        assert not known.asked
        for _ in range(2):
            await perform({"url": server.url, "auth": {"basic": {"secretName": "api"}}}, secrets=known)
    assert known.asked == [(NAMESPACE, "api")] * 2


async def test_every_attempt_sends_the_same_bytes() -> None:
    async with serve(json_response("1")) as server:
        for attempt in (1, 2):
            spec = {"url": server.url, "method": "POST", "body": {"a": 1}, "auth": BEARER}
            await perform(spec, secrets=secrets(), call=call_of(attempt=attempt))
    assert server.requests[0] == server.requests[1]


# What is refused


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"headers": {"authorization": "x"}, "auth": BEARER}, "httpCall.headers.authorization: the header Authorization is set twice"),
        ({"headers": {"X-K": "x"}, "auth": {"headers": [{"name": "x-k", **ref("a", "b")}]}}, "httpCall.auth.headers[0].name: the header x-k is set twice"),
        ({"auth": {"headers": [{"name": "A", **ref("a", "b")}, {"name": "a", **ref("a", "b")}]}}, "httpCall.auth.headers[1].name: the header a is set twice"),
        ({"auth": {"headers": [{"name": "Host", **ref("a", "b")}]}}, "httpCall.auth.headers[0].name: the header Host belongs to the connection"),
        ({"auth": {"headers": [{"name": "A", **ref("a", "b"), "prefix": "x\r\nB: "}]}}, "httpCall.auth.headers[0].prefix: a header holds no control character"),
        ({"query": {"k": "1"}, "auth": {"query": [{"name": "k", **ref("a", "b")}]}}, "httpCall.auth.query[0].name: the parameter k is set twice"),
        ({"url": "http://a.example/", "tls": {"caSecretRef": {"name": "a", "key": "b"}}}, "httpCall.tls: tls is for https"),
    ],
)  # fmt: skip
def test_refused_at_apply(spec: dict[str, Any], said: str) -> None:
    _, problems = compile_call({"url": "https://a.example/", **spec})
    assert len(problems) == 1
    assert problems[0].startswith(said)


@pytest.mark.parametrize(
    ("found", "key", "reason", "said"),
    [
        (None, "token", "SecretMissing", "there is no Secret x"),
        (secret("x", token=TOKEN, label=None), "token", "SecretNotLabelled", "lacks the label stepwell.dev/use"),
        (secret("x", token=TOKEN, label="yes"), "token", "SecretNotLabelled", "lacks the label stepwell.dev/use"),
        (secret("x", other=TOKEN), "token", "SecretKeyMissing", "the Secret x has no key token; its keys are: other"),
        (secret("x", token=""), "token", "SecretInvalid", "the key token of the Secret x is empty"),
        (secret("x", token=f"{TOKEN}\n"), "token", "SecretInvalid", "ends with a line break, as text files do"),
        (secret("x", token=f"{TOKEN}\r\n"), "token", "SecretInvalid", "ends with a line break, as text files do"),
        (secret("x", token=f"{TOKEN}\r\nX-Evil: 1"), "token", "SecretInvalid", "holds a control character"),
        (secret("x", token=f"{TOKEN}\0"), "token", "SecretInvalid", "holds a control character"),
        (secret("x", token=f" {TOKEN}"), "token", "SecretInvalid", "begins or ends with white space"),
        (secret("x", token=b"\xff\xfe" + TOKEN.encode()), "token", "SecretInvalid", "is not UTF-8 text"),
        (secret("x", token=TOKEN * 500), "token", "SecretInvalid", "has more than 8,192 characters"),
        (secret("x", token=TOKEN, hosts="api.example.com"), "token", "HostNotAllowed", "may not be sent to 127.0.0.1:"),
        (secret("x", token=TOKEN, hosts=""), "token", "HostNotAllowed", "stepwell.dev/hosts lists no host"),
    ],
)
@pytest.mark.parametrize("auth", ["bearer", "headers", "query"])
async def test_a_secret_that_cannot_be_used(found: Secret | None, key: str, reason: str, said: str, auth: str) -> None:
    how = ref("x", key) if auth == "bearer" else [{"name": "k", **ref("x", key)}]
    async with serve(json_response("1")) as server:
        failed = await failure({"url": server.url, "auth": {auth: how}}, secrets=Secrets(*([found] if found else [])))
        assert not server.connections
    assert (failed.reason, failed.sent, failed.final) == (reason, False, True)
    assert said in failed.message
    assert TOKEN not in failed.message


@pytest.mark.parametrize("data", [{"username": "a"}, {"password": "b"}, {"username": "a:b", "password": "c"}])
async def test_a_basic_secret_that_cannot_be_used(data: dict[str, str]) -> None:
    spec = {"url": "https://a.example", "auth": {"basic": {"secretName": "x"}}}
    failed = await failure(spec, secrets=Secrets(secret("x", **data)))
    assert failed.reason in {"SecretKeyMissing", "SecretInvalid"}


@pytest.mark.parametrize("url", ["ftp://a.example/s3cr3t-path", "s3cr3t-path", "https://u:s3cr3t-path@a.example/", "https://[s3cr3t-path"])  # fmt: skip
async def test_a_secret_url_that_is_none(url: str) -> None:
    failed = await failure({"urlFrom": ref("x", "url")}, secrets=Secrets(secret("x", url=url)))
    assert (failed.reason, failed.final) == ("SecretInvalid", True)
    assert "the key url of the Secret x is not a URL that httpCall can use" in failed.message
    assert "s3cr3t" not in failed.message


@pytest.mark.parametrize("reason", ["SecretForbidden", "SecretsUnavailable"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_only_a_resolver_that_is_away_is_asked_again(reason: str, method: str) -> None:
    spec = {"url": "https://a.example", "auth": BEARER, "method": method}
    failed = await failure(spec, secrets=Secrets(fails=SecretError(reason, "no")))
    assert (failed.reason, failed.sent) == (reason, False)
    from stepwell.actions.registry import default_actions
    from stepwell.domain.http_spec import HttpCall

    policy = default_actions()["httpCall"].retry(HttpCall.model_validate(spec))
    assert policy.allows(failed, 1) is (reason == "SecretsUnavailable")


async def test_a_resolver_that_does_not_answer() -> None:
    class Silent:
        async def get(self, namespace: str, name: str) -> Secret:
            await asyncio.Event().wait()
            raise AssertionError

    failed = await failure({"url": "https://a.example", "auth": BEARER}, secrets=Silent(), call=call_of(0.05))
    assert (failed.reason, failed.kind, failed.sent) == ("SecretsUnavailable", "Network", False)


async def test_time_for_the_secrets_is_time_of_the_call() -> None:
    class Slow(Secrets):
        async def get(self, namespace: str, name: str) -> Secret:
            await asyncio.sleep(0.2)  # the slowness itself
            return await super().get(namespace, name)

    async def silent(request: Received, writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with serve(silent) as server:
        failed = await failure({"url": server.url, "auth": BEARER}, secrets=Slow(API), call=call_of(0.3))
    assert failed.message.endswith("no complete answer within 0.1 s")


async def test_a_defect_of_a_resolver_shows_nothing() -> None:
    class Broken:
        async def get(self, namespace: str, name: str) -> Secret:
            raise ValueError(TOKEN)

    failed = await failure({"url": "https://a.example", "auth": BEARER}, secrets=Broken())
    assert (failed.reason, failed.message) == ("InternalError", "the call failed unexpectedly: ValueError")


async def test_without_a_resolver_no_secret_is_read() -> None:
    failed = await failure({"url": "https://a.example", "auth": BEARER})
    assert (failed.reason, failed.final) == ("SecretForbidden", True)


# Plain http


@pytest.mark.parametrize("field", ["auth", "urlFrom"])
async def test_a_credential_goes_over_https(field: str) -> None:
    known = secrets(secret("chat", url="http://10.0.0.1:8080/hooks/tok-7f3a"))
    target = {"url": "http://10.0.0.1:8080/", "auth": BEARER} if field == "auth" else {"urlFrom": ref("chat", "url")}
    failed = await failure(target, secrets=known)
    assert (failed.reason, failed.sent, failed.final) == ("HostNotAllowed", False, True)
    assert "a credential goes over https; in plain http not to 10.0.0.1:8080" in failed.message


async def test_a_public_host_is_no_reason_for_plain_http() -> None:
    async def unexpected(host: str, port: int) -> list[str]:
        raise AssertionError(host)

    spec = {"url": "http://api.example.com/", "auth": BEARER}
    assert (await failure(spec, secrets=secrets(), lookup=unexpected)).reason == "HostNotAllowed"


async def test_plain_http_to_a_host_that_the_namespace_is_allowed() -> None:
    async def loopback(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    async with serve(json_response("1")) as server:
        policy = with_annotation(f"orders.shop.svc:{server.port}", AddressPolicy(allow_loopback=True))
        spec = {"url": f"http://orders.shop.svc:{server.port}/", "auth": BEARER}
        assert (await perform(spec, secrets=secrets(), policy=policy, lookup=loopback)).output == 1
        other = {**spec, "url": f"http://orders.other.svc:{server.port}/"}
        failed = await failure(other, secrets=secrets(), policy=policy, lookup=loopback)
    assert failed.reason == "HostNotAllowed"


# Redirects


@pytest.mark.parametrize(
    "auth",
    [
        BEARER,
        {"basic": {"secretName": "api"}},
        {"headers": [{"name": "X-K", **ref("api", "token")}]},
        {"headers": [{"name": "User-Agent", **ref("api", "token")}]},
        {"query": [{"name": "k", **ref("api", "token")}]},
    ],
)
async def test_auth_does_not_cross_origins(auth: dict[str, Any]) -> None:
    async with serve(json_response("1")) as other, serve(redirect(f"{other.url}/x")) as server:
        spec = {"url": server.url, "method": "POST", "text": "t", "auth": auth, "followRedirects": True}
        assert (await perform(spec, secrets=secrets())).output == 1
    (request,) = other.requests
    assert request.line == "POST /x HTTP/1.1"
    assert {"authorization", "x-k"}.isdisjoint(name.lower() for name, _ in request.headers)
    assert TOKEN not in request.head.decode()


async def test_auth_is_kept_within_the_origin() -> None:
    async def answer(request: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(redirect("/next?a=1") if request.target.startswith("/first") else json_response("1"))

    async with serve(answer) as server:
        for auth in (BEARER, {"query": [{"name": "k", **ref("api", "username")}]}):
            spec = {"url": f"{server.url}/first", "auth": auth, "followRedirects": True}
            assert (await perform(spec, secrets=secrets())).output == 1
    assert server.requests[1].header("authorization") == f"Bearer {TOKEN}"
    assert server.requests[3].target == "/next?a=1&k=stepwell-bot"


async def test_a_redirect_that_names_the_parameter_gets_it_once() -> None:
    async def answer(request: Received, writer: asyncio.StreamWriter) -> None:
        there = f"/next?{request.target.partition('?')[2]}"
        writer.write(redirect(there) if request.target.startswith("/first") else json_response("1"))

    async with serve(answer) as server:
        auth = {"query": [{"name": "k", **ref("api", "token")}]}
        await perform({"url": f"{server.url}/first", "auth": auth, "followRedirects": True}, secrets=secrets())
    assert server.requests[1].target == server.requests[0].target.replace("first", "next")


async def test_what_another_origin_repeats_is_masked_too() -> None:
    async with serve(json_response(json.dumps(TOKEN))) as other, serve(redirect(f"{other.url}/x")) as server:
        spec = {"url": server.url, "auth": BEARER, "followRedirects": True}
        assert (await perform(spec, secrets=secrets())).output == "***"


async def test_auth_stays_dropped_on_the_way_back() -> None:
    back: list[str] = []

    async def answer(request: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(redirect(back[0]) if request.target == "/" else json_response("1"))

    async def elsewhere(request: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(redirect(f"{server.url}/end"))

    async with serve(elsewhere) as other, serve(answer) as server:
        back.append(other.url)
        await perform({"url": f"{server.url}/", "auth": BEARER, "followRedirects": True}, secrets=secrets())
    assert server.requests[0].header("authorization")
    assert server.requests[1].header("authorization") is None


async def test_a_redirect_does_not_carry_a_secret_elsewhere() -> None:
    async with serve(json_response("1")) as other:
        for form in (TOKEN, "tok_7f3a9c%2f1e%2b5b%3d%3d", b64encode(f"x{TOKEN}".encode()).decode()):
            async with serve(redirect(f"{other.url}/?k={form}")) as server:
                failed = await failure({"url": server.url, "auth": BEARER, "followRedirects": True}, secrets=secrets())
            assert failed.message.endswith("redirects to another server with a secret in the URL")
            assert (failed.reason, failed.final) == ("InvalidRedirect", True)
        assert not other.connections


async def test_a_secret_url_does_not_cross_origins() -> None:
    async with serve(json_response("1")) as other, serve(redirect(f"{other.url}/x")) as server:
        hook = secret("chat", url=f"{server.url}/services/{TOKEN}?k={TOKEN}")
        assert (await perform({"urlFrom": ref("chat", "url"), "followRedirects": True}, secrets=secrets(hook))).output
    assert TOKEN not in other.requests[0].head.decode()


# What is shown


@pytest.mark.parametrize("status", ["200 OK", "500 Oops"])
async def test_an_answer_that_repeats_the_secret(status: str) -> None:
    body = json.dumps({"you sent": [TOKEN, f"Bearer {TOKEN}"], TOKEN: b64encode(TOKEN.encode()).decode(), "n": 1})
    answer = response(body.encode(), f"X-Echo: {TOKEN}", f"X-{TOKEN[:3]}: a", "Content-Type: application/json", status=status)  # fmt: skip
    async with serve(answer) as server:
        spec = {"url": f"{server.url}/x", "auth": BEARER}
        if status.startswith("200"):
            outcome = await perform(spec, secrets=secrets())
            assert outcome.output == {"you sent": ["***", "Bearer ***"], "***": "***", "n": 1}
            http: Any = outcome.http
        else:
            failed = await failure(spec, secrets=secrets())
            assert failed.message.startswith(f"GET {server.url}/x answered 500 Oops: {{")
            assert '"you sent": ["***", "Bearer ***"]' in failed.message
            assert TOKEN not in failed.message
            http = failed.http
    assert http["headers"]["x-echo"] == "***"


@pytest.mark.parametrize("status", ["200 OK", "401 No"])
async def test_the_pair_of_basic_authentication_is_masked_where_its_halves_are_too_short(status: str) -> None:
    async def echo(request: Received, writer: asyncio.StreamWriter) -> None:
        given = request.header("authorization") or ""
        text = f"{given} {b64decode(given.partition(' ')[2]).decode()}"
        writer.write(response(text.encode(), "Content-Type: text/plain", status=status))

    async with serve(echo) as server:
        spec = {"url": server.url, "auth": {"basic": {"secretName": "api"}}}
        short = Secrets(secret("api", username="bot", password="s3cr3t!"))
        if status == "200 OK":
            assert (await perform(spec, secrets=short)).output == "Basic *** ***"
        else:
            assert (await failure(spec, secrets=short)).message.endswith("answered 401 No: Basic *** ***")


HIDDEN = [
    response(b"x" * 900 + TOKEN.encode() + b"x" * 900, status="500 Oops"),
    response(b" " * 1195 + TOKEN.encode(), status="500 Oops"),
    response(TOKEN[:10].encode(), status="500 Oops", length=99),
    response(TOKEN.encode("utf-16"), "Content-Type: text/plain; charset=utf-16", status="500 Oops"),
    response(TOKEN.encode("utf-16-le"), status="500 Oops"),
    response(b"", status=f"500 {TOKEN}"),
    response(b"", status=f"500 {'x' * 52}{TOKEN}"),
    response(b"x" * 288 + TOKEN.encode(), status="500 Oops"),
    response(b"", f"X-Echo: {'x' * 1018}{TOKEN}", status="500 Oops"),
    response(gzip.compress(TOKEN.encode(), mtime=0), "Content-Encoding: gzip", status="500 Oops"),
    response(TOKEN.encode(), f"Content-Encoding: {TOKEN}"),
    response(TOKEN.encode(), f"Content-Type: text/plain; charset={'x' * 30}{TOKEN}"),
    response(f'{{"a": {TOKEN}'.encode(), "Content-Type: application/json"),
    response(b"\x89" + TOKEN.encode() + b"\xff", "Content-Type: image/png"),
    f"HTTP/1.1 200 OK\r\nX-{TOKEN} : y\r\n\r\n".encode(),
    f"HTTP/1.1 200 OK\r\nX: {'y' * 9000}{TOKEN}\r\n\r\n".encode(),
    f"HTTP/1.1 {TOKEN}\r\n\r\n".encode(),
    f"{TOKEN} HTTP/1.1\r\n\r\n".encode(),
    f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{TOKEN}\r\n".encode(),
    f"HTTP/1.1 302 Go\r\nLocation: http://{TOKEN}\r\nContent-Length: 0\r\n\r\n".encode(),
    f"HTTP/1.1 302 Go\r\nLocation: ftp://{'x' * 185}{TOKEN}\r\nContent-Length: 0\r\n\r\n".encode(),
    f"HTTP/1.1 302 Go\r\nLocation: /{'x' * 170}{TOKEN}\r\nContent-Length: 0\r\n\r\n".encode(),
]


@pytest.mark.parametrize("answer", HIDDEN)
async def test_nothing_of_a_failure_shows_the_secret(answer: bytes) -> None:
    async with serve(answer) as server:
        spec = {"url": server.url, "auth": BEARER, "followRedirects": True, "expect": {"status": [200]}}
        failed = await failure(spec, secrets=secrets(), call=call_of(0.3))
    shown = f"{failed!r} {failed} {failed.document()} {failed.http}"
    for length in range(len(TOKEN), 7, -1):
        assert TOKEN[:length] not in shown
    assert failed.__cause__ is None
    assert failed.__context__ is None


async def test_a_connection_that_ends_within_the_headers_shows_none_of_them() -> None:
    async def half(request: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 200 OK\r\nX-Echo: {TOKEN}\r\nX-More".encode())
        await writer.drain()
        writer.close()

    async with serve(half) as server:
        failed = await failure({"url": server.url, "auth": BEARER}, secrets=secrets())
        plain = await failure({"url": server.url})
    assert "tok_" not in failed.message + plain.message
    assert failed.reason == "ConnectionLost"


async def test_a_secret_number_that_is_beyond_64_bits() -> None:
    number = "98765432109876543210123456789"
    async with serve(json_response(f'{{"a": {number}}}')) as server:
        failed = await failure({"url": server.url, "auth": BEARER}, secrets=Secrets(secret("api", token=number)))
    assert failed.reason == "InvalidResponse"
    assert number[:8] not in failed.message


async def test_the_request_line_of_a_secret_url() -> None:
    async with serve(response(b"no", status="404 Not Found")) as server:
        hook = secret("chat", url=f"{server.url}/services/T01234567/{TOKEN}")
        failed = await failure({"urlFrom": ref("chat", "url"), "method": "POST"}, secrets=secrets(hook))
    assert failed.message == f"POST {server.url}/*** answered 404 Not Found: no"


async def test_headers_of_an_answer_that_are_credentials_are_not_shown() -> None:
    names = [
        "Set-Cookie", "Set-Cookie2", "Authorization", "Proxy-Authorization", "WWW-Authenticate", "Proxy-Authenticate",
        "Authentication-Info", "Proxy-Authentication-Info",
    ]  # fmt: skip
    async with serve(response(b"", "X-A: b", *(f"{name}: x" for name in names))) as server:
        outcome: Any = await perform({"url": server.url})
    assert outcome.http["headers"] == {"x-a": "b", "content-length": "0"}


async def test_a_secret_as_the_name_of_a_header() -> None:
    async with serve(response(b"", "Canary-7F3A9C: 1")) as server:
        outcome: Any = await perform({"url": server.url, "auth": BEARER}, secrets=Secrets(secret("api", token="Canary-7F3A9C")))  # fmt: skip
    assert outcome.http["headers"] == {"***": "1", "content-length": "0"}


async def test_parts_of_a_secret_url_are_masked_and_words_are_not() -> None:
    async def echo(request: Received, writer: asyncio.StreamWriter) -> None:
        parts = [request.target, *request.target.split("/"), "webhooks", request.target.partition("k=")[2]]
        writer.write(json_response(json.dumps(parts)))

    async with serve(echo) as server:
        hook = secret("chat", url=f"{server.url}/services/T01234567/abc?k=tok%5F7f3a9c")
        output = (await perform({"urlFrom": ref("chat", "url")}, secrets=secrets(hook))).output
    assert output == ["/***", "", "services", "***", "abc?k=***", "webhooks", "***"]


async def test_a_failure_to_connect_names_the_request_without_its_query_secret() -> None:
    auth = {"query": [{"name": "k", **ref("api", "token")}]}
    failed = await failure({"url": "https://127.0.0.1:1/x?a=1", "auth": auth}, secrets=secrets())
    assert failed.message.startswith("GET https://127.0.0.1:1/x?a=1: no connection")


def test_the_request_shows_nothing_by_accident() -> None:
    from stepwell.domain.http import HttpRequest, HttpResponse

    request = HttpRequest("GET", f"https://a/{TOKEN}", (("A", TOKEN),), TOKEN.encode(), "n", True, TOKEN.encode())
    answer = HttpResponse(200, TOKEN, (("a", TOKEN),), TOKEN.encode())
    assert TOKEN not in f"{request} {answer!r}"
    assert isinstance(StepFailure("A", "b"), Exception)
