"""The door, on real sockets with real TLS: who has the key gets in, and all others learn nothing and delay nobody."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from functools import cache

import pytest

from meshq.core.keys import Key
from meshq.core.limits import LINES_PER_MINUTE, WAITING_MAX
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
    context.verify_mode = ssl.CERT_NONE
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

    def __init__(self, port: int, inside: list[Greeter], counts: Counter[str], share: Share) -> None:
        self.port, self.inside, self.counts, self.share = port, inside, counts, share

    async def enter(
        self, context: ssl.SSLContext | None, host: str = "127.0.0.1"
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port, ssl=context, local_addr=(host, 0))

    def stranger(self, host: str = "127.0.0.1") -> socket.socket:
        """One who connects and says nothing."""
        return socket.create_connection(("127.0.0.1", self.port), 5, source_address=(host, 0))

    async def answer_to(self, said: bytes) -> bytes:
        """All that somebody is told who says this."""
        reader, writer = await self.enter(None)
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
    *, handshake_s: float = 5.0, secured: bool = True, most: int = 1000, each: int = 500
) -> AsyncIterator[Door]:
    inside: list[Greeter] = []
    counts: Counter[str] = Counter()
    share = Share(most, each)
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    listener.setblocking(False)
    doorman = Doorman(
        listener, Inside(lambda: Greeter(inside), share, lambda name: counts.update([name])),
        server_context if secured else None, handshake_s=handshake_s,
    )  # fmt: skip
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        running = group.create_task(doorman.run())
        try:
            yield Door(listener.getsockname()[1], inside, counts, share)
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


# -- who gets in ---------------------------------------------------------------------------------------------------


async def test_who_has_the_key_gets_in_and_is_heard() -> None:
    async with opened() as door:
        reader, writer = await door.enter(client_context())
        assert await reader.readexactly(len(GREETING)) == GREETING
        writer.write(b"a request")
        await until(lambda: door.inside and door.inside[0].heard == b"a request")
        assert door.share.of("at 127.0.0.1") == 1
        writer.close()
        await until(lambda: not door.inside)
        assert door.share.of("at 127.0.0.1") == 0
        assert door.counts == {}


async def test_without_a_key_everybody_gets_in() -> None:
    async with opened(secured=False, each=2) as door:
        first, second = await door.enter(None), await door.enter(None)
        assert [await reader.readexactly(len(GREETING)) for reader, _ in (first, second)] == [GREETING] * 2
        reader, writer = await door.enter(None)
        assert await all_of(reader, writer) == b""
        assert door.counts == {"caller_refused": 1}
        for _, writer in (first, second):
            writer.close()


@pytest.mark.parametrize(
    ("context", "name"),
    [
        (without_proof(), "stranger_without_key"),
        (without_proof(ssl.TLSVersion.TLSv1_2), "stranger_old_tls"),
        (trusting(OTHER), "stranger_other_key"),
    ],
    ids=["no certificate", "TLS 1.2", "another key"],
)
async def test_who_has_no_key_is_refused_counted_and_named(
    context: ssl.SSLContext, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened() as door:
        with suppress(ConnectionError, ssl.SSLError):
            assert await all_of(*await door.enter(context)) == b""
        await until(lambda: door.counts[name])
        assert (door.counts, door.inside) == ({name: 1}, [])
        (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert (record.__dict__["event"], "127.0.0.1 was not let in" in record.getMessage()) == (name, True)
        reader, writer = await door.enter(client_context())
        assert await reader.readexactly(len(GREETING)) == GREETING
        writer.close()


async def test_one_who_does_not_believe_this_node_is_counted_as_of_another_key() -> None:
    def calls(port: int) -> None:
        with (
            socket.create_connection(("127.0.0.1", port), 5) as raw,
            pytest.raises(ssl.SSLCertVerificationError),
            client_context(OTHER).wrap_socket(raw),
        ):
            pass

    async with opened() as door:
        await asyncio.to_thread(calls, door.port)
        await until(lambda: door.counts == {"stranger_other_key": 1})


@pytest.mark.parametrize(
    ("said", "name"),
    [
        (b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n", "stranger_in_clear"),
        (b"POST /stop HTTP/1.1\r\nContent-Length: 0\r\n\r\n", "stranger_in_clear"),
        (b"\x00" * 500, "stranger_no_tls"),
        (bytes(range(256)) * 400, "stranger_no_tls"),
        (b"\x16\x03\x01\xff\xff" + b"\x01" * 70_000, "stranger_no_tls"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "stranger_no_tls"),
    ],
    ids=["HTTP", "HTTP that would stop it", "zeros", "garbage", "a huge record", "SSH"],
)
async def test_a_stranger_is_told_nothing_but_an_alert_of_tls(said: bytes, name: str) -> None:
    async with opened() as door:
        told = await door.answer_to(said)
        # A record of the kind alert, of a few bytes; or nothing at all.
        assert told == b"" or (told[0], len(told) < 10) == (0x15, True)
        await until(lambda: door.counts[name])
        assert (door.counts, door.inside) == ({name: 1}, [])


async def test_nothing_is_sent_before_the_caller_has_spoken() -> None:
    async with opened(handshake_s=0.5) as door:
        assert await door.answer_to(b"") == b""
        assert door.counts == {"stranger_silent": 1}


async def test_one_who_hangs_up_is_counted() -> None:
    async with opened() as door:
        for said in (b"", b"\x16\x03\x01"):
            with closing(door.stranger()) as stranger:
                stranger.sendall(said)
        await until(lambda: door.counts["stranger_hung_up"] == 2)
        assert sum(door.counts.values()) == 2


async def test_a_stranger_who_proves_nothing_in_time_is_dropped_however_busy_it_is() -> None:
    async with opened(handshake_s=0.5) as door:
        reader, writer = await door.enter(None)

        async def trickle() -> None:
            for byte in b"\x16\x03\x01\x02\x00\x01\x00" + b"\x01" * 500:
                writer.write(bytes([byte]))
                await asyncio.sleep(0.05)

        trickling = asyncio.ensure_future(trickle())
        assert await all_of(reader, writer) == b""
        trickling.cancel()
        assert door.counts == {"stranger_silent": 1}


# -- many of them --------------------------------------------------------------------------------------------------


async def test_silent_strangers_make_room_the_oldest_of_the_greediest_first() -> None:
    async with opened(handshake_s=60.0) as door:
        modest = [door.stranger("127.0.0.2") for _ in range(3)]
        await asyncio.sleep(0.2)
        greedy = []
        for _ in range(WAITING_MAX + 20):
            greedy.append(door.stranger("127.0.0.3"))
            await asyncio.sleep(0)
        await until(lambda: door.counts["stranger_pushed_out"] == 23)
        gone = [is_closed(stranger) for stranger in greedy]
        assert (gone[:23], any(gone[23:])) == ([True] * 23, False)
        assert not any(map(is_closed, modest))
        # And whoever has the key gets in.
        reader, writer = await door.enter(client_context(), "127.0.0.4")
        assert await reader.readexactly(len(GREETING)) == GREETING
        assert door.counts == {"stranger_pushed_out": 24}
        writer.close()
        for stranger in (*modest, *greedy):
            stranger.close()


def is_closed(stranger: socket.socket) -> bool:
    stranger.setblocking(False)
    try:
        return stranger.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


async def test_strangers_write_a_few_lines_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    async with opened() as door:
        for number in range(LINES_PER_MINUTE * 3):
            await door.answer_to(b"GET / HTTP/1.1\r\n\r\n")
            await until(lambda number=number: door.counts["stranger_in_clear"] == number + 1)
        lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.INFO]
        assert len(lines) == LINES_PER_MINUTE
        assert lines[-1].endswith("more are not told for a minute")


# -- those who were let in -----------------------------------------------------------------------------------------


async def test_connections_of_one_caller_are_bounded_and_others_have_their_own() -> None:
    async with opened(each=3) as door:
        held = [await door.enter(client_context(KEY, NODE), host) for host in ("127.0.0.1", "127.0.0.1", "127.0.0.2")]
        await until(lambda: len(door.inside) == 3)
        # It is the same node, wherever it calls from.
        assert await all_of(*await door.enter(client_context(KEY, NODE), "127.0.0.3")) == b""
        assert door.counts == {"caller_refused": 1}
        for subject in (HOLDER, Subject(Role.SUBMIT, "laptop"), Subject(Role.NODE, "c" * 32)):
            held.append(await door.enter(client_context(KEY, subject)))
            assert await held[-1][0].readexactly(len(GREETING)) == GREETING
        held.pop(0)[1].close()
        await until(lambda: door.share.of(NODE.uri) == 2)
        held.append(await door.enter(client_context(KEY, NODE)))
        assert await held[-1][0].readexactly(len(GREETING)) == GREETING
        for _, writer in held:
            writer.close()


async def test_connections_are_bounded_in_all() -> None:
    async with opened(most=2, each=2) as door:
        held = [await door.enter(client_context(), host) for host in ("127.0.0.1", "127.0.0.2")]
        await until(lambda: len(door.inside) == 2)
        assert await all_of(*await door.enter(client_context(), "127.0.0.3")) == b""
        assert door.counts == {"caller_refused": 1}
        for _, writer in held:
            writer.close()


async def test_two_hundred_slow_strangers_and_one_caller_who_does_not_notice() -> None:
    async with opened(handshake_s=30.0) as door:
        slow = [await door.enter(None, "127.0.0.2") for _ in range(200)]
        loop = asyncio.get_running_loop()
        for number in range(20):
            for _, writer in slow:
                writer.write(b"\x16\x03\x01\x02\x00"[number % 5 :][:1] if number < 5 else b"\x00")
            began_s = loop.time()
            reader, writer = await door.enter(client_context())
            assert await reader.readexactly(len(GREETING)) == GREETING
            assert loop.time() - began_s < 1.0
            writer.close()
        for _, writer in slow:
            writer.close()


async def test_a_protocol_that_fails_ends_no_other_call(caplog: pytest.LogCaptureFixture) -> None:
    calls = 0

    def context() -> ssl.SSLContext:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise RuntimeError("the first one")
        return server_context()

    counts: Counter[str] = Counter()
    inside: list[Greeter] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        door = Inside(lambda: Greeter(inside), Share(9, 9), lambda name: counts.update([name]))
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            running = group.create_task(Doorman(listener, door, context).run())
            port = listener.getsockname()[1]
            with closing(socket.create_connection(("127.0.0.1", port))):
                await until(lambda: counts["stranger_failed"])
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client_context())
            assert await reader.readexactly(len(GREETING)) == GREETING
            writer.close()
            await until(lambda: not inside)
            running.cancel()
    assert "the first one" in caplog.text
