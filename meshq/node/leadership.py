"""One node's leaderships: what begins when the lease is won, what ends when it is lost, and handing it over."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from meshq.config import Config
from meshq.core import quorum
from meshq.core.events import Established, Gathered, GatherFailed, HandOver, LetGo, Resign
from meshq.core.ids import short
from meshq.core.membership import handover_target
from meshq.core.messages import VoteAnswer
from meshq.core.ports import Clock
from meshq.core.split import Kind, Term
from meshq.core.succession import Succession
from meshq.errors import MeshqError, NoLeader, NotLeader, StoreError
from meshq.node import journal
from meshq.node.counters import Counters
from meshq.node.elector import Elector
from meshq.node.peers import Peers
from meshq.node.reign import Reign
from meshq.node.replicator import Replicator
from meshq.node.signal import Signal
from meshq.node.tally import Tally
from meshq.node.waiters import Waiters
from meshq.store import meta, queue
from meshq.store.database import Connection

HANDOVER_WAIT_S = 2.0
GIVE_BACK_S = 5.0
COLD_SINCE = "cold_since"
RETRY_S = 0.2
FIRST_WRITE_S = 1.0


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
        self._leads_split = False
        self._told: Term | None = None
        self._came_home: list[tuple[str, Tally]] = []  # gathered after a split, to be reported
        self._comes_home = Signal()

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
        self.on_split(None)  # one that wins all votes at once, its own, has led its split until this moment
        term = Term(epoch=epoch)
        self._replicator.begin(term)
        self._running = self._group().create_task(self._lead(term))

    def on_split(self, term: Term | None) -> None:
        """This node leads its part without a majority, or does so no longer."""
        if self._leads_split:
            self._leads_split = False
            if self._running is not None:
                self._running.cancel()
            self._stop_reign()
        if term is not None:
            self._leads_split = True
            self._replicator.begin(term)
            self._running = self._group().create_task(self._lead_split(term))

    def on_ended(self, epoch: int, reason: str) -> None:
        """The candidature or leadership is over."""
        for gathering in self._gathering:
            gathering.cancel()
        self._gathering.clear()
        if self._running is None or self._leads_split:
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
            self._group().create_task(self._forget_cold())
        self.changed.notify()

    def on_gather(self, epoch: int, granters: Mapping[str, VoteAnswer]) -> None:
        """Pull from those who granted, before leading."""
        for node, answer in granters.items():
            self._gathering.append(self._group().create_task(self._gather(epoch, node, answer)))

    def on_handover_ready(self, target: str) -> None:
        """The target has its majority: let go once it has everything."""
        if not self._letting_go:
            self._letting_go = True
            self._group().create_task(self._let_go(target, Term(epoch=self._elector.lease.epoch)))

    # -- leading -----------------------------------------------------------------------------------------

    async def _gather(self, epoch: int, node: str, answer: VoteAnswer) -> None:
        replicator = self._replicator
        apart = self._elector.kind() is not Kind.NONE or self._peers.is_apart(node)
        try:
            if quorum.is_stale(answer.vector, replicator.dropped):
                # It holds rows whose tombstones are dropped, and nothing newer: it takes a full copy as a follower.
                await replicator.adopt_roster(answer.roster)
            elif not quorum.covers(replicator.vector, answer.vector) or answer.roster.key > replicator.roster.key:
                tally = await replicator.fetch(node)
                if apart:
                    self._came_home.append((node, tally))
                    self._comes_home.notify()
            # Also the one that this node wrote itself while its last leadership ended.
            await replicator.reload_roster()
        except MeshqError as error:
            self._counters.add("gather_failed", f"{node}: {error}")
            self._elector.tell(GatherFailed(epoch, node))
            return
        self._elector.tell(Gathered(epoch, node, replicator.roster))

    async def _lead(self, term: Term) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._watch(term))
                await self._replicator.first_write(term)
                self._elector.tell(Established(term.epoch))
                reign = await self._begin(term)
                tasks.create_task(reign.dispatcher.run())
                tasks.create_task(reign.steward.run())
                tasks.create_task(reign.homecoming.run())
                tasks.create_task(self._give_back(term))
                tasks.create_task(reign.janitor.run())
                tasks.create_task(self._report(reign))
        except* MeshqError as group:
            for error in group.exceptions:
                self._counters.add("leadership_failed", str(error))
            self._elector.tell(Resign(str(group.exceptions[0]), term.epoch))

    async def _report(self, reign: Reign) -> None:
        """Says what was gathered, also from those whose answers were under way when this node began to lead."""
        while True:
            count = self._comes_home.count
            while self._came_home:
                node, tally = self._came_home.pop()
                reign.dispatcher.merged(tally.tasks)
                await reign.homecoming.report(node, tally)
            await self._comes_home.after(count)

    async def _lead_split(self, term: Term) -> None:
        """Goes on without a majority; no first write, since the rows of others are none of this split's business."""
        while True:
            try:
                async with asyncio.TaskGroup() as tasks:
                    reign = await self._begin(term)
                    tasks.create_task(reign.dispatcher.run())
                    tasks.create_task(reign.homecoming.run())
                    while True:
                        # Copies that went away no longer hold up what waits.
                        await asyncio.sleep(self._config.heartbeat_s)
                        self._replicator.advance()
            except* MeshqError as group:
                for error in group.exceptions:
                    self._counters.add("split_failed", str(error))
            # A disk that fails ends no split: there is nobody to whom it could be left.
            self._end_reign()
            await asyncio.sleep(self._config.heartbeat_s)
            self._replicator.begin(term)

    async def _begin(self, term: Term) -> Reign:
        expected = await self._expected()
        after = self._replicator.vector.get(self._replicator.me, 0)
        if term.kind is Kind.COLD:
            after = await self._cold_since(after)
        if not term.split:
            await self._forget_cold()
        self.reign = Reign(
            term, self._replicator, self._elector, self._peers, self._clock, self._config, self._counters,
            self._waiters, expected, after,
        )  # fmt: skip
        members = len(self._replicator.roster.members)
        if term.split:
            if term != self._told:  # not with every try of one whose disk fails
                text = f"leading without a majority ({term.kind}): too few of {members} replicas answer"
                journal.warn("split", text, epoch=term.epoch, kind=str(term.kind))
            self._told = term
        else:
            text = f"leading epoch {term.epoch}, {members} replica{'s'[: members != 1]}"
            journal.tell("leading", text, epoch=term.epoch)
        self.changed.notify()
        self._waiters.wake_all()
        return self.reign

    async def _cold_since(self, seq: int) -> int:
        """The seq since which this node, restarts included, has had no majority: what it wrote after that is new."""

        def work(conn: Connection) -> int:
            noted = meta.get(conn, COLD_SINCE)
            if noted is None:
                meta.put(conn, COLD_SINCE, str(seq))
            return seq if noted is None else int(noted)

        return await self._replicator.database.write(work)

    async def _forget_cold(self) -> None:
        try:
            if await self._replicator.database.read(lambda conn: meta.get(conn, COLD_SINCE)) is not None:
                await self._replicator.database.write(lambda conn: meta.delete(conn, COLD_SINCE))
        except StoreError as error:
            self._counters.add("cold_not_forgotten", str(error))

    async def _expected(self) -> dict[str, float]:
        """Who may run something, and until when each is waited for.

        One that answered until the last leader was lost, and is silent since, has had that part of its time.
        """
        expected = {self._replicator.me, *self._replicator.roster.members}
        expected.update(node for node in self._peers.book if self._elector.alive(node))
        expected.update(await self._replicator.database.read(queue.running_workers))
        now, standing = self._clock.boot_s(), self._elector.lease.standing
        # So long before it counts as lost, the last leader was there.
        led_s = self._config.lease_s + self._config.alive_s
        untils = {}
        for node in sorted(expected):
            heard_at = standing.heard_at(node)
            since = heard_at if heard_at is not None and heard_at >= self._elector.led_until - led_s else now
            untils[node] = max(since, now - self._config.dead_after_s) + self._config.dead_after_s
        return untils

    def _stop_reign(self) -> None:
        self._running = None
        self._end_reign()

    def _end_reign(self) -> None:
        self._replicator.end()
        if self.reign is not None:
            self.reign.dispatcher.end()
            self.reign = None
        self.changed.notify()
        self._waiters.wake_all()

    async def _watch(self, term: Term) -> None:
        """A leader that has something to commit and commits nothing for two leases resigns."""
        while True:
            await asyncio.sleep(self._config.heartbeat_s)
            if self._replicator.stuck_s() > 2 * self._config.lease_s:
                self._elector.tell(Resign("nothing could be committed for two leases", term.epoch))
                return

    # -- hand-over ---------------------------------------------------------------------------------------

    async def hand_over(self, wait_s: float) -> bool:
        """Gives the lease to the lowest replica that is in sync; whether that was done within `wait_s`."""
        deadline = self._clock.boot_s() + wait_s
        while self._elector.leads() and self._clock.boot_s() < deadline:
            fit = [node for node in self._replicator.roster.members if self._fits(node)]
            # Whoever does not reach all would leave those without a leader; better that than none at all.
            best = [node for node in fit if not self._peers.unheard(node)]
            target = handover_target(self._replicator.roster, self._replicator.me, best or fit)
            if target is None and len(self._replicator.roster.members) == 1:
                return False
            count = self.changed.count
            if target is not None:
                self._elector.tell(HandOver(target))
            await self.changed.after(count, RETRY_S if target is None else HANDOVER_WAIT_S)
        return not self._elector.leads()

    def _fits(self, node: str) -> bool:
        hello = self._peers.hello_of(node)
        stopping = hello is not None and hello.stopping
        return self._replicator.in_sync(node) and self._elector.alive(node) and not stopping

    async def _give_back(self, term: Term) -> None:
        """Hands over to a lower id once it has been in sync and stable for long enough."""
        succession = Succession(self._replicator.me, self._config.handover_after_s)
        while True:
            await asyncio.sleep(self._config.heartbeat_s)
            members = self._replicator.roster.members
            fit = [node for node in members if self._fits(node) and not self._peers.unheard(node)]
            target = succession.look(fit, self._clock.boot_s())
            if target is None or self._replicator.roster.into:
                continue
            self._elector.tell(HandOver(target))
            count, deadline = self.changed.count, self._clock.boot_s() + GIVE_BACK_S
            while self._elector.leads() and (left_s := deadline - self._clock.boot_s()) > 0:
                await self.changed.after(count, left_s)
                count = self.changed.count
            self._counters.add("give_back_failed", target)
            succession.failed(target, self._clock.boot_s())

    async def _let_go(self, target: str, term: Term) -> None:
        replicator = self._replicator
        try:
            replicator.check(term)
            async with asyncio.timeout(HANDOVER_WAIT_S):
                await replicator.gate.quiesce()
                while not replicator.has_everything(target):
                    count = replicator.changed.count
                    await replicator.changed.after(count, RETRY_S / 4)
        except (TimeoutError, NotLeader):
            self._counters.add("handover_failed", target)
            replicator.gate.resume()
            return
        finally:
            self._letting_go = False
        journal.tell("handover", f"handing over to {self._peers.name_of(target)}", node=target)
        self._handing = True
        self._elector.tell(LetGo(target, term.epoch))

    async def leave(self, node: str) -> None:
        """Takes a node that stops in order off the roster.

        Raises:
            NotLeader: This node does not lead.
        """
        reign = await self.leading_majority()
        await reign.steward.leave(node)

    async def leading_majority(self) -> Reign:
        """The present leadership of a majority, which alone may change the roster.

        Raises:
            NoLeader: This node leads no majority.
        """
        reign = await self.leading()
        if reign.term.split:
            raise NotLeader("there is no majority here that could change the roster; see `meshq recover`")
        return reign

    async def leading(self) -> Reign:
        """The present leadership; waits a moment for the first write of a new one.

        Raises:
            NoLeader: This node does not lead.
        """
        while (term := self._elector.term()) is not None:
            count = self.changed.count
            if self.reign is not None and self.reign.term == term:
                return self.reign
            if not await self.changed.after(count, FIRST_WRITE_S):
                break
        raise NoLeader(f"{short(self._replicator.me)} does not lead")
