"""A voter's word: to whom the lease is promised, until when, and when a vote is refused."""

from __future__ import annotations

from meshq.core.events import Effect, Persist, Promise
from meshq.core.messages import Vote


class Voter:
    """What one node has promised.

    Args:
        me: This node's id.
        promise: What the disk says that was promised.
        now: Seconds on a clock that counts on in suspend, as in every call.
    """

    def __init__(self, me: str, promise: Promise, now: float) -> None:
        self.me = me
        self.promise = promise
        self._on_disk: Promise | None = promise
        # It may have promised just before it died, so it grants nothing for as long as that promise can last.
        self.quiet_until = now + promise.lease_s
        self.until = self.quiet_until
        self._let_go_epoch = 0

    def refusal(self, candidate: str, vote: Vote, genesis: str, now: float) -> str:
        """Why this vote can't be granted; empty if it can. The reason is a log line and a counter too."""
        if now < self.quiet_until:
            return "just_started"
        if not genesis or vote.genesis != genesis:
            return "other_cluster"
        # A pre-vote only asks, and learns the epoch that it would have to exceed. A vote that was promised already is
        # granted again: the first answer may be lost, or the winner's renewal was here before.
        if not vote.pre and vote.epoch <= self.promise.epoch and not self.promised(vote.epoch, candidate):
            return "old_epoch"
        if self.promise.holder in ("", candidate) or now >= self.until:
            return ""
        if (vote.handover_epoch, vote.handover_holder) != (self.promise.epoch, self.promise.holder):
            return "promised"
        if self.promise.holder == self.me and self._let_go_epoch != self.promise.epoch and not vote.pre:
            return "not_let_go"
        return ""

    def promised(self, epoch: int, holder: str) -> bool:
        """Whether exactly this was promised last."""
        return (epoch, holder) == (self.promise.epoch, self.promise.holder)

    def bound_until(self) -> float:
        """The instant from which this node may grant itself a vote."""
        return self.until if self.promise.holder not in ("", self.me) else self.quiet_until

    def grant(self, epoch: int, holder: str, lease_s: float, now: float) -> list[Effect]:
        """Promises, from now on, for `lease_s`; the disk is asked only for what it does not know yet."""
        same = self.promised(epoch, holder)
        longest = max(lease_s, self.promise.lease_s) if same else lease_s
        self.promise = Promise(epoch, holder, longest)
        self.until = max(now + lease_s, self.until) if same else now + lease_s
        if self.promise == self._on_disk:
            return []
        self._on_disk = self.promise
        return [Persist(self.promise)]

    def doubt(self) -> None:
        """Something went wrong, the disk perhaps: whatever is promised next is written again."""
        self._on_disk = None

    def let_go(self) -> None:
        """Frees the target of a hand-over from the promise that this node made to itself."""
        self._let_go_epoch = self.promise.epoch
