"""Counters of everything that was refused, dropped or went wrong: one name is log line, counter and test hook."""

from __future__ import annotations

import logging
from collections import Counter

log = logging.getLogger("meshq")


class Counters:
    """Counts by name; the first of a kind is logged where people see it, the rest in detail only."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, name: str, detail: str = "", count: int = 1) -> None:
        """Counts it, and logs it with the detail."""
        self._counts[name] += count
        log.debug("%s %s", name, detail, extra={"event": name})

    def __getitem__(self, name: str) -> int:
        return self._counts[name]

    def all(self) -> dict[str, int]:
        """All counters, by name."""
        return dict(sorted(self._counts.items()))
