"""A task: its row, its states, and the moves between them. All of it is plain rules on values."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Any

from meshq.errors import InvariantBroken


class State(StrEnum):
    """Where a task stands."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    PURGED = "purged"


class Move(StrEnum):
    """What can happen to a task."""

    CLAIM = "claim"
    ADOPT = "adopt"
    RELEASE = "release"
    LOSE = "lose"
    RETRY = "retry"
    SUCCEED = "succeed"
    FAIL = "fail"
    CANCEL = "cancel"
    PURGE = "purge"


OPEN = frozenset({State.PENDING, State.RUNNING})
FINISHED = frozenset({State.DONE, State.FAILED, State.CANCELLED})
RANK = {
    State.PENDING: 0, State.RUNNING: 0,
    State.DONE: 1, State.FAILED: 1, State.CANCELLED: 1,
    State.PURGED: 2,
}  # fmt: skip

# PROTOCOL.md prints this table; a test compares the two.
TRANSITIONS: dict[tuple[State, Move], State] = {
    (State.PENDING, Move.CLAIM): State.RUNNING,
    (State.PENDING, Move.ADOPT): State.RUNNING,
    (State.PENDING, Move.LOSE): State.PENDING,
    (State.PENDING, Move.SUCCEED): State.DONE,
    (State.PENDING, Move.FAIL): State.FAILED,
    (State.PENDING, Move.CANCEL): State.CANCELLED,
    (State.RUNNING, Move.ADOPT): State.RUNNING,
    (State.RUNNING, Move.RELEASE): State.PENDING,
    (State.RUNNING, Move.LOSE): State.RUNNING,
    (State.RUNNING, Move.RETRY): State.PENDING,
    (State.RUNNING, Move.SUCCEED): State.DONE,
    (State.RUNNING, Move.FAIL): State.FAILED,
    (State.RUNNING, Move.CANCEL): State.CANCELLED,
    (State.DONE, Move.PURGE): State.PURGED,
    (State.FAILED, Move.PURGE): State.PURGED,
    (State.CANCELLED, Move.PURGE): State.PURGED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One row of the queue. The fields' order is the order of the columns in the database and on the wire.

    `payload` is the packed `[args, kwargs]`; a large one is a value of its own, named by `payload_ref`. The same
    holds for `result`. Times that end in `_ms` are wall clock milliseconds, for display and schedules only.
    """

    id: str
    rank: int = 0
    majority: int = 0
    epoch: int = 0
    version: int = 0
    writer: str = ""
    seq: int = 0
    state: str = State.PENDING
    name: str
    payload: bytes | None = None
    payload_ref: str | None = None
    priority: int = 0
    not_before_ms: int = 0
    timeout_s: float | None = None
    retries: int = 0
    backoff_s: float = 0.0
    key: str | None = None
    retry_of: str | None = None
    batch: str | None = None
    attempt: int = 0
    failures: int = 0
    crashes: int = 0
    losses: int = 0
    worker: str | None = None
    result: bytes | None = None
    result_ref: str | None = None
    error: bytes | None = None
    submitted_ms: int = 0
    started_ms: int | None = None
    finished_ms: int | None = None


COLUMNS = tuple(field.name for field in fields(Task))


def progress_key(task: Task) -> tuple[int, int, int, int, str, int]:
    """What decides between two versions of a task: the greater one stays, whatever the order they come in."""
    return (task.rank, task.majority, task.epoch, task.version, task.writer, task.seq)


def _moved(task: Task, move: Move, **changes: Any) -> Task:
    state = TRANSITIONS.get((State(task.state), move))
    if state is None:
        raise InvariantBroken(f"task {task.id} is {task.state}: {move} is no move from there")
    return replace(task, state=state.value, rank=RANK[state], version=task.version + 1, **changes)


def claimed(task: Task, worker: str, now_ms: int) -> Task:
    """The task, started by a worker: one attempt more."""
    return _moved(task, Move.CLAIM, worker=worker, attempt=task.attempt + 1, started_ms=now_ms)


def adopted(task: Task, worker: str, attempt: int, now_ms: int) -> Task:
    """The task as a worker says that it runs it, whose claim this leader did not give."""
    started = task.started_ms if task.state == State.RUNNING and task.started_ms else now_ms
    return _moved(task, Move.ADOPT, worker=worker, attempt=max(attempt, task.attempt), started_ms=started)


def released(task: Task) -> Task:
    """The task, waiting again because its run ended without an outcome."""
    return _moved(task, Move.RELEASE, worker=None, started_ms=None)


def lost(task: Task) -> Task:
    """The task, with one more node counted that was lost while it ran it."""
    return _moved(task, Move.LOSE, losses=task.losses + 1)


def retried(task: Task, not_before_ms: int, error: bytes, *, crashed: bool = False) -> Task:
    """The task, waiting for its next attempt after a failure, or after the death of the child that ran it."""
    return _moved(
        task, Move.RETRY, worker=None, started_ms=None, not_before_ms=not_before_ms, error=error,
        failures=task.failures + (not crashed), crashes=task.crashes + crashed,
    )  # fmt: skip


def succeeded(task: Task, worker: str, result: bytes | None, result_ref: str | None, now_ms: int) -> Task:
    """The task, done."""
    return _moved(
        task, Move.SUCCEED, worker=worker, result=result, result_ref=result_ref, error=None,
        attempt=max(task.attempt, 1), finished_ms=now_ms,
    )  # fmt: skip


def failed(task: Task, error: bytes, now_ms: int, *, crashed: bool = False, raised: bool = False) -> Task:
    """The task, failed for good."""
    return _moved(
        task, Move.FAIL, error=error, finished_ms=now_ms,
        failures=task.failures + raised, crashes=task.crashes + crashed,
    )  # fmt: skip


def cancelled(task: Task, now_ms: int) -> Task:
    """The task, called off."""
    return _moved(task, Move.CANCEL, finished_ms=now_ms)


def retry_delay_ms(task: Task) -> int:
    """How long the next attempt waits: the task's backoff, doubled with each failure, an hour at most."""
    return int(min(task.backoff_s * 2**task.failures, 3600.0) * 1000)
