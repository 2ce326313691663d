"""What stands at an address that no request got through to: a look at it from outside, to say what is wrong."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import aiohttp
from cryptography import x509
from yarl import URL

from meshq.errors import Malformed
from meshq.wire import values

BODY_BYTES_MAX: Final = 64 << 10
_HEALTH: Final = frozenset({"ok", "node", "role"})


class Kind(StrEnum):
    """What somebody at an address is."""

    SECURED = "secured"  # a meshq with a key
    INSECURE = "insecure"  # a meshq without one
    OTHER = "other"  # no meshq, or one that says nothing
    NOBODY = "nobody"  # no connection can be made


@dataclass(frozen=True, slots=True)
class Sight:
    """What was seen; all of it is only said, not proved.

    Args:
        kind: Who it is.
        issuer: Who issued its certificate; empty where it showed none.
    """

    kind: Kind
    issuer: str = ""


async def look(host: str, port: int, patience_s: float) -> Sight:
    """What is at this address; nothing is told to it but that somebody asks.

    Args:
        patience_s: How long to wait for each of two answers.
    """
    try:
        async with asyncio.timeout(patience_s):
            return await _certificate(host, port)
    except (OSError, TimeoutError, ValueError, x509.InvalidVersion):
        pass
    try:
        async with asyncio.timeout(patience_s):
            return await _health(host, port)
    except aiohttp.ClientConnectorError:
        return Sight(Kind.NOBODY)
    except (aiohttp.ClientError, OSError, TimeoutError, Malformed):
        return Sight(Kind.OTHER)


async def _certificate(host: str, port: int) -> Sight:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname="meshq")
    try:
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    finally:
        writer.transport.abort()
    issuer = x509.load_der_x509_certificate(shown).issuer.rfc4514_string()
    return Sight(Kind.SECURED if issuer.startswith("CN=meshq ") else Kind.OTHER, issuer)


async def _health(host: str, port: int) -> Sight:
    url = URL.build(scheme="http", host=host, port=port, path="/health")
    async with (
        aiohttp.ClientSession(headers={"Accept": "application/msgpack"}) as session,
        session.get(url, allow_redirects=False) as response,
    ):
        body = values.unpack(await response.content.read(BODY_BYTES_MAX))
    return Sight(Kind.INSECURE if isinstance(body, dict) and body.keys() >= _HEALTH else Kind.OTHER)
