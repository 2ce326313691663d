"""Sends hostile requests to daemons, as a process; prints what came back, one JSON object for each kind of caller.

Usage: python -m tests.fuzz.attacker WHAT, a JSON object: `requests`, `seed`, `at` (addresses), `sources` (its own: one
address may call only so often), `sockets` (paths), `key`, `credential` (a text), `cluster` (what stands for it in
greetings), `calls` (method, path, body).
A request's number and the seed say all about it.
"""

from __future__ import annotations

import asyncio
import json
import queue
import random
import socket
import ssl
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from typing import Any

import aiohttp
import msgspec
from yarl import URL

from meshq.core import keys
from meshq.core.membership import NOBODY
from meshq.core.messages import PEER_MESSAGES, Call, Hello
from meshq.wire import codec, handshake, security, values
from meshq.wire.security import Role, Subject
from tests.fuzz.mutations import mutated, odd_heads, reshaped
from tests.unit.test_wire_codec import example

# A daemon that says nothing for so long hangs: it is longer than anybody may wait for a task.
ANSWER_S = 75.0
SHORT_S = 0.1
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
THREADS = 8
FRAMES_PER_LINK = 10
Asked = tuple[str, str, Any]
At = tuple[str, int]
Connect = Callable[[random.Random], socket.socket]


class Caller:
    """One kind of caller: how it connects, and what became of its requests."""

    def __init__(self, name: str, connect: Connect) -> None:
        self.name = name
        self.connect = connect
        self.seen: Counter[str] = Counter()
        self.slowest_s = 0.0
        self._open: dict[int, socket.socket] = {}

    def send(self, rng: random.Random, data: bytes, *, whole: bool) -> str:
        """What came back for this, on a connection that is kept where that is possible."""
        thread = threading.get_ident()
        kept = self._open.pop(thread, None)
        began_s = time.monotonic()
        said = "hung up" if kept is None else self._send_on(kept, data, whole=whole)
        if said == "hung up":
            # One that was kept may have been ended after the last request.
            try:
                said = self._send_on(self.connect(rng), data, whole=whole)
            except OSError as error:
                said = "NO ANSWER" if isinstance(error, TimeoutError) else "not let in"
        if whole:
            self.slowest_s = max(self.slowest_s, time.monotonic() - began_s)
        return said

    def _send_on(self, raw: socket.socket, data: bytes, *, whole: bool) -> str:
        """The same on this connection; one that is of use afterwards is kept."""
        good = False
        try:
            # What never becomes a request is left alone soon: what the daemon does about it is told by other tests.
            raw.settimeout(ANSWER_S if whole else SHORT_S)
            raw.sendall(data)
            said, good = _answer(raw, heads_only=data.startswith(b"HEAD "))
        except TimeoutError:
            said = "NO ANSWER" if whole else "left half-way"
        except OSError:
            said = "hung up"
        if good and whole:
            self._open[threading.get_ident()] = raw
        else:
            raw.close()
        return said


def _answer(raw: socket.socket, *, heads_only: bool) -> tuple[str, bool]:
    """The status of an answer, and whether the connection is still of use."""
    came = b""
    while b"\r\n\r\n" not in came.removeprefix(CONTINUE):
        part = raw.recv(1 << 16)
        if not part:
            return "hung up", False
        came += part
    head, _, body = came.removeprefix(CONTINUE).partition(b"\r\n\r\n")
    lower = head.lower()
    length = next((int(line.split(b":")[1]) for line in lower.split(b"\r\n") if line.startswith(b"content-length:")), 0)
    while len(body) < length and not heads_only:
        part = raw.recv(1 << 16)
        if not part:
            break
        body += part
    return head.split()[1].decode(), b"connection: close" not in lower and (len(body) == length or heads_only)


def _request(rng: random.Random, calls: Sequence[Asked]) -> tuple[bytes, bool]:
    """A real request, with something wrong in its line, its heads or its body; and whether it is whole."""
    method, path, body = rng.choice(calls)
    packed = rng.random() < 0.5
    data = b"" if body is None else values.pack(body) if packed else json.dumps(body).encode()
    kind = "application/msgpack" if packed else "application/json"
    heads = {"Host": "meshq", "Content-Type": kind, "Content-Length": str(len(data))}
    match rng.randrange(6):
        case 0 | 5:
            data = reshaped(rng, data) or data
            heads["Content-Length"] = str(len(data))
        case 1:
            data = mutated(rng, data)
            heads["Content-Length"] = str(len(data))
        case 2:
            heads |= odd_heads(rng)
        case 3:
            path = path.replace("/", "/" + mutated(rng, b"a").decode("latin-1")[:200].replace("\n", ""), 1)
            method = rng.choice((method, "PUT", "DELETE", "HEAD", "BREW", "OPTIONS"))
        case _:
            heads["Content-Length"] = rng.choice(("-1", "1e3", str(len(data) + 7), str(1 << 40), "0", "x"))
    line = f"{method} {path} HTTP/{rng.choice(('1.1', '1.1', '1.1', '1.0', '9.9'))}"
    text = "\r\n".join([line, *(f"{name}: {value}" for name, value in heads.items()), "", ""])
    whole = heads["Content-Length"] == str(len(data)) and "Transfer-Encoding" not in heads
    return text.encode("latin-1", "replace") + data, whole


def _upgrade(rng: random.Random, greeting: bytes) -> bytes:
    """What opens a link, and then frames of WebSocket and of ours that are wrong."""
    kind = rng.choice((*handshake.KINDS, "x"))
    lines = [f"GET /peer?kind={kind} HTTP/1.1", "Host: meshq", "Connection: Upgrade", "Upgrade: websocket"]
    lines += [f"Sec-WebSocket-Version: {rng.choice((13, 13, 13, 8))}", "Sec-WebSocket-Key: " + "A" * 22 + "=="]
    hello = Hello(boot="b", name="x", addresses=(), roster=NOBODY, votes=False, slots=0, running=0)
    said = b"".join(_frame(rng, msgspec.msgpack.encode((kind, 1, codec.encode(hello)))) for kind in range(1, 4))
    return "\r\n".join([*lines, "", ""]).encode() + _frame(rng, greeting) + mutated(rng, said)


def _frame(rng: random.Random, data: bytes) -> bytes:
    """A frame of a WebSocket, masked by nothing; of a wrong kind or length now and then."""
    first = rng.choice((0x82, 0x82, 0x82, 0x81, 0x02, 0x89, 0x88, 0xF2, 0x83))
    length = rng.choice((len(data), len(data), len(data), 1 << 40, 0))
    return bytes((first, 0x80 | 127)) + length.to_bytes(8, "big") + bytes(4) + data


def _noise(rng: random.Random) -> bytes:
    """What a stranger says: nothing that opens a door."""
    hello = bytes.fromhex("16030100c8010000c40303")
    return rng.choice((
        lambda: rng.randbytes(rng.randrange(1, 2000)),
        lambda: hello + rng.randbytes(rng.randrange(0, 300)),
        lambda: mutated(rng, hello * 4),
        lambda: b"GET /status HTTP/1.1\r\nHost: meshq\r\n\r\n",
        lambda: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        lambda: b"\x16\x03\x01\xff\xff" + bytes(rng.randrange(0, 70_000)),
    ))()  # fmt: skip


async def _links(what: dict[str, Any], count: int, caller: Caller) -> None:
    """Links that greet as they should, and send messages that are not as they should be."""
    sent = 0
    async with aiohttp.ClientSession() as session:
        while sent < count:
            rng = random.Random(f"{what['seed']}-link-{sent}")
            node, boot = f"{rng.getrandbits(127):032x}", f"{rng.getrandbits(127):032x}"
            subject = Subject(Role.NODE, node)
            context = security.client_context(security.passport([keys.parse(what["key"])], subject))
            host, port = rng.choice(what["at"])
            kind = rng.choice(handshake.KINDS)
            me = handshake.Identity(node=node, boot=boot, cluster_hash=what["cluster"], port=7373)
            url = URL.build(scheme="https", host=host, port=port, path="/peer", query={"kind": kind})
            context.verify_mode, context.sslobject_class = ssl.CERT_NONE, ssl.SSLObject
            with suppress(aiohttp.ClientError, ConnectionError):
                async with session.ws_connect(url, ssl=context) as link:
                    await link.send_bytes(handshake.greeting(me, kind))
                    for number in range(FRAMES_PER_LINK):
                        message = codec.encode(_message(rng))
                        wrong = rng.choice((reshaped, mutated))(rng, message) or message
                        frame = msgspec.msgpack.encode((rng.randrange(1, 7), number, wrong))
                        sent += 1
                        await link.send_bytes(mutated(rng, frame) if rng.random() < 0.05 else frame)
                    said = await _last_word(link)
                    caller.seen[said] += FRAMES_PER_LINK
                    continue
            sent += 1
            caller.seen["hung up"] += 1


def _message(rng: random.Random) -> object:
    """What nodes say to each other, of a cluster that is none; half of it requests that were forwarded."""
    full = rng.random() < 0.5
    if rng.random() < 0.5:
        return example(rng.choice(PEER_MESSAGES), full=full)
    name = rng.choice(sorted(codec.REQUESTS))
    return Call(request=name, body=codec.encode_body(example(codec.REQUESTS[name], full=full)))


async def _last_word(link: aiohttp.ClientWebSocketResponse) -> str:
    """How a link goes on after all that."""
    try:
        async with asyncio.timeout(SHORT_S):
            async for _ in link:
                pass
    except TimeoutError:
        return "link stays"
    return f"link closed {link.close_code}"


def main() -> None:
    """Sends all, on some threads, and prints what came back."""
    what = json.loads(sys.argv[1])
    made = security.passport([keys.parse(what["key"])], Subject(Role.HOLDER, ""))
    bearer = security.read_credential(what["credential"]).passport
    at, sources = what["at"], what["sources"]
    plain = _plain(at, sources)
    holder, node_id = Caller("holder of the key", _secured(at, sources, made)), "e" * 32
    itself = security.passport([keys.parse(what["key"])], Subject(Role.NODE, node_id))
    node = Caller("node, on links", _secured(at, sources, itself))
    me = handshake.Identity(node=node_id, boot=node_id, cluster_hash=what["cluster"], port=7373)
    greeting = handshake.greeting(me, handshake.CONTROL)
    another = security.passport([keys.Key(bytes(keys.SECRET_BYTES))], Subject(Role.HOLDER, ""))
    other = Caller("holder of another key", _secured(at, sources, another))
    local = Caller("Unix socket", lambda rng: _local(rng, what["sockets"]))
    bob = Caller("bearer of a credential", _secured(at, sources, bearer))
    nobody = Caller("stranger", plain)
    calls: list[Asked] = [(method, path, body) for method, path, body in what["calls"]]
    numbers: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    http_count = what["requests"] * 4 // 5
    for number in [*range(http_count), *([None] * THREADS)]:
        numbers.put(number)

    def work() -> None:
        while (number := numbers.get()) is not None:
            rng = random.Random(f"{what['seed']}-{number}")
            caller = rng.choices((holder, bob, local, nobody, other, node), (7, 4, 4, 3, 1, 1))[0]
            if caller is nobody or caller is node:
                data, whole = _noise(rng) if caller is nobody else _upgrade(rng, greeting), False
            else:
                data, whole = _request(rng, calls)
            caller.seen[caller.send(rng, data, whole=whole)] += 1

    threads = [threading.Thread(target=work, daemon=True) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    asyncio.run(_links(what, what["requests"] - http_count, node))
    for thread in threads:
        thread.join()
    for caller in (holder, bob, local, node, nobody, other):
        told = {"event": "seen", "who": caller.name, "seen": caller.seen, "slowest_s": caller.slowest_s}
        print(json.dumps(told), flush=True)
    print(json.dumps({"event": "over"}), flush=True)


def _secured(
    at: Sequence[At], sources: Sequence[str], passport: security.Passport
) -> Callable[[random.Random], socket.socket]:
    context = security.client_context(passport)
    context.verify_mode = ssl.CERT_NONE

    def connect(rng: random.Random) -> socket.socket:
        host, port = rng.choice(at)
        return context.wrap_socket(socket.create_connection((host, port), ANSWER_S, (rng.choice(sources), 0)))

    return connect


def _plain(at: Sequence[At], sources: Sequence[str]) -> Connect:
    def connect(rng: random.Random) -> socket.socket:
        host, port = rng.choice(at)
        return socket.create_connection((host, port), ANSWER_S, (rng.choice(sources), 0))

    return connect


def _local(rng: random.Random, paths: Sequence[str]) -> socket.socket:
    raw = socket.socket(socket.AF_UNIX)
    raw.settimeout(ANSWER_S)
    try:
        raw.connect(rng.choice(paths))
    except OSError:
        with closing(raw):
            raise
    return raw


if __name__ == "__main__":
    main()
