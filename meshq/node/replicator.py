"""Copies: pulling and serving rows, and knowing what a majority holds.

Taking over, healing, joining and catching up are all the same here: pull, and merge.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import replace
from functools import partial
from typing import TypeVar

from meshq.config import Config
from meshq.core import quorum
from meshq.core.copies import Copies
from meshq.core.events import Resign, RosterChanged
from meshq.core.limits import PULL_FRAME_BYTES, WAIT_S_MAX
from meshq.core.membership import Roster
from meshq.core.messages import Pull, Rows
from meshq.core.ports import Clock, Transport
from meshq.errors import Conflict, MeshqError, NotLeader, StoreError
from meshq.node.counters import Counters
from meshq.node.elector import Elector
from meshq.node.signal import Signal
from meshq.store import feed
from meshq.store.database import BaseDatabase, Connection
from meshq.store.feed import Pen

T = TypeVar("T")
IDLE_S = 3.0
BACKOFF_S = 0.2


def _apply(rows: Rows, pen: Pen | None, conn: Connection) -> feed.Applied:
    return feed.apply(conn, rows, pen)


class Replicator:
    """One node's copy of the queue, and its part in copying.

    Args:
        me: This node's id.
        database: The queue's database.
        elector: Tells who leads.
        transport: To the other nodes.
        clock: The lease clock.
        config: Durations and the number of replicas.
        counters: Where refusals are counted.
    """

    def __init__(
        self,
        me: str,
        database: BaseDatabase,
        transport: Transport,
        clock: Clock,
        config: Config,
        counters: Counters,
    ) -> None:
        self.me = me
        self.database = database
        self.vector: dict[str, int] = {}
        self.committed: dict[str, int] = {}
        self.roster = Roster()
        self.changed = Signal()
        self.commits = Signal()
        self.copies = Copies(config.lease_s)
        self.elector: Elector
        self._transport = transport
        self._clock = clock
        self._config = config
        self._counters = counters
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._tickets = 0
        self._established_at = float("inf")  # the seq of this epoch's first write
        self._persisted: dict[str, int] = {}
        self._behind_of: dict[str, None] = {}  # nodes that hold something that this leader lacks, in order
        self._lacking = Signal()
        self._quiet = False
        self._writing = 0
        self.progress_at = 0.0

    async def load(self) -> None:
        """Reads what the disk holds, before the node runs."""
        self.vector, self.committed, self.roster = await self.database.read(
            lambda conn: (feed.read_vector(conn), feed.read_committed(conn), feed.read_roster(conn))
        )
        self._persisted = dict(self.committed)

    async def founded(self) -> None:
        """Takes up what a founder wrote."""
        self.vector, roster = await self.database.read(lambda conn: (feed.read_vector(conn), feed.read_roster(conn)))
        self._take_roster(roster)

    def holdings(self) -> tuple[dict[str, int], Roster]:
        """What this node holds: never more than is on its disk, and never less than it acknowledged."""
        return dict(self.vector), self.roster

    # -- writing as leader -------------------------------------------------------------------------------

    def pen(self) -> Pen:
        """As whom this node writes now; raises NotLeader if it does not lead."""
        if not self.elector.leads():
            raise NotLeader
        return Pen(node=self.me, epoch=self.elector.lease.epoch, majority=True)

    def pen_of(self, epoch: int) -> Pen:
        """The pen of this leadership; raises NotLeader if it has ended."""
        pen = self.pen()
        if pen.epoch != epoch:
            raise NotLeader("the leadership to which this belongs has ended")
        return pen

    async def write(self, epoch: int, work: Callable[[Connection, Pen], T]) -> tuple[T, int]:
        """A leader's change: on this disk when it returns, with the seq up to which `commit` has to wait.

        Args:
            epoch: The leadership to which the change belongs.
            work: Makes it, in one transaction.

        Raises:
            NotLeader: This node does not lead that epoch, or did no longer when the change was on disk.
        """
        await self._not_quiet()
        pen = self.pen_of(epoch)
        known = {writer: seq for writer, seq in self.committed.items() if seq > self._persisted.get(writer, 0)}

        def run(conn: Connection) -> tuple[T, int]:
            if known:
                feed.merge_committed(conn, known)
            result = work(conn, pen)
            return result, feed.read_seq(conn, self.me)

        try:
            with self._counted():
                result, seq = await self.database.write(run)
        except StoreError as error:
            # Who can't write can't lead; another one may be able to.
            self.elector.tell(Resign(f"the disk failed: {error}", pen.epoch))
            raise
        self._persisted.update(known)
        if isinstance(result, Roster):
            # From here on its own majority counts, for itself too.
            self._take_roster(result)
        if seq > self.vector.get(self.me, 0):
            self.vector[self.me] = seq
            self._advance()
            self.changed.notify()
        self.pen_of(epoch)
        return result, seq

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self._writing += 1
        try:
            yield
        finally:
            self._writing -= 1
            self.changed.notify()

    async def quiesce(self) -> None:
        """Lets no more writes begin; returns when none is under way."""
        self._quiet = True
        while self._writing:
            await self.changed.after(self.changed.count)

    def resume(self) -> None:
        """Lets those writes begin that waited."""
        self._quiet = False
        self.changed.notify()

    async def _not_quiet(self) -> None:
        # A hand-over lasts for moments: whoever comes meanwhile learns how it ended.
        while self._quiet and self.elector.leads():
            await self.changed.after(self.changed.count)

    async def commit(self, seq: int) -> int:
        """Waits until a majority holds this leader's writes up to `seq`; the number of copies then.

        Raises:
            NotLeader: The leadership ended before.
        """
        if seq > self.committed.get(self.me, 0):
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._tickets += 1
            heapq.heappush(self._waiting, (seq, self._tickets, future))
            await future
        if not self.elector.leads():
            raise NotLeader
        return self.count_copies(seq)

    def count_copies(self, seq: int) -> int:
        """How many replicas' disks are known to hold this leader's writes up to `seq`."""
        vectors = self.copies.of(self.roster.members, self.elector.lease.epoch)
        return 1 + sum(vector.get(self.me, 0) >= seq for vector in vectors)

    def begin(self) -> None:
        """A leadership begins: nobody's copy counts before it pulls under the new epoch."""
        self.copies.clear()
        self._established_at = float("inf")
        self._quiet = False
        self.progress_at = self._clock.boot_s()

    async def first_write(self, epoch: int) -> None:
        """Re-stamps under this epoch the roster and every row not known committed, and commits that."""
        _, seq = await self.write(epoch, lambda conn, pen: feed.restamp(conn, pen, first=True))
        await self.reload_roster()
        self._established_at = seq
        await self.commit(seq)

    def end(self) -> None:
        """A leadership is over: whoever waits for a commit is told so."""
        waiting, self._waiting = self._waiting, []
        for _, _, future in waiting:
            if not future.done():
                future.set_exception(NotLeader("the leadership ended before a majority had it"))
                future.exception()
        self._established_at = float("inf")
        self._behind_of.clear()
        self.resume()

    def stuck_s(self) -> float:
        """For how long a leader has had something to commit and committed nothing."""
        if self.committed.get(self.me, 0) >= self.vector.get(self.me, 0):
            self.progress_at = self._clock.boot_s()
        return self._clock.boot_s() - self.progress_at

    def _advance(self) -> None:
        """Works out anew what a majority holds."""
        if not self.elector.leads():
            return
        members = self.roster.members
        held = self.copies.of(members, self.elector.lease.epoch)
        if self.me in members:
            held.append(self.vector)
        established = self.committed.get(self.me, 0) >= self._established_at
        before = self.committed.get(self.me, 0)
        for writer in self.vector if established else (self.me,):
            seq = quorum.held_by_majority((vector.get(writer, 0) for vector in held), len(members))
            if seq > self.committed.get(writer, 0):
                self.committed[writer] = int(seq)
        mine = self.committed.get(self.me, 0)
        if mine > before:
            self.progress_at = self._clock.boot_s()
            self.commits.notify()
        while self._waiting and self._waiting[0][0] <= mine:
            _, _, future = heapq.heappop(self._waiting)
            if not future.done():
                future.set_result(None)

    # -- the roster --------------------------------------------------------------------------------------

    async def reload_roster(self) -> None:
        """Takes the roster from disk and tells the lease."""
        self._take_roster(await self.database.read(feed.read_roster))
        self._advance()

    def _take_roster(self, roster: Roster) -> None:
        if roster.key > self.roster.key:
            self.roster = roster
            self.elector.tell(RosterChanged(roster))

    async def adopt_roster(self, roster: Roster) -> None:
        """Keeps a newer roster that the leader told; a row alone claims nothing, so no vector changes."""
        if roster.genesis and self.roster.genesis in ("", roster.genesis) and roster.key > self.roster.key:
            await self.database.write(lambda conn: feed.upsert_roster(conn, roster))
            await self.reload_roster()

    # -- serving -----------------------------------------------------------------------------------------

    async def serve(self, sender: str, pull: Pull) -> AsyncGenerator[Rows, None]:
        """Answers a pull; waits up to `wait_s` for something new.

        Raises:
            Conflict: The asker belongs to another cluster, or the roster is full and it is a worker only.
        """
        if pull.genesis and pull.genesis != self.roster.genesis:
            raise Conflict(f"this is another cluster: {self.roster.genesis[-8:]}, not {pull.genesis[-8:]}")
        self._note(sender, pull)
        if pull.wait_s > 0 and sender not in self.roster.members and self._roster_is_full():
            raise Conflict(f"all {self._config.replicas} replicas are there; this node only works")
        count = self.changed.count
        if pull.wait_s > 0 and quorum.covers(pull.vector, self.vector):
            await self.changed.after(count, min(pull.wait_s, WAIT_S_MAX))
        committed = dict(self.committed)
        self.copies.answered(sender, committed, self._clock.boot_s())
        steps = self.database.stream(lambda conn: feed.rows_beyond(conn, pull.vector, PULL_FRAME_BYTES))
        async with aclosing(steps) as frames:
            async for rows in frames:
                if sender in self.roster.members:
                    self.progress_at = self._clock.boot_s()  # a large copy takes its time, and is under way
                # What this leader knows to be committed may be newer than what it last wrote down.
                yield replace(rows, committed=quorum.merge(rows.committed, committed)) if rows.last else rows

    def _roster_is_full(self) -> bool:
        return len(self.roster.members) >= self._config.replicas

    def _note(self, sender: str, pull: Pull) -> None:
        if not self.elector.leads():
            return
        self.copies.note(sender, pull.vector, pull.epoch, self._clock.boot_s())
        if not quorum.covers(self.vector, pull.vector):
            self._behind_of[sender] = None
            self._lacking.notify()
        self._advance()

    def in_sync(self, node: str) -> bool:
        """Whether the node held, within the last lease, everything that was committed when it last asked."""
        return self.copies.in_sync(node, self._clock.boot_s())

    def behind(self, node: str) -> int | None:
        """By how many versions the node's copy is behind this leader's; None if it has not pulled."""
        return 0 if node == self.me else self.copies.behind(node, self.vector)

    def has_everything(self, node: str) -> bool:
        """Whether the node's copy holds all that this leader's does."""
        return self.copies.covers(node, self.vector)

    # -- pulling -----------------------------------------------------------------------------------------

    async def fetch(self, peer: str, *, wait_s: float = 0.0) -> None:
        """Pulls once from a node and merges.

        Raises:
            MeshqError: The node did not answer, or said no; what arrived before is kept.
        """
        # The vector first, then the epoch: an epoch that was promised in between makes the vector count less.
        vector = dict(self.vector)
        epoch = self.elector.promised_epoch
        pull = Pull(vector=vector, epoch=epoch, genesis=self.roster.genesis, wait_s=wait_s)
        async with aclosing(self._transport.stream(peer, pull, idle_s=wait_s + IDLE_S)) as parts:
            async for rows in parts:
                await self._merge(rows)

    async def _merge(self, rows: Rows) -> None:
        await self._not_quiet()
        # Decided when the rows are written and not when they were asked for: a leader re-stamps whatever comes home
        # and is not known committed, and what was written before it led is covered by its first write.
        pen = self.pen() if self.elector.leads() else None
        with self._counted():
            applied = await self.database.write(partial(_apply, rows, pen))
        if applied.roster_changed:
            await self.reload_roster()
        if rows.last:
            self.vector = quorum.merge(self.vector, applied.vector)
            self.committed = quorum.merge(self.committed, applied.committed)
            self._advance()
        self.changed.notify()

    async def follow(self) -> None:
        """Pulls from whoever leads, for ever."""
        while True:
            count = self.elector.changed.count
            leader = self.elector.leader()
            if leader is None or leader == self.me or not self._copies_here():
                await self.elector.changed.after(count, 1.0)
                continue
            try:
                await self.fetch(leader, wait_s=self._config.pull_wait_s)
            except Conflict as error:
                self._counters.add("pull_refused", str(error))
                await self.elector.changed.after(count, 5 * self._config.pull_wait_s)
            except MeshqError as error:
                self._counters.add("pull_failed", str(error))
                await self.elector.changed.after(count, BACKOFF_S * (0.5 + self._clock.random()))

    def _copies_here(self) -> bool:
        return self._config.replica != "never" or self.me in self.roster.members or bool(self.vector)

    async def fetch_lacking(self) -> None:
        """As leader: brings home what others hold and this node lacks, for as long as it leads."""
        while True:
            count = self._lacking.count
            if not self._behind_of:
                await self._lacking.after(count)
                continue
            peer = next(iter(self._behind_of))
            del self._behind_of[peer]
            try:
                await self.fetch(peer)
            except MeshqError as error:
                # It shows what it holds again with its next pull.
                self._counters.add("fetch_failed", f"{peer}: {error}")
