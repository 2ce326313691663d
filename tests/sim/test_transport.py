"""The simulated transport: the contract of the real one, and how crashes, cuts, pauses and losses show."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import pytest

from meshq.core.messages import Rows
from meshq.core.ports import Handler
from meshq.errors import Unreachable
from tests.sim.loop import Process, VirtualLoop
from tests.sim.network import LOOK_S, REDIAL_S, SILENCE_S, Network, SimTransport, Weather
from tests.unit import transport_contract as contract
from tests.unit.transport_contract import PULL, RENEW, A, B, Script, rows, stop, until

# By how much a test may see later what happens at a link: two looks, a message and its own.
LATE_S = 2 * LOOK_S + 0.02


class SimPair:
    """Two processes on a network of their own."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop = loop
        self.network = Network(loop, random.Random(7))
        self.processes = Process("a"), Process("b")
        self.a, self.b = (
            SimTransport(self.network, node, process) for node, process in zip((A, B), self.processes, strict=True)
        )

    async def connect(self, at_a: Handler, at_b: Handler) -> None:
        self.a.listen(at_a)
        self.b.listen(at_b)
        await until(lambda: self.a.connected() and self.b.connected(), "they are linked")

    async def cut(self) -> None:
        self.network.isolate(B)

    def late(self) -> int:
        return self.a.counters["late_answer"]

    def crash_b(self) -> None:
        self.processes[1].dead = True
        self.network.look()

    async def took_s(self, condition: Callable[[], object], what: str) -> float:
        since_s = self.loop.now
        await until(condition, what)
        return self.loop.now - since_s


Story = Callable[[SimPair], Coroutine[Any, Any, None]]


def run(story: Story) -> None:
    """Runs a story to its end in virtual time, then ends everything that it left."""
    loop = VirtualLoop()
    pair = SimPair(loop)

    async def whole() -> None:
        async with asyncio.timeout(300):
            await story(pair)

    try:
        loop.run_until_complete(whole())
    finally:
        pair.network.close()
        loop.revive(list(pair.processes))
        left = [task for task in loop.tasks if not task.done()]
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.__name__)
def test_the_twin_keeps_the_contract(check: Callable[[contract.MakePair], Awaitable[None]]) -> None:
    async def story(pair: SimPair) -> None:
        async def make(at_a: Handler, at_b: Handler) -> contract.Pair:
            await pair.connect(at_a, at_b)
            return pair

        await check(make)

    run(story)


def never_answers() -> Script:
    script = Script()

    async def never(message: Any) -> Any:
        await asyncio.Event().wait()

    script.reply = never
    return script


async def fails(work: Awaitable[Any]) -> None:
    with pytest.raises(Unreachable):
        await work


def test_a_crash_is_known_at_once_to_whoever_waits() -> None:
    async def story(pair: SimPair) -> None:
        at_b = never_answers()
        await pair.connect(Script(), at_b)
        waiting = pair.loop.create_task(fails(pair.a.request(B, RENEW, timeout_s=100)))
        await until(lambda: at_b.heard, "B has it")
        pair.crash_b()
        assert await pair.took_s(waiting.done, "the request has failed") < 0.01
        assert pair.a.connected() == []

    run(story)


def test_nothing_of_a_dead_process_runs_not_even_its_cleaning_up() -> None:
    async def story(pair: SimPair) -> None:
        at_b, ended = Script(), []

        async def endless(message: Any) -> AsyncIterator[Any]:
            try:
                yield rows(0)
                await asyncio.Event().wait()
            finally:
                ended.append(pair.processes[1].dead)

        at_b.parts = endless
        await pair.connect(Script(), at_b)
        parts = pair.a.stream(B, PULL, idle_s=100)
        await anext(parts)
        pair.crash_b()
        await fails(anext(parts))
        await until(lambda: pair.a.connected() == [], "A has noticed")
        assert ended == []

    run(story)


def test_a_process_that_starts_again_is_called_again() -> None:
    async def story(pair: SimPair) -> None:
        await pair.connect(Script(), Script())
        pair.crash_b()
        await until(lambda: pair.a.connected() == [], "A has noticed")
        again = SimTransport(pair.network, B, Process("b"))
        again.listen(Script())
        took_s = await pair.took_s(pair.a.connected, "A is linked to the new one")
        assert REDIAL_S[0] <= took_s <= REDIAL_S[1] + LATE_S
        assert (await pair.a.request(B, RENEW, timeout_s=1)).followed
        assert pair.b.connected() == [A], "the dead one has learnt nothing"

    run(story)


def test_a_cut_is_silent_at_first_and_a_link_comes_back_when_it_is_mended() -> None:
    async def story(pair: SimPair) -> None:
        await pair.connect(Script(), Script())
        await pair.cut()
        with pytest.raises(Unreachable, match="did not answer"):
            await pair.a.request(B, RENEW, timeout_s=1)
        assert pair.a.connected() == [B]
        took_s = 1 + await pair.took_s(lambda: not pair.a.connected() and not pair.b.connected(), "both have noticed")
        assert SILENCE_S <= took_s <= SILENCE_S + LATE_S
        pair.network.heal()
        took_s = await pair.took_s(lambda: pair.a.connected() and pair.b.connected(), "they are linked again")
        assert REDIAL_S[0] <= took_s <= REDIAL_S[1] + LATE_S
        assert (await pair.b.request(A, RENEW, timeout_s=1)).followed

    run(story)


def test_a_short_cut_costs_only_what_was_sent_meanwhile() -> None:
    async def story(pair: SimPair) -> None:
        at_b = never_answers()
        await pair.connect(Script(), at_b)
        waiting = pair.loop.create_task(fails(pair.a.request(B, RENEW, timeout_s=7)))
        await until(lambda: at_b.heard, "B has it")
        await pair.cut()
        await asyncio.sleep(SILENCE_S - LATE_S)
        pair.network.heal()
        # The link is the same one all the time: what waits on it still waits, until its own time is up.
        assert 7 - SILENCE_S <= await pair.took_s(waiting.done, "its time is up") < 7
        assert list(pair.a.connected()) == [B]

    run(story)


def test_a_one_way_cut_ends_the_link_at_both_ends() -> None:
    async def story(pair: SimPair) -> None:
        await pair.connect(Script(), Script())
        pair.network.cuts.add((A, B))
        took_s = await pair.took_s(lambda: not pair.b.connected(), "B hears nothing any more")
        assert SILENCE_S <= took_s <= SILENCE_S + LATE_S
        # B closes its end, and of that A does hear.
        assert await pair.took_s(lambda: not pair.a.connected(), "A is told") <= LATE_S

    run(story)


def test_a_paused_process_is_silence_and_answers_late_after_a_short_pause() -> None:
    async def story(pair: SimPair) -> None:
        await pair.connect(Script(), Script())
        paused = pair.processes[1]
        paused.paused = True
        await fails(pair.a.request(B, RENEW, timeout_s=1))
        assert pair.late() == 0
        pair.loop.let_go(paused)
        await until(lambda: pair.late() == 1, "the late answer is counted")
        paused.paused = True
        took_s = await pair.took_s(lambda: not pair.a.connected(), "the silence is noticed")
        assert SILENCE_S <= took_s <= SILENCE_S + LATE_S
        assert list(pair.b.connected()) == [A], "who sleeps notices nothing"
        pair.loop.let_go(paused)
        await until(lambda: not pair.b.connected(), "it is told when it wakes")
        await until(lambda: pair.a.connected() and pair.b.connected(), "they are linked again")

    run(story)


def test_a_lost_part_fails_the_stream_and_ends_it_at_its_source() -> None:
    async def story(pair: SimPair) -> None:
        at_b, ended = Script(), asyncio.Event()

        async def endless(message: Any) -> AsyncIterator[Any]:
            try:
                for number in range(1_000_000):
                    yield rows(number)
            finally:
                ended.set()

        at_b.parts = endless
        await pair.connect(Script(), at_b)
        pair.network.tap = lambda sender, to, message: not (isinstance(message, Rows) and message.rows[0] == 2)
        parts = pair.a.stream(B, PULL, idle_s=5)
        assert [await anext(parts), await anext(parts)] == [rows(0), rows(1)]
        with pytest.raises(Unreachable, match="part 2"):
            await anext(parts)
        await until(ended.is_set, "its source has ended")

    run(story)


def test_a_cancel_gets_through_when_a_short_cut_is_over() -> None:
    async def story(pair: SimPair) -> None:
        at_b, ended = Script(), asyncio.Event()

        async def endless(message: Any) -> AsyncIterator[Any]:
            try:
                yield rows(0)
                await asyncio.Event().wait()
            finally:
                ended.set()

        at_b.parts = endless
        await pair.connect(Script(), at_b)
        parts = pair.a.stream(B, PULL, idle_s=5)
        await anext(parts)
        await pair.cut()
        await stop(parts)
        await asyncio.sleep(1)
        assert not ended.is_set()
        pair.network.heal()
        await until(ended.is_set, "its source has ended")
        assert list(pair.a.connected()) == [B]

    run(story)


def test_weather_loses_and_doubles_messages_but_parts_keep_their_order() -> None:
    async def story(pair: SimPair) -> None:
        at_b = Script()

        async def hundred(message: Any) -> AsyncIterator[Any]:
            for number in range(100):
                yield rows(number)

        at_b.parts = hundred
        await pair.connect(Script(), at_b)
        pair.network.weather = Weather(loss=0.0, double=1.0, delay_s_min=0.001, delay_s_max=0.2)
        assert (await pair.a.request(B, RENEW, timeout_s=5)).followed
        assert [part.rows[0] async for part in pair.a.stream(B, PULL, idle_s=5)] == list(range(100))
        await until(lambda: len(at_b.heard) == 3, "B has heard the request twice and the stream's once")
        await until(lambda: pair.late() == 3, "both answers came twice, and one was taken")
        pair.network.weather = Weather(loss=1.0)
        await fails(pair.a.request(B, RENEW, timeout_s=5))
        assert len(at_b.heard) == 3

    run(story)


def test_a_bug_in_a_handler_is_told_to_the_world() -> None:
    async def story(pair: SimPair) -> None:
        at_b = Script()

        async def breaks(message: Any) -> Any:
            raise ZeroDivisionError("as asked")

        at_b.reply = breaks
        await pair.connect(Script(), at_b)
        with pytest.raises(Exception, match="went wrong"):
            await pair.a.request(B, RENEW, timeout_s=5)
        assert pair.network.bugs == ["ZeroDivisionError('as asked')"]

    run(story)
