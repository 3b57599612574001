"""The address guard, as a pure function: nothing here opens a socket."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.adapters.http.guard import METADATA, AddressPolicy, refusal

PUBLIC = AddressPolicy()
LOCAL = AddressPolicy(allow_loopback=True)

REFUSED = {
    "unspecified": ["0.0.0.0", "0.1.2.3", "::"],
    "private": [
        "10.0.0.0", "10.255.255.255", "172.16.0.0", "172.31.255.255", "192.168.0.1", "192.168.255.255",
        "fc00::1", "fdff:ffff::1", "fd00:ec2::1",
    ],
    "carrier-grade": ["100.64.0.0", "100.127.255.255"],
    "link-local": ["169.254.0.1", "169.254.20.10", "fe80::1", "febf::1"],
    "site-local": ["fec0::1", "feff::1"],
    "protocol": ["192.0.0.1", "192.0.0.8", "192.0.0.170", "2001:1::1", "2001:4:112::1", "2001:1ff::1"],
    "documentation": ["192.0.2.1", "198.51.100.7", "203.0.113.9", "2001:db8::1", "3fff::1", "3fff:fff::1"],
    "6to4": ["192.88.99.1", "2002:7f00:1::1", "2002:a9fe:a9fe::1", "2002:808:808::1"],
    "benchmarking": ["198.18.0.1", "198.19.255.255", "2001:2::1"],
    "multicast": ["224.0.0.1", "239.255.255.255", "ff02::1", "ff0e::1"],
    "reserved": ["240.0.0.1", "255.255.255.255", "4000::1", "1::1", "::8.8.8.8", "::ffff:0:8.8.8.8", "e000::1"],
    "Teredo": ["2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2"],
    "NAT64": ["64:ff9b:1::1", "64:ff9b:1:a00:0:100::", "64:ff9b:1::7f00:1"],
    "ORCHID": ["2001:10::1", "2001:20::1", "2001:2f::1"],
    "segment routing": ["5f00::1"],
    "discard": ["100::1"],
    "zone": ["fe80::1%eth0", "2606:4700::1111%1"],
    "metadata": [*sorted(map(str, METADATA)), "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "::a9fe:a9fe", "64:ff9b::a83f:8110"],
    "not an IP address": ["", "localhost", "127.1", "2130706433", "0x7f.0.0.1", "0177.0.0.1", "127.0.0.1.", "1.2.3.4 ", "[::1]"],
}  # fmt: skip
LOOPBACK = ["127.0.0.1", "127.255.255.254", "::1", "::ffff:127.0.0.1", "0:0:0:0:0:ffff:7f00:1"]
LOOPBACK_ELSEWHERE = ["64:ff9b::7f00:1", "::7f00:1", "::ffff:0:7f00:1", "2002:7f00:1::"]
ALLOWED = [
    "1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255", "128.0.0.0",
    "169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0", "192.0.1.0", "192.167.255.255", "192.169.0.0",
    "198.17.255.255", "198.20.0.0", "223.255.255.255", "2606:4700::1111", "2a00:1450:4001::200e", "2001:4860:4860::8888",
    "2001:200::1", "2003::1", "3ffe::1", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8",
]  # fmt: skip


@pytest.mark.parametrize("policy", [PUBLIC, LOCAL])
@pytest.mark.parametrize(("what", "address"), [(what, address) for what in REFUSED for address in REFUSED[what]])
def test_refused_always(what: str, address: str, policy: AddressPolicy) -> None:
    found = refusal(address, policy)
    assert found
    assert what in found


@pytest.mark.parametrize("address", ALLOWED)
def test_allowed(address: str) -> None:
    assert refusal(address, PUBLIC) is None


@pytest.mark.parametrize("address", LOOPBACK)
def test_loopback_is_for_local_mode(address: str) -> None:
    assert "a loopback address" in (refusal(address, PUBLIC) or "")
    assert refusal(address, LOCAL) is None


@pytest.mark.parametrize("address", LOOPBACK_ELSEWHERE)
def test_the_loopback_of_a_translator_is_not_ours(address: str) -> None:
    assert refusal(address, LOCAL)


ADDRESSES = st.integers(0, 2**32 - 1).map(IPv4Address)


@given(ADDRESSES)
def test_no_ipv4_address_gets_further_inside_an_ipv6_address(inner: IPv4Address) -> None:
    number = int(inner)
    forms = [
        IPv6Address(0xFFFF << 32 | number),
        IPv6Address(0xFFFF << 48 | number),
        IPv6Address(number),
        IPv6Address(0x64FF9B << 96 | number),
        IPv6Address(0x64FF9B0001 << 80 | number),
        IPv6Address(0x2002 << 112 | number << 80),
        IPv6Address(0x20010000 << 96 | number ^ 0xFFFFFFFF),
    ]
    if refusal(inner, PUBLIC):
        assert all(refusal(form, PUBLIC) for form in forms)


@given(
    ADDRESSES
    | st.integers(0, 2**128 - 1).map(IPv6Address)
    | st.integers(0, 2**125 - 1).map(lambda n: IPv6Address(1 << 125 | n))
)
def test_nothing_is_allowed_that_python_knows_to_be_special(address: IPv4Address | IPv6Address) -> None:
    special = address.is_private or address.is_loopback or address.is_link_local or address.is_multicast
    if (special or address.is_reserved or address.is_unspecified) and not _translated(address):
        assert refusal(address, PUBLIC)


def _translated(address: IPv4Address | IPv6Address) -> bool:
    return int(address) >> 32 in {0xFFFF, 0x64FF9B << 64}


@given(st.integers(0, 2**128 - 1).map(IPv6Address))
def test_text_and_number_are_judged_alike(address: IPv6Address) -> None:
    assert refusal(str(address), PUBLIC) == refusal(address.exploded, PUBLIC) == refusal(address, PUBLIC)


def test_metadata_is_refused_even_where_it_is_public() -> None:
    assert ip_address("168.63.129.16") in METADATA
    assert refusal("168.63.129.17", PUBLIC) is None
