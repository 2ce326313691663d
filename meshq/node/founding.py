"""The first start: join a cluster that is there, or found one together with other fresh nodes."""

from __future__ import annotations

import asyncio

from meshq.config import Config
from meshq.core.ids import short, uuid7
from meshq.core.membership import Roster, founder
from meshq.core.ports import Clock
from meshq.errors import StoreError
from meshq.node import journal
from meshq.node.peers import Peers
from meshq.node.replicator import Replicator
from meshq.store import feed
from meshq.store.database import Connection

LOOK_S = 0.1
FAILED_S = 10.0


class Founding:
    """Decides when a fresh node founds a cluster, and does it.

    Args:
        me: This node's id.
        replicator: Where the roster is.
        peers: Who is reachable.
        clock: Lease clock and ids.
        config: How long to look for others.
        announced: Set when others can find this node; the wait counts from then.
    """

    def __init__(
        self,
        me: str,
        replicator: Replicator,
        peers: Peers,
        clock: Clock,
        config: Config,
        announced: asyncio.Event,
    ) -> None:
        self._me = me
        self._replicator = replicator
        self._peers = peers
        self._clock = clock
        self._config = config
        self._announced = announced

    async def run(self) -> None:
        """Returns when this node belongs to a cluster."""
        await self._announced.wait()
        announced_at = self._clock.boot_s()
        while not self._replicator.roster.genesis:
            if self._may_found(self._clock.boot_s() - announced_at):
                try:
                    await self._found()
                except StoreError as error:
                    journal.warn("not_founded", f"no cluster can be founded here: {error}")
                    await asyncio.sleep(FAILED_S)
            await asyncio.sleep(LOOK_S)

    def _may_found(self, waited_s: float) -> bool:
        if self._config.replica == "never" or self._peers.settled():
            # A cluster that is there takes this node up by itself: its leader renews to everybody it reaches.
            return False
        fresh = self._peers.fresh()
        # With seeds and nobody reached yet there is somebody to wait for, though not for ever.
        alone_s = self._config.seed_wait_s if self._config.seeds and not fresh else self._config.found_wait_s
        return waited_s >= alone_s and founder(self._me, fresh) == self._me

    async def _found(self) -> None:
        genesis = uuid7(self._clock.wall_ms(), self._clock.random_bits(74))

        def work(conn: Connection) -> bool:
            if feed.read_roster(conn).genesis:
                return False
            seq = feed.take_seqs(conn, self._me, 1)
            roster = Roster(genesis=genesis, members=(self._me,), version=1, writer=self._me, seq=seq)
            feed.upsert_roster(conn, roster)
            return True

        if await self._replicator.database.write(work):
            await self._replicator.reload()
            journal.tell("founded", f"founded cluster {self._config.cluster} ({short(genesis)})", genesis=genesis)
