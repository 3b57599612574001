"""Where an httpCall may go: allowances of namespaces, a proxy, and Stepwell's own services. All on loopback."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from http_calls import LOCAL, Secrets, call_of, client, failure, perform, ref, secret
from http_servers import json_response, redirect, response, serve, serve_proxy, unused_port
from waiting import eventually

from stepwell.adapters.http.allowances import AllowanceError, StaticAllowances, with_annotation
from stepwell.adapters.http.clients import MAX_IDLE, HttpClients
from stepwell.adapters.http.connector import GuardedConnector
from stepwell.adapters.http.guard import AddressPolicy
from stepwell.adapters.http.own_services import OwnServices
from stepwell.adapters.http.proxy import parse_proxy
from stepwell.domain.errors import UnavailableError
from stepwell.domain.http import HttpRequest

PUBLIC = AddressPolicy()


def resolving(**hosts: str) -> Any:
    """A look-up by the first label of a name; it records what it was asked."""
    asked: list[str] = []

    async def lookup(host: str, port: int) -> list[str]:
        asked.append(host)
        return [hosts[host.lower().split(".", maxsplit=1)[0]]]

    lookup.asked = asked  # type: ignore[attr-defined]
    return lookup


# Allowances. No packet is sent to a private address: each case is refused, or is stopped where its socket was opened.


@pytest.mark.parametrize("policy", [PUBLIC, LOCAL, with_annotation("10.1.0.0/16, orders.shop.svc:81, other.svc:80")])
async def test_a_private_address_that_is_not_allowed(policy: AddressPolicy) -> None:
    spec = {"url": "http://orders.shop.svc/"}
    failed = await failure(spec, policy=policy, lookup=resolving(orders="10.2.0.7"))
    assert (failed.reason, failed.sent, failed.final) == ("AddressNotAllowed", False, True)
    assert "orders.shop.svc resolves to 10.2.0.7, which is a private address" in failed.message
    assert "annotation stepwell.dev/http-allow" in failed.message


@pytest.mark.parametrize("text", ["orders.shop.svc:80", "10.2.0.0/16"])
@pytest.mark.parametrize("address", ["127.0.0.1", "169.254.169.254", "::1", "fe80::1", "0.0.0.0"])
async def test_what_is_allowed_never_opens_these(text: str, address: str) -> None:
    policy = with_annotation(f"{text}, 0.0.0.0/0, ::/0")
    failed = await failure({"url": "http://orders.shop.svc/"}, policy=policy, lookup=resolving(orders=address))
    assert failed.reason == "AddressNotAllowed"


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("orders.shop.svc:80", "http://orders.shop.svc/"),
        ("orders.shop.svc:80", "http://Orders.Shop.SVC:80/"),
        ("10.2.0.0/16", "http://orders.shop.svc:8080/"),
        ("10.2.0.0/16", "http://10.2.0.7:8080/"),
        ("10.2.0.7:8080", "http://10.2.0.7:8080/"),
        ("10.2.0.0/16", "http://[::ffff:10.2.0.7]:8080/"),
    ],
)
async def test_what_is_allowed_passes_both_doors(text: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The socket is opened, and then there is no network: the guard stands before it."""
    opened: list[str] = []

    def no_network(connector: GuardedConnector, info: Any) -> Any:
        checked(connector, info).close()
        opened.append("opened")
        raise OSError(101, "Network is unreachable")

    checked = GuardedConnector._open_socket
    monkeypatch.setattr(GuardedConnector, "_open_socket", no_network)
    failed = await failure({"url": url}, policy=with_annotation(text), lookup=resolving(orders="10.2.0.7"))
    assert (failed.reason, opened) == ("ConnectionFailed", ["opened"])
    opened.clear()
    failed = await failure({"url": url}, lookup=resolving(orders="10.2.0.7"))
    assert (failed.reason, opened) == ("AddressNotAllowed", [])


async def test_a_redirect_to_a_private_address() -> None:
    async with serve(redirect("http://orders.shop.svc/")) as server:
        failed = await failure({"url": server.url, "followRedirects": True}, lookup=resolving(orders="10.2.0.7"))
    assert failed.reason == "AddressNotAllowed"


# One client for each policy


async def test_namespaces_with_one_policy_share_connections_and_others_do_not() -> None:
    allowances = StaticAllowances(LOCAL, other=replace(LOCAL, hosts=frozenset({("a.svc", 80)})), strict=PUBLIC)
    async with serve(json_response("1")) as server, HttpClients(allowances) as clients:
        for namespace in ("growth", "sales", "growth"):
            await perform({"url": server.url}, through=clients, call=replace(call_of(), namespace=namespace))
        assert server.connections == 1
        await perform({"url": server.url}, through=clients, call=replace(call_of(), namespace="other"))
        assert server.connections == 2
        strict = replace(call_of(), namespace="strict")
        failed = await failure({"url": server.url}, through=clients, call=strict)
        assert failed.reason == "AddressNotAllowed"


async def test_a_change_holds_from_the_next_request_on() -> None:
    class Changing:
        now = LOCAL

        async def policy(self, namespace: str) -> AddressPolicy:
            return self.now

    allowances = Changing()
    async with serve(json_response("1")) as server, HttpClients(allowances) as clients:
        assert (await perform({"url": server.url}, through=clients)).output == 1
        allowances.now = PUBLIC
        assert (await failure({"url": server.url}, through=clients)).reason == "AddressNotAllowed"


async def test_clients_that_nobody_uses_are_closed() -> None:
    class Many:
        number = 0

        async def policy(self, namespace: str) -> AddressPolicy:
            self.number += 1
            return replace(LOCAL, hosts=frozenset({("a.svc", self.number)}))

    async with serve(json_response("1")) as server, HttpClients(Many()) as clients:
        for _ in range(MAX_IDLE + 5):
            await perform({"url": server.url}, through=clients)
        assert len(clients._entries) == MAX_IDLE
        assert server.connections == MAX_IDLE + 5


async def test_a_client_with_a_call_in_flight_is_not_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stepwell.adapters.http.clients.MAX_IDLE", 1)
    allowances = StaticAllowances(LOCAL, first=replace(LOCAL, hosts=frozenset({("a.svc", 1)})))
    release = asyncio.Event()

    async def held(request: Any, writer: asyncio.StreamWriter) -> None:
        if request.target == "/held":
            await release.wait()
        writer.write(json_response("1"))

    async with serve(held) as server, HttpClients(allowances) as clients:
        call = replace(call_of(), namespace="first")
        first = asyncio.ensure_future(perform({"url": f"{server.url}/held"}, through=clients, call=call))
        await eventually(lambda: server.requests)
        await perform({"url": server.url}, through=clients)
        release.set()
        assert (await first).output == 1


@pytest.mark.parametrize(
    ("error", "reason", "final"),
    [
        (AllowanceError("the annotation is wrong"), "AllowancesInvalid", True),
        (UnavailableError("no API server"), "AllowancesUnavailable", False),
    ],
)
async def test_allowances_that_are_not_known(error: Exception, reason: str, final: bool) -> None:
    class Failing:
        async def policy(self, namespace: str) -> AddressPolicy:
            raise error

    async with HttpClients(Failing()) as clients:
        failed = await failure({"url": "http://a.example"}, through=clients)
    assert (failed.reason, failed.final, failed.sent) == (reason, final, False)


async def test_allowances_that_are_not_told_take_no_longer_than_the_timeout() -> None:
    class Silent:
        async def policy(self, namespace: str) -> AddressPolicy:
            await asyncio.Event().wait()
            raise AssertionError

    async with HttpClients(Silent()) as clients:
        failed = await failure({"url": "http://a.example", "method": "POST"}, through=clients, call=call_of(0.1))
    assert (failed.reason, failed.kind, failed.sent) == ("AllowancesUnavailable", "Network", False)
    assert "was not found out within 0.1 s" in failed.message


async def test_time_for_the_allowances_is_time_of_the_call() -> None:
    class Slow:
        async def policy(self, namespace: str) -> AddressPolicy:
            await asyncio.sleep(0.2)  # the slowness itself
            return LOCAL

    async def silent(request: Any, writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with serve(silent) as server, HttpClients(Slow()) as clients:
        failed = await failure({"url": server.url}, through=clients, call=call_of(0.3))
    assert "no complete answer within 0.1 s" in failed.message


# Stepwell's own services


async def test_own_services_are_reached_by_no_spelling() -> None:
    async with serve(json_response("1")) as database, serve(json_response("1")) as server:
        own = OwnServices([("127.0.0.1", database.port), ("cache.svc", database.port)])
        lookup = resolving(cache="127.0.0.1", alias="127.0.0.1")
        async with client(LOCAL, own=own, lookup=lookup) as opened:
            for host in ("127.0.0.1", "[::ffff:127.0.0.1]", "alias.example", "cache.svc", "CACHE.svc."):
                failed = await failure({"url": f"http://{host}:{database.port}/"}, through=opened)
                assert (failed.reason, failed.sent, failed.final) == ("AddressNotAllowed", False, True)
                assert "one of Stepwell's own services" in failed.message
            assert (await perform({"url": server.url}, through=opened)).output == 1
        assert not database.connections


async def test_own_services_are_refused_by_name_where_the_name_moved() -> None:
    answers = ["127.0.0.9", "127.0.0.1"]

    async def moving(host: str, port: int) -> list[str]:
        return [answers.pop(0)]

    async with serve(json_response("1")) as database:
        own = OwnServices([("cache.svc", None)])
        failed = await failure({"url": f"http://cache.svc:{database.port}/"}, own=own, lookup=moving)
        assert not database.connections
    assert failed.reason == "AddressNotAllowed"
    assert "one of Stepwell's own services" in failed.message


async def test_the_names_of_own_services_are_known_before_a_literal_address_is_connected_to() -> None:
    async with serve(json_response("1")) as database:
        own = OwnServices([("cache.svc", database.port)])
        failed = await failure({"url": database.url}, own=own, lookup=resolving(cache="127.0.0.1"))
        assert not database.connections
    assert failed.reason == "AddressNotAllowed"


# The proxy


async def test_http_goes_through_a_proxy_in_absolute_form() -> None:
    lookup = resolving()
    async with serve(response(b"1", "Connection: close")) as server, serve_proxy() as proxy:
        way = parse_proxy(f"http://us:pa@127.0.0.1:{proxy.port}")
        spec = {"url": f"http://api.example.com:{server.port}/a?b=c", "method": "POST", "text": "t"}
        assert (await perform(spec, policy=PUBLIC, proxy=way, lookup=lookup)).output == 1
    (request,) = proxy.requests
    assert request.line == f"POST http://api.example.com:{server.port}/a?b=c HTTP/1.1"
    assert request.header("host") == f"api.example.com:{server.port}"
    assert request.header("proxy-authorization") == "Basic dXM6cGE="
    assert request.body == b"t"
    assert not lookup.asked  # the name is the proxy's to resolve


@pytest.mark.parametrize(
    "host",
    [
        "localhost", "127.0.0.1", "10.0.0.1", "169.254.169.254", "metadata.google.internal", "orders.shop.svc", "orders",
        "[::1]", "[::ffff:10.0.0.1]", "0x7f.1", "0xa9fea9fe", "0", "127.1", "127.0.0.1.", "LocalHost.", "ⓛocalhost", "①②⑦.0.0.1",
        "127。0。0。1", "[64:ff9b::7f00:1]", "orders.SHOP.svc.",
    ],
)  # fmt: skip
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_the_inside_is_not_asked_of_a_proxy(host: str, scheme: str) -> None:
    async with serve_proxy() as proxy:
        way = parse_proxy(f"http://127.0.0.1:{proxy.port}")
        failed = await failure({"url": f"{scheme}://{host}/"}, policy=PUBLIC, proxy=way)
        assert not proxy.connections
    assert (failed.reason, failed.sent, failed.final) == ("AddressNotAllowed", False, True)


async def test_a_redirect_to_the_inside_is_not_asked_of_a_proxy() -> None:
    elsewhere = redirect("http://metadata.google.internal/").replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
    async with serve(elsewhere) as server, serve_proxy() as proxy:
        way = parse_proxy(f"http://127.0.0.1:{proxy.port}")
        spec = {"url": f"http://api.example.com:{server.port}/", "followRedirects": True}
        failed = await failure(spec, policy=PUBLIC, proxy=way)
        assert len(proxy.requests) == 1
    assert failed.reason == "AddressNotAllowed"


async def test_what_a_namespace_is_allowed_is_reached_without_the_proxy() -> None:
    async with serve(json_response("1")) as server, serve_proxy() as proxy:
        way = parse_proxy(f"http://127.0.0.1:{proxy.port}")
        policy = with_annotation(f"orders.shop.svc:{server.port}", LOCAL)
        spec = {"url": f"http://orders.shop.svc:{server.port}/"}
        assert (await perform(spec, policy=policy, proxy=way, lookup=resolving(orders="127.0.0.1"))).output == 1
        assert (await perform({"url": server.url}, policy=LOCAL, proxy=way)).output == 1
        assert not proxy.connections
    assert server.requests[0].header("proxy-authorization") is None


async def test_plain_http_with_a_credential_is_not_shown_to_a_proxy() -> None:
    async with serve_proxy() as proxy:
        way = parse_proxy(f"http://127.0.0.1:{proxy.port}")
        known = Secrets(secret("api", token="tok_7f3a9c1e5b"))
        spec = {"url": "http://api.example.com/", "auth": {"bearer": ref("api", "token")}}
        failed = await failure(spec, policy=PUBLIC, proxy=way, secrets=known)
        assert not proxy.connections
    assert failed.reason == "HostNotAllowed"


async def test_a_proxy_that_refuses() -> None:
    async with serve_proxy(status="407 Proxy Authentication Required") as proxy:
        way = parse_proxy(f"http://us:geheim@127.0.0.1:{proxy.port}")
        spec = {"url": "https://api.example.com/", "method": "POST"}
        failed = await failure(spec, policy=PUBLIC, proxy=way)
    assert (failed.reason, failed.kind, failed.sent) == ("ProxyRefused", "Network", False)
    assert "it answered 407" in failed.message
    assert "geheim" not in f"{failed!r} {failed.__cause__!r}"


async def test_a_proxy_that_is_not_there() -> None:
    way = parse_proxy(f"http://127.0.0.1:{unused_port()}")
    failed = await failure({"url": "https://api.example.com/", "method": "POST"}, policy=PUBLIC, proxy=way)
    assert (failed.reason, failed.kind, failed.sent) == ("ProxyFailed", "Network", False)


async def test_a_proxy_that_is_silent() -> None:
    async def silent(request: Any, writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with serve(silent) as proxy:
        way = parse_proxy(f"http://127.0.0.1:{proxy.port}")
        failed = await failure({"url": "https://api.example.com/"}, policy=PUBLIC, proxy=way, call=call_of(0.1))
    assert (failed.reason, failed.sent) == ("Timeout", False)


async def test_a_client_must_be_open() -> None:
    from stepwell.adapters.http.client import AiohttpClient

    with pytest.raises(RuntimeError, match="not open"):
        await AiohttpClient(LOCAL).send(HttpRequest("GET", "http://a"), seconds=1, max_bytes=1)
