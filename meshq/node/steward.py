"""The leader's care for the roster: one replica more or less at a time, each change committed before the next."""

from __future__ import annotations

from meshq.config import Config
from meshq.core.membership import Candidate, Roster, next_change
from meshq.errors import NotLeader
from meshq.node import journal
from meshq.node.elector import Elector
from meshq.node.peers import Peers
from meshq.node.replicator import Replicator
from meshq.node.signal import Signal
from meshq.store import feed


class Steward:
    """Changes the roster under one leadership, after its first write is committed.

    Args:
        epoch: The leadership.
        replicator: Writes, and knows which copies are in sync.
        elector: Knows who is alive.
        peers: Knows who votes.
        config: The number of replicas.
    """

    def __init__(self, epoch: int, replicator: Replicator, elector: Elector, peers: Peers, config: Config) -> None:
        self._me = replicator.me
        self._epoch = epoch
        self._replicator = replicator
        self._elector = elector
        self._peers = peers
        self._config = config
        self._leaving: dict[str, str] = {}  # node -> the boot of it that stops
        self._changed = Signal()

    async def run(self) -> None:
        """Watches for changes until it is cancelled."""
        while True:
            count = self._changed.count
            roster = next_change(self._replicator.roster, self._me, self._candidates(), self._config.replicas)
            if roster is None:
                await self._changed.after(count, self._config.heartbeat_s)
                continue
            try:
                await self._change(roster)
            except NotLeader:
                return

    async def leave(self, node: str) -> None:
        """Takes a node off the roster that stops in order; returns when that is committed.

        Raises:
            NotLeader: The leadership ended before.
        """
        self._leaving[node] = self._peers.boot_of(node)
        self._changed.notify()
        while node in self._replicator.roster.members and len(self._replicator.roster.members) > 1:
            count = self._changed.count
            await self._changed.after(count, self._config.heartbeat_s)
            self._replicator.pen()

    async def _change(self, roster: Roster) -> None:
        before = self._replicator.roster
        _, seq = await self._replicator.write(self._epoch, lambda conn, pen: feed.write_roster(conn, pen, roster))
        await self._replicator.commit(seq)
        for node in sorted({*roster.members} ^ {*before.members}):
            joined = node in roster.members
            verb = "joined" if joined else "left"
            text = f"{self._peers.name_of(node)} {verb}: {len(roster.members)} of {self._config.replicas} replicas"
            journal.tell(verb, text, node=node, replicas=len(roster.members))
        self._changed.notify()

    def _candidates(self) -> list[Candidate]:
        nodes = {*self._replicator.copies, *self._replicator.roster.members} - {self._me}
        return [self._candidate(node) for node in sorted(nodes)]

    def _candidate(self, node: str) -> Candidate:
        peer = self._peers.book.get(node)
        hello = peer.hello if peer is not None else None
        return Candidate(
            node=node,
            in_sync=self._replicator.in_sync(node),
            alive=self._elector.alive(node),
            leaving=node in self._leaving and self._leaving[node] == self._peers.boot_of(node),
            votes=hello is not None and hello.votes and not hello.stopping,
        )
