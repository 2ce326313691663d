"""Everything in a message that can be long has a cap, and all that a peer may make wait on a link is bounded."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, cast, get_type_hints

import aiohttp
import msgspec
import pytest

from meshq.core import limits
from meshq.core.infos import TaskInfo
from meshq.core.messages import PEER_MESSAGES, Hello, PeerHint, Pull, Refused, RenewAnswer, VoteAnswer
from meshq.core.requests import ANSWER_TO, Get, Heartbeat
from meshq.errors import Malformed
from meshq.wire import codec
from meshq.wire.connection import WINDOW_PARTS, Connection, Kind
from meshq.wire.handshake import Greeting
from tests.unit.test_wire_codec import RENEW, example

ALL = (*PEER_MESSAGES, *ANSWER_TO, *dict.fromkeys(ANSWER_TO.values()))


def long_fields() -> Iterator[tuple[type, str, Any]]:
    """Each field of a message that holds a text, a list or a map, with a value of its type that is too long."""
    for cls in dict.fromkeys(ALL):
        for name, hint in get_type_hints(cls).items():
            value = example(hint, full=True)
            if isinstance(value, str):
                yield cls, name, "x" * (limits.TEXT_CHARS_MAX + 1)
            elif isinstance(value, tuple):
                yield cls, name, value[:1] * (limits.ENTRIES_MAX + 1)
            elif isinstance(value, dict):
                yield cls, name, dict.fromkeys(map(str, range(limits.ENTRIES_MAX + 1)), next(iter(value.values())))


def test_every_text_list_and_map_has_a_cap() -> None:
    seen = 0
    for cls, name, value in long_fields():
        message = dataclasses.replace(example(cls, full=True), **{name: value})
        with pytest.raises(Malformed, match=rf"^{cls.__name__}: {name}: has \d+ \w+; at most \d+ are allowed"):
            codec.check(message)
        seen += 1
    assert seen > 50


HELLO = example(Hello, full=True)
CAPPED = [
    (HELLO, "hears", ("x",) * (limits.ROSTER_MAX + 1)),
    (HELLO, "dissolved", ("x",) * (limits.ROSTER_MAX + 1)),
    (HELLO, "name", "x" * (limits.NAME_CHARS_MAX + 1)),
    (HELLO, "addresses", ("x" * (limits.ITEM_CHARS_MAX + 1),)),
    (HELLO, "roster", dataclasses.replace(HELLO.roster, members=("x",) * (limits.ROSTER_MAX + 1))),
    (HELLO, "roster", dataclasses.replace(HELLO.roster, absorbed=("x",) * (limits.ROSTER_MAX + 1))),
    (HELLO, "peers", (PeerHint(node="x", addresses=("x",) * (limits.HINTS_MAX + 1)),)),
    (example(Pull, full=True), "vector", {str(number): 1 for number in range(limits.WRITERS_MAX + 1)}),
    (example(Pull, full=True), "vector", {"x" * (limits.ITEM_CHARS_MAX + 1): 1}),
    (example(VoteAnswer, full=True), "reason", "x" * (limits.WORD_CHARS_MAX + 1)),
    (example(RenewAnswer, full=True), "reason", "x" * (limits.WORD_CHARS_MAX + 1)),
    (example(Refused, full=True), "code", "x" * (limits.WORD_CHARS_MAX + 1)),
    (example(Get, full=True), "names", ("x",) * (limits.TASK_NAMES_MAX + 1)),
    (example(Heartbeat, full=True), "tasks", (TaskInfo(name="x"),) * (limits.TASK_NAMES_MAX + 1)),
]


@pytest.mark.parametrize(("message", "field", "value"), CAPPED)
def test_what_nodes_keep_and_tell_on_is_capped_closely(message: Any, field: str, value: Any) -> None:
    codec.check(message)
    with pytest.raises(Malformed, match=field):
        codec.check(dataclasses.replace(message, **{field: value}))


# -- a link --------------------------------------------------------------------------------------------------------


class Script:
    """Stands for an open WebSocket: what comes in is given, and what goes out arrives, or never does."""

    def __init__(self, frames: Sequence[bytes], *, deaf: bool) -> None:
        self.sent: list[bytes] = []
        self.begun, self.read, self._over = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._frames, self._deaf = frames, deaf

    def over(self) -> None:
        """The link ends, and nobody waits for it any more."""
        self.read.set()
        self._over.set()

    async def __aiter__(self) -> AsyncIterator[aiohttp.WSMessage]:
        for frame in self._frames:
            await self.begun.wait()
            yield aiohttp.WSMessage(aiohttp.WSMsgType.BINARY, frame, None)
        self.read.set()
        await self._over.wait()

    async def send_bytes(self, frame: bytes) -> None:
        if self._deaf:
            await self._over.wait()
        self.sent.append(frame)

    async def close(self, code: int) -> None:
        pass


class Ready:
    """Answers everything at once."""

    def __init__(self) -> None:
        self.answered = 0

    async def answer(self, sender: str, message: Any) -> Any:
        self.answered += 1
        return message

    def stream(self, sender: str, message: Any) -> Any:
        raise AssertionError("nobody asked for one")


def frame(kind: Kind, number: int, content: bytes) -> bytes:
    return msgspec.msgpack.encode((kind.value, number, content))


def connection(group: asyncio.TaskGroup, script: Script, handler: Ready, counts: Counter[str]) -> Connection:
    peer = Greeting(version=2, cluster="c", node="a" * 32, boot="b" * 32, kind="bulk", port=1)
    return Connection(
        cast("aiohttp.ClientWebSocketResponse", script), peer, 2, "somewhere", handler, group.create_task,
        lambda name: counts.update([name]), lambda name, text, error: None,
    )  # fmt: skip


async def served(frames: Sequence[bytes], *, deaf: bool) -> tuple[int, Counter[str], int]:
    """Requests answered, counters and frames sent, when all these frames were read or the link is closed."""
    handler, counts, script = Ready(), Counter[str](), Script(frames, deaf=deaf)
    script.begun.set()
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        running = group.create_task(connection(group, script, handler, counts).run())
        await asyncio.wait([running, group.create_task(script.read.wait())], return_when=asyncio.FIRST_COMPLETED)
        # Everything has its turn; whoever waits to be heard now would wait for ever.
        for _ in range(20):
            await asyncio.sleep(0)
        seen = handler.answered, counts.copy(), len(script.sent)
        script.over()
    return seen


async def test_answers_that_nobody_reads_do_not_pile_up() -> None:
    requests = [frame(Kind.REQUEST, 1, codec.encode(RENEW))] * limits.BACKLOG_MAX
    answered, counts, _ = await served(requests, deaf=True)
    assert (answered, counts) == (limits.IN_FLIGHT_MAX, {})
    answered, counts, sent = await served(requests, deaf=False)
    assert (answered, sent, counts) == (limits.BACKLOG_MAX, limits.BACKLOG_MAX, {})


async def test_a_link_that_asks_more_and_more_and_reads_nothing_is_closed() -> None:
    count = limits.BACKLOG_MAX + limits.IN_FLIGHT_MAX
    requests = [frame(Kind.REQUEST, 1, codec.encode(RENEW))] * (count + 1000)
    _, counts, _ = await served(requests, deaf=True)
    assert (counts["request_busy"], counts["frame_malformed"]) == (limits.IN_FLIGHT_MAX + 1, 1)


async def test_requests_that_wait_are_bounded_in_bytes() -> None:
    size_bytes = limits.BACKLOG_BYTES_MAX // 8
    requests = [frame(Kind.REQUEST, 1, b"\xc1" * size_bytes)] * 10
    _, counts, _ = await served(requests, deaf=True)
    # Two did not fit, the others were looked at and are no messages.
    assert counts == {"request_busy": 2, "request_malformed": 8}


async def test_an_answer_in_parts_ends_once() -> None:
    handler, counts = Ready(), Counter[str]()
    script = Script([frame(Kind.END, 1, codec.encode(RENEW))] * (WINDOW_PARTS + 10), deaf=False)
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        link = connection(group, script, handler, counts)
        parts = link.stream(RENEW, 5.0)
        reading = group.create_task(anext(parts, None))
        await asyncio.sleep(0)
        script.begun.set()
        script.over()
        await link.run()
        await reading
        await parts.aclose()
    assert counts == {"frame_malformed": 1}
