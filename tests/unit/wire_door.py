"""A door at work at loopback addresses, with real TLS, and those who stand before it."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cache

from meshq.core.keys import Key
from meshq.wire import security
from meshq.wire.doorman import Doorman, Inside
from meshq.wire.security import HOLDER, Role, Subject
from meshq.wire.shares import Share

KEY, OTHER = Key(b"k" * 20), Key(b"o" * 20)
NODE = Subject(Role.NODE, "b" * 32)
GREETING = b"hello from inside"


@cache
def server_context(key: Key = KEY) -> ssl.SSLContext:
    return security.server_context(security.passport([key], Subject(Role.NODE, "a" * 32)))


@cache
def client_context(key: Key = KEY, subject: Subject = HOLDER) -> ssl.SSLContext:
    return security.client_context(security.passport([key], subject))


def without_proof(newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    """A client that has no certificate and believes anybody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = newest
    return context


def trusting(key: Key) -> ssl.SSLContext:
    """A client that shows a certificate of this key and believes anybody."""
    context = security.client_context(security.passport([key], HOLDER))
    context.verify_mode, context.sslobject_class = ssl.CERT_NONE, ssl.SSLObject
    return context


class Greeter(asyncio.Protocol):
    """Says hello, and again what it hears."""

    def __init__(self, met: list[Greeter]) -> None:
        self._met = met
        self.heard = b""
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._met.append(self)
        transport.write(GREETING)

    def data_received(self, data: bytes) -> None:
        self.heard += data

    def connection_lost(self, exc: Exception | None) -> None:
        self._met.remove(self)


class Door:
    """A doorman at work at two loopback addresses' port."""

    def __init__(
        self, port: int, inside: list[Greeter], counts: Counter[str], share: Share, close: Callable[[], None]
    ) -> None:
        self.port, self.inside, self.counts, self.share, self.close = port, inside, counts, share, close

    async def enter(
        self, context: ssl.SSLContext | None, host: str = "127.0.0.1"
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port, ssl=context, local_addr=(host, 0))

    def stranger(self, host: str = "127.0.0.1") -> socket.socket:
        """One who connects and says nothing."""
        return socket.create_connection(("127.0.0.1", self.port), 5, source_address=(host, 0))

    async def answer_to(self, said: bytes, host: str = "127.0.0.1") -> bytes:
        """All that somebody is told who says this."""
        reader, writer = await self.enter(None, host)
        writer.write(said)
        return await all_of(reader, writer)


async def all_of(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    heard = b""
    try:
        while data := await reader.read(1 << 16):
            heard += data
    except (ConnectionError, ssl.SSLError):
        pass
    writer.close()
    return heard


@asynccontextmanager
async def opened(
    *,
    handshake_s: float = 5.0,
    most: int = 1000,
    each: int = 500,
    context: Callable[[], ssl.SSLContext] | None = server_context,
) -> AsyncIterator[Door]:
    inside: list[Greeter] = []
    counts: Counter[str] = Counter()
    share = Share(most, each)
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    listener.setblocking(False)
    doorman = Doorman(
        listener, Inside(lambda: Greeter(inside), share, lambda name: counts.update([name])),
        context, handshake_s=handshake_s,
    )  # fmt: skip
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        running = group.create_task(doorman.run())
        try:
            yield Door(listener.getsockname()[1], inside, counts, share, doorman.close)
        finally:
            running.cancel()
    for greeter in inside:
        if greeter.transport is not None:
            greeter.transport.abort()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert listener.fileno() == -1


async def until(condition: object) -> None:
    assert callable(condition)
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


def counted(asked: Counter[str]) -> Callable[[], ssl.SSLContext]:
    """The node's context, and how often a proof was begun."""

    def context() -> ssl.SSLContext:
        asked["proofs"] += 1
        return server_context()

    return context


def resets(stranger: socket.socket) -> None:
    """Hangs up in a way that tells the other side of an error."""
    stranger.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stranger.close()


def is_closed(stranger: socket.socket) -> bool:
    stranger.setblocking(False)
    try:
        return stranger.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True
