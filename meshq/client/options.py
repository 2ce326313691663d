"""How a task is to be run: the same words in the shell, in Python and on the wire."""

from __future__ import annotations

import secrets
import time
from dataclasses import asdict, dataclass
from typing import Any

from meshq.core.ids import uuid7


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What goes with a task beside its name and arguments.

    Args:
        priority: Higher runs first.
        delay_s: Seconds that it waits before it may run.
        timeout_s: Seconds after which a run is ended; None for no limit.
        retries: How many more attempts it gets after a failure.
        backoff_s: Seconds before the first of them; doubled each time.
        key: A repeated submit with this key is the same task.
        batch: A name that tasks share.
    """

    priority: int = 0
    delay_s: float = 0.0
    timeout_s: float | None = None
    retries: int = 0
    backoff_s: float = 1.0
    key: str | None = None
    batch: str | None = None

    def given(self) -> dict[str, Any]:
        """Those that differ from the defaults, as they stand in a submit."""
        return {field: value for field, value in asdict(self).items() if value != getattr(DEFAULTS, field)}


DEFAULTS = Options()


def new_ids(count: int) -> list[str]:
    """That many new ids, in ascending order."""
    now_ms = time.time_ns() // 1_000_000
    return sorted(uuid7(now_ms, secrets.randbits(74)) for _ in range(count))
