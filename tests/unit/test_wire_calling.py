"""How a node calls others: whoever answers is a stranger, and learns nothing but that somebody called."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from meshq.core.keys import Key
from meshq.wire import calling, security
from meshq.wire.handshake import Identity
from meshq.wire.link import Links
from meshq.wire.security import Role, Subject
from tests.unit.transport_contract import A, Script, until
from tests.unit.wire_node import BOOT_1, LoopClock


async def test_whoever_sends_a_node_elsewhere_is_not_followed() -> None:
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response(status=307, headers={"Location": "/elsewhere"})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    async with TestServer(app) as server, calling.session() as session:
        with pytest.raises(calling.Redirected):
            await calling.call(session, f"127.0.0.1:{server.port}", "control", None)
    assert asked == ["/peer"]


async def test_a_bearer_of_a_credential_who_answers_in_a_nodes_place_is_told_nothing() -> None:
    keys = [Key(b"k" * 20)]
    bearer = security.server_context(security.passport(keys, Subject(Role.SUBMIT, "bob")))
    heard: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            heard.append(await reader.read(1))
        writer.close()

    contexts = security.contexts_of(keys, A)
    links = Links(
        Identity(node=A, boot=BOOT_1, cluster_hash="", port=0), Script(), lambda *_: None, LoopClock(),
        lambda *_: None, lambda: contexts,
    )  # fmt: skip
    server = await asyncio.start_server(listen, "127.0.0.1", 0, ssl=bearer)
    async with server, asyncio.TaskGroup() as group:
        running = group.create_task(links.run())
        links.dial(None, [f"127.0.0.1:{server.sockets[0].getsockname()[1]}"])
        await until(lambda: links.counters["link_no_node"] >= 2, "it is called again")
        running.cancel()
    assert b"".join(heard) == b""
