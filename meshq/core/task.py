"""A task: its row, its states, and the moves between them. All of it is plain rules on values."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from enum import StrEnum
from functools import lru_cache
from typing import Any

from meshq.core.limits import PRIORITY_MAX, TIME_MS_MAX
from meshq.core.texts import printable
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
    """What can happen to a task; the first is how it begins."""

    SUBMIT = "submit"
    CLAIM = "claim"
    ADOPT = "adopt"
    RELEASE = "release"
    LOSE = "lose"
    RETRY = "retry"
    SUCCEED = "succeed"
    FAIL = "fail"
    CANCEL = "cancel"
    PURGE = "purge"


class Backoff(StrEnum):
    """How the wait before a retry grows from one to the next."""

    CONSTANT = "constant"
    LINEAR = "linear"
    EXPONENTIAL = "exponential"


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
    holds for `result`. `story` holds an entry for each move. `owner` is the credential with which it was submitted,
    empty where that was the cluster's key. Waiting tasks go by `order_ms`, the least first: when it was submitted,
    earlier by a step for each priority. Times that end in `_ms` are wall clock milliseconds, for display and schedules
    only; `finished_ms` of a purged task is when it was purged.
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
    story: bytes = b""
    owner: str = ""
    backoff: str = Backoff.EXPONENTIAL
    max_running: int = 0
    keep_s: float | None = None
    order_ms: int = 0


COLUMNS = tuple(field.name for field in fields(Task))
# Those that version 2 of the protocol added.
ADDED = COLUMNS[COLUMNS.index("story") :]


def progress_key(task: Task) -> tuple[int, int, int, int, str, int]:
    """What decides between two versions of a task: the greater one stays, whatever the order they come in."""
    return (task.rank, task.majority, task.epoch, task.version, task.writer, task.seq)


BACKOFF_S_MAX = 3600.0
PLAIN_STEP_S = 60.0

# An entry of a story: ENTRY move FIELD at_ms FIELD worker FIELD cause, and once it is written FIELD epoch FIELD node
# WRITTEN. Entries are only ever added at the end, so that a move need not read those before it.
ENTRY, FIELD, WRITTEN = "\x1e", "\x1f", "\x1d"
CAUSE_CHARS_MAX = 160
STORY_BYTES_MAX = 4096


@lru_cache(maxsize=1024)  # the tasks of one batch move at the same time, to the same worker, for the same cause
def entry(move: Move, at_ms: int, worker: str | None, cause: str) -> bytes:
    """An entry of a task's story, which lacks the epoch and the node that write it.

    Args:
        move: What happened.
        at_ms: The wall clock; 0 if it is not known.
        worker: The worker that it is about.
        cause: Why, in a few words; what is longer than CAUSE_CHARS_MAX is cut off.
    """
    fields = (move.value, str(at_ms), worker or "", printable(cause[:CAUSE_CHARS_MAX]))
    return (ENTRY + FIELD.join(fields)).encode("utf-8", "replace")


def _moved(task: Task, move: Move, now_ms: int, who: str | None, cause: str, **changes: Any) -> Task:
    state = TRANSITIONS.get((State(task.state), move))
    if state is None:
        raise InvariantBroken(f"task {task.id} is {task.state}: {move} is no move from there")
    story = task.story + entry(move, now_ms, who, cause)
    changes = {"story": story} | changes
    return replace(task, state=state.value, rank=RANK[state], version=task.version + 1, **changes)


def claimed(task: Task, worker: str, now_ms: int, cause: str = "claimed") -> Task:
    """The task, started by a worker: one attempt more."""
    return _moved(
        task, Move.CLAIM, now_ms, worker, cause, worker=worker, attempt=task.attempt + 1, started_ms=now_ms
    )  # fmt: skip


def adopted(task: Task, worker: str, attempt: int, now_ms: int, cause: str = "adopted") -> Task:
    """The task as a worker says that it runs it, whose claim this leader did not give."""
    started = task.started_ms if task.state == State.RUNNING and task.started_ms else now_ms
    return _moved(
        task, Move.ADOPT, now_ms, worker, cause,
        worker=worker, attempt=max(attempt, task.attempt), started_ms=started,
    )  # fmt: skip


def released(task: Task, now_ms: int, cause: str = "released") -> Task:
    """The task, waiting again because its run ended without an outcome."""
    return _moved(task, Move.RELEASE, now_ms, task.worker, cause, worker=None, started_ms=None)


def lost(task: Task, now_ms: int, cause: str = "its worker was lost") -> Task:
    """The task, with one more node counted that was lost while it ran it."""
    return _moved(task, Move.LOSE, now_ms, task.worker, cause, losses=task.losses + 1)


def retried(
    task: Task, not_before_ms: int, error: bytes, now_ms: int, cause: str = "failed", *, crashed: bool = False
) -> Task:
    """The task, waiting for its next attempt after a failure, or after the death of the child that ran it."""
    return _moved(
        task, Move.RETRY, now_ms, task.worker, cause,
        worker=None, started_ms=None, not_before_ms=not_before_ms, error=error,
        failures=task.failures + (not crashed), crashes=task.crashes + crashed,
    )  # fmt: skip


def succeeded(
    task: Task, worker: str, result: bytes | None, result_ref: str | None, now_ms: int, cause: str = "succeeded"
) -> Task:
    """The task, done."""
    return _moved(
        task, Move.SUCCEED, now_ms, worker, cause,
        worker=worker, result=result, result_ref=result_ref, error=None,
        attempt=max(task.attempt, 1), finished_ms=now_ms,
    )  # fmt: skip


def failed(
    task: Task, error: bytes, now_ms: int, cause: str = "failed", *, crashed: bool = False, raised: bool = False
) -> Task:
    """The task, failed for good."""
    return _moved(
        task, Move.FAIL, now_ms, task.worker, cause, error=error, finished_ms=now_ms,
        failures=task.failures + raised, crashes=task.crashes + crashed,
    )  # fmt: skip


def cancelled(task: Task, now_ms: int, cause: str = "cancelled") -> Task:
    """The task, called off."""
    return _moved(task, Move.CANCEL, now_ms, task.worker, cause, finished_ms=now_ms)


def purged(task: Task, now_ms: int) -> Task:
    """A tombstone: what is left of a finished task, so that no older version of it comes back."""
    return _moved(
        task, Move.PURGE, now_ms, None, "", finished_ms=now_ms, story=b"",
        payload=None, payload_ref=None, result=None, result_ref=None, error=None,
    )  # fmt: skip


def order_ms(submitted_ms: int, priority: int, step_s: float) -> int:
    """The place of a waiting task: so much earlier for each priority as one gains by waiting, which never changes.

    Args:
        submitted_ms: The wall clock.
        priority: The higher, the earlier.
        step_s: After so long a wait a task goes before newer ones that are one priority above it.
    """
    return max(-TIME_MS_MAX, min(TIME_MS_MAX, submitted_ms - int(priority * step_s * 1000)))


def plain_order_ms(submitted_ms: int, priority: int) -> int:
    """The place of a task whose row does not tell it: it is of a version that knew no such order.

    Every node comes to the same, whatever its settings; the migration that made the column does too.
    """
    return order_ms(submitted_ms, max(-PRIORITY_MAX, min(PRIORITY_MAX, priority)), PLAIN_STEP_S)


def retry_delay_ms(task: Task, chance: float) -> int:
    """How long the next attempt waits: the task's backoff, an hour at most, less up to half of it by chance.

    Args:
        task: With what it has failed so far.
        chance: In [0, 1): tasks that failed together don't come back together.
    """
    match task.backoff:
        case Backoff.CONSTANT:
            wait_s = task.backoff_s
        case Backoff.LINEAR:
            wait_s = task.backoff_s * (task.failures + 1)
        case _:
            wait_s = task.backoff_s * 2.0 ** min(task.failures, 32)
    return int(min(wait_s, BACKOFF_S_MAX) * (1.0 - chance / 2) * 1000)
