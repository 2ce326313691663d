"""Brings submits that waited in the outbox to whichever node leads."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

from meshq.core.ports import Clock
from meshq.core.requests import Submit, TaskSpec
from meshq.errors import MeshqError, Undecided
from meshq.node import journal
from meshq.node.counters import Counters
from meshq.node.elector import Elector
from meshq.node.gateway import Gateway
from meshq.store.outbox import Outbox

BATCH_TASKS = 1000
# The leader looks at all arguments before it answers, and is waited for.
BATCH_BYTES = 1 << 20
BACKOFF_S_MIN = 1.0
BACKOFF_S_MAX = 20.0
IDLE_S = 1.0


class Courier:
    """Delivers, with backoff from 1 to 20 s; at once when the leader changes.

    Args:
        outbox: Where the submits wait.
        gateway: The way to the leader.
        elector: Tells that the leader changed.
        clock: Chance.
        counters: Where failures are counted.
    """

    def __init__(self, outbox: Outbox, gateway: Gateway, elector: Elector, clock: Clock, counters: Counters) -> None:
        self._outbox = outbox
        self._gateway = gateway
        self._elector = elector
        self._clock = clock
        self._counters = counters

    async def run(self) -> None:
        """Delivers for ever."""
        backoff_s = BACKOFF_S_MIN
        while True:
            count = self._elector.changed.count
            leader = self._elector.leader()
            try:
                delivered = await self._deliver() if leader else 0
            except MeshqError as error:
                self._counters.add("delivery_failed", str(error))
                await self._wait(leader, backoff_s * (0.5 + self._clock.random() / 2))
                backoff_s = min(backoff_s * 2, BACKOFF_S_MAX)
                continue
            backoff_s = BACKOFF_S_MIN
            if not delivered:
                await self._elector.changed.after(count, IDLE_S)

    async def _deliver(self) -> int:
        entries = _beginning(await self._outbox.submits(BATCH_TASKS))
        try:
            await self._hand_in(entries)
            return len(entries)
        except Undecided as error:
            self._counters.add("delivery_undecided", str(error))
        # Of some names it can't be said yet whether a worker knows them: they keep none of the others waiting.
        delivered = 0
        for name in dict.fromkeys(spec.name for _, spec in entries):
            alike = [entry for entry in entries if entry[1].name == name]
            try:
                await self._hand_in(alike)
                delivered += len(alike)
            except Undecided as error:
                last = error
        if not delivered:
            raise last
        return delivered

    async def _hand_in(self, entries: Sequence[tuple[int, TaskSpec]]) -> None:
        if entries:
            await self._gateway.lead(Submit(tasks=tuple(spec for _, spec in entries), late=True))
            await self._outbox.drop([entry for entry, _ in entries])
            what = "a task" if len(entries) == 1 else f"{len(entries)} tasks"
            journal.tell("delivered", f"delivered {what} that waited here", tasks=len(entries))

    async def _wait(self, leader: str | None, wait_s: float) -> None:
        deadline = self._clock.boot_s() + wait_s
        while self._elector.leader() == leader and (left_s := deadline - self._clock.boot_s()) > 0:
            await self._elector.changed.after(self._elector.changed.count, left_s)


def _beginning(entries: Sequence[tuple[int, TaskSpec]]) -> Sequence[tuple[int, TaskSpec]]:
    """The first of them, of which at most the last one goes beyond a batch's size."""
    sizes = accumulate(len(spec.payload) for _, spec in entries)
    return entries[: bisect_left([*sizes], BATCH_BYTES) + 1]
