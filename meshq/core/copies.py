"""The other nodes' copies of the queue, as a leader knows them from their pulls."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from meshq.core import quorum

Vector = Mapping[str, int]
NEVER = float("-inf")


@dataclass(slots=True)
class _Copy:
    """`goal` is what was committed when its last pull was answered: what it should hold when it asks again."""

    vector: Vector
    epoch: int
    goal: Vector = field(default_factory=dict)
    goal_at: float = NEVER
    synced_at: float = NEVER
    polled_at: float = NEVER


class Copies:
    """What the other nodes hold; it lasts for one leadership.

    Args:
        lease_s: A copy counts as in sync for so long after it was seen to be.
    """

    def __init__(self, lease_s: float) -> None:
        self._lease_s = lease_s
        self._copies: dict[str, _Copy] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._copies)

    def clear(self) -> None:
        """A new leadership begins: nobody's copy counts before it pulls under the new epoch."""
        self._copies.clear()

    def note(self, node: str, vector: Vector, epoch: int, now: float, *, follows: bool = True) -> None:
        """A node pulls: it holds this, and promised this epoch. One that `follows` waits for what comes next."""
        copy = self._copies.setdefault(node, _Copy(vector, epoch))
        copy.vector, copy.epoch = vector, epoch
        if follows:
            copy.polled_at = now
        if now - copy.goal_at < self._lease_s and quorum.covers(vector, copy.goal):
            copy.synced_at = now

    def answered(self, node: str, committed: Vector, now: float) -> None:
        """Its pull is answered with all that was committed until now."""
        copy = self._copies.get(node)
        if copy is not None:
            copy.goal, copy.goal_at = committed, now

    def in_sync(self, node: str, now: float) -> bool:
        """Whether it held, within the last lease, everything that was committed when it last asked."""
        copy = self._copies.get(node)
        return copy is not None and now - copy.synced_at < self._lease_s

    def behind(self, node: str, vector: Vector) -> int | None:
        """How many versions of this vector it lacks; None if it has not pulled."""
        copy = self._copies.get(node)
        if copy is None:
            return None
        return sum(max(0, seq - copy.vector.get(writer, 0)) for writer, seq in vector.items())

    def is_within(self, node: str, vector: Vector) -> bool:
        """Whether this vector covers all that the node is known to hold; False where it has not pulled."""
        copy = self._copies.get(node)
        return copy is not None and quorum.covers(vector, copy.vector)

    def covers(self, node: str, vector: Vector) -> bool:
        """Whether it is known to hold all of this."""
        copy = self._copies.get(node)
        return copy is not None and quorum.covers(copy.vector, vector)

    def polled_since(self, instant: float) -> list[Vector]:
        """The vectors of those who follow: they waited for something new since then."""
        return [copy.vector for copy in self._copies.values() if copy.polled_at >= instant]

    def of(self, members: Collection[str], epoch: int) -> list[Vector]:
        """The vectors that count: those of members who promised this epoch."""
        return [copy.vector for node, copy in self._copies.items() if node in members and copy.epoch == epoch]
