"""What the voters gave the candidate, later leader, of one epoch: votes, copies to gather, and answered renewals."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from meshq.core import quorum
from meshq.core.membership import Roster, RosterKey
from meshq.core.messages import VoteAnswer


class Mandate:
    """One epoch's votes.

    Args:
        me: The candidate, who votes for itself and need not gather from itself.
        newest: The key of its own roster.
        now: When it voted, in seconds on the lease clock, as everywhere here.
    """

    def __init__(self, me: str, newest: RosterKey, now: float) -> None:
        self._me = me
        self._asked = {me}
        self._votes = {me}
        self._gathered = {me}
        self._gathering: set[str] = set()
        self._granters: dict[str, VoteAnswer] = {}
        self._newest_seen = newest
        self._acks = {me: now}

    def to_ask(self, members: Collection[str]) -> list[str]:
        """Those of the members who were not asked yet; they count as asked from now."""
        new = [member for member in members if member not in self._asked]
        self._asked.update(new)
        return new

    def granted(self, voter: str, sent_s: float, answer: VoteAnswer) -> None:
        """A voter granted what was asked at `sent_s`."""
        self._votes.add(voter)
        self._granters[voter] = answer
        self._newest_seen = max(self._newest_seen, answer.roster.key)
        self.acked(voter, sent_s)

    def acked(self, voter: str, sent_s: float) -> None:
        """A voter follows since it received what was sent at `sent_s`, or later."""
        self._acks[voter] = max(sent_s, self._acks.get(voter, sent_s))

    def acked_by_majority(self, members: Collection[str]) -> float:
        """The latest instant after which a majority received something and followed; -inf where none did."""
        acks = [self._acks[member] for member in members if member in self._acks]
        return quorum.held_by_majority(acks, len(members))

    def behind(self) -> tuple[str, ...]:
        """All who voted for it or followed it."""
        return tuple(sorted(self._acks))

    def voters(self) -> tuple[str, ...]:
        """All others who voted for it."""
        return tuple(sorted(self._votes - {self._me}))

    def is_won(self, members: Collection[str]) -> bool:
        """Whether a majority voted for it."""
        return quorum.is_majority(self._votes, members)

    def to_gather(self) -> Mapping[str, VoteAnswer]:
        """Those who granted since the last call: what they hold is being gathered from now."""
        granters, self._granters = self._granters, {}
        self._gathering.update(granters)
        return granters

    def gathered(self, voter: str) -> None:
        """Everything that this voter held is here."""
        self._gathered.add(voter)
        self._gathering.discard(voter)

    def gather_failed(self, voter: str) -> None:
        """This voter could not be pulled from."""
        self._gathering.discard(voter)

    def is_gathering(self) -> bool:
        """Whether something is still on its way."""
        return bool(self._gathering)

    def is_gathered(self, roster: Roster) -> bool:
        """Whether a majority's copies are here; the newest roster that any granter named must be here, too."""
        return roster.key >= self._newest_seen and quorum.is_majority(self._gathered, roster.members)
