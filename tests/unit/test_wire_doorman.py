"""The door, on real sockets with real TLS: who has the key gets in, and all others learn nothing."""

from __future__ import annotations

import asyncio
import logging
import selectors
import socket
import ssl
from collections import Counter
from contextlib import closing, suppress

import pytest

from meshq.core.limits import LINES_PER_MINUTE, PROOFS_AT_ONCE
from meshq.wire import security
from meshq.wire.doorman import Doorman, Inside
from meshq.wire.handshake import Identity
from meshq.wire.link import Links
from meshq.wire.security import HOLDER, Role, Subject
from meshq.wire.shares import Share
from tests.unit.transport_contract import Script
from tests.unit.wire_door import (
    GREETING,
    KEY,
    NODE,
    OTHER,
    Greeter,
    all_of,
    client_context,
    counted,
    is_closed,
    opened,
    resets,
    server_context,
    trusting,
    until,
    without_proof,
)
from tests.unit.wire_node import LoopClock

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
    async with opened(context=None, each=2) as door:
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


async def test_a_node_with_another_key_and_the_one_it_calls_tell_why_once_each(
    caplog: pytest.LogCaptureFixture,
) -> None:
    me = Identity(node="b" * 32, boot="1" * 32, cluster_hash="", port=0)
    contexts = security.contexts_of([OTHER], me.node)
    links = Links(me, Script(), lambda *_: None, LoopClock(), lambda *_: None, lambda: contexts)
    async with opened() as door, asyncio.TaskGroup() as group:
        running = group.create_task(links.run())
        links.dial(None, [f"127.0.0.1:{door.port}"])
        await until(lambda: links.counters["link_other_key"] >= 3 and sum(door.counts.values()) >= 3)
        running.cancel()
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert sorted(lines) == [
        "127.0.0.1 was not let in: it hung up when it saw this node's certificate; it may have another key",
        f"no link with 127.0.0.1:{door.port}: it has another key, or none; the same one is needed on both: "
        "meshq up --key KEY",
    ]


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
    asked = Counter[str]()
    async with opened(handshake_s=0.5, context=counted(asked)) as door:
        assert await door.answer_to(b"") == b""
        assert door.counts == {"stranger_silent": 1}
    # Nor is anything made for it.
    assert not asked


async def test_one_who_hangs_up_is_counted() -> None:
    asked = Counter[str]()
    async with opened(context=counted(asked)) as door:
        door.stranger().close()
        resets(door.stranger())
        await until(lambda: door.counts["stranger_hung_up"] == 2)
        assert not asked
        with closing(door.stranger()) as stranger:
            stranger.sendall(b"\x16\x03\x01")
        await until(lambda: door.counts["stranger_hung_up"] == 3)
        with closing(door.stranger()) as stranger:
            stranger.sendall(b"\x16\x03\x01")
            await until(lambda: asked["proofs"] == 2)
            resets(stranger)
        await until(lambda: door.counts["stranger_hung_up"] == 4)
        assert sum(door.counts.values()) == 4


async def test_a_late_first_word_gains_no_time() -> None:
    async with opened(handshake_s=1.0) as door:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        reader, writer = await door.enter(None)
        # What is waited for here is an instant of the bound's own time.
        await asyncio.sleep(0.7)
        writer.write(b"\x16")
        assert await all_of(reader, writer) == b""
        assert loop.time() - began_s < 1.4
        assert door.counts == {"stranger_silent": 1}


def test_when_the_door_is_closed_all_who_stand_there_are_sent_away() -> None:
    """Nothing is left in the loop either: a file's number is soon another file's."""
    watched = selectors.DefaultSelector()
    loop = asyncio.SelectorEventLoop(watched)

    async def stand() -> None:
        before, asked = len(watched.get_map()), Counter[str]()
        async with opened(handshake_s=60.0, context=counted(asked)) as door:
            strangers = [door.stranger("127.0.0.2") for _ in range(PROOFS_AT_ONCE + 40)]
            for stranger in strangers[20:]:
                stranger.sendall(b"\x16")
            await until(lambda: asked["proofs"] >= PROOFS_AT_ONCE)
            door.close()
            await until(lambda: all(map(is_closed, strangers)))
            door.close()
        assert len(watched.get_map()) == before
        for stranger in strangers:
            stranger.close()

    try:
        loop.run_until_complete(stand())
    finally:
        loop.close()


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


async def test_strangers_write_a_few_lines_a_minute_and_each_once(caplog: pytest.LogCaptureFixture) -> None:
    async with opened() as door:
        for number in range(LINES_PER_MINUTE * 6):
            # Twice each.
            await door.answer_to(b"GET / HTTP/1.1\r\n\r\n", f"127.0.0.{number // 2 + 1}")
            await until(lambda number=number: door.counts["stranger_in_clear"] == number + 1)
        lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.INFO]
        assert len(lines) == LINES_PER_MINUTE
        for number, line in enumerate(lines, 1):
            assert line.startswith(f"127.0.0.{number} was not let in: it spoke plain HTTP")
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
            with closing(socket.create_connection(("127.0.0.1", port))) as stranger:
                stranger.sendall(b"\x16")
                await until(lambda: counts["stranger_failed"])
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client_context())
            assert await reader.readexactly(len(GREETING)) == GREETING
            writer.close()
            await until(lambda: not inside)
            running.cancel()
    assert "the first one" in caplog.text
