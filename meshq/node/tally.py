"""What a pull brought, as it is counted for a report."""

from __future__ import annotations

from dataclasses import dataclass, field

from meshq.store import feed


@dataclass(slots=True)
class Tally:
    """What one pull changed: which tasks, how many had finished on both sides, differently, and how many are held."""

    tasks: list[str] = field(default_factory=list)
    twice: int = 0
    differed: int = 0
    held: int = 0

    def add(self, applied: feed.Applied) -> None:
        """Counts one frame."""
        self.tasks += applied.tasks
        self.twice += applied.twice
        self.differed += applied.differed
        self.held += applied.held
