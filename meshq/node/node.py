"""The node: its parts wired together, its messages told apart, and its stop in stages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, cast

from meshq import __version__
from meshq.config import Config
from meshq.core.events import Timing
from meshq.core.ids import short
from meshq.core.lease import Lease
from meshq.core.messages import Call, Done, Handover, Hello, Leave, Pull, Renew, Vote
from meshq.core.quorum import majority
from meshq.core.reports import Health, NodeView
from meshq.core.requests import Get, Got, Heartbeat, HeartbeatAnswer, ResultsTaken, SubmitResult
from meshq.core.split import Patience, Split
from meshq.errors import Conflict, Malformed, MeshqError, StoreError
from meshq.node import journal
from meshq.node.courier import Courier
from meshq.node.credentials import Register
from meshq.node.elector import Around, Elector
from meshq.node.errands import Errands
from meshq.node.explain import Explain
from meshq.node.follower import Follower
from meshq.node.founding import Founding
from meshq.node.gateway import Gateway
from meshq.node.leadership import Leadership
from meshq.node.peers import Peers
from meshq.node.recovery import Recovery
from meshq.node.replicator import Replicator
from meshq.node.union import Union
from meshq.node.views import Views
from meshq.node.waiters import Waiters
from meshq.node.world import World
from meshq.store import identity
from meshq.worker.agent import Agent

HANDOVER_S = 5.0
LEAVE_S = 5.0
LEAVE_TRY_S = 2.0
HOUSEKEEPING_S = 600.0
MISSING_S = 5.0


class _Work:
    """The leader, wherever it is, as this node's worker sees it."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def get(self, request: Get) -> Got:
        return cast(Got, await self._gateway.lead(request))

    async def heartbeat(self, request: Heartbeat) -> HeartbeatAnswer:
        return cast(HeartbeatAnswer, await self._gateway.lead(request))

    async def submit_result(self, request: SubmitResult) -> ResultsTaken:
        return cast(ResultsTaken, await self._gateway.lead(request))


class Node:
    """One node of a cluster; also what answers the other nodes' messages.

    Args:
        me: Its id.
        boot: This start of it.
        name: What people call it.
        config: Its settings.
        world: Everything outside of it.
        on_stop: Called when somebody asks this daemon to stop; with True, to leave the cluster for good.
    """

    def __init__(
        self, me: str, boot: str, name: str, config: Config, world: World, on_stop: Callable[[bool], None]
    ) -> None:
        self.me, self.boot, self.name = me, boot, name
        self.config = config
        self.counters = world.counters
        self._world = world
        self._on_stop = on_stop
        self._stopping = False

    async def load(self) -> None:
        """Takes up what the disk holds, and puts the parts together.

        Raises:
            StoreError: The disk can't be read.
        """
        world, config, counters, clock = self._world, self.config, self.counters, self._world.clock
        self.replicator = Replicator(
            self.me, world.database, world.transport, clock, config, counters, world.copied, self._version
        )
        await self.replicator.load()
        self._formerly = (await world.database.read(identity.read_noted)).formerly
        self.elector = self.replicator.elector = await self._stand_up()
        self._follower = Follower(self.replicator, self.elector, clock, config, counters)
        self.peers = Peers(
            self.me, self.describe, world.transport, self.elector, self.replicator, world.database, clock, config,
            counters, world.told, world.address_of, self._on_keys,
        )  # fmt: skip
        await self.peers.load()
        waiters = Waiters()
        self.leadership = Leadership(self.replicator, self.elector, self.peers, clock, config, counters, waiters)
        self.elector.leadership = self.leadership
        self.views = Views(
            self.replicator, self.elector, self.leadership, self.peers, world.outbox, waiters, clock, config,
            self._myself,
        )  # fmt: skip
        self.explain = Explain(
            self.replicator, self.elector, self.leadership, self.peers, self.views, clock, config, world.recent
        )
        self.recovery = Recovery(
            self.replicator, self.elector, self.peers, self.leadership, world.keyring, clock
        )  # fmt: skip
        self._union = Union(self.replicator, self._follower, self.elector, self.peers, config, counters, world.reborn)
        errands = Errands(
            self.replicator, self.peers, waiters, world.transport, clock, world.logs, lambda on: self.agent.drain(on)
        )
        self.gateway = Gateway(
            self.me, self.boot, self.leadership, self.elector, self.views, self.explain, self.recovery, errands,
            Register(self.replicator, clock), world.outbox, world.transport, clock, counters, self._health,
            self._on_stop,
        )  # fmt: skip
        self._courier = Courier(world.outbox, self.gateway, self.elector, clock, counters)
        self._founding = Founding(self.me, self.replicator, self.peers, clock, config, world.announced)
        self.agent = Agent(
            self.me, self.boot, self.name, world.pool, _Work(self.gateway), world.outbox, clock, config, world.tasks,
            counters.add, lambda: self.leadership.reign is not None,
        )  # fmt: skip
        await errands.load()
        await self._union.load()
        bad = await world.outbox.set_aside_garbage()
        if bad:
            journal.warn("garbage", f"{bad} entries of the outbox can't be read; they are set aside", entries=bad)

    async def _stand_up(self) -> Elector:
        """The lease, as the disk knows it."""
        world, config, clock = self._world, self.config, self._world.clock
        started_at = clock.boot_s()
        timing = Timing(
            heartbeat_s=config.heartbeat_s, lease_s=config.lease_s, margin=config.lease_margin,
            stand_step_s=config.stand_step_s, alive_s=config.alive_s,
        )  # fmt: skip
        if self.replicator.roster.genesis and not self.replicator.roster.writer:
            await world.promises.reset()  # its former cluster is dissolved, and binds nobody
        promise = await world.promises.load()
        lease = Lease(self.me, promise, self.replicator.roster, timing, started_at, clock.random)
        patience = Patience(split_after_s=config.split_after_s, cold_after_s=config.cold_after_s)
        split = Split(self.me, patience, started_at) if config.without_majority == "survive" else None
        around = Around(
            peers=lambda: self.peers.around(started_at),
            is_synced=lambda: self._follower.is_synced(),
            row_epoch=lambda: self.replicator.row_epoch,
        )
        return Elector(
            lease, world.promises, world.transport, clock, self.replicator.holdings, self.counters, split, around
        )

    # -- life --------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Works until it is cancelled; `stop` comes before that, for an end in order."""
        async with asyncio.TaskGroup() as tasks:
            # The elector's first turn may decide something already, where this process was paused as it started.
            tasks.create_task(self.leadership.run())
            tasks.create_task(self.elector.run())
            tasks.create_task(self._follower.run())
            tasks.create_task(self.peers.run())
            tasks.create_task(self._founding.run())
            tasks.create_task(self._courier.run())
            tasks.create_task(self.agent.run())
            tasks.create_task(self._wake_agent())
            tasks.create_task(self._keep_house())
            tasks.create_task(self._tell_missing())
            tasks.create_task(self._union.run())

    async def stop(self) -> None:
        """Stops in stages: refuses new work, drains, hands the lease over, leaves the roster."""
        self._stopping = self.gateway.stopping = True
        running, _ = self.agent.load()
        left = f": {running} running tasks have {self.config.drain_s:g} s to finish" if running else ""
        journal.tell("stopping", f"stopping{left}", running=running)
        await self.agent.stop(self.config.drain_s)
        if self.elector.leads():
            await self.leadership.hand_over(HANDOVER_S)
        await self._leave()

    async def _leave(self) -> None:
        """Leaves the roster, so that the others need no majority with this node in it."""
        clock = self._world.clock
        deadline = clock.boot_s() + LEAVE_S
        while (left_s := deadline - clock.boot_s()) > 0:
            roster = self.replicator.roster
            if self.me not in roster.members or len(roster.members) < 2:
                return
            count = self.elector.changed.count
            leader = self.elector.majority_leader()
            if leader is None or leader == self.me:
                await self.elector.changed.after(count, left_s)
                continue
            try:
                timeout_s = min(left_s, LEAVE_TRY_S)
                await self._world.transport.request(leader, Leave(genesis=roster.genesis), timeout_s=timeout_s)
            except Conflict as error:
                journal.warn("stays", str(error))
                return
            except MeshqError as error:
                self.counters.add("leave_failed", str(error))
                await self.elector.changed.after(count, min(left_s, 0.2))
                continue
            journal.tell("left", "left the roster; the others go on")
            return
        journal.warn("left_hard", "stopping without a leader that could take this node off the roster")

    async def _tell_missing(self) -> None:
        """Says for whom this node waits, when too few replicas are there for a leader."""
        seen: list[str] = []
        told: list[str] = []
        while True:
            await asyncio.sleep(MISSING_S)
            roster = self.replicator.roster
            members = roster.members
            missing = [self.peers.name_of(node) for node in self.peers.missing()]
            if roster.genesis and not members:
                missing = [f"the machines of cluster {short(roster.genesis)}, which this one became part of"]
            elif len(members) - len(missing) >= majority(len(members)):
                missing = []
            if self.elector.leader() is not None:
                missing = []
            # Seen twice: a node that has just woken up has not asked the others yet.
            if missing and missing == seen and missing != told:
                told = missing
                journal.warn("waiting", self._waiting(missing, len(members)), missing=missing)
            seen = missing
            told = told if missing else []

    def _waiting(self, names: list[str], replicas: int) -> str:
        text = f"no leader: waiting for {', '.join(names)}"
        if replicas:
            text += f"; {majority(replicas)} of {replicas} replicas are needed"
        # Whoever is a replica goes on without a majority after a while.
        alone = self.me not in self.replicator.roster.members
        return f"{text}; if they never come back, go on with this copy: meshq recover" if alone else text

    async def _wake_agent(self) -> None:
        while True:
            count = self.leadership.changed.count
            self.agent.follow_epoch(self.elector.promised_epoch, split=bool(self.elector.kind()))
            self.agent.wake()
            await self.leadership.changed.after(count)

    async def _keep_house(self) -> None:
        while True:
            try:
                dropped = await self._world.outbox.expire(self._world.clock.wall_ms(), self.config.cache_ttl_s)
            except StoreError as error:
                self.counters.add("outbox_not_expired", str(error))
                dropped = 0
            if dropped:
                journal.warn("expired", f"{dropped} outcomes found no leader for too long and are dropped")
            await asyncio.sleep(HOUSEKEEPING_S)

    # -- messages ----------------------------------------------------------------------------------------

    async def answer(self, sender: str, message: Any) -> Any:
        """Answers one message of another node.

        Raises:
            MeshqError: Goes back as a refusal.
        """
        match message:
            case Vote() | Renew() | Handover():
                return await self.elector.answer(sender, message)
            case Hello():
                return await self.peers.on_hello(sender, message)
            case Call():
                return await self.gateway.on_call(sender, message)
            case Leave():
                if message.genesis != self.replicator.roster.genesis:
                    raise Conflict("this is another cluster: it can't be left from there")
                await self.leadership.leave(sender)
                return Done()
        raise Malformed(f"{type(message).__name__} is no message that asks for something")

    async def stream(self, sender: str, message: Any) -> AsyncIterator[Any]:
        """Answers a pull, in parts."""
        if not isinstance(message, Pull):
            raise Malformed(f"{type(message).__name__} is answered in one part")
        async with aclosing(self.replicator.serve(sender, message)) as parts:
            async for part in parts:
                yield part

    def _on_keys(self, offered: str, dropped: tuple[str, ...]) -> None:
        if self._world.keyring is not None:
            self._world.keyring.learn(offered, dropped)

    # -- what others see ---------------------------------------------------------------------------------

    def describe(self) -> Hello:
        """Who this node is, as of now."""
        running, _ = self.agent.load()
        roster, ring = self.replicator.roster, self._world.keyring
        return Hello(
            boot=self.boot,
            name=self.name,
            addresses=self._world.addresses(),
            roster=roster,
            votes=self.config.replica != "never",
            slots=self._world.pool.slots,
            running=running,
            stopping=self._stopping,
            version=self._world.version,
            leader=self.elector.leader() or "",
            epoch=self.elector.promised_epoch,
            split=str(self.elector.kind()),
            hears=tuple(member for member in roster.members if member != self.me and self.elector.alive(member)),
            formerly=self._formerly if self._formerly in roster.members else "",
            dissolved=self._union.came_from,
            keys=ring.names() if ring is not None else (),
            offered=ring.offered if ring is not None else "",
            dropped=ring.held.dropped if ring is not None else (),
        )

    def _version(self) -> int:
        return self.peers.version(self._world.version)

    def _myself(self) -> NodeView:
        addresses = self._world.addresses()
        running, _ = self.agent.load()
        return NodeView(
            id=self.me, name=self.name, role="", address=addresses[0] if addresses else "", heard_s=0.0,
            slots=self._world.pool.slots, running=running, behind=None, drained=self.agent.drained,
        )  # fmt: skip

    def _health(self) -> Health:
        leader = self.elector.leader()
        copies = "replica" if self.me in self.replicator.roster.members else "worker"
        role = "leader" if leader == self.me else copies
        return Health(
            ok=leader is not None, node=self.me, role=role, leader=leader, version=__version__, pid=self._world.pid,
            cluster=self.config.cluster, protocol=(self._world.oldest, self._world.version),
            clock_s=self._world.clock.boot_s(),
        )  # fmt: skip
