"""Leases without a network: one alone that is told everything, and several whose messages the bench carries."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Self, TypeVar

from meshq.core.events import (
    Answered,
    Effect,
    Event,
    Gather,
    Gathered,
    GatherFailed,
    HandoverReady,
    Heard,
    Lead,
    LetGo,
    Persist,
    Promise,
    Received,
    Reply,
    Resign,
    Role,
    Send,
    SendAll,
    Tick,
    Timing,
    VoteReply,
)
from meshq.core.lease import Lease
from meshq.core.membership import Roster, newest
from meshq.core.messages import Handover, Refused, Renew, RenewAnswer, Vote, VoteAnswer

T = TypeVar("T")
TIMING = Timing(heartbeat_s=0.5, lease_s=2.5, margin=0.7, stand_step_s=0.4, alive_s=2.0)
COUNTED_S = TIMING.lease_s * TIMING.margin
GENESIS = "g" * 32
A, B, C, D, E = (letter * 32 for letter in "abcde")


def roster_of(*members: str, version: int = 1) -> Roster:
    """A roster; the greater version is the newer one."""
    return Roster(genesis=GENESIS, members=members, version=version, writer=members[0], seq=version)


def lease_of(
    me: str = A, members: tuple[str, ...] = (A, B, C), *, promise: Promise | None = None, jitter: float = 0.0
) -> Lease:
    """A node's lease at its start, at the instant 0."""
    return Lease(me, promise or Promise(), roster_of(*members), TIMING, 0.0, lambda: jitter)


def vote_for(epoch: int, *, pre: bool = False, held: tuple[int, str] = (0, ""), genesis: str = GENESIS) -> Vote:
    """A candidate's request."""
    return Vote(
        epoch=epoch, pre=pre, lease_s=TIMING.lease_s, genesis=genesis, handover_epoch=held[0], handover_holder=held[1]
    )


def renewal(epoch: int, genesis: str = GENESIS) -> Renew:
    """A leader's request."""
    return Renew(epoch=epoch, lease_s=TIMING.lease_s, genesis=genesis)


def says_yes(voter: str, request: Vote, sent_s: float, *, epoch: int | None = None, roster: Roster) -> Answered:
    """A voter grants what was sent at `sent_s`."""
    known = request.epoch if epoch is None else epoch
    answer = VoteAnswer(granted=True, pre=request.pre, epoch=known, vector={}, roster=roster)
    return Answered(voter, sent_s, request, answer)


def follows(voter: str, request: Renew, sent_s: float) -> Answered:
    """A node follows what was sent at `sent_s`."""
    return Answered(voter, sent_s, request, RenewAnswer(followed=True, epoch=request.epoch))


def refuses(voter: str, request: Renew, sent_s: float, *, epoch: int, reason: str = "old_epoch") -> Answered:
    """A node does not follow."""
    return Answered(voter, sent_s, request, RenewAnswer(followed=False, epoch=epoch, reason=reason))


def role_of(lease: Lease) -> Role:
    """Where it stands; a call, so that a checker does not take it for what it was a step ago."""
    return lease.role


def only(effects: Iterable[Effect], kind: type[T]) -> list[T]:
    """The effects of one kind."""
    return [effect for effect in effects if isinstance(effect, kind)]


def comes_after(effects: list[Effect], first: type[Effect], later: type[Effect]) -> bool:
    """Whether every effect of the one kind stands before all of the other."""
    firsts = [index for index, effect in enumerate(effects) if isinstance(effect, first)]
    laters = [index for index, effect in enumerate(effects) if isinstance(effect, later)]
    return bool(firsts) and bool(laters) and max(firsts) < min(laters)


def sent(effects: Iterable[Effect], kind: type[T]) -> dict[str, T]:
    """The requests of one kind, by whom they go to."""
    return {effect.to: effect.message for effect in only(effects, Send) if isinstance(effect.message, kind)}


def reply_to(lease: Lease, sender: str, message: Vote | Renew | Handover, now: float) -> VoteReply | object:
    """The one answer to a request."""
    effects = lease.step(Received(sender, message), now)
    replies = [*only(effects, VoteReply), *(effect.message for effect in only(effects, Reply))]
    assert len(replies) == 1
    return replies[0]


def win(lease: Lease, now: float, *voters: str, roster: Roster | None = None) -> list[Effect]:
    """Wins a pre-vote and a vote with these voters' help; the node gathers then. All at one instant."""
    roster = roster or lease.roster
    effects = lease.step(Tick(), now)
    for voter in voters:
        ballot = sent(effects, Vote).get(voter) or vote_for(lease.voter.promise.epoch + 1, pre=True)
        if role_of(lease) is Role.ASKING:
            effects = lease.step(says_yes(voter, ballot, now, epoch=0, roster=roster), now)
    assert role_of(lease) is Role.VOTING
    ballot = vote_for(lease.epoch)
    story = list(effects)
    for voter in voters:
        story += lease.step(says_yes(voter, ballot, now, roster=roster), now)
    return story


def lead(lease: Lease, now: float, *voters: str) -> None:
    """Wins, gathers, and leads."""
    win(lease, now, *voters)
    for voter in voters:
        lease.step(Gathered(lease.epoch, voter, lease.roster), now)
    assert lease.leads(now)


@dataclass(slots=True)
class Flight:
    """An event on its way to a node."""

    due_s: float
    to: str
    event: Event
    sender: str = ""
    sent_s: float = 0.0


@dataclass
class Bench:
    """Nodes side by side. What is sent arrives after `delay_s`, unless something is `down` or cut.

    Its fields are what a test breaks: nodes that are `down` or `paused`, ordered pairs in `cuts`, nodes whose disk is
    `full`, and how fast the nodes' clocks run.
    """

    leases: dict[str, Lease]
    now: float = 0.0
    delay_s: float = 0.001
    disks: dict[str, Promise] = field(default_factory=dict)
    down: set[str] = field(default_factory=set)
    paused: set[str] = field(default_factory=set)
    cuts: set[tuple[str, str]] = field(default_factory=set)
    full: set[str] = field(default_factory=set)
    rates: dict[str, float] = field(default_factory=dict)
    lets_go: bool = True
    hello_s: float = 0.0
    bag: list[Flight] = field(default_factory=list)
    led: list[tuple[str, int]] = field(default_factory=list)

    @classmethod
    def of(cls, *nodes: str, members: tuple[str, ...] = (), jitter: float = 0.0) -> Self:
        """Fresh nodes, all on one roster, which have just said hello."""
        bench = cls({node: lease_of(node, members or nodes, jitter=jitter) for node in nodes})
        for node, other in itertools.permutations(nodes, 2):
            bench.leases[node].standing.answered(other, 0.0)
        return bench

    def clock(self, node: str) -> float:
        """What this node's clock shows."""
        return self.now * self.rates.get(node, 1.0)

    def leaders(self) -> list[str]:
        """Who leads at this instant, each by its own clock."""
        return [node for node in self.leases if node not in self.down and self.leases[node].leads(self.clock(node))]

    def restart(self, node: str) -> None:
        """A node starts again, with what its disk holds."""
        self.down.discard(node)
        self.paused.discard(node)
        promise = self.disks.get(node, Promise())
        self.leases[node] = Lease(node, promise, self.leases[node].roster, TIMING, self.clock(node), lambda: 0.0)

    def crash(self, node: str) -> None:
        """A node's process ends; what was on its way to it is gone."""
        self.down.add(node)
        self.bag = [flight for flight in self.bag if flight.to != node]

    def step(self, node: str, event: Event, sender: str = "", sent_s: float = 0.0) -> list[Effect]:
        """One event at one node, with all that follows from it there."""
        effects = self.leases[node].step(event, self.clock(node))
        for effect in effects:
            if isinstance(effect, Persist):
                if node in self.full:
                    self.step(node, Resign("the disk is full"))
                    break
                assert effect.promise.epoch >= self.disks.get(node, Promise()).epoch, "a promised epoch never falls"
                self.disks[node] = effect.promise
            self._carry_out(node, effect, event, sender, sent_s)
        self.look()
        return effects

    def look(self) -> None:
        """Never two leaders, and never two of one epoch."""
        leaders = self.leaders()
        assert len(leaders) <= 1, f"{leaders} at {self.now}"
        by_epoch = {epoch: node for node, epoch in self.led}
        assert all(by_epoch[epoch] == node for node, epoch in self.led), f"an epoch was led twice: {self.led}"

    def _carry_out(self, node: str, effect: Effect, event: Event, sender: str, sent_s: float) -> None:
        match effect:
            case Send(to, message):
                self.post(node, to, Received(node, message))
            case SendAll(renew):
                for other in self.leases:
                    if other != node:
                        self.post(node, other, Received(node, renew))
            case Reply() | VoteReply() if isinstance(event, Received):
                self.post(node, sender, self._answer(node, event, effect, sent_s))
            case Gather(epoch, granters):
                for granter in granters:
                    self.bag.append(Flight(self.now + 2 * self.delay_s, node, self._gathered(node, epoch, granter)))
            case Lead(epoch):
                self.led.append((node, epoch))
            case HandoverReady(target) if self.lets_go:
                self.bag.append(Flight(self.now, node, LetGo(target, self.leases[node].epoch)))

    def _answer(self, node: str, event: Received, effect: Reply | VoteReply, sent_s: float) -> Event:
        request = event.message
        if isinstance(effect, VoteReply) and isinstance(request, Vote):
            answer = VoteAnswer(
                granted=effect.granted, pre=effect.pre, epoch=effect.epoch, reason=effect.reason, vector={},
                roster=self.leases[node].roster,
            )  # fmt: skip
            return Answered(node, sent_s, request, answer)
        if isinstance(effect, Reply) and isinstance(request, Renew) and isinstance(effect.message, RenewAnswer):
            return Answered(node, sent_s, request, effect.message)
        return Heard(node)

    def _gathered(self, node: str, epoch: int, granter: str) -> Event:
        if granter in self.down or {(node, granter), (granter, node)} & self.cuts:
            return GatherFailed(epoch, granter)
        return Gathered(epoch, granter, newest([self.leases[node].roster, self.leases[granter].roster]))

    def post(self, sender: str, to: str, event: Event) -> None:
        """Sends something on its way; the instant by the sender's clock goes with it."""
        self.bag.append(Flight(self.now + self.delay_s, to, event, sender, self.clock(sender)))

    def deliver(self, flight: Flight) -> None:
        """Brings what is on its way where it goes, if it gets there."""
        if flight.to not in self.down and (flight.sender, flight.to) not in self.cuts:
            self.step(flight.to, flight.event, flight.sender, flight.sent_s)

    def hello(self) -> None:
        """Each node hears from every other that it reaches and that reaches it."""
        for node, other in itertools.permutations(self.leases, 2):
            if not {node, other} & (self.down | self.paused) and not {(node, other), (other, node)} & self.cuts:
                self.step(node, Heard(other))

    def run(self, seconds: float) -> None:
        """Lets time pass, with all that is due in it."""
        until = self.now + seconds
        while True:
            if self.hello_s <= self.now:
                self.hello_s = self.now + TIMING.heartbeat_s
                self.hello()
            reach = [flight for flight in self.bag if flight.to not in self.paused]
            flight = min(reach, key=lambda each: each.due_s, default=None)
            timer_s, node = min(self._timers(), default=(until + 1, ""))
            next_s = max(self.now, min(timer_s, self.hello_s, flight.due_s if flight else until + 1))
            if next_s > until:
                self.now = until
                return
            self.now = next_s
            if flight is not None and flight.due_s <= next_s:
                self.bag.remove(flight)
                self.deliver(flight)
            elif timer_s <= next_s:
                self.step(node, Tick())

    def _timers(self) -> Iterable[tuple[float, str]]:
        for node in self.leases.keys() - self.down - self.paused:
            # A hair later, so that the node's own clock shows the instant, however the division was rounded.
            yield self.leases[node].deadline(self.clock(node)) / self.rates.get(node, 1.0) + 1e-9, node

    def run_until(self, holds: Callable[[], bool], within_s: float) -> float:
        """Lets time pass until something holds; how long that took."""
        began_s = self.now
        while not holds():
            assert self.now - began_s < within_s, f"it does not hold after {within_s} s"
            self.run(0.01)
        return self.now - began_s


def is_refused(reply: object) -> bool:
    """Whether a hand-over's step was refused."""
    return isinstance(reply, Refused) and reply.code == "handover"
