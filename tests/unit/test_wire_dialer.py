"""Whom strangers tell of is called, but never so many at once that others are not."""

from __future__ import annotations

import asyncio
from typing import cast

from meshq.core.limits import CALLS_MAX, COUNTERS_MAX, HINTS_MAX, UNPROVED_MAX
from meshq.node.counters import Counters
from meshq.wire.dialer import Dialer, Socket
from meshq.wire.handshake import KINDS
from tests.unit.wire_node import LoopClock

FRIEND = "f" * 32


class Board:
    """Links of which nobody answers, but those that are open already."""

    def __init__(self) -> None:
        self.calls: dict[str, int] = {}
        self.under_way = self.most = 0
        self.linked: set[str] = set()

    def missing(self, node: str) -> list[str]:
        return [] if node in self.linked else [*KINDS]

    async def connect(self, address: str, kind: str) -> Socket:
        self.calls[address] = self.calls.get(address, 0) + 1
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await asyncio.sleep(0.2)
        finally:
            self.under_way -= 1
        raise OSError("nobody")

    async def greet_out(self, socket: Socket, address: str, kind: str) -> str | None:
        raise AssertionError("nobody answered")


async def test_nodes_that_strangers_tell_of_are_called_in_turn_and_the_newest_only() -> None:
    board, tasks = Board(), list[asyncio.Task[None]]()
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:

        def spawn(work: object) -> asyncio.Task[None]:
            assert asyncio.iscoroutine(work)
            tasks.append(group.create_task(work))
            return tasks[-1]

        dialer = Dialer("0" * 32, board, LoopClock(), spawn)
        dialer.start()
        board.linked.add(FRIEND)
        dialer.dial(FRIEND, ["friend:1"])
        dialer.dial(None, ["seed:1"])
        for number in range(UNPROVED_MAX + 50):
            dialer.dial(f"{number:032x}", [f"{number}:{port}" for port in range(3)])
        while len(board.calls) < 2 * UNPROVED_MAX:
            await asyncio.sleep(0.05)
        assert board.most == CALLS_MAX
        living = [task for task in tasks if not task.done()]
        # The friend, the seed, and as many others as are allowed.
        assert len(living) == UNPROVED_MAX + 2
        assert board.calls["seed:1"]
        # The friend was not forgotten, though it was told first.
        board.linked.discard(FRIEND)
        dialer.on_change()
        while "friend:1" not in board.calls:
            await asyncio.sleep(0.05)
        for task in living:
            task.cancel()


class Friendly(Board):
    """Links of which one node answers, at one address."""

    async def connect(self, address: str, kind: str) -> Socket:
        if address != "friend:1":
            return await super().connect(address, kind)
        self.calls[address] = self.calls.get(address, 0) + 1
        return cast(Socket, object())

    async def greet_out(self, socket: Socket, address: str, kind: str) -> str | None:
        self.linked.add(FRIEND)
        return FRIEND


async def test_addresses_that_strangers_tell_take_no_place_of_the_one_that_was_proved() -> None:
    board = Friendly()
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        dialer = Dialer("0" * 32, board, LoopClock(), group.create_task)
        dialer.start()
        dialer.dial(FRIEND, ["friend:1"])
        while FRIEND not in board.linked:
            await asyncio.sleep(0.01)
        dialer.dial(FRIEND, [f"stranger:{number}" for number in range(HINTS_MAX)])
        board.calls.clear()
        board.linked.discard(FRIEND)
        dialer.on_change()
        while FRIEND not in board.linked:
            await asyncio.sleep(0.01)
        dialer.forget(FRIEND)
    assert board.calls["friend:1"]


def test_names_of_counters_that_others_make_up_are_bounded() -> None:
    counters = Counters()
    counters.add("known")
    for number in range(COUNTERS_MAX + 100):
        counters.add(f"vote_refused_{number}")
    counters.add("known")
    assert len(counters.all()) == COUNTERS_MAX + 1
    assert (counters["known"], counters["others"]) == (2, 101)
