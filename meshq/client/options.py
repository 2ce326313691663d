"""How a task is to be run: the same words in the shell, in Python and on the wire."""

from __future__ import annotations

import math
import secrets
import time
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, TypedDict

from meshq.core.ids import uuid7
from meshq.errors import Malformed


class Words(TypedDict, total=False):
    """The words of `Options`, for a call that takes them one by one."""

    priority: int | None
    delay_s: float
    at: datetime | None
    timeout_s: float | None
    retries: int | None
    backoff: str | None
    backoff_s: float | None
    key: str | None
    max_running: int | None
    keep_s: float | None
    forget: bool
    batch: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What goes with a task beside its name and arguments.

    What is None is left open: the task's own word counts, as in `@task(retries=3)`, else the default.

    Args:
        priority: Higher runs first; 0 by default.
        delay_s: Seconds that it waits before it may run.
        at: When it may run at the earliest, in place of a delay; without a time zone it is this machine's time.
        timeout_s: Seconds after which a run is ended; `math.inf` for no limit, whatever the task says.
        retries: How many more attempts it gets after a failure; 0 by default.
        backoff: How the wait grows from one retry to the next: constant, linear or exponential (the default).
        backoff_s: Seconds before the first of them; 1 by default.
        key: A repeated submit with this key is the same task while that is kept.
        max_running: At most so many tasks of its name run at once in the whole cluster; 0 for any number.
        keep_s: Seconds for which the finished task is kept; 0: it is purged at once. By default the cluster's
            `keep_finished_s`.
        forget: Keep nothing of it when it is finished: the same as `keep_s=0`.
        batch: A name that tasks share.
    """

    priority: int | None = None
    delay_s: float = 0.0
    at: datetime | None = None
    timeout_s: float | None = None
    retries: int | None = None
    backoff: str | None = None
    backoff_s: float | None = None
    key: str | None = None
    max_running: int | None = None
    keep_s: float | None = None
    forget: bool = False
    batch: str | None = None

    def given(self) -> dict[str, Any]:
        """Those that were given, as they stand in a submit.

        Raises:
            Malformed: `at` is no time, or stands beside a delay.
        """
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        words = {word: value for word, value in found.items() if value is not None}
        if not self.delay_s:
            words.pop("delay_s", None)
        if not self.forget:
            del words["forget"]
        if self.timeout_s == math.inf:
            words["timeout_s"] = None
        if self.at is not None:
            if not isinstance(self.at, datetime):
                raise Malformed(f"at: must be a datetime, not {type(self.at).__name__}")
            if self.delay_s:
                raise Malformed("at and delay_s can't both be given: one says when, the other after how long")
            del words["at"]
            words["not_before_ms"] = max(0, round(self.at.timestamp() * 1000))
        return words


def new_ids(count: int) -> list[str]:
    """That many new ids, in ascending order."""
    now_ms = time.time_ns() // 1_000_000
    return sorted(uuid7(now_ms, secrets.randbits(74)) for _ in range(count))
