"""The lease: who leads, for how long, and how that changes hands. Events in, effects out.

A voter's promise lasts `lease_s` from the receipt of the vote or renewal; the leader counts only a part of that,
from the moment at which it sent what a majority answered. So the leader knows that it leads for as long as
nobody else can have been granted a majority. PROTOCOL.md tells the whole story.
"""

from __future__ import annotations

from collections.abc import Callable

from meshq.core import events as ev
from meshq.core import quorum
from meshq.core.events import HOLDING, Effect, Event, Promise, Role, Timing
from meshq.core.ids import short
from meshq.core.limits import EPOCH_MAX
from meshq.core.mandate import Mandate
from meshq.core.membership import Roster, newest
from meshq.core.messages import Done, Handover, Refused, Renew, RenewAnswer, Vote
from meshq.core.standing import NEVER, Standing
from meshq.core.voter import Voter

VOTE_WAIT_STEPS = 3


class Lease:
    """One node's part in the lease.

    Args:
        me: This node's id.
        promise: What the disk says that was promised.
        roster: The newest roster on this disk.
        timing: The durations.
        now: Seconds on a clock that counts on in suspend, as in every call.
        jitter: A random number in [0, 1) at each call.
    """

    def __init__(
        self, me: str, promise: Promise, roster: Roster, timing: Timing, now: float, jitter: Callable[[], float]
    ) -> None:
        self.me = me
        self.voter = Voter(me, promise, now)
        self.roster = roster
        self.role = Role.FOLLOWER
        self.epoch = 0  # the one that this node follows, stands for or leads
        self.leader: str | None = None
        self.standing = Standing(me, timing, self.voter.quiet_until, jitter)
        self._timing = timing
        self._seen = 0  # the highest epoch that anybody answered with
        self._outdated = 0  # the highest epoch of a row that came home
        self._asked_at = NEVER
        self._phase_until = NEVER
        self._votes_until = NEVER
        self._next_due = NEVER
        self._yes: set[str] = set()
        self._mandate = Mandate(me, roster.key, -NEVER)
        self._token: tuple[int, str] = (0, "")
        self._stood_again = -NEVER

    def leads(self, now: float) -> bool:
        """Whether this node leads at this instant; asked again before every answer that depends on it."""
        return self.role is Role.LEADER and now < self.lease_until()

    def lease_until(self) -> float:
        """The instant at which this node's own lease runs out."""
        return self._mandate.acked_by_majority(self.roster.members) + self._timing.lease_s * self._timing.margin

    def _hold_until(self) -> float:
        """The instant at which it gives up; while it gathers, voters that it asked late have their time to answer."""
        return max(self.lease_until(), self._votes_until) if self.role is Role.GATHERING else self.lease_until()

    def known_leader(self, now: float) -> str | None:
        """Who leads, as far as this node knows at this instant."""
        if self.role is Role.LEADER:
            return self.me if self.leads(now) else None
        return self.leader if now < self.voter.until else None

    def bound(self, now: float) -> bool:
        """Whether it stands or leads itself, or gave its word to another, and so does nothing of its own."""
        stands = self.role in (Role.VOTING, *HOLDING)
        return stands or (now < self.voter.until and self.voter.promise.holder not in ("", self.me))

    def followers(self) -> tuple[str, ...]:
        """Who voted for this node or followed its renewals since: what its lease stands on."""
        return self._mandate.behind() if self.role in HOLDING else ()

    def deadline(self, now: float) -> float:
        """The instant at which `Tick` is due."""
        if self.role is Role.FOLLOWER:
            lost_at = self.voter.until if self.leader is not None else NEVER
            return min(self.standing.due_at(self.roster.members, now), lost_at)
        if self.role in HOLDING:
            return min(self._next_due, self._hold_until(), self._phase_until)
        return min(self._next_due, self._phase_until)

    def step(self, event: Event, now: float) -> list[Effect]:
        """Takes one event and says what is to be done, in order."""
        return [*self._on_time(now), *self._on_event(event, now)]

    def _on_event(self, event: Event, now: float) -> list[Effect]:
        match event:
            case ev.Received():
                return self._on_request(event.sender, event.message, now)
            case ev.Answered():
                self.standing.answered(event.sender, now)
                self._seen = max(self._seen, event.answer.epoch)
                return self._on_answer(event, now)
            case ev.Heard(sender):
                self.standing.answered(sender, now)
            case ev.Gathered(epoch, sender, roster):
                return self._on_gathered(epoch, sender, roster, now)
            case ev.GatherFailed(epoch, sender):
                return self._on_gather_failed(epoch, sender, now)
            case ev.RosterChanged() | ev.Outdated():
                return self._on_news(event, now)
            case ev.Established(epoch) if epoch == self.epoch:
                self.standing.succeeded()
            case ev.Resign(reason, epoch) if epoch in (None, self.epoch):
                self.voter.doubt()
                return self._fail(reason, now)
            case ev.HandOver(target) if self.leads(now):
                return [ev.Send(target, Handover(epoch=self.epoch, step="prepare", genesis=self.roster.genesis))]
            case ev.LetGo(target, epoch) if epoch == self.epoch:
                return self._on_let_go(target, now)
        return []

    def _on_request(self, sender: str, message: Vote | Renew | Handover, now: float) -> list[Effect]:
        match message:
            case Vote():
                return self._on_vote(sender, message, now)
            case Renew():
                return self._on_renew(sender, message, now)
            case Handover():
                return self._on_handover(sender, message, now)

    def _on_news(self, event: ev.RosterChanged | ev.Outdated, now: float) -> list[Effect]:
        if isinstance(event, ev.Outdated):
            self._seen, self._outdated = max(self._seen, event.epoch), max(self._outdated, event.epoch)
            return []
        self.roster = newest([self.roster, event.roster])
        is_off = self.role in HOLDING and self.me not in self.roster.members
        return self._fail("not on the newest roster", now) if is_off else []

    def _on_time(self, now: float) -> list[Effect]:
        if self.role is Role.FOLLOWER:
            effects: list[Effect] = []
            if self.leader is not None and now >= self.voter.until:
                self.leader = None
                effects.append(ev.Follow(None, self.voter.promise.epoch))
            due = now >= self.standing.due_at(self.roster.members, now)
            return effects + (self._ask(now) if due else [])
        if self.role in HOLDING:
            if now >= self._hold_until():
                return self._fail("the lease ran out", now)
            if now >= self._phase_until:
                return self._fail("too few of the newest roster granted", now)
            if self.role is Role.LEADER and self._outdated > self.epoch and self._may_stand_again(now):
                return self._stand_again("rows of a later epoch came home", now)
            return self._renew(now) if now >= self._next_due else []
        if now >= self._phase_until:
            return self._fail("no majority granted", now)
        if self.role is Role.ASKING and now >= self._next_due:
            return self._ask_others(now)
        return []

    # -- as a voter --------------------------------------------------------------------------------------

    def _on_vote(self, sender: str, vote: Vote, now: float) -> list[Effect]:
        refusal = self.voter.refusal(sender, vote, self.roster.genesis, now)
        effects: list[Effect] = []
        if not refusal and not vote.pre:
            if not self.voter.promised(vote.epoch, sender):
                effects += self._become_follower("another was granted the vote")
                effects += self._set_leader(None, vote.epoch)
            effects += self._promise(vote.epoch, sender, vote.lease_s, now)
        return [*effects, ev.VoteReply(not refusal, vote.pre, self.voter.promise.epoch, refusal)]

    def _on_renew(self, sender: str, renew: Renew, now: float) -> list[Effect]:
        reason = ""
        if self.roster.genesis and renew.genesis != self.roster.genesis:
            reason = "other_cluster"
        elif renew.epoch < self.voter.promise.epoch:
            reason = "old_epoch"
        elif self.role in HOLDING and renew.epoch == self.epoch:
            reason = "two_leaders"
        if reason:
            return [ev.Reply(RenewAnswer(followed=False, epoch=self.voter.promise.epoch, reason=reason))]
        # Whomever this node voted for: the winner of an epoch is the only one, and refusing it would leave this
        # node out for ever. A hand-over under way goes on, since it is the holder itself that renews.
        effects: list[Effect] = []
        if not (self._token == (renew.epoch, sender) and self.role in (Role.ASKING, Role.READY)):
            effects += self._become_follower("another leads")
        effects += self._promise(renew.epoch, sender, renew.lease_s, now)
        effects += self._set_leader(sender, renew.epoch)
        return [*effects, ev.Reply(RenewAnswer(followed=True, epoch=renew.epoch))]

    def _promise(self, epoch: int, holder: str, lease_s: float, now: float) -> list[Effect]:
        effects = self.voter.grant(epoch, holder, lease_s, now)
        self.standing.wait_from(self.voter.until)
        return effects

    # -- as a candidate ----------------------------------------------------------------------------------

    def _ballot(self, epoch: int, *, pre: bool) -> Vote:
        held, holder = self._token
        return Vote(
            epoch=epoch, pre=pre, lease_s=self._timing.lease_s, genesis=self.roster.genesis,
            handover_epoch=held, handover_holder=holder,
        )  # fmt: skip

    def _ask(self, now: float, token: tuple[int, str] = (0, "")) -> list[Effect]:
        """Begins a pre-vote; nobody raises an epoch unless a majority would grant."""
        self.role, self._token = Role.ASKING, token
        self._yes, self._asked_at = set(), now
        self._phase_until = now + VOTE_WAIT_STEPS * self._timing.stand_step_s
        if self.voter.refusal(self.me, self._ballot(1, pre=True), self.roster.genesis, now):
            return self._fail("this node itself is bound", now)
        self._yes.add(self.me)
        return self._ask_others(now)

    def _ask_others(self, now: float) -> list[Effect]:
        # Asked again within the phase: the others' promises run out a little later than this node's own.
        self._next_due = now + self._timing.stand_step_s / 2
        ballot = self._ballot(self.voter.promise.epoch + 1, pre=True)
        others = [member for member in self.roster.members if member not in self._yes]
        return [*(ev.Send(member, ballot) for member in others), *self._count_asked(now)]

    def _count_asked(self, now: float) -> list[Effect]:
        if not quorum.is_majority(self._yes, self.roster.members):
            return []
        if self._token[1]:
            self.role, self._next_due = Role.READY, NEVER
            self._phase_until = now + self._timing.lease_s
            ready = Handover(epoch=self._token[0], step="ready", genesis=self.roster.genesis)
            return [ev.Send(self._token[1], ready)]
        return self._vote(now)

    def _vote(self, now: float) -> list[Effect]:
        unfollow = self._set_leader(None, self.epoch)
        self.role, self.epoch = Role.VOTING, max(self.voter.promise.epoch, self._seen) + 1
        self._next_due = NEVER
        ballot = self._ballot(self.epoch, pre=False)
        if reason := self.voter.refusal(self.me, ballot, self.roster.genesis, now):
            return self._fail(reason, now)
        if self.epoch >= EPOCH_MAX:
            return self._fail("no epoch is left", now)  # none would be answered, and none is to be on a disk
        self._mandate = Mandate(self.me, self.roster.key, now)
        effects = self.voter.grant(self.epoch, self.me, self._timing.lease_s, now)
        asked = self._canvass(now)
        self._phase_until = self._votes_until = now + VOTE_WAIT_STEPS * self._timing.stand_step_s
        return [*unfollow, *effects, *asked, *self._count_votes(now)]

    def _canvass(self, now: float) -> list[Effect]:
        ballot = self._ballot(self.epoch, pre=False)
        new = self._mandate.to_ask(self.roster.members)
        if new:
            self._votes_until = now + VOTE_WAIT_STEPS * self._timing.stand_step_s
        return [ev.Send(member, ballot) for member in new]

    def _on_answer(self, event: ev.Answered, now: float) -> list[Effect]:
        sender, answer = event.sender, event.answer
        if isinstance(answer, RenewAnswer):
            return self._on_renew_answer(event, answer, now)
        if answer.pre:
            # One of an earlier pre-vote may have named a hand-over, or have been true then.
            if self.role is Role.ASKING and answer.granted and event.sent_s >= self._asked_at:
                self._yes.add(sender)
                return self._count_asked(now)
            return []
        current = event.request.epoch == self.epoch and self.role in (Role.VOTING, Role.GATHERING)
        if not answer.granted or not current:
            return []
        self._mandate.granted(sender, event.sent_s, answer)
        return self._count_votes(now)

    def _count_votes(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        if self.role is Role.VOTING and self._mandate.is_won(self.roster.members):
            self.role = Role.GATHERING
            effects += self._renew(now)
        if self.role is not Role.GATHERING:
            return []
        if granters := self._mandate.to_gather():
            self._phase_until = NEVER
            effects.append(ev.Gather(self.epoch, granters))
        return effects + self._count_gathered(now)

    def _on_gathered(self, epoch: int, sender: str, roster: Roster, now: float) -> list[Effect]:
        if epoch != self.epoch or self.role is not Role.GATHERING:
            return []
        self.roster = newest([self.roster, roster])
        if self.me not in self.roster.members:
            return self._fail("not on the newest roster", now)
        self._mandate.gathered(sender)
        if not self._mandate.is_gathering():
            self._phase_until = now + self._timing.lease_s
        # A newer roster may name voters that were not asked yet.
        return [*self._canvass(now), *self._count_gathered(now)]

    def _count_gathered(self, now: float) -> list[Effect]:
        if self.role is not Role.GATHERING or not self._mandate.is_gathered(self.roster):
            return []
        self.role, self.leader, self._phase_until = Role.LEADER, self.me, NEVER
        return [ev.Lead(self.epoch), *self._renew(now)]

    def _on_gather_failed(self, epoch: int, sender: str, now: float) -> list[Effect]:
        if epoch != self.epoch or self.role is not Role.GATHERING:
            return []
        self._mandate.gather_failed(sender)
        if not self._mandate.is_gathering():
            self._phase_until = self._votes_until  # another's vote may still come
        return []

    # -- as a leader -------------------------------------------------------------------------------------

    def _renew(self, now: float) -> list[Effect]:
        self._next_due = now + self._timing.heartbeat_s
        self._mandate.acked(self.me, now)
        effects = self.voter.grant(self.epoch, self.me, self._timing.lease_s, now)
        renew = Renew(epoch=self.epoch, lease_s=self._timing.lease_s, genesis=self.roster.genesis)
        if self.role is Role.GATHERING:
            # Not to all: of a roster newer than its own another may lead, whom nobody is to leave.
            return [*effects, *(ev.Send(voter, renew) for voter in self._mandate.voters())]
        return [*effects, ev.SendAll(renew)]

    def _on_renew_answer(self, event: ev.Answered, answer: RenewAnswer, now: float) -> list[Effect]:
        if event.request.epoch != self.epoch or self.role not in HOLDING:
            return []
        if answer.followed:
            self._mandate.acked(event.sender, event.sent_s)
            return []
        refused_for_good = answer.reason == "old_epoch"
        if not refused_for_good or self.role is not Role.LEADER or not self._may_stand_again(now):
            return []
        # Who promised a later epoch can follow only a later one: stand again, so that it counts, or can join.
        return self._stand_again(f"{short(event.sender)} promised a later epoch", now)

    def _may_stand_again(self, now: float) -> bool:
        return now - self._stood_again >= self._timing.lease_s

    def _stand_again(self, reason: str, now: float) -> list[Effect]:
        self._stood_again = now
        return [*self._become_follower(reason), *self._ask(now)]

    def _become_follower(self, reason: str) -> list[Effect]:
        ended: list[Effect] = []
        if self.role in (Role.VOTING, *HOLDING):
            ended.append(ev.Ended(self.epoch, reason))
        self.role, self.leader = Role.FOLLOWER, None if self.role in HOLDING else self.leader
        self._phase_until = self._next_due = NEVER
        self._token = (0, "")
        return ended

    def _fail(self, reason: str, now: float) -> list[Effect]:
        """Ends a candidature or leadership; the next one waits a whole round longer, so that others get a turn."""
        if self.role is Role.FOLLOWER:
            return []
        stood = self.role in (Role.VOTING, *HOLDING)
        self.standing.stood_in_vain(max(now, self.voter.bound_until()), counts=stood)
        return self._become_follower(reason)

    def _set_leader(self, leader: str | None, epoch: int) -> list[Effect]:
        changed = leader != self.leader or (leader is not None and epoch != self.epoch)
        self.leader = leader
        if leader is not None:
            self.epoch = epoch
        return [ev.Follow(leader, epoch)] if changed else []

    # -- hand-over ---------------------------------------------------------------------------------------

    def _on_handover(self, sender: str, handover: Handover, now: float) -> list[Effect]:
        held = (handover.epoch, sender)
        mine = (self.voter.promise.epoch, self.voter.promise.holder)
        match handover.step:
            case "prepare" if held == mine and (self.role is Role.FOLLOWER or self._is_ready_for(held)):
                return [ev.Reply(Done()), *self._ask(now, held)]
            case "ready" if self.leads(now) and handover.epoch == self.epoch:
                return [ev.Reply(Done()), ev.HandoverReady(sender)]
            case "go" if held == mine and self.role in (Role.FOLLOWER, Role.ASKING, Role.READY):
                # The holder let go for good, so the votes may be asked for whatever became of the pre-vote.
                self._token = held
                return [ev.Reply(Done()), *self._vote(now)]
        text = f"a hand-over's {handover.step} of epoch {handover.epoch} does not fit here"
        return [ev.Reply(Refused(code="handover", message=text, retryable=False))]

    def _is_ready_for(self, held: tuple[int, str]) -> bool:
        # Asked once more: what it said to that may be lost.
        return self.role is Role.READY and self._token == held

    def _on_let_go(self, target: str, now: float) -> list[Effect]:
        if not self.leads(now):
            return []
        go = Handover(epoch=self.epoch, step="go", genesis=self.roster.genesis)
        self.voter.let_go()
        # Should the message be lost, all others have their turn before this node, however low its id.
        round_s = len(self.roster.members) * self._timing.stand_step_s
        self.standing.wait_from(now + self._timing.lease_s + round_s)
        return [*self._become_follower(f"handed over to {short(target)}"), ev.Send(target, go)]
