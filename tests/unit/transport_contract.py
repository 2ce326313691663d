"""What every transport must do: one suite for real links and for the simulated twin.

A test module makes a fixture `make_pair` (see `MakePair`) and runs each of `CHECKS` with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, Protocol

import pytest

from meshq.core.membership import Roster
from meshq.core.messages import PROTOCOL_VERSION, Done, Leave, Pull, Refused, Renew, RenewAnswer, Rows, VoteAnswer
from meshq.core.ports import Handler, Transport
from meshq.errors import MeshqError, StaleEpoch, TooLarge, Unreachable

A = "0" * 31 + "a"
B = "0" * 31 + "b"
RENEW = Renew(epoch=3, lease_s=2.5, genesis="g")
PULL = Pull(vector={A: 7}, epoch=3, genesis="g", wait_s=0.0)


class Script:
    """A handler whose every answer a test writes."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, Any]] = []
        self.reply: Callable[[Any], Awaitable[Any]] = self._follow
        self.parts: Callable[[Any], AsyncIterator[Any]] = self._three

    async def answer(self, sender: str, message: Any) -> Any:
        self.heard.append((sender, message))
        return await self.reply(message)

    async def stream(self, sender: str, message: Any) -> AsyncIterator[Any]:
        self.heard.append((sender, message))
        parts = self.parts(message)
        try:
            async for part in parts:
                yield part
        finally:
            await stop(parts)

    async def _follow(self, message: Any) -> Any:
        return RenewAnswer(followed=True, epoch=message.epoch)

    async def _three(self, message: Any) -> AsyncIterator[Any]:
        for number in range(3):
            yield rows(number, last=number == 2)


class Pair(Protocol):
    """Two nodes, connected; only A called B."""

    @property
    def a(self) -> Transport: ...

    @property
    def b(self) -> Transport: ...

    async def cut(self) -> None:
        """Ends what connects them; it does not come back by itself while the test runs."""

    def late(self) -> int:
        """How many late answers A has dropped."""


class MakePair(Protocol):
    async def __call__(self, at_a: Handler, at_b: Handler) -> Pair: ...


def rows(number: int, *, last: bool = False, size: int = 3) -> Rows:
    vector = {A: number} if last else {}
    return Rows(rows=bytes([number % 256]) * size, last=last, vector=vector, committed={})


async def stop(parts: AsyncIterator[Any]) -> None:
    assert isinstance(parts, AsyncGenerator)
    await parts.aclose()


async def until(condition: Callable[[], object], what: str) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.005)
    pytest.fail(f"waited in vain until {what}")


async def request_and_answer(make_pair: MakePair) -> None:
    at_b = Script()
    pair = await make_pair(Script(), at_b)
    for bulk in (False, True):
        assert await pair.a.request(B, RENEW, timeout_s=5, bulk=bulk) == RenewAnswer(followed=True, epoch=3)
    assert at_b.heard == [(A, RENEW)] * 2


async def both_directions_over_links_that_one_side_opened(make_pair: MakePair) -> None:
    at_a = Script()
    pair = await make_pair(at_a, Script())
    assert list(pair.a.connected()) == [B]
    assert list(pair.b.connected()) == [A]
    assert await pair.b.request(A, RENEW, timeout_s=5) == RenewAnswer(followed=True, epoch=3)
    assert [part async for part in pair.b.stream(A, PULL, idle_s=5)] == [rows(0), rows(1), rows(2, last=True)]
    assert at_a.heard == [(B, RENEW), (B, PULL)]


async def every_field_arrives(make_pair: MakePair) -> None:
    at_b = Script()
    roster = Roster(genesis="g", members=(A, B), epoch=(1 << 48) - 1, version=2, writer=A, seq=1 << 62)
    vector = {A: 1 << 62, B: 0}

    async def reply(message: Any) -> Any:
        return VoteAnswer(granted=True, pre=False, epoch=9, reason="ø", vector=vector, roster=roster)

    at_b.reply = reply
    pair = await make_pair(Script(), at_b)
    answer = await pair.a.request(B, RENEW, timeout_s=5)
    assert (answer.roster, answer.vector, answer.reason) == (roster, vector, "ø")


async def many_at_once_each_get_their_own_answer(make_pair: MakePair) -> None:
    at_b = Script()
    gate = asyncio.Event()

    async def reply(message: Any) -> Any:
        if message.epoch % 2:
            await gate.wait()
        return RenewAnswer(followed=False, epoch=message.epoch)

    at_b.reply = reply
    pair = await make_pair(Script(), at_b)
    async with asyncio.TaskGroup() as group:
        asked = [
            group.create_task(pair.a.request(B, Renew(epoch=number, lease_s=1, genesis=""), timeout_s=10))
            for number in range(200)
        ]
        await until(lambda: all(task.done() for task in asked[::2]), "the even ones are answered")
        assert not any(task.done() for task in asked[1::2])
        gate.set()
    assert [task.result().epoch for task in asked] == list(range(200))


async def a_refusal_raises_the_error_that_it_names(make_pair: MakePair) -> None:
    at_b = Script()

    async def raises(message: Any) -> Any:
        raise StaleEpoch("epoch 3 is over")

    async def refuses(message: Any) -> Any:
        return Refused(code="too_large", message="17 MiB", retryable=False)

    pair = await make_pair(Script(), at_b)
    at_b.reply = raises
    with pytest.raises(StaleEpoch, match="epoch 3 is over"):
        await pair.a.request(B, RENEW, timeout_s=5)
    at_b.reply = refuses
    with pytest.raises(TooLarge, match="17 MiB"):
        await pair.a.request(B, RENEW, timeout_s=5)


async def a_bug_in_a_handler_is_an_error_and_ends_nothing(make_pair: MakePair) -> None:
    at_b = Script()

    async def breaks(message: Any) -> Any:
        raise ZeroDivisionError

    good = at_b.reply
    pair = await make_pair(Script(), at_b)
    at_b.reply = breaks
    with pytest.raises(MeshqError) as caught:
        await pair.a.request(B, RENEW, timeout_s=5)
    assert caught.value.code == "internal"
    at_b.reply = good
    assert (await pair.a.request(B, RENEW, timeout_s=5)).followed


async def no_answer_in_time_is_unreachable_and_a_late_one_is_dropped(make_pair: MakePair) -> None:
    at_b = Script()
    gate = asyncio.Event()

    async def reply(message: Any) -> Any:
        if isinstance(message, Leave):
            await gate.wait()
        return Done()

    at_b.reply = reply
    pair = await make_pair(Script(), at_b)
    with pytest.raises(Unreachable):
        await pair.a.request(B, Leave(genesis="g"), timeout_s=0.05)
    assert pair.late() == 0
    gate.set()
    await until(lambda: pair.late() == 1, "the late answer is counted")
    assert await pair.a.request(B, RENEW, timeout_s=5) == Done()


async def an_unknown_node_is_unreachable(make_pair: MakePair) -> None:
    pair = await make_pair(Script(), Script())
    with pytest.raises(Unreachable):
        await pair.a.request("f" * 32, RENEW, timeout_s=5)
    with pytest.raises(Unreachable):
        await anext(aiter(pair.a.stream("f" * 32, PULL, idle_s=5)))


async def a_cut_ends_what_waits_at_once(make_pair: MakePair) -> None:
    at_b = Script()

    async def never(message: Any) -> Any:
        await asyncio.Event().wait()

    async def one_part(message: Any) -> AsyncIterator[Any]:
        yield rows(0)
        await asyncio.Event().wait()

    at_b.reply, at_b.parts = never, one_part
    pair = await make_pair(Script(), at_b)
    parts = aiter(pair.a.stream(B, PULL, idle_s=1000))
    assert await anext(parts) == rows(0)

    async def fails(work: Awaitable[Any]) -> None:
        with pytest.raises(Unreachable):
            await work

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        group.create_task(fails(pair.a.request(B, RENEW, timeout_s=1000)))
        group.create_task(fails(anext(parts)))
        await until(lambda: len(at_b.heard) == 2, "B has heard both")
        await pair.cut()
    await until(lambda: not pair.a.connected() and not pair.b.connected(), "both have noticed")
    with pytest.raises(Unreachable):
        await pair.a.request(B, RENEW, timeout_s=5)


async def both_know_the_version_of_their_link(make_pair: MakePair) -> None:
    pair = await make_pair(Script(), Script())
    assert pair.a.version_of(B) == pair.b.version_of(A) == PROTOCOL_VERSION
    with pytest.raises(Unreachable):
        pair.a.version_of("c" * 32)
    await pair.cut()
    await until(lambda: not pair.a.connected() and not pair.b.connected(), "both have noticed")
    with pytest.raises(Unreachable):
        pair.a.version_of(B)


async def a_stream_brings_all_parts_in_order(make_pair: MakePair) -> None:
    at_b = Script()

    async def hundred(message: Any) -> AsyncIterator[Any]:
        for number in range(100):
            yield rows(number, size=100_000)

    at_b.parts = hundred
    pair = await make_pair(Script(), at_b)
    got = [part.rows[0] async for part in pair.a.stream(B, PULL, idle_s=5)]
    assert got == list(range(100))


async def a_slow_reader_slows_the_writer(make_pair: MakePair) -> None:
    at_b = Script()
    made = 0

    async def endless(message: Any) -> AsyncIterator[Any]:
        nonlocal made
        while True:
            made += 1
            yield rows(made)

    at_b.parts = endless
    pair = await make_pair(Script(), at_b)
    parts = pair.a.stream(B, PULL, idle_s=5)
    assert (await anext(aiter(parts))).rows[0] == 1
    for _ in range(20):
        # Each answer shows that B had its turn meanwhile.
        await pair.a.request(B, RENEW, timeout_s=5, bulk=True)
    assert made < 20
    await stop(parts)


async def whoever_stops_reading_ends_the_stream_at_its_source(make_pair: MakePair) -> None:
    at_b = Script()
    ended = asyncio.Event()

    async def endless(message: Any) -> AsyncIterator[Any]:
        try:
            yield rows(0)
            await asyncio.Event().wait()
        finally:
            ended.set()

    at_b.parts = endless
    pair = await make_pair(Script(), at_b)
    parts = pair.a.stream(B, PULL, idle_s=5)
    await anext(aiter(parts))
    assert not ended.is_set()
    await stop(parts)
    async with asyncio.timeout(5):
        await ended.wait()
    assert (await pair.a.request(B, RENEW, timeout_s=5)).followed


async def a_stream_without_a_part_in_time_is_unreachable(make_pair: MakePair) -> None:
    at_b = Script()

    async def one_part(message: Any) -> AsyncIterator[Any]:
        yield rows(0)
        await asyncio.Event().wait()

    at_b.parts = one_part
    pair = await make_pair(Script(), at_b)
    parts = aiter(pair.a.stream(B, PULL, idle_s=0.05))
    await anext(parts)
    with pytest.raises(Unreachable):
        await anext(parts)


async def a_stream_that_fails_raises_after_its_parts(make_pair: MakePair) -> None:
    at_b = Script()

    async def breaks(message: Any) -> AsyncIterator[Any]:
        yield rows(0)
        raise StaleEpoch("over")

    at_b.parts = breaks
    pair = await make_pair(Script(), at_b)
    parts = aiter(pair.a.stream(B, PULL, idle_s=5))
    assert await anext(parts) == rows(0)
    with pytest.raises(StaleEpoch):
        await anext(parts)


CHECKS: tuple[Callable[[MakePair], Awaitable[None]], ...] = (
    request_and_answer,
    both_directions_over_links_that_one_side_opened,
    every_field_arrives,
    many_at_once_each_get_their_own_answer,
    a_refusal_raises_the_error_that_it_names,
    a_bug_in_a_handler_is_an_error_and_ends_nothing,
    no_answer_in_time_is_unreachable_and_a_late_one_is_dropped,
    an_unknown_node_is_unreachable,
    a_cut_ends_what_waits_at_once,
    both_know_the_version_of_their_link,
    a_stream_brings_all_parts_in_order,
    a_slow_reader_slows_the_writer,
    whoever_stops_reading_ends_the_stream_at_its_source,
    a_stream_without_a_part_in_time_is_unreachable,
    a_stream_that_fails_raises_after_its_parts,
)
