"""The leader's care for the roster: one replica more or less at a time, each change committed before the next."""

from __future__ import annotations

from dataclasses import replace

from meshq.config import Config
from meshq.core import quorum
from meshq.core.membership import Candidate, Roster, can_do_without, next_change
from meshq.core.ports import Clock
from meshq.core.split import Term
from meshq.errors import Conflict, NotLeader
from meshq.node import journal
from meshq.node.elector import Elector
from meshq.node.peers import Peers
from meshq.node.replicator import Replicator
from meshq.node.signal import Signal
from meshq.store import feed

ABSORBED_MAX = 16


class Steward:
    """Changes the roster under one leadership, after its first write is committed.

    Args:
        term: The leadership.
        replicator: Writes, and knows which copies are in sync.
        elector: Knows who is alive.
        peers: Knows who votes, and what others say.
        clock: The lease clock.
        config: The number of replicas.
    """

    def __init__(
        self, term: Term, replicator: Replicator, elector: Elector, peers: Peers, clock: Clock, config: Config
    ) -> None:
        self._me = replicator.me
        self._term = term
        self._replicator = replicator
        self._elector = elector
        self._peers = peers
        self._clock = clock
        self._config = config
        self._since = clock.boot_s()
        self._leaving: dict[str, str] = {}  # node -> the boot of it that stops
        self._forgotten: set[str] = set()
        self._changed = Signal()

    async def run(self) -> None:
        """Watches for changes until it is cancelled."""
        while True:
            count = self._changed.count
            roster = self._next()
            if roster is None:
                await self._changed.after(count, self._config.heartbeat_s)
                continue
            try:
                await self._change(roster)
            except NotLeader:
                return

    def _next(self) -> Roster | None:
        roster = self._replicator.roster
        if roster.into:
            return None  # this cluster is being dissolved
        if into := self._peers.elder_cluster(roster.genesis):
            return replace(roster, into=into, version=roster.version + 1)
        # Not before: it lets in who was cut off meanwhile, and what a majority had shown has to be here first.
        if new := sorted(self._peers.came_home() - {*roster.absorbed, roster.genesis}):
            absorbed = (*roster.absorbed, *new)[-ABSORBED_MAX:]
            return replace(roster, absorbed=absorbed, version=roster.version + 1)
        return next_change(roster, self._me, self._candidates(), self._config.replicas)

    async def leave(self, node: str) -> None:
        """Takes a node off the roster that stops in order; returns when that is committed.

        Raises:
            Conflict: Too few of the others are there.
            NotLeader: The leadership ended before.
        """
        roster = self._replicator.roster
        if node in roster.members and not can_do_without(roster, self._me, node, self._candidates()):
            raise Conflict(f"{self._peers.name_of(node)} stays on the roster: the others are no majority without it")
        self._leaving[node] = self._peers.boot_of(node)
        await self._until_off(node)

    async def forget(self, node: str) -> None:
        """Takes a node off the roster that never comes back; returns when that is committed.

        Raises:
            Conflict: It is up, leads, or is the only replica.
            NotLeader: The leadership ended before.
        """
        name = self._peers.name_of(node)
        if self._replicator.roster.members == (node,):
            raise Conflict(f"{name} is the only replica: what it holds is the queue")
        if node == self._me:
            raise Conflict(f"{name} leads: it can't be forgotten. To take it out, run `meshq leave` there")
        if self._elector.alive(node):
            raise Conflict(f"{name} is up: it would come back at once. To take it out, run `meshq leave` there")
        self._forgotten.add(node)
        await self._until_off(node)

    async def _until_off(self, node: str) -> None:
        self._changed.notify()
        while node in self._replicator.roster.members and len(self._replicator.roster.members) > 1:
            count = self._changed.count
            await self._changed.after(count, self._config.heartbeat_s)
            self._replicator.check(self._term)

    async def _change(self, roster: Roster) -> None:
        before = self._replicator.roster
        if roster.into:
            seq = await self._replicator.end_cluster(self._term, roster)
        else:
            _, seq = await self._replicator.write(self._term, lambda conn, pen: feed.write_roster(conn, pen, roster))
        await self._replicator.commit(seq, self._term)
        for node in sorted({*roster.members} ^ {*before.members}):
            joined = node in roster.members
            verb = "joined" if joined else "left"
            text = f"{self._peers.name_of(node)} {verb}: {len(roster.members)} of {self._config.replicas} replicas"
            journal.tell(verb, text, node=node, replicas=len(roster.members))
        self._changed.notify()

    def _candidates(self) -> list[Candidate]:
        known = (node for node in self._peers.book if self._elector.alive(node))
        nodes = {*self._replicator.copies, *self._replicator.roster.members, *known} - {self._me}
        former = self._peers.former()
        return [self._candidate(node, former) for node in sorted(nodes)]

    def _candidate(self, node: str, former: set[str]) -> Candidate:
        hello = self._peers.said(node)
        alive = self._elector.alive(node)
        if alive:
            self._forgotten.discard(node)
        stops = node in self._leaving and self._leaving[node] == self._peers.boot_of(node)
        ours = hello is not None and hello.roster.genesis in ("", self._replicator.roster.genesis)
        return Candidate(
            node=node,
            in_sync=self._replicator.in_sync(node),
            alive=alive,
            leaving=stops or node in self._forgotten or (node in former and not alive),
            votes=hello is not None and hello.votes and not hello.stopping and ours,
            silent=not alive and self._is_silent(node),
        )

    def _is_silent(self, node: str) -> bool:
        """Whether it has been silent for long, to this leader and to most replicas."""
        heard_at = self._elector.lease.standing.heard_at(node)
        since = max(heard_at if heard_at is not None else self._since, self._since)
        if self._clock.boot_s() - since < self._config.replace_after_s:
            return False
        members = self._replicator.roster.members
        deaf = {member for member in members if not self._peers.hears(member, node)}
        return quorum.is_majority(deaf, members)
