"""How far a batch is, in numbers and in one word."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

from meshq.core.task import State


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Tasks of a batch by state. `purged` are those that were finished and are kept no more."""

    pending: int = 0
    running: int = 0
    done: int = 0
    failed: int = 0
    cancelled: int = 0
    purged: int = 0

    @classmethod
    def of(cls, states: Mapping[str, str], ids: Iterable[str]) -> Self:
        """The count over these ids; what has no state is not kept any more."""
        counted = Counter(states.get(task, State.PURGED.value) for task in ids)
        return cls(**{state.value: counted[state.value] for state in State})

    @property
    def total(self) -> int:
        """All of them."""
        return self.open + self.finished

    @property
    def open(self) -> int:
        """Those that wait or run."""
        return self.pending + self.running

    @property
    def finished(self) -> int:
        """Those to which nothing more will happen."""
        return self.done + self.failed + self.cancelled + self.purged

    @property
    def state(self) -> str:
        """One word for all: as for a task, where failed counts before cancelled; running once one has begun."""
        if self.open:
            return State.RUNNING.value if self.running or self.finished else State.PENDING.value
        if self.failed:
            return State.FAILED.value
        return State.CANCELLED.value if self.cancelled else State.DONE.value

    def __str__(self) -> str:
        each = {state.value: getattr(self, state.value) for state in State}
        parts = [f"{number} {word}" for word, number in each.items() if number]
        return f"{self.finished} of {self.total} finished" + (f" ({', '.join(parts)})" if parts else "")
