"""Two clusters that meet become one: the younger one dissolves, and its nodes bring their rows into the older."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from meshq.config import Config
from meshq.core.membership import Ended
from meshq.errors import StoreError
from meshq.node import journal
from meshq.node.counters import Counters
from meshq.node.elector import Elector
from meshq.node.follower import Follower
from meshq.node.peers import Peers
from meshq.node.replicator import Replicator
from meshq.store import clusters, feed


class Union:
    """Watches for the end of this node's cluster, which only its majority's leader can decide.

    Args:
        replicator: Its roster says when the cluster is dissolved.
        follower: Knows whether this copy is up to date.
        elector: Knows who leads.
        peers: Other nodes may know that the cluster became part of theirs.
        config: Durations.
        counters: Where a failing disk is counted.
        reborn: Begins another life of this node, in the other cluster.
    """

    def __init__(
        self,
        replicator: Replicator,
        follower: Follower,
        elector: Elector,
        peers: Peers,
        config: Config,
        counters: Counters,
        reborn: Callable[[str], None],
    ) -> None:
        self.came_from: dict[str, Ended] = {}  # clusters that became part of this one, until its roster names them
        self._replicator = replicator
        self._follower = follower
        self._elector = elector
        self._peers = peers
        self._config = config
        self._counters = counters
        self._reborn = reborn

    async def load(self) -> None:
        """Takes up where this node came from, before it runs."""
        self.came_from = await self._replicator.database.read(clusters.came_from)

    async def run(self) -> None:
        """Returns when this life of the node is over."""
        while True:
            await asyncio.sleep(self._config.heartbeat_s)
            try:
                if into := self._into():
                    return await self._dissolve(into)
                if self._follower.is_synced() or self._elector.leads():
                    await self._forget_known()
            except StoreError as error:
                # Nothing has happened then, and the disk may have room again in a moment.
                self._counters.add("union_failed", str(error))

    async def _forget_known(self) -> None:
        """What the roster names as a part of this cluster needs to be told no longer."""
        absorbed = self._replicator.roster.absorbed
        unknown = {genesis: ended for genesis, ended in self.came_from.items() if genesis not in absorbed}
        if unknown != self.came_from:
            await self._replicator.database.write(lambda conn: clusters.note_came_from(conn, unknown))
            self.came_from = unknown

    async def _dissolve(self, into: str) -> None:
        if self._elector.leads():
            # The followers learn with their next pulls that the end is committed.
            await asyncio.sleep(2 * self._config.pull_wait_s + self._config.heartbeat_s)
        genesis = self._replicator.roster.genesis
        journal.tell("dissolved", f"cluster {genesis[-8:]} becomes part of {into[-8:]}", genesis=genesis, into=into)
        # What this life still wrote afterwards would be of a cluster that is no more.
        await self._replicator.gate.quiesce(for_good=True)
        try:
            await self._replicator.database.write(lambda conn: feed.dissolve(conn, into, self._replicator.me))
        except StoreError:
            self._replicator.gate.resume(for_good=True)
            raise
        self._reborn(f"this cluster became part of {into[-8:]}")

    def _into(self) -> str:
        roster = self._replicator.roster
        if not roster.genesis:
            return ""
        if roster.into:
            if self._replicator.committed.get(roster.writer, 0) >= roster.seq:
                return roster.into
            # The leader may have gone before it told this node. Who holds the very row that ended the cluster, by a
            # whole pull, holds all that was shown there: it brings nothing else than those who went before.
            whole = self._replicator.vector.get(roster.writer, 0) >= roster.seq
            if whole and self._peers.ended(roster.genesis, roster.epoch):
                return roster.into
        return self._peers.absorber(roster.genesis)
