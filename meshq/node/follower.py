"""Following: a long poll at whoever leads, for ever."""

from __future__ import annotations

from meshq.config import Config
from meshq.core.ports import Clock
from meshq.errors import Conflict, MeshqError
from meshq.node.counters import Counters
from meshq.node.elector import Elector
from meshq.node.replicator import Replicator

BACKOFF_S = 0.2


class Follower:
    """Keeps this copy up to date.

    Args:
        replicator: Pulls and merges.
        elector: Knows whom to follow.
        clock: The lease clock.
        config: Durations, and whether this node holds a copy at all.
        counters: Where failed pulls are counted.
    """

    def __init__(
        self, replicator: Replicator, elector: Elector, clock: Clock, config: Config, counters: Counters
    ) -> None:
        self._replicator = replicator
        self._elector = elector
        self._clock = clock
        self._config = config
        self._counters = counters
        self._synced_at = float("-inf")
        self._synced_with = ""

    def is_synced(self) -> bool:
        """Whether this copy lately held all that its leader's did."""
        fresh = self._clock.boot_s() - self._synced_at < 2 * self._config.lease_s
        return fresh and self._synced_with == self._elector.leader()

    async def run(self) -> None:
        """Pulls from whoever leads until it is cancelled."""
        while True:
            count = self._elector.changed.count
            leader = self._elector.leader()
            if leader is None or leader == self._replicator.me or not self._copies_here():
                await self._elector.changed.after(count, 1.0)
                continue
            try:
                await self._replicator.fetch(leader, wait_s=self._config.pull_wait_s)
                self._synced_at, self._synced_with = self._clock.boot_s(), leader
            except Conflict as error:
                self._counters.add("pull_refused", str(error))
                await self._elector.changed.after(count, 5 * self._config.pull_wait_s)
            except MeshqError as error:
                self._counters.add("pull_failed", str(error))
                await self._elector.changed.after(count, BACKOFF_S * (0.5 + self._clock.random()))

    def _copies_here(self) -> bool:
        replicator = self._replicator
        member = replicator.me in replicator.roster.members
        return self._config.replica != "never" or member or bool(replicator.vector)
