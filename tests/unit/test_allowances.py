"""The annotation stepwell.dev/http-allow, the names that a proxy is not asked for, and Stepwell's own services."""

from __future__ import annotations

import asyncio
from ipaddress import ip_network

import pytest

from stepwell.adapters.http.allowances import AllowanceError, with_annotation
from stepwell.adapters.http.guard import METADATA, AddressPolicy, refusal
from stepwell.adapters.http.own_services import OwnServices, endpoints
from stepwell.adapters.http.proxy import name_refusal, parse_proxy

PUBLIC = AddressPolicy()


def test_an_annotation() -> None:
    policy = with_annotation(
        "orders.shop.svc:80, 10.1.0.0/16,Billing.Example.:8443 ,[FD00::1]:80,10.9.9.9:81,fd12::/48,"
    )
    assert policy.networks == {ip_network("10.1.0.0/16"), ip_network("fd12::/48")}
    assert policy.hosts == {
        ("orders.shop.svc", 80),
        ("billing.example", 8443),
        ("fd00::1", 80),
        ("10.9.9.9", 81),
    }


@pytest.mark.parametrize("text", [None, "", " , "])
def test_no_annotation(text: str | None) -> None:
    assert with_annotation(text) == PUBLIC


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("orders.shop.svc", "is neither host:port nor a network"),
        ("10.1.2.3", "is neither host:port nor a network"),
        ("orders:http", "is neither host:port"),
        ("orders:0", "is neither host:port"),
        ("orders:65536", "is neither host:port"),
        ("orders:²", "is neither host:port"),
        (":80", "does not begin with a host name"),
        ("*.svc:80", "does not begin with a host name"),
        ("http://orders:80", "is not a network"),
        ("orders svc:80", "does not begin with a host name"),
        ("127.1:80", "does not begin with a host name"),
        ("2130706433:80", "does not begin with a host name"),
        ("fd00::1:80", "an IPv6 address stands in brackets"),
        ("10.1.2.3/16", "has bits behind its prefix"),
        ("10.1.0.0/33", "is not a network"),
        ("127.0.0.1:80", "can never be allowed: it is a loopback address"),
        ("[::1]:80", "can never be allowed: it is a loopback address"),
        ("169.254.169.254:80", "can never be allowed: it is a cloud metadata address"),
        ("127.0.0.0/8", "can never be allowed: it is a loopback address"),
        ("169.254.0.0/16", "can never be allowed: it is a link-local address"),
        ("fe80::/10", "can never be allowed: it is a link-local address"),
        ("224.0.0.0/4", "can never be allowed: it is a multicast address"),
    ],
)
def test_entries_that_are_refused(entry: str, said: str) -> None:
    with pytest.raises(AllowanceError) as caught:
        with_annotation(f"fine.example:80, {entry}, 10.1.0.0/16")
    assert repr(entry) in str(caught.value)
    assert said in str(caught.value)


def test_every_wrong_entry_is_named() -> None:
    with pytest.raises(AllowanceError, match=r"'a' .*; 'b' "):
        with_annotation("a, b")


WIDE = with_annotation("0.0.0.0/0, ::/0")


@pytest.mark.parametrize(
    "address",
    [
        *sorted(map(str, METADATA)), "127.0.0.1", "::1", "::ffff:127.0.0.1", "169.254.1.1", "fe80::1", "0.0.0.0", "::", "224.0.0.1",
        "255.255.255.255", "64:ff9b::7f00:1", "64:ff9b::a00:1", "2002:a00:1::", "::a00:1", "fec0::1", "::ffff:169.254.169.254",
        "fe80::1%eth0", "fd00::1%1",
    ],
)  # fmt: skip
def test_nothing_opens_these(address: str) -> None:
    assert refusal(address, WIDE)
    assert refusal(address, PUBLIC, listed=True)


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("10.1.255.255", True), ("10.2.0.0", False), ("::ffff:10.1.0.1", True), ("::ffff:10.2.0.1", False),
        ("fd12::1", True), ("fd13::1", False), ("100.64.0.1", False), ("8.8.8.8", True),
    ],
)  # fmt: skip
def test_a_network_opens_what_lies_in_it(address: str, allowed: bool) -> None:
    assert (refusal(address, with_annotation("10.1.0.0/16, fd12::/48")) is None) is allowed


@pytest.mark.parametrize("address", ["10.7.7.7", "192.168.1.1", "172.20.0.1", "100.64.1.1", "198.18.0.1", "fd77::7"])
def test_a_listed_name_may_have_a_private_address(address: str) -> None:
    assert refusal(address, PUBLIC)
    assert refusal(address, PUBLIC, listed=True) is None


def test_which_hosts_are_listed() -> None:
    policy = with_annotation("orders.shop.svc:80, 10.1.0.0/16, [fd00::1]:80")
    for host, port in (("Orders.Shop.SVC.", 80), ("10.1.2.3", 9), ("::ffff:10.1.2.3", 9), ("fd00::1", 80)):
        assert policy.lists(host, port)
    for host, port in (("orders.shop.svc", 81), ("shop.svc", 80), ("10.2.0.1", 80), ("127.0.0.1", 80), ("localhost", 80), ("", 80)):  # fmt: skip
        assert not policy.lists(host, port)
    local = AddressPolicy(allow_loopback=True)
    assert local.lists("127.0.0.1", 1)
    assert local.lists("::1", 1)
    assert local.lists("localhost", 1)
    assert not local.lists("10.0.0.1", 1)


# The proxy


@pytest.mark.parametrize(
    "host",
    [
        "localhost", "a.localhost", "LOCALHOST.", "orders", "orders.shop.svc", "orders.shop.svc.cluster.local",
        "metadata.google.internal", "printer.local", "kubernetes.default.svc", "127.0.0.1", "127.1", "2130706433",
        "0x7f.1", "0177.0.0.1", "10.0.0.1", "012.0.0.1", "169.254.169.254", "0xa9fea9fe", "::1", "fd00::1",
        "::ffff:10.0.0.1", "64:ff9b::a00:1", "0", "db.example.com",
    ],
)  # fmt: skip
def test_names_that_a_proxy_is_not_asked_for(host: str) -> None:
    own = OwnServices([("db.example.com", 443)])
    assert name_refusal(host, 443, PUBLIC, own)


@pytest.mark.parametrize(
    "host", ["api.example.com", "8.8.8.8", "2606:4700::1111", "xn--bcher-kva.example", "svc.example"]
)
def test_names_that_a_proxy_is_asked_for(host: str) -> None:
    assert name_refusal(host, 443, PUBLIC, OwnServices()) is None


def test_a_proxy() -> None:
    proxy = parse_proxy("http://us%20er:p%40ss@proxy.example:8080/")
    assert (proxy.url, proxy.host, proxy.port) == ("http://proxy.example:8080", "proxy.example", 8080)
    assert proxy.authorization == "Basic dXMgZXI6cEBzcw=="
    assert "dXMg" not in repr(proxy)
    assert parse_proxy("http://10.0.0.1").port == 3128
    assert parse_proxy("http://[fd00::1]:1").url == "http://[fd00::1]:1"


@pytest.mark.parametrize(
    "text", ["proxy:8080", "https://proxy", "socks5://p", "http://", "http://p/x", "http://u:secret@p:x"]
)
def test_a_proxy_that_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be http://|is not a URL") as caught:
        parse_proxy(text)
    assert "secret" not in str(caught.value)


# Stepwell's own services


def test_what_the_settings_name() -> None:
    environment = {"KUBERNETES_SERVICE_HOST": "10.96.0.1"}
    found = endpoints(
        environment, database_url="postgresql://u:p@db1,db2:6543/x", redis_url="redis://:p@cache.svc:6380/0"
    )
    assert ("cache.svc", 6380) in found
    assert ("10.96.0.1", None) in found
    assert ("kubernetes.default.svc", None) in found
    assert {host for host, _ in found if host.startswith("db")} == {"db1", "db2"}
    assert endpoints({}, database_url="postgresql:///x?host=/run/pg", redis_url=None) == set()


def test_they_are_known_by_name_and_by_address() -> None:
    own = OwnServices([("10.96.0.1", None), ("db.svc", 5432), ("::ffff:10.0.0.9", 6379)])

    async def lookup(host: str, port: int) -> list[str]:
        return {"db.svc": ["10.0.0.5", "fd00::5"]}[host]

    assert own.stale
    asyncio.run(own.refresh(lookup))
    assert not own.stale
    for address, port in (("10.96.0.1", 6443), ("10.0.0.5", 5432), ("::ffff:10.0.0.5", 5432), ("fd00::5", 5432), ("10.0.0.9", 6379)):  # fmt: skip
        assert own.covers(address, port)
    assert not own.covers("10.0.0.5", 80)
    assert own.names("DB.svc.", 5432)
    assert not own.names("db.svc", 80)


def test_addresses_stay_known_when_a_name_does_not_resolve(monkeypatch: pytest.MonkeyPatch) -> None:
    own = OwnServices([("db.svc", 5432)])
    answers: list[list[str]] = [["10.0.0.5"]]

    async def lookup(host: str, port: int) -> list[str]:
        if not answers:
            raise OSError
        return answers.pop()

    asyncio.run(own.refresh(lookup))
    monkeypatch.setattr("stepwell.adapters.http.own_services.FRESH", -1.0)
    assert own.stale
    asyncio.run(own.refresh(lookup))
    assert own.covers("10.0.0.5", 5432)
