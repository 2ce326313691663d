"""What the others hold of this leader's writes: what is committed, and who waits for that."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Mapping

from meshq.config import Config
from meshq.core import quorum
from meshq.core.copies import Copies
from meshq.core.membership import Roster
from meshq.core.ports import Clock
from meshq.core.split import Term
from meshq.errors import NotLeader
from meshq.node.signal import Signal


class Commits:
    """How far a leadership's writes have come.

    Under a majority a write is committed when a majority of the roster holds it. Without one it counts when most
    of the copies of this split do, and is never called committed.

    Args:
        me: This node's id.
        config: Durations.
        clock: The lease clock.
    """

    def __init__(self, me: str, config: Config, clock: Clock) -> None:
        self.committed: dict[str, int] = {}
        self.copies = Copies(config.lease_s)
        self.signal = Signal()
        self.progress_at = 0.0
        self._me = me
        self._clock = clock
        self._polled_within_s = config.lease_s + config.pull_wait_s
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._tickets = 0
        self._established_at = float("inf")  # the seq of this epoch's first write
        self._held = 0  # the last seq of this node's own that counts in its split

    def begin(self, held: int = 0) -> None:
        """A leadership begins: nobody's copy counts before it pulls under it. In a split `held` counts already."""
        self.copies.clear()
        self._established_at = float("inf")
        self._held = held
        self.progress_at = self._clock.boot_s()

    def establish(self, seq: int) -> None:
        """The first write of the epoch has this seq; once it is committed, so is what stands before it."""
        self._established_at = seq

    def end(self) -> None:
        """A leadership is over: whoever waits for a commit is told so."""
        waiting, self._waiting = self._waiting, []
        for _, _, future in waiting:
            if not future.done():
                future.set_exception(NotLeader("the leadership ended before a majority had it"))
                future.exception()
        self._established_at = float("inf")

    async def reach(self, seq: int, term: Term) -> None:
        """Waits until this leader's writes up to `seq` count.

        Raises:
            NotLeader: The leadership ended before.
        """
        if seq > self._mine(term):
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._tickets += 1
            heapq.heappush(self._waiting, (seq, self._tickets, future))
            await future

    def advance(self, term: Term, roster: Roster, vector: Mapping[str, int]) -> None:
        """Works out anew what counts.

        Args:
            term: The leadership.
            roster: The newest one here.
            vector: What this node holds.
        """
        before = self._mine(term)
        if term.split:
            group = [copy.get(self._me, 0) for copy in self._group()]
            held = quorum.held_by_majority([vector.get(self._me, 0), *group], 1 + len(group))
            self._held = max(self._held, int(held))
        else:
            self._advance_committed(term, roster, vector)
        mine = self._mine(term)
        if mine > before:
            self.progress_at = self._clock.boot_s()
            self.signal.notify()
        while self._waiting and self._waiting[0][0] <= mine:
            _, _, future = heapq.heappop(self._waiting)
            if not future.done():
                future.set_result(None)

    def _advance_committed(self, term: Term, roster: Roster, vector: Mapping[str, int]) -> None:
        held = self.copies.of(roster.members, term.epoch)
        if self._me in roster.members:
            held.append(vector)
        established = self.committed.get(self._me, 0) >= self._established_at
        for writer in vector if established else (self._me,):
            seq = quorum.held_by_majority((copy.get(writer, 0) for copy in held), len(roster.members))
            if seq > self.committed.get(writer, 0):
                self.committed[writer] = int(seq)

    def _mine(self, term: Term) -> int:
        return self._held if term.split else self.committed.get(self._me, 0)

    def _group(self) -> list[Mapping[str, int]]:
        return self.copies.polled_since(self._clock.boot_s() - self._polled_within_s)

    def count_copies(self, seq: int, term: Term, roster: Roster) -> int:
        """How many disks are known to hold this leader's writes up to `seq`."""
        vectors = self._group() if term.split else self.copies.of(roster.members, term.epoch)
        return 1 + sum(vector.get(self._me, 0) >= seq for vector in vectors)

    def shown(self, term: Term | None, vector: Mapping[str, int], *, apart: bool) -> dict[str, int]:
        """Up to where versions are shown and handed out: what is committed; in a split whatever counts there."""
        if not apart:
            return dict(self.committed)
        return {**vector, self._me: self._held} if term is not None and term.split else dict(vector)

    def stuck_s(self, vector: Mapping[str, int]) -> float:
        """For how long a majority's leader has had something to commit and committed nothing."""
        if self.committed.get(self._me, 0) >= vector.get(self._me, 0):
            self.progress_at = self._clock.boot_s()
        return self._clock.boot_s() - self.progress_at
