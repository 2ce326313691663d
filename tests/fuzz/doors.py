"""The parsers of what others send while they are connected: requests over HTTP, frames of a link, arguments, words.

The first two are fed as a socket would feed them, and answer into the void.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import suppress
from functools import cache
from typing import Any, Literal, cast

import aiohttp
import msgspec
from aiohttp import web

from meshq.core import access, addresses, signature
from meshq.core.messages import PEER_MESSAGES, Done, Hello, Rows
from meshq.discovery import mdns
from meshq.discovery import seeds as hosts
from meshq.errors import MeshqError, from_wire
from meshq.tasks.registry import describe
from meshq.wire import codec, forms, handshake, security, values
from meshq.wire.connection import Connection, Kind, WebSocket
from meshq.wire.http import build_app
from meshq.worker.frames import Splitter, encode
from tests.cluster.outside import Endpoints
from tests.unit.test_wire_codec import example
from tests.unit.wire_service import DictService

NODE = "a" * 32
# A protocol that has not come to rest after so many turns of the loop waits for more to come.
TURNS = 60
STATUS = re.compile(rb"HTTP/1\.[01] (\d{3}) ")


@cache
def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


def _done(work: Coroutine[Any, Any, None]) -> None:
    _loop().run_until_complete(work)


# -- HTTP ------------------------------------------------------------------------------------------------


class _Wire(asyncio.Transport):
    """A socket to nowhere: keeps what was written."""

    def __init__(self) -> None:
        super().__init__({"peername": ("10.0.0.9", 1)})
        self.written = bytearray()
        self._closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self._closing = True

    def abort(self) -> None:
        self._closing = True

    def pause_reading(self) -> None:
        """Nothing is read."""

    def resume_reading(self) -> None:
        """Nothing is read."""


@cache
def _server() -> tuple[web.Server, DictService]:
    service = DictService()
    app = build_app(service, None, new_id=lambda: "0" * 32, wall_ms=lambda: 0, body_bytes_max=1 << 16)
    runner = web.AppRunner(app, access_log=None, handle_signals=False, auto_decompress=False)
    _done(runner.setup())
    assert runner.server is not None
    return runner.server, service


def http(data: bytes) -> None:
    """What comes over a connection: whatever it is, no answer is an error of ours."""
    server, service = _server()
    service.specs, service.views, service.seen = {}, {}, []
    _done(_http(server, data))


async def _http(server: web.Server, data: bytes) -> None:
    wire = _Wire()
    protocol = server()
    protocol.connection_made(wire)
    protocol.data_received(data)
    for _ in range(TURNS):
        await asyncio.sleep(0)
        if wire.is_closing():
            break
    with suppress(aiohttp.ClientError):
        protocol.eof_received()
    protocol.connection_lost(None)
    for _ in range(4):
        await asyncio.sleep(0)
    statuses = STATUS.findall(bytes(wire.written))
    assert all(status < b"500" for status in statuses), statuses


# -- links -----------------------------------------------------------------------------------------------


class _Socket:
    """The WebSocket of a link on which these frames come."""

    def __init__(self, frames: list[bytes]) -> None:
        self._frames = frames
        self.sent: list[bytes] = []

    async def __aiter__(self) -> AsyncIterator[aiohttp.WSMessage]:
        for frame in self._frames:
            yield aiohttp.WSMessage(aiohttp.WSMsgType.BINARY, frame, None)
            await asyncio.sleep(0)
        for _ in range(6):  # what was asked is answered before the link ends
            await asyncio.sleep(0)

    async def send_bytes(self, data: bytes) -> None:
        self.sent.append(data)

    async def close(self, *, code: int = 1000) -> bool:
        return True


class _Handler:
    """Answers each message with its kind."""

    async def answer(self, sender: str, message: Any) -> Any:
        return Done()

    async def stream(self, sender: str, message: Any) -> AsyncIterator[Any]:
        yield Rows(rows=b"\x90", last=True, vector={}, committed={})


def link(data: bytes) -> None:
    """The frames that come on a link, as a list: a link ends, or answers with what its other end can read."""
    try:
        frames = msgspec.msgpack.decode(data, type=list[bytes])
    except (msgspec.MsgspecError, RecursionError):
        frames = [data]
    _done(_link(frames[:10]))


async def _link(frames: list[bytes]) -> None:
    socket, counters = _Socket(frames), Counter[str]()
    greeting = handshake.read(handshake.greeting(_me(), "bulk"))
    async with asyncio.TaskGroup() as group:
        connection = Connection(
            cast(WebSocket, socket), greeting, 2, "10.0.0.9:1", _Handler(), group.create_task,
            lambda name: counters.update([name]), lambda *_: None,
        )  # fmt: skip
        await connection.run()
    assert not connection.open
    assert counters["request_failed"] == 0
    for frame in socket.sent:
        kind, _, content = msgspec.msgpack.decode(frame, type=tuple[int, int, bytes])
        if kind in (Kind.PART, Kind.END):
            codec.decode(content)


def _me() -> handshake.Identity:
    return handshake.Identity(node=NODE, boot="b" * 32, cluster_hash="c", port=7373)


def child(data: bytes) -> None:
    """What a task's process sends to its daemon."""
    Splitter().feed(data)


# -- arguments and words ---------------------------------------------------------------------------------


def _task(
    limit: int, *rest: float, algorithm: Literal["sieve", "trial_division"] = "sieve", data: bytes | None = None
) -> None:
    """A task with parameters of many kinds."""


def call(data: bytes) -> None:
    """Arguments for a task, from any client to the leader."""
    args, kwargs = values.unpack_arguments(data)
    signature.check(describe(_task, "echo"), args, kwargs)


def announcement(data: bytes) -> None:
    """What a stranger announces by mDNS: it is passed over, or leads to somebody who can be called."""
    name = f"{NODE}.{mdns.SERVICE_TYPE}"
    # There is no other way to it but the network itself.
    found = mdns._read(name, data, ["10.0.0.9", "fe80::1%2", "::1"])
    for address in found.addresses if found is not None else ():
        addresses.parse_address(address)


def word(data: bytes) -> None:
    """Words of a path, a query, a command line, a certificate or an answer."""
    typed = data.decode("utf-8", "surrogateescape")
    readers: list[Callable[[str], object]] = [
        addresses.parse_address, hosts.parse, forms.task_id, forms.node, forms.batch, access.check_name,
        lambda text: forms.number("limit", text, int), lambda text: forms.number("wait_s", text, float),
        lambda text: security.subject_of({"subjectAltName": (("URI", text),)}),
        lambda text: from_wire({"code": text, "message": text}),
    ]  # fmt: skip
    for read in readers:
        with suppress(MeshqError):
            read(typed)


PARSERS: dict[str, Callable[[bytes], None]] = {
    "server": http, "link": link, "child": child, "call": call, "announcement": announcement, "word": word,
}  # fmt: skip


# -- good inputs -----------------------------------------------------------------------------------------


def seeds(name: str) -> Iterator[bytes]:
    """Inputs of which a run begins: good ones."""
    match name:
        case "server":
            yield from _requests()
        case "link":
            messages = [codec.encode(example(cls, full=True)) for cls in PEER_MESSAGES]
            yield msgspec.msgpack.encode([msgspec.msgpack.encode((1, n, each)) for n, each in enumerate(messages)][:5])
            for kind in Kind:
                hello = codec.encode(example(Hello, full=False))
                yield msgspec.msgpack.encode([msgspec.msgpack.encode((kind.value, 1, hello))] * 2)
        case "child":
            yield encode("ready", [{"name": "echo", "params": []}]) + encode("outcomes", [[0, 0, b"\xc0", 0.5]])
            yield encode("progress", 0, 1.0, 2.0, "half") + encode("checkpoint", 0, b"x") + encode("recalled", 1)
        case "call":
            yield values.pack_arguments([7, 1.5], {"algorithm": "sieve", "data": b"x"})
            yield values.pack_arguments([10**70], {})
        case "announcement":
            pairs = (b"c=0123456789abcdef", b"b=" + b"b" * 32, b"p=7373", b"v=2", b"x", b"=y")
            yield b"".join(bytes([len(pair)]) + pair for pair in pairs)
        case _:
            yield from (b"10.0.0.1:7373", b"[fe80::1%eth0]:7373", b"host.local:1", b"0" * 32, b"bob", b"17", b"1.5e3")
            yield b"meshq:node:" + NODE.encode()


def _requests() -> Iterator[bytes]:
    for method, path, body in Endpoints("0" * 32, "0" * 32, NODE).all():
        for data, kind in ((values.pack(body), "application/msgpack"), (json.dumps(body).encode(), "application/json")):
            head = f"{method} {path} HTTP/1.1\r\nHost: meshq\r\nContent-Type: {kind}\r\nAccept: {kind}\r\n"
            yield f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data
            if body is not None:
                yield f"{head}Transfer-Encoding: chunked\r\n\r\n{len(data):x}\r\n".encode() + data + b"\r\n0\r\n\r\n"


# What aiohttp says of a request that is none, and what a link says of its frames, is no find.
logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
