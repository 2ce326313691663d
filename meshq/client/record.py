"""A task as its user sees it, with its values unpacked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from meshq.core.task import OPEN, State
from meshq.errors import TaskFailed

REASON_CHARS_MAX = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One task. `error` has the keys type, message and traceback; times that end in `_ms` are wall clock."""

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
