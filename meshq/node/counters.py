"""Counters of everything that was refused, dropped or went wrong: one name is log line, counter and test hook."""

from __future__ import annotations

import logging
from collections import Counter

from meshq.core.limits import COUNTERS_MAX

log = logging.getLogger("meshq")


# Of these a person should know: something was lost, or this node can't do its part.
SERIOUS = frozenset({"outcomes_lost", "outcome_set_aside", "promise_not_written", "leadership_failed", "outbox_failed"})


class Counters:
    """Counts by name. The first of a serious kind is a warning; all the rest is logged for whoever looks closer.

    Some names end in a reason that another node told; beyond so many names they are counted as `others`.
    """

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, name: str, detail: str = "", count: int = 1) -> None:
        """Counts it, and logs it with the detail."""
        if name not in self._counts and len(self._counts) >= COUNTERS_MAX:
            name, detail = "others", f"{name}: {detail}"
        level = logging.WARNING if name in SERIOUS and not self._counts[name] else logging.DEBUG
        self._counts[name] += count
        log.log(level, "%s %s", name, detail, extra={"event": name})

    def __getitem__(self, name: str) -> int:
        return self._counts[name]

    def all(self) -> dict[str, int]:
        """All counters, by name."""
        return dict(sorted(self._counts.items()))
