"""Deliberate faults, to show that the checkers can fail: each takes one rule away, from outside the product."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from meshq.core import membership, quorum
from meshq.core.events import Effect, Promise, Reply, Send, SendAll, Timing
from meshq.core.lease import Lease
from meshq.core.mandate import Mandate
from meshq.core.membership import Candidate, Roster
from meshq.core.messages import Handover, Renew, RenewAnswer, Rows, Vote
from meshq.core.reports import TaskView
from meshq.core.split import Term
from meshq.core.voter import Voter
from meshq.node import steward
from meshq.node.commits import Commits
from meshq.node.dispatcher import Dispatcher
from meshq.node.replicator import Replicator
from meshq.store import feed, queue, vectors
from meshq.store.database import Connection
from meshq.store.feed import Applied, Pen
from meshq.store.promise import PromiseStore

Fault = Callable[[], AbstractContextManager[Any]]


@contextmanager
def no_wait_after_start() -> Iterator[None]:
    """A voter that has just started grants at once."""
    honest = Voter.__init__

    def hasty(self: Voter, me: str, promise: Promise, now: float) -> None:
        honest(self, me, replace(promise, lease_s=0.0), now)

    with patch.object(Voter, "__init__", hasty):
        yield


@contextmanager
def no_restamping() -> Iterator[None]:
    """A new leader counts copies of its predecessors' rows as they are."""
    honest = feed.restamp

    def lazy(conn: Connection, pen: Pen, *, first: bool) -> int:
        everything = {writer: 1 << 60 for (writer,) in conn.execute("SELECT DISTINCT writer FROM tasks")}
        known = feed.read_committed(conn)
        feed.merge_committed(conn, everything)
        last = honest(conn, pen, first=first)
        conn.execute("DELETE FROM committed")
        feed.merge_committed(conn, known)
        return last

    with patch.object(feed, "restamp", lazy):
        yield


@contextmanager
def let_go_and_lead() -> Iterator[None]:
    """A leader that let its lease go counts on what it was promised before."""

    def greedy(self: Lease, target: str, now: float) -> list[Effect]:
        self.voter.let_go()
        return [Send(target, Handover(epoch=self.epoch, step="go", genesis=self.roster.genesis))]

    with patch.object(Lease, "_on_let_go", greedy):
        yield


@contextmanager
def winner_renews_to_all() -> Iterator[None]:
    """Who won a vote is followed by everybody before it leads."""
    honest = Lease._renew

    def loud(self: Lease, now: float) -> list[Effect]:
        others = [effect for effect in honest(self, now) if not isinstance(effect, Send | SendAll)]
        renew = Renew(epoch=self.epoch, lease_s=self._timing.lease_s, genesis=self.roster.genesis)
        return [*others, SendAll(renew)]

    with patch.object(Lease, "_renew", loud):
        yield


@contextmanager
def vector_before_rows() -> Iterator[None]:
    """A pull's vector is taken over with its first frame."""
    honest_rows, honest_apply = feed.rows_beyond, feed.apply

    def telling(conn: Connection, vector: Mapping[str, int], frame_bytes: int, version: int = 2) -> Iterator[Rows]:
        for rows in honest_rows(conn, vector, frame_bytes, version):
            yield replace(rows, vector=feed.read_vector(conn))

    def eager(conn: Connection, rows: Rows, pen: Pen | None, **noted: Any) -> Applied:
        applied = honest_apply(conn, rows, pen, **noted)
        if rows.vector and not rows.last and not rows.full:
            honest_apply(conn, Rows(rows=_NOTHING, last=True, vector=rows.vector, committed={}), None)
        return applied

    with patch.object(feed, "rows_beyond", telling), patch.object(feed, "apply", eager):
        yield


_NOTHING = b"\x90"


@contextmanager
def no_gather() -> Iterator[None]:
    """A winner leads with what it has itself."""

    def at_once(self: Mandate, roster: Roster) -> bool:
        return True

    with patch.object(Mandate, "is_gathered", at_once):
        yield


@contextmanager
def promise_not_on_disk() -> Iterator[None]:
    """A promise is given, and forgotten with the process."""

    async def forget(self: PromiseStore, promise: Promise) -> None:
        return

    with patch.object(PromiseStore, "save", forget):
        yield


@contextmanager
def acknowledged_before_the_commit() -> Iterator[None]:
    """What is on the leader's own disk is answered and shown."""

    async def at_once(self: Commits, seq: int, term: Term) -> None:
        return

    def everything(self: Commits, term: Term | None, vector: Mapping[str, int], *, apart: bool) -> dict[str, int]:
        return dict(vector)

    honest = queue.views

    def shown(
        conn: Connection, ids: Sequence[str], shown: Mapping[str, int], committed: Any = None, **options: Any
    ) -> list[TaskView]:
        return honest(conn, ids, shown, shown, **options)

    with (
        patch.object(Commits, "reach", at_once),
        patch.object(Commits, "shown", everything),
        patch.object(queue, "views", shown),
    ):
        yield


@contextmanager
def votes_for_itself_after_a_start() -> Iterator[None]:
    """A voter that has just started makes others wait, and itself not."""
    honest, honest_init = Voter.refusal, Lease.__init__

    def selfish(self: Voter, candidate: str, vote: Vote, genesis: str, now: float) -> str:
        reason = honest(self, candidate, vote, genesis, now)
        return "" if candidate == self.me and reason == "just_started" else reason

    def impatient(
        self: Lease, me: str, promise: Promise, roster: Roster, timing: Timing, now: float, jitter: Callable[[], float]
    ) -> None:
        honest_init(self, me, promise, roster, timing, now, jitter)
        self.standing.wait_from(now)

    with (
        patch.object(Voter, "refusal", selfish),
        patch.object(Voter, "bound_until", lambda self: 0.0),
        patch.object(Lease, "__init__", impatient),
    ):
        yield


@contextmanager
def handover_without_its_holder() -> Iterator[None]:
    """A voter takes any vote that speaks of a hand-over for one that its holder wants."""
    honest = Voter.refusal

    def trusting(self: Voter, candidate: str, vote: Vote, genesis: str, now: float) -> str:
        reason = honest(self, candidate, vote, genesis, now)
        return "" if reason in ("promised", "not_let_go") and vote.handover_holder else reason

    with patch.object(Voter, "refusal", trusting):
        yield


@contextmanager
def replaced_in_one_write() -> Iterator[None]:
    """All who may join and all who are gone: one roster for everything."""
    honest = membership.next_change

    def hasty(roster: Roster, leader: str, nodes: Collection[Candidate], replicas: int) -> Roster | None:
        fit = {node.node for node in nodes if node.alive and node.votes and not node.leaving}
        gone = {node.node for node in nodes if not node.alive}
        members = tuple(sorted({*roster.members} - gone | fit | {leader}))[:replicas]
        if members == roster.members or leader not in members:
            return honest(roster, leader, nodes, replicas)
        return replace(roster, members=members, version=roster.version + 1)

    with patch.object(steward, "next_change", hasty):
        yield


@contextmanager
def the_winner_is_refused() -> Iterator[None]:
    """A node follows in an epoch only the one that it voted for."""
    honest = Lease._on_renew

    def stubborn(self: Lease, sender: str, renew: Renew, now: float) -> list[Effect]:
        promise = self.voter.promise
        if renew.epoch == promise.epoch and promise.holder not in ("", sender):
            return [Reply(RenewAnswer(followed=False, epoch=promise.epoch, reason="promised"))]
        return honest(self, sender, renew, now)

    with patch.object(Lease, "_on_renew", stubborn):
        yield


@contextmanager
def no_census() -> Iterator[None]:
    """A new leader frees at once what nobody has named yet."""
    honest: Any = Dispatcher.__init__

    def hasty(self: Dispatcher, *given: Any) -> None:
        honest(self, *given[:-2], {}, given[-1])

    with patch.object(Dispatcher, "__init__", hasty):
        yield


@contextmanager
def no_full_copy() -> Iterator[None]:
    """Dropped tombstones are forgotten, and nobody asks who may remember what they were for."""
    with patch.object(quorum, "is_stale", lambda vector, dropped: False):
        yield


@contextmanager
def a_reused_seq() -> Iterator[None]:
    """After a start a node counts its writes from a little further back."""
    honest = vectors.take_seqs
    begun: set[int] = set()

    def again(conn: Connection, node: str, count: int) -> int:
        if id(conn) not in begun:
            begun.add(id(conn))
            conn.execute("UPDATE vector SET seq = max(0, seq - 3) WHERE writer = ?", (node,))
        return honest(conn, node, count)

    def load(self: Any) -> Any:
        begun.discard(id(self.database._conn))
        return honest_load(self)

    honest_load = Replicator.load
    with patch.object(feed, "take_seqs", again), patch.object(Replicator, "load", load):
        yield
