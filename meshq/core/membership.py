"""The roster: who holds a copy and votes, and how it may change. Also which fresh node founds a cluster."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from meshq.core.quorum import is_majority, majority

RosterKey = tuple[int, int, int, str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Roster:
    """The replicated row that lists the replicas.

    Args:
        genesis: The cluster's own id, made when it was founded; empty on a node that belongs to none yet.
        members: The replicas' ids, sorted.
        recovery: How often a person made one copy the cluster; it comes first in the key.
        absorbed: The geneses of clusters that became part of this one.
        into: The genesis of the cluster that this one becomes part of; empty for as long as it stands.
        epoch, version, writer, seq: As in every row.
    """

    genesis: str = ""
    members: tuple[str, ...] = ()
    recovery: int = 0
    epoch: int = 0
    version: int = 0
    writer: str = ""
    seq: int = 0
    absorbed: tuple[str, ...] = ()
    into: str = ""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A cluster that became part of another, as one of its replicas knows it.

    Args:
        needed: So many of its replicas hold, taken together, all that a majority had there.
        epoch: Of the roster that ended it; 0 where this replica did not hold that one.
    """

    needed: int
    epoch: int = 0


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
        leaving: Whether it asked to be left out, or somebody said that it never comes back.
        votes: False for a node that was started with `--replica never`.
        silent: Whether it has been silent for so long that it may be replaced, and most replicas say so.
    """

    node: str
    in_sync: bool
    alive: bool
    leaving: bool
    votes: bool
    silent: bool = False


def next_change(roster: Roster, leader: str, nodes: Collection[Candidate], replicas: int) -> Roster | None:
    """The next single change of the roster, or None: first those who leave, then who joins, then who is replaced.

    A leader never removes itself, and nobody who is alone is removed.
    """
    by_id = {node.node: node for node in nodes}
    others = [by_id[member] for member in roster.members if member != leader and member in by_id]
    for node in others:
        if node.leaving and can_do_without(roster, leader, node.node, nodes):
            return roster.without_member(node.node)
    if len(roster.members) < replicas:
        for node in sorted(_spare(roster, nodes), key=lambda node: node.node):
            if node.in_sync:
                return roster.with_member(node.node)
    silent = [node for node in others if node.silent]
    if silent and _is_better_without(roster, silent, _spare(roster, nodes)):
        return roster.without_member(silent[-1].node)
    return None


def can_do_without(roster: Roster, leader: str, node: str, nodes: Collection[Candidate]) -> bool:
    """Whether those who stay are there in a majority of the roster without this node.

    Otherwise it had better stay on it: it may be back before those who are missing, and then makes a majority again.
    """
    there = {leader, *(other.node for other in nodes if other.alive and not other.leaving)} - {node}
    return is_majority(there, roster.without_member(node).members)


def _spare(roster: Roster, nodes: Collection[Candidate]) -> list[Candidate]:
    """Live nodes that might become replicas."""
    return [
        node for node in nodes if node.node not in roster.members and node.votes and node.alive and not node.leaving
    ]


def _is_better_without(roster: Roster, silent: list[Candidate], spare: list[Candidate]) -> bool:
    """Whether somebody takes a silent replica's place, or a majority becomes smaller without the silent ones.

    Otherwise it stays: should it come back when another one dies, it still makes a majority with the rest.
    """
    count = len(roster.members)
    return bool(spare) or majority(count - len(silent)) < majority(count)


def handover_target(roster: Roster, leader: str, in_sync: Collection[str]) -> str | None:
    """The lowest replica other than the leader that holds everything; None where there is none."""
    fit = [node for node in roster.members if node != leader and node in in_sync]
    return min(fit, default=None)


def founder(me: str, fresh_peers: Collection[str]) -> str:
    """Who founds the cluster among fresh nodes that reach each other: the lowest id."""
    return min((me, *fresh_peers))
