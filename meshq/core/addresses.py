"""Addresses as text: `IP:PORT`, `[IPv6]:PORT` or `HOST:PORT`."""

from __future__ import annotations

import ipaddress

from meshq.errors import Malformed


def format_address(ip: str, port: int) -> str:
    """`IP:PORT`, with an IPv6 address in brackets."""
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def parse_address(text: str) -> tuple[str, int]:
    """The IP address and the port of `IP:PORT` or `[IPv6]:PORT`; an IPv6 address keeps its scope.

    Raises:
        Malformed: It is no such text; the message says what is wrong.
    """
    host, port = split_host_port(text)
    try:
        version = ipaddress.ip_address(host).version
    except ValueError as error:
        raise Malformed(f"{text!r}: {host!r} is no IP address") from error
    if (version == 6) != text.startswith("["):
        raise Malformed(f"{text!r}: brackets stand around IPv6 addresses, and only there")
    return host, port


def split_host_port(text: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT`, without a look at the host but for its brackets.

    Raises:
        Malformed: A part is missing or wrong; the message names it.
    """
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        if not closed:
            raise Malformed(f"{text!r}: the closing bracket is missing")
        if rest and not rest.startswith(":"):
            raise Malformed(f"{text!r}: {rest!r} stands after the bracket, where :PORT is expected")
        port = rest[1:]
    elif text.count(":") > 1:
        raise Malformed(f"{text!r}: an IPv6 address needs brackets, as in [fe80::1]:7373")
    else:
        host, _, port = text.partition(":")
    if not host:
        raise Malformed(f"{text!r}: the host is missing")
    if not port:
        raise Malformed(f"{text!r}: the port is missing, as in {format_address(host, 7373)}")
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 65535):
        raise Malformed(f"{text!r}: the port {port!r} is no number from 1 to 65535")
    return host, int(port)
