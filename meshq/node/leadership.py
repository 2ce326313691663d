"""One node's leaderships: what begins when the lease is won, what ends when it is lost, and handing it over."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

from meshq.config import Config
from meshq.core import quorum
from meshq.core.events import Established, Gathered, GatherFailed, HandOver, LetGo, Resign
from meshq.core.ids import short
from meshq.core.membership import handover_target
from meshq.core.messages import VoteAnswer
from meshq.core.ports import Clock
from meshq.errors import MeshqError, NoLeader, NotLeader
from meshq.node import journal
from meshq.node.counters import Counters
from meshq.node.dispatcher import Dispatcher
from meshq.node.elector import Elector
from meshq.node.intake import Intake
from meshq.node.peers import Peers
from meshq.node.replicator import Replicator
from meshq.node.signal import Signal
from meshq.node.steward import Steward
from meshq.node.waiters import Waiters
from meshq.store import queue

HANDOVER_WAIT_S = 2.0
RETRY_S = 0.2
FIRST_WRITE_S = 1.0


class Reign:
    """One leadership: what a leader has and a follower has not."""

    def __init__(
        self,
        epoch: int,
        replicator: Replicator,
        elector: Elector,
        peers: Peers,
        clock: Clock,
        config: Config,
        counters: Counters,
        waiters: Waiters,
        expected: Iterable[str],
    ) -> None:
        self.epoch = epoch
        self.dispatcher = Dispatcher(epoch, replicator, clock, config, counters, waiters, expected)
        self.intake = Intake(replicator, self.dispatcher, waiters, clock, config)
        self.steward = Steward(epoch, replicator, elector, peers, config)


class Leadership:
    """Carries out what the lease decides.

    Args:
        replicator: The copy and its commits.
        elector: Is told how it went.
        peers: The other nodes.
        clock: The lease clock.
        config: Durations.
        counters: Where failures are counted.
        waiters: Who waits for tasks to finish; they look again when the leader changes.
    """

    def __init__(
        self,
        replicator: Replicator,
        elector: Elector,
        peers: Peers,
        clock: Clock,
        config: Config,
        counters: Counters,
        waiters: Waiters,
    ) -> None:
        self.reign: Reign | None = None
        self.changed = Signal()
        self._replicator = replicator
        self._elector = elector
        self._peers = peers
        self._clock = clock
        self._config = config
        self._counters = counters
        self._waiters = waiters
        self._tasks: asyncio.TaskGroup | None = None
        self._running: asyncio.Task[None] | None = None
        self._gathering: list[asyncio.Task[None]] = []
        self._handing = False
        self._letting_go = False

    async def run(self) -> None:
        """Owns the tasks of leaderships until it is cancelled."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            await asyncio.get_running_loop().create_future()

    def _group(self) -> asyncio.TaskGroup:
        if self._tasks is None:
            raise RuntimeError("the leadership is not running yet")
        return self._tasks

    # -- what the lease decides --------------------------------------------------------------------------

    def on_lead(self, epoch: int) -> None:
        """This node leads: the first write, then the work."""
        self._replicator.begin()
        self._running = self._group().create_task(self._lead(epoch))

    def on_ended(self, epoch: int, reason: str) -> None:
        """The candidature or leadership is over."""
        for gathering in self._gathering:
            gathering.cancel()
        self._gathering.clear()
        if self._running is None:
            self._counters.add("candidature_failed", f"epoch {epoch}: {reason}")
            return
        tell = journal.tell if self._handing else journal.warn
        tell("resigned", f"no longer leading epoch {epoch}: {reason}", epoch=epoch, reason=reason)
        self._handing = False
        self._running.cancel()
        self._stop_reign()

    def on_follow(self, leader: str | None, epoch: int) -> None:
        """This node follows another leader, or none."""
        if leader is None:
            journal.tell("leaderless", "no leader", epoch=epoch)
        else:
            text = f"following {self._peers.name_of(leader)}, epoch {epoch}"
            journal.tell("following", text, node=leader, epoch=epoch)
        self.changed.notify()

    def on_gather(self, epoch: int, granters: Mapping[str, VoteAnswer]) -> None:
        """Pull from those who granted, before leading."""
        for node, answer in granters.items():
            self._gathering.append(self._group().create_task(self._gather(epoch, node, answer)))

    def on_handover_ready(self, target: str) -> None:
        """The target has its majority: let go once it has everything."""
        if not self._letting_go:
            self._letting_go = True
            self._group().create_task(self._let_go(target, self._elector.lease.epoch))

    # -- leading -----------------------------------------------------------------------------------------

    async def _gather(self, epoch: int, node: str, answer: VoteAnswer) -> None:
        replicator = self._replicator
        try:
            if not quorum.covers(replicator.vector, answer.vector) or answer.roster.key > replicator.roster.key:
                await replicator.fetch(node)
        except MeshqError as error:
            self._counters.add("gather_failed", f"{node}: {error}")
            self._elector.tell(GatherFailed(epoch, node))
            return
        self._elector.tell(Gathered(epoch, node, replicator.roster))

    async def _lead(self, epoch: int) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._watch(epoch))
                await self._replicator.first_write(epoch)
                self._elector.tell(Established(epoch))
                reign = await self._begin(epoch)
                tasks.create_task(reign.dispatcher.run())
                tasks.create_task(reign.steward.run())
                tasks.create_task(self._replicator.fetch_lacking())
        except* MeshqError as group:
            for error in group.exceptions:
                self._counters.add("leadership_failed", str(error))
            self._elector.tell(Resign(str(group.exceptions[0]), epoch))

    async def _begin(self, epoch: int) -> Reign:
        expected = {self._replicator.me, *self._replicator.roster.members}
        expected.update(node for node in self._peers.book if self._elector.alive(node))
        expected.update(await self._replicator.database.read(queue.running_workers))
        self.reign = Reign(
            epoch, self._replicator, self._elector, self._peers, self._clock, self._config, self._counters,
            self._waiters, sorted(expected),
        )  # fmt: skip
        members = len(self._replicator.roster.members)
        journal.tell("leading", f"leading epoch {epoch}, {members} replica{'s'[: members != 1]}", epoch=epoch)
        self.changed.notify()
        self._waiters.wake_all()
        return self.reign

    def _stop_reign(self) -> None:
        self._running = None
        self._replicator.end()
        if self.reign is not None:
            self.reign.dispatcher.end()
            self.reign = None
        self.changed.notify()
        self._waiters.wake_all()

    async def _watch(self, epoch: int) -> None:
        """A leader that has something to commit and commits nothing for two leases resigns."""
        while True:
            await asyncio.sleep(self._config.heartbeat_s)
            if self._replicator.stuck_s() > 2 * self._config.lease_s:
                self._elector.tell(Resign("nothing could be committed for two leases", epoch))
                return

    # -- hand-over ---------------------------------------------------------------------------------------

    async def hand_over(self, wait_s: float) -> bool:
        """Gives the lease to the lowest replica that is in sync; whether that was done within `wait_s`."""
        deadline = self._clock.boot_s() + wait_s
        while self._elector.leads() and self._clock.boot_s() < deadline:
            fit = [node for node in self._replicator.roster.members if self._fits(node)]
            target = handover_target(self._replicator.roster, self._replicator.me, fit)
            if target is None and len(self._replicator.roster.members) == 1:
                return False
            count = self.changed.count
            if target is not None:
                self._elector.tell(HandOver(target))
            await self.changed.after(count, RETRY_S if target is None else HANDOVER_WAIT_S)
        return not self._elector.leads()

    def _fits(self, node: str) -> bool:
        peer = self._peers.book.get(node)
        stopping = peer is not None and peer.hello is not None and peer.hello.stopping
        return self._replicator.in_sync(node) and self._elector.alive(node) and not stopping

    async def _let_go(self, target: str, epoch: int) -> None:
        replicator = self._replicator
        try:
            replicator.pen_of(epoch)
            async with asyncio.timeout(HANDOVER_WAIT_S):
                await replicator.quiesce()
                while not replicator.has_everything(target):
                    count = replicator.changed.count
                    await replicator.changed.after(count, RETRY_S / 4)
        except (TimeoutError, NotLeader):
            self._counters.add("handover_failed", target)
            replicator.resume()
            return
        finally:
            self._letting_go = False
        journal.tell("handover", f"handing over to {self._peers.name_of(target)}", node=target)
        self._handing = True
        self._elector.tell(LetGo(target, epoch))

    async def leave(self, node: str) -> None:
        """Takes a node that stops in order off the roster.

        Raises:
            NotLeader: This node does not lead.
        """
        reign = await self.leading()
        await reign.steward.leave(node)

    async def leading(self) -> Reign:
        """The present leadership; waits a moment for the first write of a new one.

        Raises:
            NoLeader: This node does not lead.
        """
        while self._elector.leads():
            count = self.changed.count
            if self.reign is not None:
                return self.reign
            if not await self.changed.after(count, FIRST_WRITE_S):
                break
        raise NoLeader(f"{short(self._replicator.me)} does not lead")
