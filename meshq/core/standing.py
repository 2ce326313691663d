"""When a replica stands: whose turn comes before its own, who of them lives, and how often it stood in vain."""

from __future__ import annotations

from collections.abc import Callable, Collection

from meshq.core.events import Timing

NEVER = float("inf")
PENALTY_MAX = 4


class Standing:
    """One node's place in the order of candidates.

    Args:
        me: This node's id.
        timing: The durations.
        wait_from: The instant from which it waits for its turn, in seconds on the lease clock, as everywhere here.
        jitter: A random number in [0, 1) at each call.
    """

    def __init__(self, me: str, timing: Timing, wait_from: float, jitter: Callable[[], float]) -> None:
        self._me = me
        self._timing = timing
        self._jitter = jitter
        self._wait_from = wait_from
        self._extra_s = jitter() * timing.stand_step_s / 2
        self._penalty = 0
        self._answered: dict[str, float] = {}

    # -- who lives ---------------------------------------------------------------------------------------

    def answered(self, node: str, now: float) -> None:
        """Notes that a node answered."""
        self._answered[node] = now

    def heard_at(self, node: str) -> float | None:
        """When the node last answered anything; None if it never did."""
        return self._answered.get(node)

    def alive(self, node: str, now: float) -> bool:
        """Whether the node answered lately."""
        return now - self._answered.get(node, -NEVER) < self._timing.alive_s

    # -- whose turn it is --------------------------------------------------------------------------------

    def due_at(self, members: Collection[str], now: float) -> float:
        """The instant at which this node stands, if nothing happens before; never if it is no replica."""
        if self._me not in members:
            return NEVER
        lower = sum(member < self._me and self.alive(member, now) for member in members)
        steps = lower + self._penalty * len(members)
        extra_s = self._extra_s if len(members) > 1 else 0.0
        return self._wait_from + steps * self._timing.stand_step_s + extra_s

    def wait_from(self, instant: float) -> None:
        """Its turn is counted from this instant."""
        self._wait_from = instant

    def stood_in_vain(self, instant: float, *, counts: bool) -> None:
        """Its turn is counted from this instant, and where that `counts`, comes a whole round later than before."""
        self._wait_from = instant
        self._extra_s = self._jitter() * self._timing.stand_step_s / 2
        if counts:
            self._penalty = min(self._penalty + 1, PENALTY_MAX)

    def succeeded(self) -> None:
        """It leads and could commit: it waits no longer than others again."""
        self._penalty = 0
