"""Which protocol version a link has: all ranges against each other, nodes of version 1, and what is no version."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgpack
import pytest
from aiohttp import web

from meshq.core import infos, membership, messages, reports, requests
from meshq.core.ids import cluster_hash, short
from meshq.wire import handshake
from meshq.wire.handshake import Identity
from tests.unit.transport_contract import RENEW, A, B, until
from tests.unit.wire_node import BOOT_1, BOOT_2, Node, connect

C = "0" * 31 + "c"
Range = tuple[int, int]
RANGES: tuple[Range, ...] = ((1, 1), (1, 2), (2, 2), (2, 3), (3, 3))
WORDS = {
    (1, 1): "version 1", (1, 2): "versions 1 to 2", (2, 2): "version 2", (2, 3): "versions 2 to 3", (3, 3): "version 3"
}  # fmt: skip

# The fields of each class that went between nodes in version 1. What was said then is never changed again.
VERSION_1 = {
    "Greeting": "version cluster node boot kind port refused",
    "Hello": "boot name addresses roster votes slots running stopping peers",
    "Vote": "epoch pre lease_s genesis handover_epoch handover_holder",
    "VoteAnswer": "granted pre epoch vector roster reason",
    "Renew": "epoch lease_s genesis",
    "RenewAnswer": "followed epoch reason",
    "Handover": "epoch step genesis",
    "Leave": "genesis",
    "Done": "",
    "Pull": "vector epoch genesis wait_s",
    "Rows": "rows last vector committed",
    "Call": "request body",
    "CallAnswer": "answer body",
    "Refused": "code message retryable",
    "PeerHint": "node addresses",
    "Roster": "genesis members recovery epoch version writer seq",
    "Submit": "tasks late",
    "Get": "node boot number slots free names holds wait_s",
    "Heartbeat": "node boot name slots running tasks draining",
    "SubmitResult": "node boot outcomes",
    "TaskQuery": "id wait_s",
    "WaitQuery": "ids wait_s",
    "TasksQuery": "state name limit after",
    "Cancel": "id",
    "Retry": "id",
    "StatusQuery": "",
    "StatsQuery": "",
    "HealthQuery": "",
    "Stop": "",
    "Submitted": "ids copies majority queued",
    "Got": "epoch jobs",
    "HeartbeatAnswer": "epoch invalid tell",
    "ResultsTaken": "epoch dropped queued",
    "TaskView": "id name state attempt result error retry_of priority worker failures crashes losses submitted_ms "
    "started_ms finished_ms queued",
    "TaskViews": "tasks next",
    "Status": "node leader epoch majority nodes tasks per_minute queued",
    "Stats": "node boot uptime_s counters",
    "Health": "ok node role leader version pid",
    "ClaimRef": "task epoch attempt",
    "Job": "id name epoch attempt payload timeout_s",
    "NodeView": "id name role address heard_s slots running behind",
    "Outcome": "task epoch attempt kind result error final run_s",
    "Param": "name kind required type choices",
    "TaskInfo": "name doc params",
    "TaskSpec": "id name payload priority not_before_ms timeout_s retries backoff_s key retry_of batch",
}


def node(name: str, speaks: Range, **identity: Any) -> Node:
    return Node(name, oldest=speaks[0], version=speaks[1], **identity)


def told(caplog: pytest.LogCaptureFixture, address: str) -> list[str]:
    """What was said of the versions at this address."""
    records = [record for record in caplog.records if getattr(record, "event", "") == "link_other_version"]
    return [record.getMessage() for record in records if address in record.getMessage()]


@pytest.mark.parametrize(("at_a", "at_b"), list(itertools.product(RANGES, RANGES)))
async def test_a_link_has_the_greatest_version_that_both_speak(
    at_a: Range, at_b: Range, caplog: pytest.LogCaptureFixture
) -> None:
    common = set(range(at_a[0], at_a[1] + 1)) & set(range(at_b[0], at_b[1] + 1))
    async with node(A, at_a) as a, node(B, at_b) as b:
        if common:
            await connect(a, b)
            assert a.links.version_of(B) == b.links.version_of(A) == max(common)
            for bulk in (False, True):
                assert (await a.links.request(B, RENEW, timeout_s=5, bulk=bulk)).followed
            assert a.links.counters["link_other_version"] == b.links.counters["link_other_version"] == 0
            return
        a.links.dial(B, [b.address])
        counter = "link_other_version"
        await until(lambda: a.links.counters[counter] and b.links.counters[counter], "both have refused")
        assert not a.links.connected()
        assert not b.links.connected()
    for mine, my_range, other, other_range in ((A, at_a, b, at_b), (B, at_b, a, at_a)):
        (text,) = told(caplog, other.address)
        assert f"that machine (…{short(other.me.node)}) speaks protocol {WORDS[other_range]}" in text
        assert f"this one (…{short(mine)}) {WORDS[my_range]}" in text
        assert text.endswith("upgrade meshq on " + ("this one" if my_range < other_range else "that one"))


async def test_the_version_follows_a_node_that_comes_back_upgraded() -> None:
    async with node(A, (1, 2)) as a:
        async with node(B, (1, 1), boot=BOOT_1) as b:
            await connect(a, b)
            assert a.links.version_of(B) == 1
        await until(lambda: not a.links.connected(), "B is gone")
        async with node(B, (1, 2), boot=BOOT_2) as b:
            await connect(a, b)
            assert a.links.version_of(B) == b.links.version_of(A) == 2


@pytest.mark.parametrize("speaks", [(0, 1), (2, 1), (-1, -1)])
def test_a_node_can_speak_only_what_is_a_range(speaks: Range) -> None:
    with pytest.raises(ValueError, match=f"versions {speaks[0]} to {speaks[1]}"):
        Identity(node=A, boot=BOOT_1, cluster_hash="x", port=0, oldest=speaks[0], version=speaks[1])


# -- version 1: one number, and no other is taken --------------------------------------------------------


def version_1_greeting(kind: str, **changes: Any) -> bytes:
    fields = {
        "version": 1, "cluster": cluster_hash("test"), "node": C, "boot": BOOT_1, "kind": kind, "port": 1,
        "refused": None,
    }  # fmt: skip
    packed: bytes = msgpack.packb(["Greeting", fields | changes])
    return packed


def version_1_reads(data: bytes) -> dict[str, Any]:
    name, fields = msgpack.unpackb(data)
    assert name == "Greeting"
    assert fields.keys() >= set(VERSION_1["Greeting"].split())
    return dict(fields)


@pytest.mark.parametrize("speaks", [(1, 1), (1, 2)])
async def test_a_node_of_version_1_calls(speaks: Range) -> None:
    async with node(A, speaks) as a, aiohttp.ClientSession() as session:
        sockets = [await session.ws_connect(f"http://{a.address}/peer?kind={kind}") for kind in handshake.KINDS]
        for kind, socket in zip(handshake.KINDS, sockets, strict=True):
            await socket.send_bytes(version_1_greeting(kind))
            answer = version_1_reads(await socket.receive_bytes())
            assert (answer["version"], answer["refused"]) == (1, None)
        await until(lambda: list(a.links.connected()) == [C], "it is linked")
        assert a.links.version_of(C) == 1


async def test_a_node_of_version_1_is_refused_by_one_that_is_too_new(caplog: pytest.LogCaptureFixture) -> None:
    async with node(A, (2, 3)) as a, aiohttp.ClientSession() as session:
        socket = await session.ws_connect(f"http://{a.address}/peer?kind=control")
        await socket.send_bytes(version_1_greeting("control"))
        answer = version_1_reads(await socket.receive_bytes())
        # This is all that a node of version 1 looks at, and it names both numbers itself.
        assert answer["version"] == 2
        assert answer["refused"]["code"] == "link_other_version"
        assert f"that machine (…{short(C)}) speaks protocol version 1" in answer["refused"]["message"]
        assert f"this one (…{short(A)}) versions 2 to 3: upgrade meshq on that one" in answer["refused"]["message"]
        assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE
        assert not a.links.connected()
    assert len(told(caplog, "127.0.0.1:1:")) == 1


@asynccontextmanager
async def version_1_node() -> AsyncIterator[str]:
    """The address of a node of version 1, which takes links and says nothing more."""
    over = asyncio.Event()

    async def accept(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        greeted = version_1_reads(await socket.receive_bytes())
        await socket.send_bytes(version_1_greeting(request.query["kind"]))
        if greeted["version"] == 1:
            await over.wait()
        await socket.close()
        return socket

    app = web.Application()
    app.router.add_get("/peer", accept)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"127.0.0.1:{runner.addresses[0][1]}"
    finally:
        over.set()
        await runner.cleanup()


async def test_a_node_of_version_1_is_called(caplog: pytest.LogCaptureFixture) -> None:
    async with version_1_node() as address, node(A, (1, 2)) as a, node(B, (2, 3)) as b:
        a.links.dial(C, [address])
        await until(lambda: list(a.links.connected()) == [C], "it is linked")
        assert a.links.version_of(C) == 1
        b.links.dial(C, [address])
        await until(lambda: b.links.counters["link_other_version"], "it is refused")
        assert not b.links.connected()
    (text,) = told(caplog, address)
    assert text.endswith("upgrade meshq on that one")


# -- what is no version ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": 0}, "versions 0 to 0"),
        ({"version": 0, "newest": 2}, "versions 0 to 2"),
        ({"version": 2, "newest": 1}, "versions 2 to 1"),
        ({"version": 1, "newest": 0}, "versions 1 to 0"),
        ({"version": -1}, "version: must be from 0"),
        ({"version": 1, "newest": -2}, "newest: must be from 0"),
        ({"version": (1 << 64) - 1}, "version: must be from 0"),
        ({"version": 1, "newest": (1 << 64) - 1}, "newest: must be from 0"),
        ({"version": "1"}, "version: expected `int`, got `str`"),
        ({"version": None}, "version: expected `int`"),
        ({"version": True}, "version: expected `int`"),
        ({"version": 1.5}, "version: expected `int`"),
        ({"version": 1, "newest": "2"}, "newest: expected `int | null`, got `str`"),
    ],
)
async def test_what_is_no_version_is_refused_by_name(
    changes: dict[str, Any], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with node(A, (1, 2)) as a, aiohttp.ClientSession() as session:
        socket = await session.ws_connect(f"http://{a.address}/peer?kind=control")
        await socket.send_bytes(version_1_greeting("control", **changes))
        assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE
        assert a.links.counters["link_malformed"] == 1
        assert not a.links.connected()
    (text,) = [record.getMessage() for record in caplog.records if getattr(record, "event", "") == "link_malformed"]
    assert words in text


async def test_a_version_far_ahead_is_refused_with_both_named() -> None:
    far = (1 << 63) - 1
    async with node(A, (1, 2)) as a, aiohttp.ClientSession() as session:
        socket = await session.ws_connect(f"http://{a.address}/peer?kind=control")
        await socket.send_bytes(version_1_greeting("control", version=far - 1, newest=far))
        answer = version_1_reads(await socket.receive_bytes())
        assert answer["refused"]["code"] == "link_other_version"
        assert f"versions {far - 1} to {far}, this one" in answer["refused"]["message"]
        assert "versions 1 to 2: upgrade meshq on this one" in answer["refused"]["message"]
        assert a.links.counters["link_other_version"] == 1


# -- what goes between two versions ----------------------------------------------------------------------


HOMES = (handshake, membership, messages, requests, reports, infos)


def fields_of(name: str) -> dict[str, dataclasses.Field[Any]]:
    (cls,) = {vars(home)[name] for home in HOMES if name in vars(home)}
    return {field.name: field for field in dataclasses.fields(cls)}


@pytest.mark.parametrize("name", VERSION_1)
def test_version_1_understands_this_version_and_is_understood(name: str) -> None:
    known = set(VERSION_1[name].split())
    fields = fields_of(name)
    assert known <= fields.keys(), "version 1 may ask for what is sent no more"
    for new in fields.keys() - known:
        field = fields[new]
        missing = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        assert not missing, f"version 1 does not send {new}: it needs a default"
