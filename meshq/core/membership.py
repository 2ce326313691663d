"""The roster: who holds a copy and votes, and how it may change. Also which fresh node founds a cluster."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

RosterKey = tuple[int, int, int, str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Roster:
    """The replicated row that lists the replicas.

    Args:
        genesis: The cluster's own id, made when it was founded; empty on a node that belongs to none yet.
        members: The replicas' ids, sorted.
        recovery: How often a person made one copy the cluster; it comes first in the key.
        epoch, version, writer, seq: As in every row.
    """

    genesis: str = ""
    members: tuple[str, ...] = ()
    recovery: int = 0
    epoch: int = 0
    version: int = 0
    writer: str = ""
    seq: int = 0

    @property
    def key(self) -> RosterKey:
        """What decides between two versions of the roster: the greater one stays."""
        return (self.recovery, self.epoch, self.version, self.writer, self.seq)

    def with_member(self, node: str) -> Roster:
        """The next version, with one replica more."""
        return replace(self, members=tuple(sorted({*self.members, node})), version=self.version + 1)

    def without_member(self, node: str) -> Roster:
        """The next version, with one replica less."""
        members = tuple(member for member in self.members if member != node)
        return replace(self, members=members, version=self.version + 1)


NOBODY = Roster()


def newest(rosters: Collection[Roster]) -> Roster:
    """The one with the greatest key; an empty one where there are none."""
    return max(rosters, key=lambda roster: roster.key, default=NOBODY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A node that might become a replica, as the leader sees it.

    Args:
        node: Its id.
        in_sync: Whether it lately held all that was committed.
        alive: Whether it answers.
        leaving: Whether it stops in order and asked to be left out.
        votes: False for a node that was started with `--replica never`.
    """

    node: str
    in_sync: bool
    alive: bool
    leaving: bool
    votes: bool


def next_change(roster: Roster, leader: str, nodes: Collection[Candidate], replicas: int) -> Roster | None:
    """The next single change of the roster, or None: first those who leave, then the lowest id that may join.

    A leader never removes itself, and nobody who is alone is removed.
    """
    by_id = {node.node: node for node in nodes}
    for member in roster.members:
        known = by_id.get(member)
        if member != leader and known is not None and known.leaving:
            return roster.without_member(member)
    if len(roster.members) >= replicas:
        return None
    for node in sorted(by_id):
        known = by_id[node]
        if node not in roster.members and known.votes and known.alive and known.in_sync and not known.leaving:
            return roster.with_member(node)
    return None


def handover_target(roster: Roster, leader: str, in_sync: Collection[str]) -> str | None:
    """The lowest replica other than the leader that holds everything; None where there is none."""
    fit = [node for node in roster.members if node != leader and node in in_sync]
    return min(fit, default=None)


def founder(me: str, fresh_peers: Collection[str]) -> str:
    """Who founds the cluster among fresh nodes that reach each other: the lowest id."""
    return min((me, *fresh_peers))
