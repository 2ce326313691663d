"""Going on without a majority: when a node does, whom it follows then, and when that is over.

A split has no vote, promise or epoch of its own, so nothing here touches the lease. Its rows merge, so that two
leaders of two splits do no harm that the next pull does not mend.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum

from meshq.core import quorum

UNDECIDED_S = 2.0  # how long a lower replica that answers may take to say where it stands


class Kind(StrEnum):
    """How a node stands to a majority."""

    NONE = ""
    WARM = "warm"  # it was in sync when contact was lost, in this same life
    COLD = "cold"  # its copy may be old: what is in it may have run elsewhere


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One leadership: of an epoch under a majority, or the `split`-th one that this node leads without."""

    epoch: int
    split: int = 0
    kind: Kind = Kind.NONE


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """What is known of another node.

    Args:
        alive: Whether it answered lately.
        silent_s: How long ago it answered, or this node started.
        stopping: Whether it said goodbye.
        kind: How it says that it stands to a majority.
        leader: Whom it says that it follows; itself perhaps.
    """

    alive: bool
    silent_s: float
    stopping: bool = False
    kind: str = ""
    leader: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """After how many seconds without a majority a node goes on alone, warm or cold."""

    split_after_s: float
    cold_after_s: float


class Split:
    """One node's part in a split.

    Args:
        me: Its id.
        patience: How long it waits for a majority.
        now: When it started, in seconds on the lease clock, as everywhere here.
    """

    def __init__(self, me: str, patience: Patience, now: float) -> None:
        self.me = me
        self.kind = Kind.NONE
        self.leader: str | None = None
        self.term: Term | None = None  # while this node leads its part
        self._patience = patience
        self._touched_at = now
        self._apart_at: float | None = None
        self._warm = False
        self._number = 0

    def touch(self, now: float, *, in_sync: bool) -> None:
        """A majority's leader is known: there is no split here."""
        self._touched_at = now
        self._apart_at = None
        self._warm = in_sync
        self.kind, self.leader, self.term = Kind.NONE, None, None

    def step_back(self) -> None:
        """This node stands for a majority or promised one its vote: it leads nothing meanwhile."""
        self.leader = self.term = None

    def look(
        self, members: Collection[str], peers: Mapping[str, Peer], *, epoch: int, in_sync: bool, now: float
    ) -> None:
        """No majority's leader is known: decides whom to follow.

        Args:
            members: The replicas.
            peers: What is known of the other nodes, and of every replica.
            epoch: The highest epoch that this node promised or has a row of.
            in_sync: Whether this node holds all that the leader it follows holds.
            now: Seconds on the lease clock.
        """
        if not self._is_apart(members, peers, now):
            return
        if self._apart_at is None:
            self._apart_at = now
        if in_sync and self.leader not in (None, self.me) and peers[self.leader].kind == Kind.WARM:
            self._warm = True  # it holds what a warm one holds, and sees what runs
        self.kind = Kind.WARM if self._warm else Kind.COLD
        self._follow(self._choose(members, peers, now), epoch)

    def _is_apart(self, members: Collection[str], peers: Mapping[str, Peer], now: float) -> bool:
        if self.kind or not members:
            return bool(members)  # once apart, until a majority's leader is there
        away_s = now - self._touched_at
        # Reachable, but nobody leads: the disks of the others may be full. The lease has had its time.
        return away_s >= self._patience.cold_after_s or not quorum.is_majority(self._there(members, peers), members)

    def _there(self, members: Collection[str], peers: Mapping[str, Peer]) -> set[str]:
        """The members that may still answer: all but those that said goodbye or are silent for long."""
        gone_after_s = self._patience.split_after_s
        return {
            node
            for node in members
            if node == self.me
            or peers[node].alive
            or not (peers[node].stopping or peers[node].silent_s >= gone_after_s)
        }

    def _choose(self, members: Collection[str], peers: Mapping[str, Peer], now: float) -> str | None:
        """The lowest warm replica that answers and leads, or may; where none is warm, the lowest cold one."""
        fit = [
            (peer.kind == Kind.COLD, node)
            for node, peer in peers.items()
            if node in members and peer.alive and peer.kind and not peer.stopping and peer.leader in ("", node)
        ]
        if self._may_lead(members, peers, now):
            fit.append((self.kind == Kind.COLD, self.me))
        else:
            fit = [(cold, node) for cold, node in fit if peers[node].leader == node]
        return min(fit)[1] if fit else None

    def _may_lead(self, members: Collection[str], peers: Mapping[str, Peer], now: float) -> bool:
        if self.me not in members:
            return False
        if self.kind is Kind.COLD and now - self._touched_at < self._patience.cold_after_s:
            return False
        undecided = any(
            peer.alive and node < self.me and node in members and not (peer.kind or peer.leader or peer.stopping)
            for node, peer in peers.items()
        )
        return not undecided or now - (self._apart_at or now) >= UNDECIDED_S

    def _follow(self, leader: str | None, epoch: int) -> None:
        self.leader = leader
        if leader != self.me:
            self.term = None
        elif self.term is None or (self.term.epoch, self.term.kind) != (epoch, self.kind):
            self._number += 1
            self.term = Term(epoch=epoch, split=self._number, kind=self.kind)
