"""Links over real loopback HTTP: the transport's contract, greetings, calls, losses."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import aiohttp
import msgspec
import pytest

from meshq.core import limits
from meshq.core.addresses import split_host_port
from meshq.core.ids import cluster_hash
from meshq.core.keys import Key
from meshq.core.limits import LINES_PER_MINUTE
from meshq.core.messages import Refused
from meshq.errors import Malformed, TooLarge
from meshq.wire import codec, handshake, security
from meshq.wire.connection import Kind
from meshq.wire.handshake import Identity
from meshq.wire.security import Role, Subject
from tests.unit import transport_contract as contract
from tests.unit.transport_contract import RENEW, A, B, until
from tests.unit.wire_node import BOOT_1, BOOT_2, Node, connect


class RealPair:
    def __init__(self, a: Node, b: Node) -> None:
        self._node_a = a
        self.a = a.links
        self.b = b.links

    async def cut(self) -> None:
        self.a.forget(B)
        await self.a.hang_up()

    def late(self) -> int:
        return self.a.counters["late_answer"]


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as opened:
        yield opened


@pytest.fixture
def make_pair(stack: AsyncExitStack) -> contract.MakePair:
    async def make(at_a: Any, at_b: Any) -> contract.Pair:
        a, b = await stack.enter_async_context(Node(A, at_a)), await stack.enter_async_context(Node(B, at_b))
        await connect(a, b)
        return RealPair(a, b)

    return make


@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.__name__)
async def test_contract(check: Callable[[contract.MakePair], Awaitable[None]], make_pair: contract.MakePair) -> None:
    await check(make_pair)


async def test_connected_and_lost_are_told_once_each() -> None:
    async with Node(A) as a:
        async with Node(B) as b:
            await connect(a, b)
            assert a.links.address_of(B) == b.address
            assert b.links.address_of(A) == a.address
        await until(lambda: a.changes == [(B, True), (B, False)], "A has lost B")
    assert b.changes == [(A, True), (A, False)]


async def test_a_node_that_comes_back_is_linked_again_and_one_address_of_several_is_enough() -> None:
    async with Node(A) as a:
        async with Node(B) as b:
            a.links.dial(B, ["127.0.0.1:1", "nonsense", b.address])
            await until(lambda: a.links.connected(), "B is found behind the third address")
        await until(lambda: not a.links.connected(), "B is gone")
        async with Node(B, boot=BOOT_2) as again:
            a.links.dial(B, [again.address])
            await until(lambda: a.links.connected(), "B is back")
            assert (await a.links.request(B, RENEW, timeout_s=5)).followed
            assert a.links.address_of(B) == again.address


async def test_both_may_call_each_other() -> None:
    async with Node(A) as a, Node(B) as b:
        a.links.dial(B, [b.address])
        b.links.dial(A, [a.address])
        await until(lambda: a.links.connected() and b.links.connected(), "they are connected")
        for _ in range(20):
            assert (await a.links.request(B, RENEW, timeout_s=5)).followed
            assert (await b.links.request(A, RENEW, timeout_s=5, bulk=True)).followed
        assert a.changes == [(B, True)]
        assert b.changes == [(A, True)]


async def test_a_seed_is_whoever_answers_there() -> None:
    async with Node(A) as a, Node(B) as b:
        a.links.dial(None, [b.address])
        await until(lambda: list(a.links.connected()) == [B], "the seed's node is known")


async def test_own_address_is_noticed_and_not_linked() -> None:
    async with Node(A) as a, Node(B) as b:
        a.links.dial(B, [a.address, b.address])
        await until(lambda: list(a.links.connected()) == [B], "B is found beside A's own address")
        assert A not in a.links.connected()
        assert a.links.counters["link_myself"] >= 1
        assert a.clones == []


@pytest.mark.parametrize(
    ("identity", "counter"),
    [
        ({"cluster_hash": cluster_hash("other")}, "link_other_cluster"),
        ({"version": 99, "oldest": 98}, "link_other_version"),
    ],
)
async def test_a_stranger_is_refused_by_name(
    identity: dict[str, Any], counter: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with Node(A) as a, Node(B, **identity) as b:
        a.links.dial(B, [b.address])
        await until(lambda: a.links.counters[counter] >= 2 and b.links.counters[counter] >= 2, "it was refused twice")
        assert not a.links.connected()
        assert not b.links.connected()
    told = [
        record for record in caplog.records if getattr(record, "event", "") == counter and b.address in record.message
    ]
    assert len(told) == 1


async def test_a_copied_data_directory_is_noticed_by_both() -> None:
    async with Node(A) as a, Node(A, boot=BOOT_2) as clone:
        a.links.dial(A, [clone.address])
        await until(lambda: a.clones and clone.clones, "both know")
        assert a.clones[0] == (BOOT_2, clone.address)
        assert clone.clones[0] == (BOOT_1, a.address)
        assert not a.links.connected()


async def test_the_younger_life_of_a_node_replaces_the_older_and_not_the_other_way_round() -> None:
    async with Node(A) as a, Node(B, boot=BOOT_1) as older, Node(B, boot=BOOT_2) as younger:
        await connect(older, a)
        younger.links.dial(A, [a.address])
        await until(lambda: younger.links.connected(), "the younger is linked")
        await until(lambda: a.links.counters["link_older_boot"] >= 1, "the older was refused")
        assert a.links.counters["link_of_earlier_boot"] >= 1
        assert list(a.links.connected()) == [B]
        await a.links.request(B, RENEW, timeout_s=5)
        assert len(younger.handler.heard) == 1
        assert older.handler.heard == []


async def test_a_message_beyond_the_frame_cap_is_refused_and_the_link_stays() -> None:
    async with Node(A) as a, Node(B) as b:
        await connect(a, b)
        huge = replace(RENEW, genesis="x" * limits.FRAME_BYTES_MAX)
        with pytest.raises(TooLarge):
            await a.links.request(B, huge, timeout_s=5)
        assert (await a.links.request(B, RENEW, timeout_s=5)).followed


async def raw_link(session: aiohttp.ClientSession, node: Node) -> aiohttp.ClientWebSocketResponse:
    socket = await session.ws_connect(f"http://{node.address}/peer?kind=control", timeout=aiohttp.ClientWSTimeout())
    stranger = Identity(node="c" * 32, boot=BOOT_1, cluster_hash=cluster_hash("test"), port=1)
    await socket.send_bytes(handshake.greeting(stranger, "control"))
    greeted = handshake.read(await socket.receive_bytes())
    assert greeted.node == node.me.node
    assert greeted.refused is None
    return socket


@pytest.mark.parametrize("garbage", [b"", b"\xc1", b"\x93\x63\x01\xc4\x00", b"\x93\x01\x01\xa1x"])
async def test_garbage_closes_the_link_and_is_counted(garbage: bytes) -> None:
    async with Node(A) as a, aiohttp.ClientSession() as session:
        socket = await raw_link(session, a)
        await socket.send_bytes(garbage)
        assert (await socket.receive()).type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)
        assert a.links.counters["frame_malformed"] == 1
        await socket.close()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


async def test_links_that_are_refused_write_a_few_lines_whatever_they_say(caplog: pytest.LogCaptureFixture) -> None:
    async with Node(A) as a, aiohttp.ClientSession() as session:
        for port in range(1, LINES_PER_MINUTE * 3):
            stranger = Identity(node="c" * 32, boot=BOOT_1, cluster_hash=cluster_hash("other"), port=port)
            socket = await session.ws_connect(f"http://{a.address}/peer?kind=control")
            await socket.send_bytes(handshake.greeting(stranger, "control"))
            assert handshake.read(await socket.receive_bytes()).refused is not None
            await socket.close()
            assert a.links.counters["link_other_cluster"] == port
        lines = warnings(caplog)
        assert len(lines) == LINES_PER_MINUTE
        assert lines[-1].endswith("more are not told for a minute")


async def test_links_that_are_closed_for_garbage_write_a_few_lines(caplog: pytest.LogCaptureFixture) -> None:
    async with Node(A) as a, aiohttp.ClientSession() as session:
        for _ in range(LINES_PER_MINUTE * 3):
            socket = await raw_link(session, a)
            await socket.send_bytes(b"\xc1")
            assert (await socket.receive()).type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)
            await socket.close()
        assert a.links.counters["frame_malformed"] == LINES_PER_MINUTE * 3
        assert len(warnings(caplog)) == LINES_PER_MINUTE


def test_a_refusal_in_words_of_the_other_sides_making_is_counted_under_one_name() -> None:
    me = Identity(node=A, boot=BOOT_1, cluster_hash=cluster_hash("test"), port=1)
    for code, counted in (("made_up_1", "link_refused"), ("link_cloned", "link_cloned")):
        refused = Refused(code=code, message="no\n12:00:00 a line of its own\x1b[2J" * 1000, retryable=True)
        found = handshake.read(handshake.greeting(me, "control", refused)).refused
        assert found is not None
        assert found.code == counted
        assert found.message.isprintable()
        assert len(found.message) == 300


async def test_a_malformed_message_is_refused_and_the_link_stays() -> None:
    async with Node(A) as a, aiohttp.ClientSession() as session:
        socket = await raw_link(session, a)
        for number, content in enumerate((b"\x01", codec.encode(replace(RENEW, epoch=-1)), codec.encode(RENEW)), 1):
            await socket.send_bytes(msgspec.msgpack.encode((Kind.REQUEST.value, number, content)))
            kind, answered, answer = msgspec.msgpack.decode(await socket.receive_bytes())
            assert (kind, answered) == (Kind.END, number)
            found = codec.decode(answer)
            assert number == 3 or found.code == "malformed"
        assert found.followed
        assert a.links.counters["request_malformed"] == 2
        await socket.close()


async def test_whoever_does_not_greet_is_turned_away() -> None:
    async with Node(A) as a, aiohttp.ClientSession() as session:
        async with session.get(f"http://{a.address}/peer?kind=control") as answer:
            assert answer.status == 400
        async with session.get(f"http://{a.address}/peer?kind=other") as answer:
            assert answer.status == 400
        for first, counter in ((b"hello", "link_malformed"), (codec.encode(RENEW), "link_malformed")):
            before = a.links.counters[counter]
            socket = await session.ws_connect(f"http://{a.address}/peer?kind=bulk")
            await socket.send_bytes(first)
            assert (await socket.receive()).type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)
            assert a.links.counters[counter] == before + 1
            await socket.close()


async def test_a_silent_peer_is_lost_within_seconds() -> None:
    """The other side's socket stays open, but its machine says nothing more, as after a cut cable."""
    async with Node(A) as a, aiohttp.ClientSession() as session:
        stranger = Identity(node="c" * 32, boot=BOOT_1, cluster_hash=cluster_hash("test"), port=1)
        sockets = []
        for kind in handshake.KINDS:
            socket = await session.ws_connect(f"http://{a.address}/peer?kind={kind}", autoping=False)
            await socket.send_bytes(handshake.greeting(stranger, kind))
            await socket.receive_bytes()
            sockets.append(socket)
        await until(lambda: a.changes == [(stranger.node, True)], "it is connected")
        started = time.monotonic()
        await until(lambda: len(a.changes) == 2, "its silence is noticed")
        assert time.monotonic() - started < 4.5
        assert a.changes[1] == (stranger.node, False)
        for socket in sockets:
            await socket.close()


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("10.0.0.1:7373", ("10.0.0.1", 7373)),
        ("[fe80::1%eth0]:1", ("fe80::1%eth0", 1)),
        ("host.local:65535", ("host.local", 65535)),
    ],
)
def test_addresses_are_read_and_written(address: str, parts: tuple[str, int]) -> None:
    assert split_host_port(address) == parts
    assert handshake.join_address(*parts) == address


async def test_a_server_that_closes_ends_its_links() -> None:
    async with Node(A) as a, Node(B) as b:
        await connect(a, b)
        await b.server.close()
        await until(lambda: not a.links.connected() and not b.links.connected(), "both have noticed")


def test_an_ipv4_address_inside_ipv6_is_written_plain() -> None:
    assert handshake.join_address("::ffff:10.0.0.1", 1) == "10.0.0.1:1"


@pytest.mark.parametrize("text", ["", "host", "host:", ":1", "::1:7", "host:0", "host:65536", "host:x", "host:²"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(Malformed):
        split_host_port(text)


async def test_a_link_that_is_greeted_after_its_key_was_dropped_is_none() -> None:
    old, new = Key(bytes(range(20))), Key(bytes(range(1, 21)))
    present = [old, new]
    async with Node(A, secured=lambda: security.contexts_of(present, A)) as a, aiohttp.ClientSession() as session:
        context = security.client_context(security.passport([old, new], Subject(Role.NODE, B)))
        socket = await session.ws_connect(f"https://{a.address}/peer?kind=control", ssl=context)
        present.remove(old)
        me = Identity(node=B, boot=BOOT_1, cluster_hash=cluster_hash("test"), port=1)
        await socket.send_bytes(handshake.greeting(me, "control"))
        assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE
    assert a.links.counters["link_not_itself"] == 1
