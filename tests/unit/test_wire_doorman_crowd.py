"""Many strangers before the door: what they may take, and that whoever has the key gets in meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import Counter
from contextlib import closing, suppress

from meshq.core.limits import CALLS_AT_ONCE, CALLS_PER_S, PROOFS_AT_ONCE, PROOFS_MAX, PROOFS_PER_S, WAITING_MAX
from tests.unit.wire_door import (
    GREETING,
    client_context,
    counted,
    is_closed,
    opened,
    resets,
    until,
)


async def test_silent_strangers_make_room_the_oldest_of_the_greediest_first() -> None:
    async with opened(handshake_s=60.0) as door:
        modest = [door.stranger("127.0.0.2") for _ in range(3)]
        await asyncio.sleep(0.2)
        greedy = []
        for _ in range(WAITING_MAX + 20):
            greedy.append(door.stranger("127.0.0.3"))
            await asyncio.sleep(0)
        await until(lambda: door.counts["stranger_pushed_out"] == 23)
        gone = [is_closed(stranger) for stranger in greedy]
        assert (gone[:23], any(gone[23:])) == ([True] * 23, False)
        assert not any(map(is_closed, modest))
        # And whoever has the key gets in.
        reader, writer = await door.enter(client_context(), "127.0.0.4")
        assert await reader.readexactly(len(GREETING)) == GREETING
        assert door.counts == {"stranger_pushed_out": 24}
        writer.close()
        for stranger in (*modest, *greedy):
            stranger.close()


async def test_a_stranger_with_many_addresses_keeps_nobody_out_who_was_in_before() -> None:
    asked = Counter[str]()
    async with opened(handshake_s=60.0, context=counted(asked)) as door:
        reader, writer = await door.enter(client_context(), "127.0.0.4")
        assert await reader.readexactly(len(GREETING)) == GREETING
        writer.close()
        with contextlib.ExitStack() as left:
            for number in range(400):
                stranger = left.enter_context(closing(door.stranger(f"127.0.{1 + number // 250}.{1 + number % 250}")))
                stranger.sendall(b"\x16")
            # All of them came before it, and its turn is the next one.
            reader, writer = await door.enter(client_context(), "127.0.0.4")
            assert await reader.readexactly(len(GREETING)) == GREETING
            assert asked["proofs"] < 300
            writer.close()


async def test_who_proves_something_is_not_pushed_out_by_those_who_say_nothing() -> None:
    asked = Counter[str]()
    async with opened(handshake_s=60.0, context=counted(asked)) as door:
        with contextlib.ExitStack() as left:
            slow = left.enter_context(closing(door.stranger()))
            slow.sendall(b"\x16")
            await until(lambda: asked["proofs"])
            for _ in range(WAITING_MAX + 10):
                left.enter_context(closing(door.stranger()))
                await asyncio.sleep(0)
            await until(lambda: door.counts["stranger_pushed_out"] == 10)
            assert not is_closed(slow)


async def test_an_address_that_calls_too_often_is_hung_up_on_and_soon_gets_in_again() -> None:
    async with opened() as door:
        for number in range(CALLS_AT_ONCE * 2):
            resets(door.stranger("127.0.0.2"))
            if number % 500 == 0:
                # What waits to be accepted has a bound of the system's.
                await until(lambda number=number: sum(door.counts.values()) >= number - 500)
        await until(lambda: door.counts["stranger_too_often"])
        reader, writer = await door.enter(client_context(), "127.0.0.3")
        assert await reader.readexactly(len(GREETING)) == GREETING
        writer.close()
        began_s, said = asyncio.get_running_loop().time(), b""
        while not said:
            with suppress(ConnectionError, ssl.SSLError, asyncio.IncompleteReadError):
                reader, writer = await door.enter(client_context(), "127.0.0.2")
                said = await reader.readexactly(len(GREETING))
        assert asyncio.get_running_loop().time() - began_s < 5 / CALLS_PER_S + 1.0
        writer.close()


async def test_proofs_are_begun_in_turns_of_the_addresses_and_not_too_many_a_second() -> None:
    asked = Counter[str]()
    async with opened(handshake_s=60.0, context=counted(asked)) as door:
        loop = asyncio.get_running_loop()
        began_s, count = loop.time(), PROOFS_AT_ONCE + int(PROOFS_PER_S)
        with contextlib.ExitStack() as left:
            for _ in range(count):
                stranger = left.enter_context(closing(door.stranger("127.0.0.2")))
                stranger.sendall(b"\x16")
                await asyncio.sleep(0)
            behind = count - asked["proofs"]
            reader, writer = await door.enter(client_context(), "127.0.0.3")
            assert await reader.readexactly(len(GREETING)) == GREETING
            # Its turn came long before those were through who had called before it.
            assert behind > 20
            assert count + 1 - asked["proofs"] > behind / 2
            writer.close()
            await until(lambda: asked["proofs"] == count + 1)
            assert asked["proofs"] <= PROOFS_AT_ONCE + 1 + PROOFS_PER_S * (loop.time() - began_s)
            assert door.counts == {"stranger_pushed_out": count - PROOFS_MAX}


async def test_two_hundred_slow_strangers_and_one_caller_who_does_not_notice() -> None:
    async with opened(handshake_s=30.0) as door:
        slow = [await door.enter(None, "127.0.0.2") for _ in range(200)]
        loop = asyncio.get_running_loop()
        for number in range(20):
            for _, writer in slow:
                writer.write(b"\x16\x03\x01\x02\x00"[number % 5 :][:1] if number < 5 else b"\x00")
            began_s = loop.time()
            reader, writer = await door.enter(client_context())
            assert await reader.readexactly(len(GREETING)) == GREETING
            assert loop.time() - began_s < 1.0
            writer.close()
        for _, writer in slow:
            writer.close()


async def test_where_nobody_proves_anything_a_rush_of_callers_gets_in() -> None:
    async with opened(context=None) as door:
        callers = [door.stranger("127.0.0.2") for _ in range(WAITING_MAX - 20)]
        await until(lambda: len(door.inside) == len(callers))
        assert door.counts == {}
        for caller in callers:
            caller.close()
