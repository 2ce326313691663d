"""A task as its user sees it, with its values unpacked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from meshq.core.reports import Change
from meshq.core.task import OPEN, State
from meshq.errors import TaskFailed, WaitTimeout

REASON_CHARS_MAX = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One task. `error` has the keys type, message and traceback, and `args` for built-in exceptions where they can
    travel; times that end in `_ms` are wall clock.

    `queued` marks one that waits on this machine's disk for a leader. `majority` is false where it finished without a
    majority of the replicas behind it: when they meet again, another outcome may replace this one. `owner` is the
    credential with which it was submitted, empty where that was the cluster's key. `progress` is what its run said
    last: done, total (0 where it does not know) and a note. `ending` marks a cancelled one whose run has not ended yet.
    """

    id: str
    name: str
    state: str
    attempt: int
    result: Any = None
    error: dict[str, Any] | None = None
    retry_of: str | None = None
    priority: int = 0
    worker: str | None = None
    failures: int = 0
    crashes: int = 0
    losses: int = 0
    submitted_ms: int = 0
    started_ms: int | None = None
    finished_ms: int | None = None
    queued: bool = False
    majority: bool = True
    owner: str = ""
    batch: str | None = None
    key: str | None = None
    not_before_ms: int = 0
    timeout_s: float | None = None
    retries: int = 0
    progress: tuple[float, float, str] | None = None
    ending: bool = False

    @property
    def finished(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state not in OPEN

    def value(self) -> Any:
        """The result of a finished task.

        Raises:
            TaskFailed: It ended without one.
        """
        if self.state == State.DONE:
            return self.result
        raise TaskFailed(self.reason, error=self.error, task_id=self.id, state=self.state)

    @property
    def reason(self) -> str:
        """Why there is no result, in one line, which is cut where it is long; `error` has all of it."""
        if self.error:
            return _one_line(str(self.error.get("type", "Error")), str(self.error.get("message", "")))
        if self.state == State.PURGED:
            return "the task is finished and its result is no longer kept"
        return f"the task is {self.state}"


def settled(record: Record, timeout_s: float | None) -> Any:
    """The result of a task that was waited for.

    Args:
        record: The task.
        timeout_s: How long that was, in seconds.

    Raises:
        WaitTimeout: It is not finished. TaskFailed: It ended without a result.
    """
    if not record.finished:
        raise WaitTimeout(f"task {record.id} is {record.state} after {timeout_s or 0.0:g} s")
    return record.value()


def _one_line(kind: str, message: str) -> str:
    words = " ".join(message.split())
    # An exception without a text has its own name as the message.
    text = kind if words in ("", kind, kind.rpartition(".")[2]) else f"{kind}: {words}"
    return text if len(text) <= REASON_CHARS_MAX else f"{text[:REASON_CHARS_MAX]} …"


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some tasks; `next` continues the list where there are more."""

    tasks: tuple[Record, ...]
    next: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherOutcome:
    """What a second run of a task came to, in a part of the cluster that did not see the first; it does not stand.

    `differs` says whether the two are not the same in state, result or error.
    """

    task: str
    state: str
    worker: str | None
    epoch: int
    result: Any
    error: dict[str, Any] | None
    finished_ms: int | None
    differs: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """A task's story, oldest change first. `waits` is why it does not run now; empty if it does or is finished."""

    task: Record
    changes: tuple[Change, ...]
    waits: str = ""
    clashes: tuple[OtherOutcome, ...] = ()
