"""What stands at an address: whether anybody can be reached there, and who it is. All of it is said, not proved."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import aiohttp
from cryptography import x509
from yarl import URL

from meshq.errors import Malformed
from meshq.wire import values

BODY_BYTES_MAX: Final = 64 << 10
_HEALTH: Final = frozenset({"ok", "node", "role"})


class Kind(StrEnum):
    """What is at an address."""

    SECURED = "secured"  # a meshq with a key
    INSECURE = "insecure"  # a meshq without one
    OTHER = "other"  # no meshq, or one that says nothing
    UNKNOWN = "unknown"  # nothing: no machine has that name
    SILENT = "silent"  # nobody answers a call
    CLOSED = "closed"  # a machine where nobody listens at that port
    ABSENT = "absent"  # no machine, says the system or somebody on the way
    NO_WAY = "no_way"  # no network that is reached from here
    FAILED = "failed"  # the call can't be made, for another reason


_NOWHERE: Final = {
    errno.EHOSTUNREACH: Kind.ABSENT,
    errno.EHOSTDOWN: Kind.ABSENT,
    errno.ENETUNREACH: Kind.NO_WAY,
    errno.ENETDOWN: Kind.NO_WAY,
}


@dataclass(frozen=True, slots=True)
class Sight:
    """What was seen.

    Args:
        kind: What is there.
        issuer: Who issued the certificate that was shown; empty where there was none.
        text: Why a call can't be made, in the system's words.
    """

    kind: Kind
    issuer: str = ""
    text: str = ""


def unreached(error: BaseException) -> Sight | None:
    """Why nobody was reached, by what a call ended with; None where somebody took it."""
    if isinstance(error, (aiohttp.ClientConnectorDNSError, socket.gaierror)):
        return Sight(Kind.UNKNOWN)
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return Sight(Kind.SILENT)
    why = getattr(error, "os_error", error)
    if isinstance(why, ConnectionRefusedError):
        return Sight(Kind.CLOSED)
    taken = (ssl.SSLError, ConnectionError, TimeoutError, aiohttp.ClientError)
    if not isinstance(why, OSError) or isinstance(why, taken):
        return None
    return Sight(_NOWHERE.get(why.errno or 0, Kind.FAILED), text=why.strerror or str(why))


async def knock(host: str, port: int, patience_s: float) -> Sight | None:
    """Why nobody takes a call there; None where somebody does. Nothing is said to them."""
    try:
        async with asyncio.timeout(patience_s):
            _, writer = await asyncio.open_connection(host, port)
    except TimeoutError:
        return Sight(Kind.SILENT)
    except OSError as error:
        return unreached(error) or Sight(Kind.FAILED, text=error.strerror or str(error))
    writer.close()
    return None


async def ask(host: str, port: int, context: ssl.SSLContext | None, patience_s: float, path: str = "/health") -> Any:
    """What answers there to the question how it is, or another one.

    Args:
        context: How to prove oneself; None for in clear.
        patience_s: How long to wait for a connection, and as long again for the answer.

    Raises:
        aiohttp.ClientError, OSError, TimeoutError: No answer.
        Malformed: It is none of a meshq's.
    """
    url = URL.build(scheme="http" if context is None else "https", host=host, port=port, path=path)
    timeout = aiohttp.ClientTimeout(total=2 * patience_s, sock_connect=patience_s)
    async with (
        aiohttp.ClientSession(headers={"Accept": "application/msgpack"}, timeout=timeout) as session,
        session.get(url, ssl=context or True, allow_redirects=False) as response,
    ):
        body = b""
        async for part in response.content.iter_chunked(BODY_BYTES_MAX):
            body += part
            if len(body) > BODY_BYTES_MAX:
                raise Malformed(f"an answer of more than {BODY_BYTES_MAX} bytes")
        return values.unpack(body)


async def look(host: str, port: int, patience_s: float) -> Sight:
    """Who is at this address, seen from outside; nothing is told to it but that somebody asks.

    Args:
        patience_s: How long to wait for each of three answers.
    """
    try:
        async with asyncio.timeout(patience_s):
            return await _certificate(host, port)
    except (OSError, TimeoutError, ValueError, x509.InvalidVersion):
        pass
    try:
        body = await ask(host, port, None, patience_s)
    except (aiohttp.ClientError, OSError, TimeoutError, Malformed) as error:
        return unreached(error) or Sight(Kind.OTHER)
    return Sight(Kind.INSECURE if isinstance(body, dict) and body.keys() >= _HEALTH else Kind.OTHER)


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
