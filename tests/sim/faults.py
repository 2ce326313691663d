"""Deliberate faults, to show that the checkers can fail: each takes one rule away, from outside the product."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from meshq.core.events import Effect, Promise, Send
from meshq.core.lease import Lease
from meshq.core.messages import Handover, Rows
from meshq.core.voter import Voter
from meshq.store import feed
from meshq.store.database import Connection
from meshq.store.feed import Applied, Pen

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
def vector_before_rows() -> Iterator[None]:
    """A pull's vector is taken over with its first frame."""
    honest_rows, honest_apply = feed.rows_beyond, feed.apply

    def telling(conn: Connection, vector: Mapping[str, int], frame_bytes: int) -> Iterator[Rows]:
        for rows in honest_rows(conn, vector, frame_bytes):
            yield replace(rows, vector=feed.read_vector(conn))

    def eager(conn: Connection, rows: Rows, pen: Pen | None) -> Applied:
        applied = honest_apply(conn, rows, pen)
        if rows.vector and not rows.last:
            honest_apply(conn, Rows(rows=_NOTHING, last=True, vector=rows.vector, committed={}), None)
        return applied

    with patch.object(feed, "rows_beyond", telling), patch.object(feed, "apply", eager):
        yield


_NOTHING = b"\x90"
