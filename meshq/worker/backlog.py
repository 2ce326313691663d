"""The runs that wait for a child, and how many of them go to one at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from meshq.core.requests import Job, RunProgress

FRAME_JOBS_MAX = 100
FRAME_WORK_S = 0.02
FRAME_PAYLOAD_BYTES = 1 << 20
SHORT_S = 0.005
_FADING = 0.8


class Run:
    """One run in the pool. `again` marks one that a child took into its grave without being at fault.

    `saved` is the newest checkpoint of its task, `told` how far it says that it is.
    """

    __slots__ = ("again", "job", "saved", "told")

    def __init__(self, job: Job) -> None:
        self.job = job
        self.again = False
        self.saved = job.checkpoint
        self.told: RunProgress | None = None

    def given(self) -> tuple[str, bytes, str, int, float | None, bytes | None]:
        """What a child gets of it."""
        job = self.job
        return job.name, job.payload, job.id, job.attempt, job.timeout_s, self.saved

    def size(self) -> int:
        """How many bytes that is, or about so many."""
        return len(self.job.payload) + len(self.saved or b"")


class Durations:
    """How long tasks of each name ran lately: a maximum that fades, so that one long run is remembered a while."""

    def __init__(self) -> None:
        self._recent_s: dict[str, float] = {}

    def add(self, name: str, run_s: float) -> None:
        """Takes a run in."""
        self._recent_s[name] = max(run_s, self._recent_s.get(name, 0.0) * _FADING)

    def get(self, name: str) -> float | None:
        """The estimate in seconds; None for a name that never ran."""
        return self._recent_s.get(name)


class Backlog:
    """A queue of runs, first in, first out.

    Args:
        durations: What is known about the names.
    """

    def __init__(self, durations: Durations) -> None:
        self._runs: deque[Run] = deque()
        self._durations = durations
        self._alone: set[str] = set()

    def __len__(self) -> int:
        return len(self._runs)

    def add(self, run: Run) -> None:
        """Takes a run in at the end."""
        self._runs.append(run)

    def back(self, runs: Iterable[Run]) -> None:
        """Takes runs back in at the front, in their order."""
        self._runs.extendleft(reversed(list(runs)))

    def drop(self, runs: set[Run]) -> None:
        """Forgets these."""
        self._runs = deque(run for run in self._runs if run not in runs)

    def clear(self) -> list[Run]:
        """Forgets all, and returns them."""
        runs, self._runs = list(self._runs), deque()
        return runs

    def go_alone(self, name: str) -> None:
        """Tasks of this name share no frame any more: they print, and it is to be told which of them did."""
        self._alone.add(name)

    def cut(self, slots: int) -> list[Run]:
        """Takes the next runs for one child out: several only if all are short and there is enough for every slot.

        A run with a time limit goes alone, for its limit ends the child; so does one whose child died.
        """
        first = self._runs.popleft()
        runs = [first]
        work_s = self._short_s(first)
        if work_s is None:
            return runs
        share = min(FRAME_JOBS_MAX, -(-(len(self._runs) + 1) // slots))
        size = first.size()
        while self._runs and len(runs) < share:
            following = self._runs[0]
            more_s = self._short_s(following)
            size += following.size()
            if more_s is None or work_s + more_s > FRAME_WORK_S or size > FRAME_PAYLOAD_BYTES:
                break
            work_s += more_s
            runs.append(self._runs.popleft())
        return runs

    def _short_s(self, run: Run) -> float | None:
        """How long the run will take, if that is known to be short and it may share a frame."""
        if run.again or run.job.timeout_s is not None or run.job.name in self._alone:
            return None
        run_s = self._durations.get(run.job.name)
        return run_s if run_s is not None and run_s < SHORT_S else None
