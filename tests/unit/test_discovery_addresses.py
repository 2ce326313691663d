"""Addresses as text, and which of a machine's addresses are worth telling."""

from __future__ import annotations

import pytest

from meshq.core.addresses import format_address, parse_address, split_host_port
from meshq.discovery.addresses import (
    LocalAddress,
    choose,
    is_link_local,
    usable,
)
from meshq.errors import Malformed

LO = LocalAddress("127.0.0.1", "lo", 1)
LO6 = LocalAddress("::1", "lo", 1)
LAN = LocalAddress("192.168.1.7", "eth0", 2)
LAN6 = LocalAddress("2001:db8::7", "eth0", 2)
LINK6 = LocalAddress("fe80::7", "eth0", 2)
LINK4 = LocalAddress("169.254.3.7", "eth1", 3)
DOCKER = LocalAddress("172.17.0.1", "docker0", 4)


@pytest.mark.parametrize(
    ("text", "ip", "port"),
    [
        ("10.0.0.1:7373", "10.0.0.1", 7373),
        ("[fd00::1]:1", "fd00::1", 1),
        ("[fe80::1%eth0]:65535", "fe80::1%eth0", 65535),
    ],
)
def test_parse_and_format_are_inverse(text: str, ip: str, port: int) -> None:
    assert parse_address(text) == (ip, port)
    assert format_address(ip, port) == text


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("10.0.0.1", "the port is missing"),
        ("10.0.0.1:", "the port is missing"),
        (":7373", "the host is missing"),
        ("", "the host is missing"),
        ("[]:7373", "the host is missing"),
        ("10.0.0.1:0", "from 1 to 65535"),
        ("10.0.0.1:65536", "from 1 to 65535"),
        ("10.0.0.1:+7", "from 1 to 65535"),
        ("10.0.0.1:٣", "from 1 to 65535"),
        ("10.0.0.1:http", "'http'"),
        ("fe80::1:7373", "needs brackets"),
        ("[fe80::1:7373", "closing bracket"),
        ("[fe80::1]7373", "after the bracket"),
        ("[10.0.0.1]:7373", "brackets stand around IPv6"),
        ("host:7373", "no IP address"),
        ("10.0.0.256:7373", "no IP address"),
    ],
)
def test_what_is_wrong_is_named(text: str, names: str) -> None:
    with pytest.raises(Malformed) as caught:
        parse_address(text)
    assert names in caught.value.message


def test_a_name_is_a_host_too() -> None:
    assert split_host_port("node-1.local:80") == ("node-1.local", 80)


def test_the_likeliest_address_comes_first() -> None:
    assert choose([LO, LINK6, LINK4, LAN6, LAN, DOCKER, LO6]) == (LAN, LAN6, LINK4, LINK6)


def test_loopback_only_where_nothing_else_is() -> None:
    assert choose([LO6, LO]) == (LO,)
    assert choose([]) == ()


def test_a_container_bridge_only_where_nothing_else_is() -> None:
    assert choose([LO, DOCKER]) == (DOCKER,)


def test_the_listening_address_decides() -> None:
    everything = [LO, LAN, LAN6, LINK6]
    assert choose(everything, "192.168.1.7") == (LAN,)
    assert choose(everything, "127.0.0.1") == (LO,)
    assert choose(everything, "fe80::7%eth0") == (LINK6,)
    assert choose(everything, "0.0.0.0") == (LAN,)
    assert choose(everything, "::") == (LAN, LAN6, LINK6)
    assert choose(everything, "10.9.9.9") == ()


def test_this_machine_has_an_address() -> None:
    for local in usable():
        assert "%" not in local.ip
        assert local.interface


def test_link_local_is_an_ipv6_matter() -> None:
    assert is_link_local("fe80::1%3")
    assert not is_link_local("169.254.1.1")
    assert not is_link_local("fd00::1")
