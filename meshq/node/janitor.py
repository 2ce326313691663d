"""The leader's broom: finished tasks become tombstones after their time, and old tombstones are dropped.

One that is kept for no time at all goes with the first look that finds it finished for purge.SPARED_MS and committed:
until then whoever waits for it is answered. A new leader looks only after it has led for as long.
"""

from __future__ import annotations

import asyncio

from meshq.config import Config
from meshq.core.ports import Clock
from meshq.core.split import Term
from meshq.node.counters import Counters
from meshq.node.replicator import Replicator
from meshq.store import purge

LOOK_S = 5.0  # purging looks at no more rows than it purges
SWEEP_S = 60.0
BATCH_TASKS = 1000


class Janitor:
    """Sweeps under one leadership of a majority.

    Args:
        term: The leadership.
        replicator: Writes, and knows what is committed.
        clock: The wall clock, by which tasks grow old.
        config: How long they are kept.
        counters: Where purged tasks and dropped tombstones are counted.
    """

    def __init__(self, term: Term, replicator: Replicator, clock: Clock, config: Config, counters: Counters) -> None:
        self._term = term
        self._replicator = replicator
        self._clock = clock
        self._config = config
        self._counters = counters

    async def run(self) -> None:
        """Sweeps until it is cancelled."""
        await asyncio.sleep(purge.SPARED_MS / 1000)
        swept_at = self._clock.boot_s()
        while True:
            while await self._purge() == BATCH_TASKS:
                pass
            if self._clock.boot_s() - swept_at >= SWEEP_S:
                await self._drop()
                swept_at = self._clock.boot_s()
            await asyncio.sleep(LOOK_S)

    async def _purge(self) -> int:
        before_ms = self._clock.wall_ms() - int(self._config.keep_finished_s * 1000)
        now_ms, committed = self._clock.wall_ms(), dict(self._replicator.committed)
        purged, _ = await self._replicator.write(
            self._term,
            lambda conn, pen: purge.purge(conn, pen, before_ms, now_ms=now_ms, committed=committed, limit=BATCH_TASKS),
        )
        if purged:
            self._counters.add("tasks_purged", count=len(purged))
        return len(purged)

    async def _drop(self) -> None:
        before_ms = self._clock.wall_ms() - int(self._config.keep_tombstones_s * 1000)
        committed = dict(self._replicator.committed)
        dropped, _ = await self._replicator.write(
            self._term, lambda conn, pen: purge.drop_tombstones(conn, pen, before_ms, committed=committed)
        )
        if dropped:
            self._counters.add("tombstones_dropped", count=dropped)
            await self._replicator.reload_dropped()
