"""Somebody on the network who wants in, as a process; prints what came of it, one JSON object a line.

Usage: python stranger.py WHAT, where WHAT is a JSON object: `do` names one of the functions below, the rest is theirs.
What it shows to prove itself (`show`) is `{"as": "clear"}`, `{"as": "nobody"}`, `{"as": "credential", "text": …}` or
`{"as": "made", "key": …, "role": …, "name": …}`: a certificate that it makes itself. It believes whoever it calls.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
import ssl
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import zeroconf
from yarl import URL

from meshq.core import keys
from meshq.core.ids import uuid7
from meshq.core.membership import Roster
from meshq.core.messages import Call, Handover, Hello, Leave, Pull, Renew, Vote
from meshq.wire import codec, handshake, security
from meshq.wire.security import Role, Subject

ANSWER_S = 10.0
# How long it waits for a word of whoever it replays something to, which may have none.
WORD_S = 0.5
# So many frames are enough to show that it was heard.
FRAMES = 3
GATE_S = 60.0
SERVICE = "_meshq._tcp.local."
Show = Mapping[str, str]
At = tuple[str, int]


def _say(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


def _context(show: Show) -> ssl.SSLContext | None:
    """How a call begins: None where it is in clear."""
    match show["as"]:
        case "clear":
            return None
        case "nobody":
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
        case "credential":
            context = security.client_context(security.read_credential(show["text"]).passport)
        case _:
            subject = Subject(Role(show["role"]), show["name"])
            context = security.client_context(security.passport([keys.parse(show["key"])], subject))
    # Whoever answers is good enough.
    context.verify_mode, context.sslobject_class = ssl.CERT_NONE, ssl.SSLObject
    return context


# -- requests --------------------------------------------------------------------------------------------


class _Caller:
    """One connection; says what came back, whatever that is."""

    def __init__(self, context: ssl.SSLContext | None, at: At) -> None:
        self._raw = socket.create_connection(at, ANSWER_S)
        self.end = ""
        if context is not None:
            try:
                self._raw = context.wrap_socket(self._raw)
            except (ssl.SSLError, OSError) as error:
                self.end = _end(error)

    def ask(self, method: str, path: str, body: object, *, last: bool = True) -> dict[str, object]:
        """One request; `came` counts the bytes of what came back."""
        if self.end:
            return {"status": None, "code": self.end, "came": 0}
        data = b"" if body is None else json.dumps(body).encode()
        lines = ["Host: meshq", "Content-Type: application/json", f"Content-Length: {len(data)}"]
        if path.startswith("/peer"):
            lines += ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"]
            lines += ["Sec-WebSocket-Key: " + base64.b64encode(bytes(16)).decode()]
        elif last:
            lines += ["Connection: close"]
        came = b""
        try:
            self._raw.sendall("\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""]).encode() + data)
            while not _whole(came, method) and (part := self._raw.recv(1 << 16)):
                came += part
            why = "hung up"
        except (ssl.SSLError, OSError) as error:
            why = _end(error)
        if not came.startswith(b"HTTP/1.1 "):
            return {"status": None, "code": why, "came": len(came)}
        head, _, text = came.partition(b"\r\n\r\n")
        status = int(head.split()[1])
        told = json.loads(text) if text else {}
        return {"status": status, "code": told.get("code", ""), "came": len(came), "told": told}

    def close(self) -> None:
        self._raw.close()


def _whole(came: bytes, method: str) -> bool:
    """Whether an answer is complete; one to HEAD and one that opens a WebSocket are with their heads."""
    head, found, text = came.partition(b"\r\n\r\n")
    if not found:
        return False
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    if method == "HEAD" or head.startswith(b"HTTP/1.1 101"):
        return True
    return bool(lengths) and len(text) >= int(lengths[0].split(b":")[1])


def _end(error: OSError) -> str:
    """How a call ended that got no answer."""
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return "hung up" if isinstance(error, ConnectionError | ssl.SSLError) else str(error)


def ask(show: Show, at: Sequence[At], calls: Sequence[tuple[str, str, object]]) -> None:
    """Sends each request to each daemon, on a connection of its own."""
    context = _context(show)
    for method, path, body in calls:
        for place in at:
            caller = _Caller(context, (place[0], place[1]))
            with contextlib.closing(caller):
                _say(event="answer", at=place[0], method=method, path=path, **caller.ask(method, path, body))


def hold(show: Show, at: Sequence[At], calls: Sequence[tuple[str, str, object]], gate: str) -> None:
    """Sends the first request at once, and all on the same connections as soon as a file is there."""
    context = _context(show)
    callers = {place[0]: _Caller(context, (place[0], place[1])) for place in at}
    for host, caller in callers.items():
        _say(event="before", at=host, **caller.ask(*calls[0], last=False))
    end = time.monotonic() + GATE_S
    while not Path(gate).exists():
        if time.monotonic() > end:
            raise TimeoutError("the gate was never opened")
        time.sleep(0.02)
    for method, path, body in calls:
        for host, caller in callers.items():
            told = caller.ask(method, path, body, last=False)
            _say(event="answer", at=host, method=method, path=path, **told)
    _say(event="over")


# -- links -----------------------------------------------------------------------------------------------


def greet(show: Show, at: Sequence[At], node: str, cluster: str, genesis: str, *, say: bool = True) -> None:
    """Opens links of both kinds to each daemon, greets as this node, and says at once all that a node can say.

    Args:
        cluster: What stands for the cluster in greetings.
        genesis: The cluster's own id.
        say: False to hang up after the other's greeting.
    """
    asyncio.run(_greet(show, at, node, cluster, genesis if say else ""))


async def _greet(show: Show, at: Sequence[At], node: str, cluster: str, genesis: str) -> None:
    context = _context(show)
    boot = uuid7(time.time_ns() // 1_000_000, 1)
    async with aiohttp.ClientSession() as session:
        for place in at:
            for kind in handshake.KINDS:
                me = handshake.Identity(node=node, boot=boot, cluster_hash=cluster, port=7373)
                url = URL.build(scheme="https", host=place[0], port=place[1], path="/peer", query={"kind": kind})
                try:
                    link = await session.ws_connect(url, ssl=context or False)
                except aiohttp.ClientError as error:
                    _say(event="link", at=place[0], kind=kind, came=[], end=type(error).__name__)
                    continue
                async with link:
                    with contextlib.suppress(ConnectionError):
                        await link.send_bytes(handshake.greeting(me, kind))
                        for number, message in enumerate(_messages(genesis) if genesis else (), 1):
                            await link.send_bytes(msgspec.msgpack.encode((1, number, codec.encode(message))))
                    came = [frame async for frame in _frames(link, FRAMES if genesis else 1)]
                    _say(event="link", at=place[0], kind=kind, came=came, end=f"closed {link.close_code}")


async def _frames(link: aiohttp.ClientWebSocketResponse, most: int) -> AsyncIterator[str]:
    """What came, as text: so many at most."""
    for _ in range(most):
        try:
            frame = await link.receive(ANSWER_S)
        except TimeoutError:
            return
        if frame.type is not aiohttp.WSMsgType.BINARY:
            return
        yield str(msgspec.msgpack.decode(frame.data))[:100]


def _messages(genesis: str) -> Iterator[object]:
    """What would take the cluster over: a later epoch, the roster, all rows, a task to run, and the end of a lease."""
    task = {"id": uuid7(time.time_ns() // 1_000_000, 2), "name": "echo", "payload": b"\x92\x91\x01\x80"}
    epoch = 1000
    roster = Roster(genesis=genesis, members=())
    yield Hello(
        boot="b", name="x", addresses=(), roster=roster, votes=True, slots=1, running=0, epoch=epoch,
        offered=keys.Key(bytes(20)).text,
    )  # fmt: skip
    yield Renew(epoch=epoch, lease_s=60.0, genesis=genesis)
    yield Vote(epoch=epoch, pre=False, lease_s=60.0, genesis=genesis)
    yield Handover(epoch=epoch, step="prepare", genesis=genesis)
    yield Leave(genesis=genesis)
    yield Pull(vector={}, epoch=epoch, genesis=genesis, wait_s=0.0)
    yield Call(request="Submit", body=msgspec.msgpack.encode({"tasks": [task]}))


# -- recordings ------------------------------------------------------------------------------------------


def relay(port: int, to: At) -> None:
    """Passes everything on between whoever calls it and a daemon, and prints all that the caller said."""
    asyncio.run(_relay(port, to))


async def _relay(port: int, to: At) -> None:
    numbers = iter(range(1 << 30))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        call = next(numbers)
        beyond, there = await asyncio.open_connection(to[0], to[1])

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, told: bool) -> None:
            with contextlib.suppress(ConnectionError):
                while data := await source.read(1 << 16):
                    if told:
                        _say(event="said", call=call, data=base64.b64encode(data).decode())
                    sink.write(data)
                    await sink.drain()
            sink.close()

        async with asyncio.TaskGroup() as group:
            group.create_task(pump(reader, there, told=True))
            group.create_task(pump(beyond, writer, told=False))
        _say(event="ended", call=call)

    server = await asyncio.start_server(serve, "0.0.0.0", port)
    _say(event="listens")
    async with server:
        await server.serve_forever()


def replay(at: Sequence[At], said: Sequence[str], *, in_turn: bool) -> None:
    """Says to each daemon, byte for byte, what somebody else said to one of them.

    Args:
        in_turn: Whether it waits for a word after each part, as the other did; else all is said at once.
    """
    parts = [base64.b64decode(part) for part in said]
    for place in at:
        with socket.create_connection((place[0], place[1]), ANSWER_S) as raw:
            came, end = b"", "hung up"
            try:
                for part in parts if in_turn else [b"".join(parts)]:
                    raw.sendall(part)
                    raw.settimeout(WORD_S)
                    with contextlib.suppress(TimeoutError):
                        came += raw.recv(1 << 16)
                raw.settimeout(ANSWER_S)
                while more := raw.recv(1 << 16):
                    came += more
            except OSError as error:
                end = _end(error)
            _say(event="replayed", at=place[0], end=end, came=len(came), records=_records(came))


def _records(came: bytes) -> list[str]:
    """The kinds of TLS records in what came: the first byte of each tells."""
    kinds = {20: "change", 21: "alert", 22: "hello", 23: "sealed"}
    found = []
    while len(came) >= 5:
        found.append(kinds.get(came[0], f"no TLS: {came[:20]!r}"))
        came = came[5 + int.from_bytes(came[3:5], "big") :]
    return found


# -- announcements ---------------------------------------------------------------------------------------


class _All(zeroconf.RecordUpdateListener):
    """Prints every record that is new."""

    def async_update_records(self, zc: zeroconf.Zeroconf, now: float, records: list[zeroconf.RecordUpdate]) -> None:
        for update in records:
            _say(event="record", **_record(update.new))


def _record(record: Any) -> dict[str, object]:
    """All that a record says: whatever it is about, it is in one of these."""
    parts = ("name", "next_name", "alias", "server", "port")
    told = {part: getattr(record, part) for part in parts if hasattr(record, part)}
    if (address := getattr(record, "address", None)) is not None:
        told["address"] = socket.inet_ntop(socket.AF_INET6 if len(address) == 16 else socket.AF_INET, address)
    if (text := getattr(record, "text", None)) is not None:
        pairs = zeroconf.ServiceInfo(SERVICE, SERVICE, properties=text).properties
        told["text"] = {key.decode(): (value or b"").decode() for key, value in pairs.items()}
    return {"kind": type(record).__name__, **told}


def listen(node: str) -> None:
    """Prints all records that anybody announces, and asks for all of this node."""
    with contextlib.closing(zeroconf.Zeroconf(interfaces=zeroconf.InterfaceChoice.All)) as zc:
        zc.add_listener(_All(), None)
        info = zc.get_service_info(SERVICE, f"{node}.{SERVICE}", timeout=10_000)
        _say(event="resolved", found=info is not None)
        time.sleep(GATE_S)


DO: dict[str, Callable[..., None]] = {
    "ask": ask, "hold": hold, "greet": greet, "relay": relay, "replay": replay, "listen": listen,
}  # fmt: skip

if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    DO[asked.pop("do")](**asked)
