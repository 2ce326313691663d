"""How a node calls others. Whoever answers is a stranger until its greeting has proved who it is."""

from __future__ import annotations

import ssl
from types import SimpleNamespace
from typing import Final

import aiohttp
from yarl import URL

from meshq.core import limits
from meshq.core.addresses import split_host_port
from meshq.wire.dialer import Socket
from meshq.wire.handshake import BULK, CONTROL

CONTROL_HEARTBEAT_S: Final = 2.0
BULK_HEARTBEAT_S: Final = 30.0
CLOSE_S: Final = 1.0
HEARTBEAT_S: Final = {CONTROL: CONTROL_HEARTBEAT_S, BULK: BULK_HEARTBEAT_S}


class Redirected(aiohttp.ClientError):
    """Whoever was called wants somebody else to be called."""


def session() -> aiohttp.ClientSession:
    """What calls are made with: it keeps no cookies, and goes nowhere but where it was sent."""
    trace = aiohttp.TraceConfig()
    trace.on_request_redirect.append(_stay)
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trace_configs=[trace])


async def _stay(
    session: aiohttp.ClientSession, context: SimpleNamespace, params: aiohttp.TraceRequestRedirectParams
) -> None:
    # Opening a WebSocket has no option for it, and a node's own loopback is none of a stranger's business.
    params.response.close()
    raise Redirected("it answers that somebody else should be called")


async def call(session: aiohttp.ClientSession, address: str, kind: str, context: ssl.SSLContext | None) -> Socket:
    """A WebSocket to whoever listens there.

    Args:
        session: Out of `session`.
        address: `HOST:PORT`.
        kind: Of the link.
        context: How to prove oneself, and whom to believe; None for in clear.

    Raises:
        Malformed: It is no address.
        OSError, aiohttp.ClientError: Nobody, or no meshq.
    """
    host, port = split_host_port(address)
    return await session.ws_connect(
        URL.build(
            scheme="http" if context is None else "https", host=host, port=port, path="/peer", query={"kind": kind}
        ),
        timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_S),
        heartbeat=HEARTBEAT_S[kind],
        max_msg_size=limits.FRAME_BYTES_MAX,
        ssl=context or True,
    )
