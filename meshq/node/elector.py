"""The only driver of the lease: feeds it events one at a time, and carries out its effects in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from meshq.core.events import (
    Answered,
    Effect,
    Ended,
    Event,
    Follow,
    Gather,
    HandoverReady,
    Heard,
    Lead,
    Persist,
    Promise,
    Received,
    Reply,
    Resign,
    Send,
    SendAll,
    Tick,
    VoteReply,
)
from meshq.core.lease import Lease
from meshq.core.membership import Roster
from meshq.core.messages import Handover, Renew, RenewAnswer, Vote, VoteAnswer
from meshq.core.ports import Clock, Transport
from meshq.core.split import Kind, Peer, Split, Term
from meshq.errors import MeshqError, StoreError, Unreachable
from meshq.node.counters import Counters
from meshq.node.signal import Signal

REQUEST_TIMEOUT_S = 1.0
TICK_S = 0.25  # who is alive changes without an event, so the deadline is looked at again this often


class Leadership(Protocol):
    """Who is told what the lease decided; each call returns at once."""

    def on_lead(self, epoch: int) -> None:
        """This node leads."""

    def on_ended(self, epoch: int, reason: str) -> None:
        """Its candidature or leadership is over."""

    def on_follow(self, leader: str | None, epoch: int) -> None:
        """It follows another leader, or none."""

    def on_gather(self, epoch: int, granters: Mapping[str, VoteAnswer]) -> None:
        """Pull from these, and tell the elector."""

    def on_handover_ready(self, target: str) -> None:
        """Stop writing, and let go once the target has everything."""

    def on_split(self, term: Term | None) -> None:
        """This node leads its part without a majority, or does so no longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Around:
    """What the elector asks of the rest of the node; each is asked only where its answer matters.

    Args:
        peers: The other nodes, every replica among them.
        is_synced: Whether this copy lately held all that its leader's did.
        row_epoch: The highest epoch of a row here, as far as known.
    """

    peers: Callable[[], Mapping[str, Peer]]
    is_synced: Callable[[], bool]
    row_epoch: Callable[[], int]


class PromiseStore(Protocol):
    """Where a promise is kept."""

    async def save(self, promise: Promise) -> None:
        """Returns when it is on disk."""


class Elector:
    """Drives one node's lease.

    Args:
        lease: The rules and their state.
        promises: Where promises go before anything is said.
        transport: To the other nodes.
        clock: The lease clock.
        holdings: What this node holds: its vector and roster.
        counters: Where refusals are counted.
        split: What becomes of this node without a majority; None if it waits for one.
        around: The rest of the node.
    """

    def __init__(
        self,
        lease: Lease,
        promises: PromiseStore,
        transport: Transport,
        clock: Clock,
        holdings: Callable[[], tuple[dict[str, int], Roster]],
        counters: Counters,
        split: Split | None,
        around: Around,
    ) -> None:
        self.lease = lease
        self.split = split
        self._around = around
        self.changed = Signal()
        self.led_until = float("-inf")  # when a majority's leader was last known here
        self.since_ms: int | None = None  # since when the present leader is followed here
        self.leadership: Leadership | None = None
        self._promises = promises
        self._transport = transport
        self._clock = clock
        self._holdings = holdings
        self._counters = counters
        self._saved_epoch = lease.voter.promise.epoch
        self._followed: str | None = None
        self._events: deque[tuple[Event, asyncio.Future[object] | None]] = deque()
        self._arrived = asyncio.Event()
        self._tasks: asyncio.TaskGroup | None = None

    # -- what the rest of the node asks ------------------------------------------------------------------

    def leads(self) -> bool:
        """Whether this node leads a majority now."""
        return self.lease.leads(self._clock.boot_s())

    def majority_leader(self) -> str | None:
        """Who leads a majority now, as far as this node knows."""
        return self.lease.known_leader(self._clock.boot_s())

    def leader(self) -> str | None:
        """Whom this node follows now, itself perhaps: a majority's leader, or else that of its split."""
        return self.majority_leader() or self.split_leader()

    def split_leader(self) -> str | None:
        """Whom this node follows without a majority, itself perhaps; None where there is no split."""
        now = self._clock.boot_s()
        if self.split is None or self.lease.known_leader(now) is not None or self.lease.bound(now):
            return None
        return self.split.leader

    def term(self) -> Term | None:
        """The leadership that this node has at this instant, with a majority or without; None if it leads nothing."""
        if self.leads():
            return Term(epoch=self.lease.epoch)
        if self.split is None or self.split_leader() is None:
            return None
        return self.split.term

    def kind(self) -> Kind:
        """How this node stands to a majority."""
        return self.split.kind if self.split is not None and self.majority_leader() is None else Kind.NONE

    def alive(self, node: str) -> bool:
        """Whether this node answered lately."""
        return self.lease.standing.alive(node, self._clock.boot_s())

    @property
    def promised_epoch(self) -> int:
        """The highest epoch that this node promised, on disk."""
        return self._saved_epoch

    def tell(self, event: Event) -> None:
        """Puts an event in line."""
        self._events.append((event, None))
        self._arrived.set()

    def heard(self, node: str) -> None:
        """Notes that a node answered."""
        self.tell(Heard(node))

    async def answer(self, sender: str, message: Vote | Renew | Handover) -> object:
        """Handles a request of another node, in its turn."""
        reply: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._events.append((Received(sender, message), reply))
        self._arrived.set()
        return await reply

    # -- the loop ----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Runs until it is cancelled."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            while True:
                await self._wait()
                event, reply = self._events.popleft() if self._events else (Tick(), None)
                await self._turn(event, reply)

    async def _wait(self) -> None:
        if self._events:
            return
        self._arrived.clear()
        now = self._clock.boot_s()
        wait_s = min(self.lease.deadline(now) - now, TICK_S)
        if wait_s <= 0:
            return
        try:
            async with asyncio.timeout(wait_s):
                await self._arrived.wait()
        except TimeoutError:
            return

    async def _turn(self, event: Event, reply: asyncio.Future[object] | None) -> None:
        """One event, its disk write included, before the next is looked at."""
        before = self._stand()
        effects = self.lease.step(event, self._clock.boot_s())
        try:
            sent_s = self._clock.boot_s()
            for effect in effects:
                await self._carry_out(effect, reply, sent_s)
        except StoreError as error:
            # Nothing of what should have followed the write has left, or will.
            self._counters.add("promise_not_written", str(error))
            if reply is not None and not reply.done():
                reply.set_exception(error)
            for effect in self.lease.step(Resign("the promise could not be written"), self._clock.boot_s()):
                if isinstance(effect, Ended):
                    self._tell_leadership(effect)
        if reply is not None and not reply.done():
            reply.set_exception(Unreachable("the request led to no answer"))
        self._look_apart()
        if self._stand() != before:
            self.changed.notify()
        leader = self.leader()
        if leader != self._followed:
            self._followed, self.since_ms = leader, self._clock.wall_ms() if leader is not None else None

    def _look_apart(self) -> None:
        """Where no majority's leader is known: whether this node goes on without one, and behind whom."""
        split, now = self.split, self._clock.boot_s()
        leader = self.lease.known_leader(now)
        if leader is not None:
            self.led_until = now
        if split is None:
            return
        before = split.term
        if leader is not None:
            split.touch(now, in_sync=self.leads() or self._around.is_synced())
        elif self.lease.bound(now):
            split.step_back()
        else:
            split.look(
                self.lease.roster.members, self._around.peers(), epoch=max(self._saved_epoch, self._around.row_epoch()),
                in_sync=self._around.is_synced(), now=now,
            )  # fmt: skip
        if split.term != before and self.leadership is not None:
            self.leadership.on_split(split.term)

    def _stand(self) -> tuple[object, ...]:
        split = self.split
        apart = (split.kind, split.leader, split.term) if split is not None else ()
        return self.lease.role, self.lease.leader, self.lease.voter.promise.epoch, apart

    async def _carry_out(self, effect: Effect, reply: asyncio.Future[object] | None, sent_s: float) -> None:
        match effect:
            case Persist(promise):
                await self._promises.save(promise)
                self._saved_epoch = promise.epoch
            case Reply(message):
                if isinstance(message, RenewAnswer) and not message.followed:
                    self._counters.add("renew_refused_" + message.reason)
                self._resolve(reply, message)
            case VoteReply(granted, pre, epoch, reason):
                vector, roster = self._holdings()
                if reason and not pre:
                    self._counters.add("vote_refused_" + reason)
                self._resolve(
                    reply,
                    VoteAnswer(granted=granted, pre=pre, epoch=epoch, reason=reason, vector=vector, roster=roster),
                )
            case Send(to, message):
                self._spawn(to, message, sent_s)
            case SendAll(renew):
                for node in self._transport.connected():
                    self._spawn(node, renew, sent_s)
            case _:
                self._tell_leadership(effect)

    def _tell_leadership(self, effect: Effect) -> None:
        if self.leadership is None:
            return
        match effect:
            case Lead(epoch):
                self.leadership.on_lead(epoch)
            case Ended(epoch, reason):
                self.leadership.on_ended(epoch, reason)
            case Follow(leader, epoch):
                self.leadership.on_follow(leader, epoch)
            case Gather(epoch, granters):
                self.leadership.on_gather(epoch, granters)
            case HandoverReady(target):
                self.leadership.on_handover_ready(target)

    @staticmethod
    def _resolve(reply: asyncio.Future[object] | None, message: object) -> None:
        if reply is not None and not reply.done():
            reply.set_result(message)

    def _spawn(self, to: str, message: Vote | Renew | Handover, sent_s: float) -> None:
        if self._tasks is not None:
            self._tasks.create_task(self._ask(to, message, sent_s))

    async def _ask(self, to: str, message: Vote | Renew | Handover, sent_s: float) -> None:
        try:
            answer = await self._transport.request(to, message, timeout_s=REQUEST_TIMEOUT_S)
        except MeshqError as error:
            self._counters.add(f"{type(message).__name__.lower()}_unanswered", f"{to}: {error}")
            return
        if isinstance(message, Handover):
            self.heard(to)
        elif isinstance(answer, VoteAnswer | RenewAnswer):
            self.tell(Answered(to, sent_s, message, answer))
