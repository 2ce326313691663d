"""How long tasks run and how many finish, as one leadership learns it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from meshq.core.claims import Claim
from meshq.core.requests import Get
from meshq.store.queue import Budget

RUN_S_MIN = 1e-4  # what a run costs besides its own time
RUN_S_WEIGHT = 0.2  # of the newest run in the running mean of a name's run times
MINUTE_S = 60.0


class Pace:
    """Estimates by task name, and the count of the last minute.

    Args:
        ahead_s: How much work a worker takes beforehand for each slot; also what an unknown task counts as.
    """

    def __init__(self, ahead_s: float) -> None:
        self._ahead_s = ahead_s
        self._run_s: dict[str, float] = {}
        self._finished: deque[tuple[float, int]] = deque()

    def learn(self, name: str, run_s: float) -> None:
        """A task of this name has run for so long."""
        known, run_s = self._run_s.get(name), max(run_s, RUN_S_MIN)
        self._run_s[name] = run_s if known is None else known + RUN_S_WEIGHT * (run_s - known)

    def budget(self, request: Get, held: Iterable[Claim]) -> Budget:
        """What a worker that holds these claims is given: by time, not by count, so that short tasks fly."""
        held_s = sum(self._run_s.get(claim.name, self._ahead_s) for claim in held)
        ahead_s = max(0.0, self._ahead_s * request.slots - held_s)
        return Budget(slots_free=request.free, ahead_s=ahead_s, run_s=self._run_s)

    def finished(self, count: int, now: float) -> None:
        """So many tasks finished just now."""
        self._finished.append((now, count))
        self.per_minute(now)  # forgets what is older

    def per_minute(self, now: float) -> int:
        """How many finished within the last minute."""
        while self._finished and now - self._finished[0][0] > MINUTE_S:
            self._finished.popleft()
        return sum(count for _, count in self._finished)
