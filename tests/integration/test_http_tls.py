"""httpCall over TLS: whose certificates are trusted, directly and through a proxy."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from http_calls import Secrets, client, failure, perform, ref, secret
from http_servers import json_response, redirect, serve, serve_proxy

from stepwell.adapters.http.guard import AddressPolicy
from stepwell.adapters.http.proxy import parse_proxy

if TYPE_CHECKING:
    from stepwell.domain.secrets import Secret

AUTHORITY = trustme.CA()
OTHER = trustme.CA()
TOKEN = "tok_7f3a9c1e5b"
TLS = {"tls": {"caSecretRef": {"name": "ca", "key": "ca.crt"}}}


def server_context(*names: str, authority: trustme.CA = AUTHORITY, **options: Any) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names, **options).configure_cert(context)
    return context


def ca(*authorities: trustme.CA, **options: Any) -> Secret:
    return secret("ca", ca_crt=b"".join(authority.cert_pem.bytes() for authority in authorities), **options)


async def local(host: str, port: int) -> list[str]:
    return ["127.0.0.1"]


async def test_a_server_whose_authority_a_secret_holds() -> None:
    async with serve(json_response("1"), server_context("127.0.0.1")) as server:
        spec = {"url": server.url, **TLS, "auth": {"bearer": ref("api", "token")}}
        assert (await perform(spec, secrets=Secrets(ca(AUTHORITY), secret("api", token=TOKEN)))).output == 1
        assert (await perform({"url": server.url, **TLS}, secrets=Secrets(ca(OTHER, AUTHORITY)))).output == 1
    assert server.requests[0].header("authorization") == f"Bearer {TOKEN}"


async def test_the_authority_may_be_of_a_secret_that_is_sent_nowhere() -> None:
    async with serve(json_response("1"), server_context("127.0.0.1")) as server:
        assert (
            await perform({"url": server.url, **TLS}, secrets=Secrets(ca(AUTHORITY, hosts="a.example")))
        ).output == 1


async def test_a_name_is_checked_against_the_certificate() -> None:
    async with serve(json_response("1"), server_context("orders.example")) as server:
        known = Secrets(ca(AUTHORITY))
        spec = {"url": f"https://orders.example:{server.port}/", **TLS}
        assert (await perform(spec, secrets=known, lookup=local)).output == 1
        failed = await failure({**spec, "url": f"https://other.example:{server.port}/"}, secrets=known, lookup=local)
    assert (failed.reason, failed.kind, failed.sent) == ("TlsFailed", "Network", False)
    assert "Hostname mismatch" in failed.message


@pytest.mark.parametrize("trusted", [(), (OTHER,)])
async def test_an_authority_that_is_not_trusted(trusted: tuple[trustme.CA, ...]) -> None:
    async with serve(json_response("1"), server_context("127.0.0.1")) as server:
        spec = {"url": server.url, "method": "POST", **(TLS if trusted else {})}
        failed = await failure(spec, secrets=Secrets(ca(*trusted)) if trusted else None)
        assert not server.requests
    assert (failed.reason, failed.kind, failed.sent) == ("TlsFailed", "Network", False)
    assert "certificate verify failed" in failed.message


async def test_a_certificate_that_has_expired() -> None:
    context = server_context("127.0.0.1", not_after=datetime.now(UTC) - timedelta(days=1))
    async with serve(json_response("1"), context) as server:
        failed = await failure({"url": server.url, **TLS}, secrets=Secrets(ca(AUTHORITY)))
    assert failed.reason == "TlsFailed"
    assert "certificate has expired" in failed.message


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
async def test_an_old_version_of_tls() -> None:
    context = server_context("127.0.0.1")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    async with serve(json_response("1"), context) as server:
        failed = await failure({"url": server.url, **TLS}, secrets=Secrets(ca(AUTHORITY)))
    assert (failed.kind, failed.sent) == ("Network", False)


@pytest.mark.parametrize(
    ("pem", "reason"),
    [
        (b"not a certificate", "SecretInvalid"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "SecretInvalid"),
        (b"-----BEGIN CERTIFICATE-----\n\xff\xff", "SecretInvalid"),
    ],
)
async def test_an_authority_that_is_none(pem: bytes, reason: str) -> None:
    failed = await failure({"url": "https://a.example/", **TLS}, secrets=Secrets(secret("ca", ca_crt=pem)))
    assert (failed.reason, failed.final, failed.sent) == (reason, True, False)


async def test_connections_are_pooled_by_their_authority() -> None:
    async with serve(json_response("1"), server_context("127.0.0.1")) as server, client() as opened:
        for _ in range(3):
            await perform({"url": server.url, **TLS}, secrets=Secrets(ca(AUTHORITY)), through=opened)
        assert server.connections == 1
        failed = await failure({"url": server.url, **TLS}, secrets=Secrets(ca(OTHER)), through=opened)
        plain = await failure({"url": server.url}, through=opened)
    assert failed.reason == plain.reason == "TlsFailed"


async def test_no_way_from_https_to_http() -> None:
    async with serve(json_response("1")) as other:
        async with serve(redirect(f"{other.url}/"), server_context("127.0.0.1")) as server:
            failed = await failure({"url": server.url, **TLS, "followRedirects": True}, secrets=Secrets(ca(AUTHORITY)))
        assert not other.connections
    assert failed.reason == "InvalidRedirect"


async def test_the_authority_holds_for_a_redirect_too() -> None:
    tls = server_context("127.0.0.1")
    async with serve(json_response("1"), tls) as other, serve(redirect(f"{other.url}/"), tls) as server:
        spec = {"url": server.url, **TLS, "followRedirects": True}
        assert (await perform(spec, secrets=Secrets(ca(AUTHORITY)))).output == 1


# Through a proxy

PUBLIC = AddressPolicy()


async def test_https_through_a_proxy_is_verified_and_shows_it_nothing() -> None:
    known = Secrets(ca(AUTHORITY), secret("api", token=TOKEN))
    async with serve(json_response("1"), server_context("orders.example")) as server, serve_proxy() as proxy:
        way = parse_proxy(f"http://us:pa@127.0.0.1:{proxy.port}")
        spec = {
            "url": f"https://orders.example:{server.port}/x",
            "method": "POST",
            "body": {"a": 1},
            "headers": {"X-Own": "own"},
            "auth": {"bearer": ref("api", "token")},
            **TLS,
        }
        assert (await perform(spec, secrets=known, policy=PUBLIC, proxy=way)).output == 1
        wrong = {**spec, "url": f"https://other.example:{server.port}/x"}
        failed = await failure(wrong, secrets=known, policy=PUBLIC, proxy=way)
        assert (failed.reason, failed.sent) == ("TlsFailed", False)
        unknown = await failure({"url": spec["url"]}, policy=PUBLIC, proxy=way)
        assert unknown.reason == "TlsFailed"
    connect = proxy.requests[0]
    assert connect.line == f"CONNECT orders.example:{server.port} HTTP/1.1"
    assert connect.header("proxy-authorization") == "Basic dXM6cGE="
    assert {"authorization", "x-own", "idempotency-key"}.isdisjoint(name.lower() for name, _ in connect.headers)
    (request,) = server.requests
    assert request.line == "POST /x HTTP/1.1"
    assert request.header("authorization") == f"Bearer {TOKEN}"
    assert request.header("proxy-authorization") is None


async def test_connections_through_a_proxy_are_kept() -> None:
    known = Secrets(ca(AUTHORITY))
    async with serve(json_response("1"), server_context("orders.example")) as server, serve_proxy() as proxy:
        way = parse_proxy(f"http://127.0.0.1:{proxy.port}")
        async with client(PUBLIC, proxy=way) as opened:
            for _ in range(3):
                spec = {"url": f"https://orders.example:{server.port}/x", **TLS}
                await perform(spec, secrets=known, through=opened)
        assert (proxy.connections, server.connections) == (1, 1)
