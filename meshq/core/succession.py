"""To whom a leader gives the lease back: the lowest replica that has been fit for long enough."""

from __future__ import annotations

from collections.abc import Collection

DOUBLINGS_MAX = 6


class Succession:
    """What one leadership knows of those with a lower id.

    Args:
        me: The leader.
        after_s: How long a replica has to be fit without a break; doubled for it with each hand-over that failed.
    """

    def __init__(self, me: str, after_s: float) -> None:
        self._me = me
        self._after_s = after_s
        self._fit_since: dict[str, float] = {}
        self._failures: dict[str, int] = {}

    def look(self, fit: Collection[str], now: float) -> str | None:
        """The replica to hand over to now, if any.

        Args:
            fit: The replicas that are in sync, alive, not stopping, and answered by all who answer the leader.
            now: Seconds on the lease clock.
        """
        lower = sorted(node for node in fit if node < self._me)
        self._fit_since = {node: self._fit_since.get(node, now) for node in lower}
        for node in lower:
            wait_s = self._after_s * 2 ** min(self._failures.get(node, 0), DOUBLINGS_MAX)
            if now - self._fit_since[node] >= wait_s:
                return node
        return None

    def failed(self, node: str, now: float) -> None:
        """A hand-over to this replica came to nothing: it has to be fit for twice as long from now."""
        self._failures[node] = self._failures.get(node, 0) + 1
        self._fit_since[node] = now
