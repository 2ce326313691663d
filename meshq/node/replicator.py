"""Copies: pulling and serving rows, and knowing what a majority holds.

Taking over, healing, joining and catching up are all the same here: pull, and merge.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import TypeVar

from meshq.config import Config
from meshq.core import quorum
from meshq.core.events import Outdated, Resign, RosterChanged
from meshq.core.ids import short
from meshq.core.limits import PULL_FRAME_BYTES, WAIT_S_MAX
from meshq.core.membership import Roster
from meshq.core.messages import Pull, Rows
from meshq.core.ports import Clock, Transport
from meshq.core.split import Kind, Term
from meshq.errors import Conflict, NotLeader, StaleEpoch, StoreError
from meshq.node.commits import Commits
from meshq.node.copying import Copying
from meshq.node.counters import Counters
from meshq.node.elector import Elector
from meshq.node.gate import Gate
from meshq.node.signal import Signal
from meshq.node.tally import Tally
from meshq.store import feed
from meshq.store.database import BaseDatabase, Connection
from meshq.store.feed import Pen

T = TypeVar("T")
IDLE_S = 3.0
# So many frames are sent before anything of an answer need have arrived.
UNDER_WAY_FRAMES = 5


def _own_seq(me: str, conn: Connection) -> int:
    return feed.read_seq(conn, me)


def _apply(rows: Rows, pen: Pen | None, now_ms: int, source: str, conn: Connection) -> feed.Applied:
    return feed.apply(conn, rows, pen, now_ms=now_ms, source=source)


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
        copied: Told that this database is not this node's own, and why.
        version: What all replicas speak.
    """

    def __init__(
        self,
        me: str,
        database: BaseDatabase,
        transport: Transport,
        clock: Clock,
        config: Config,
        counters: Counters,
        copied: Callable[[str], None],
        version: Callable[[], int],
    ) -> None:
        self.me = me
        self.database = database
        self.vector: dict[str, int] = {}
        self.roster = Roster()
        self.changed = Signal()
        self.commits = Commits(me, config, clock)
        self.copies = self.commits.copies
        self.row_epoch = 0  # the highest epoch of a row that came here
        self.elector: Elector
        self._transport = transport
        self._clock = clock
        self._config = config
        self._counters = counters
        self._copied = copied
        self.version = version
        self._persisted: dict[str, int] = {}
        self.lacking: dict[str, None] = {}  # nodes that hold something that this leader lacks, in order
        self.lacks = Signal()
        self.dropped: dict[str, int] = {}
        self.gate = Gate(self.changed)

    @property
    def committed(self) -> dict[str, int]:
        """For each writer: every version up to there is known to be on a majority."""
        return self.commits.committed

    async def load(self) -> None:
        """Reads what the disk holds, before the node runs."""
        self.vector, self.commits.committed, self.roster, self.dropped = await self.database.read(
            lambda conn: (
                feed.read_vector(conn), feed.read_committed(conn), feed.read_roster(conn), feed.read_dropped(conn)
            )
        )  # fmt: skip
        self._persisted = dict(self.committed)

    async def reload(self) -> None:
        """Takes up a roster that was written without a leader: by a founder, or to recover."""
        self.vector, roster = await self.database.read(lambda conn: (feed.read_vector(conn), feed.read_roster(conn)))
        self._take_roster(roster)

    def holdings(self) -> tuple[dict[str, int], Roster]:
        """What this node holds: never more than is on its disk, and never less than it acknowledged."""
        return dict(self.vector), self.roster

    # -- writing as leader -------------------------------------------------------------------------------

    def check(self, term: Term) -> None:
        """Raises NotLeader if this leadership has ended."""
        if self.elector.term() != term:
            raise NotLeader("the leadership to which this belongs has ended")

    def pen_of(self, term: Term) -> Pen:
        """As whom this leadership writes; raises NotLeader if it has ended."""
        self.check(term)
        return Pen(node=self.me, epoch=term.epoch, majority=not term.split, version=self.version())

    async def write(self, term: Term, work: Callable[[Connection, Pen], T]) -> tuple[T, int]:
        """A leader's change: on this disk when it returns, with the seq up to which `commit` has to wait.

        Args:
            term: The leadership to which the change belongs.
            work: Makes it, in one transaction.

        Raises:
            NotLeader: That leadership is over, or was when the change was on disk.
        """
        await self._may_pass()
        return await self._write(term, work)

    async def end_cluster(self, term: Term, roster: Roster) -> int:
        """Writes the roster that ends this cluster, as the last change of all; the seq that `commit` has to wait for.

        Whoever holds that row by a whole pull holds all that this cluster ever acknowledged or showed.
        """
        async with self.gate.alone():
            _, seq = await self._write(term, lambda conn, pen: feed.write_roster(conn, pen, roster))
        return seq

    async def _write(self, term: Term, work: Callable[[Connection, Pen], T]) -> tuple[T, int]:
        pen = self.pen_of(term)
        known = {writer: seq for writer, seq in self.committed.items() if seq > self._persisted.get(writer, 0)}

        def run(conn: Connection) -> tuple[T, int]:
            if known:
                feed.merge_committed(conn, known)
            result = work(conn, pen)
            return result, feed.read_seq(conn, self.me)

        try:
            with self.gate.passing():
                result, seq = await self.database.write(run)
        except StaleEpoch as error:
            # A row of a later epoch has come home: only a later leadership can change it.
            self._saw_row_of(await self.database.read(feed.top_epoch))
            raise NotLeader(str(error)) from error
        except StoreError as error:
            # Who can't write can't lead; another one may be able to.
            if not term.split:
                self.elector.tell(Resign(f"the disk failed: {error}", pen.epoch))
            raise
        self._persisted.update(known)
        if isinstance(result, Roster):
            # From here on its own majority counts, for itself too.
            self._take_roster(result)
        if seq > self.vector.get(self.me, 0):
            self.vector[self.me] = seq
            self.advance()
            self.changed.notify()
        self.check(term)
        return result, seq

    def _saw_row_of(self, epoch: int) -> None:
        if epoch > self.row_epoch:
            self.row_epoch = epoch
            self.elector.tell(Outdated(epoch))

    async def _may_pass(self, *, first: bool = False) -> None:
        # A hand-over lasts for moments: whoever comes meanwhile learns how it ended.
        while self._waits(first):
            await self.changed.after(self.changed.count)

    def _waits(self, first: bool) -> bool:
        term = self.elector.term()
        # A cluster that ends changes nothing more, for what it ended with has to be all that it showed.
        ends = term is not None and not term.split and not first and bool(self.roster.into)
        return ends or self.gate.is_shut(leads=term is not None)

    async def commit(self, seq: int, term: Term) -> int:
        """Waits until this leader's writes up to `seq` count: a majority holds them, or the copies of the split do.

        Returns:
            The number of copies then.

        Raises:
            NotLeader: The leadership ended before.
        """
        await self.commits.reach(seq, term)
        self.check(term)
        return self.commits.count_copies(seq, term, self.roster)

    def begin(self, term: Term) -> None:
        """A leadership begins."""
        self.commits.begin(self.vector.get(self.me, 0) if term.split else 0)
        self.gate.resume()

    async def first_write(self, term: Term) -> None:
        """Re-stamps under this epoch the roster and every row not known committed, and commits that."""
        await self._may_pass(first=True)
        _, seq = await self._write(term, lambda conn, pen: feed.restamp(conn, pen, first=True))
        await self.reload_roster()
        self.commits.establish(seq)
        await self.commit(seq, term)

    def end(self) -> None:
        """A leadership is over: whoever waits for a commit is told so."""
        self.commits.end()
        self.lacking.clear()
        self.gate.resume()

    def advance(self) -> None:
        """Works out anew what the others hold."""
        term = self.elector.term()
        if term is not None:
            self.commits.advance(term, self.roster, self.vector)

    def shown(self) -> dict[str, int]:
        """Up to where versions may be shown and handed out."""
        return self.commits.shown(self.elector.term(), self.vector, apart=self.elector.kind() is not Kind.NONE)

    def copies_here(self) -> int:
        """How many disks the leader that this node is writes to: those in sync, or the copies of its split."""
        term = self.elector.term()
        if term is None:
            return 0
        if term.split:
            return self.commits.count_copies(0, term, self.roster)
        return 1 + sum(node != self.me and self.in_sync(node) for node in self.roster.members)

    def stuck_s(self) -> float:
        """For how long a leader has had something to commit and committed nothing."""
        return self.commits.stuck_s(self.vector)

    async def reload_dropped(self) -> None:
        """Takes up which tombstones were dropped."""
        self.dropped = await self.database.read(feed.read_dropped)

    # -- the roster --------------------------------------------------------------------------------------

    async def reload_roster(self) -> None:
        """Takes the roster from disk and tells the lease."""
        self._take_roster(await self.database.read(feed.read_roster))
        self.advance()

    def _take_roster(self, roster: Roster) -> None:
        if roster.key > self.roster.key:
            self.roster = roster
            self.elector.tell(RosterChanged(roster))

    async def adopt_roster(self, roster: Roster) -> None:
        """Keeps a newer roster that the leader told; a row alone claims nothing, so no vector changes."""
        if self.gate.over:
            return  # it is of the cluster that is no more
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
        await self._look_for_twin(pull.vector, sender)
        self._note(sender, pull)
        if pull.wait_s > 0 and sender not in self.roster.members and self._roster_is_full():
            raise Conflict(f"all {self._config.replicas} replicas are there; this node only works")
        count = self.changed.count
        if pull.wait_s > 0 and quorum.covers(pull.vector, self.vector):
            await self.changed.after(count, min(pull.wait_s, WAIT_S_MAX))
        committed = dict(self.committed)
        self.copies.answered(sender, committed, self._clock.boot_s())
        version = self._transport.version_of(sender)
        steps = self.database.stream(lambda conn: feed.rows_beyond(conn, pull.vector, PULL_FRAME_BYTES, version))
        count = 0
        async with aclosing(steps) as frames:
            async for rows in frames:
                count += 1
                if count > UNDER_WAY_FRAMES and sender in self.roster.members:
                    self.commits.progress_at = self._clock.boot_s()  # a large copy takes its time, and is under way
                # What this leader knows to be committed may be newer than what it last wrote down.
                yield replace(rows, committed=quorum.merge(rows.committed, committed)) if rows.last else rows

    def _roster_is_full(self) -> bool:
        return len(self.roster.members) >= self._config.replicas

    def _note(self, sender: str, pull: Pull) -> None:
        if self.elector.term() is None:
            return
        self.copies.note(sender, pull.vector, pull.epoch, self._clock.boot_s(), follows=pull.wait_s > 0)
        # Who may hold rows whose tombstones are dropped takes a full copy first.
        if not quorum.is_stale(pull.vector, self.dropped) and not quorum.covers(self.vector, pull.vector):
            self.lacking[sender] = None
            self.lacks.notify()
        self.advance()

    async def _look_for_twin(self, vector: Mapping[str, int], node: str) -> None:
        """Somebody holds more of this node's writes than it made: its database is a copy, or an old one."""
        told = vector.get(self.me, 0)
        if told > self.vector.get(self.me, 0) and told > await self.database.read(partial(_own_seq, self.me)):
            reason = f"{short(node)} holds writes of this node that are not in its database: it was copied or restored"
            self._copied(reason)
            raise Conflict(reason)

    def in_sync(self, node: str) -> bool:
        """Whether the node held, within the last lease, everything that was committed when it last asked."""
        return self.copies.in_sync(node, self._clock.boot_s())

    def behind(self, node: str) -> int | None:
        """By how many versions the node's copy is behind this leader's; None if it has not pulled."""
        return 0 if node == self.me else self.copies.behind(node, self.vector)

    def is_home(self, node: str) -> bool:
        """Whether all that the node's copy holds is here."""
        return node == self.me or self.copies.is_within(node, self.vector)

    def has_everything(self, node: str) -> bool:
        """Whether the node's copy holds all that this leader's does."""
        return self.copies.covers(node, self.vector)

    # -- pulling -----------------------------------------------------------------------------------------

    async def fetch(self, peer: str, *, wait_s: float = 0.0) -> Tally:
        """Pulls once from a node and merges.

        Returns:
            What that changed here.

        Raises:
            MeshqError: The node did not answer, or said no; what arrived before is kept.
        """
        # The vector first, then the epoch: an epoch that was promised in between makes the vector count less.
        vector = dict(self.vector)
        epoch = self.elector.promised_epoch
        pull = Pull(vector=vector, epoch=epoch, genesis=self.roster.genesis, wait_s=wait_s)
        tally = Tally()
        stream = self._transport.stream(peer, pull, idle_s=wait_s + IDLE_S)
        with Copying(peer, self._clock) as copying:
            async with aclosing(stream) as parts:
                async for rows in parts:
                    copying.add(len(rows.rows))
                    await self._look_for_twin(rows.vector, peer)
                    tally.add(await self._merge(rows, peer))
        return tally

    async def _merge(self, rows: Rows, peer: str) -> feed.Applied:
        await self._may_pass()
        # Decided when the rows are written and not when they were asked for: a leader re-stamps whatever comes home
        # and is not known committed, and what was written before it led is covered by its first write.
        term = self.elector.term()
        pen = self.pen_of(term) if term is not None and not term.split else None
        with self.gate.passing():
            applied = await self.database.write(partial(_apply, rows, pen, self._clock.wall_ms(), peer))
        if applied.roster_changed:
            await self.reload_roster()
        self._saw_row_of(applied.epoch)
        if rows.last:
            self.vector = quorum.merge(self.vector, applied.vector)
            self.commits.committed = quorum.merge(self.committed, applied.committed)
            self.dropped = quorum.merge(self.dropped, applied.dropped)
            self.advance()
        self.changed.notify()
        return applied
