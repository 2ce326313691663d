"""The queue: what is submitted, and through `claims`, `outcomes`, `byhand` and `reads` all else that is asked of it.

A change goes: read the row, take core.task's transition, write it through the feed. These are plain functions of
a connection, each called inside a transaction of the leader.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from meshq.core import task as moves
from meshq.core.ids import short
from meshq.core.requests import TaskSpec
from meshq.core.task import PLAIN_STEP_S, Task
from meshq.errors import Conflict
from meshq.store.byhand import cancel, cancel_batch, retry_spec, retry_specs, retryable
from meshq.store.claims import Budget, Given, adopt, claim
from meshq.store.database import Connection
from meshq.store.feed import Pen, write_payload, write_tasks
from meshq.store.outcomes import FinishDone, count_losses, finish, release
from meshq.store.reads import (
    clashes,
    counts,
    find,
    get,
    get_many,
    gone,
    held,
    next_due_ms,
    open_count,
    open_count_of,
    page,
    payload_of,
    reports,
    running,
    running_ids,
    running_workers,
    view,
    views,
)
from meshq.store.rows import as_json, pack

__all__ = [
    "Budget", "FinishDone", "Given", "adopt", "cancel", "cancel_batch", "check_ids", "claim", "clashes", "count_losses",
    "counts", "find", "finish", "get", "get_many", "gone", "held", "next_due_ms", "open_count", "open_count_of", "page",
    "payload_of", "present", "release", "reports", "retry_spec", "retry_specs", "retryable", "running", "running_ids",
    "running_workers", "submit", "view", "views",
]  # fmt: skip


def _task_of_spec(spec: TaskSpec, now_ms: int, step_s: float, inline: bool) -> Task:
    return Task(
        id=spec.id,
        name=spec.name,
        payload=spec.payload if inline else None,
        payload_ref=None if inline else f"{spec.id}/args",
        priority=spec.priority,
        not_before_ms=spec.not_before_ms,
        timeout_s=spec.timeout_s,
        retries=spec.retries,
        backoff_s=spec.backoff_s,
        key=spec.key,
        retry_of=spec.retry_of,
        batch=spec.batch,
        submitted_ms=now_ms,
        story=moves.entry(moves.Move.SUBMIT, now_ms, None, _cause_of_submit(spec)),
        owner=spec.owner,
        backoff=spec.backoff,
        max_running=spec.max_running,
        keep_s=spec.keep_s,
        order_ms=moves.order_ms(now_ms, spec.priority, step_s),
    )


def _same_as(task: Task, other: str, now_ms: int) -> Task:
    """A task that was acknowledged before it was known that its key is another's: called off, and it says so."""
    reason = f"its key {task.key} is that of task {other}, which was submitted before: this one does not run"
    error = pack({"type": "SameKey", "message": reason, "traceback": ""})
    called_off = moves.cancelled(task, now_ms, f"its key is that of {short(other)}")
    return replace(called_off, key=None, error=error)


def _cause_of_submit(spec: TaskSpec) -> str:
    cause = f"submitted with the credential {spec.owner}" if spec.owner else "submitted"
    return f"{cause}, as another run of {short(spec.retry_of)}" if spec.retry_of else cause


def _holders_of_keys(conn: Connection, keys: Iterable[str]) -> dict[tuple[str, str], str]:
    """Which task has a key, by owner and key: nobody gets another's task by guessing its key, or leaves one there."""
    rows = conn.execute(
        "SELECT owner, key, min(id) FROM tasks WHERE key IN (SELECT value FROM json_each(?)) AND rank < 2"
        " GROUP BY owner, key",
        (as_json(keys),),
    )
    return {(owner, key): id_ for owner, key, id_ in rows}


def submit(
    conn: Connection,
    pen: Pen,
    specs: Sequence[TaskSpec],
    now_ms: int,
    inline_bytes_max: int,
    *,
    step_s: float = PLAIN_STEP_S,
    late: bool = False,
) -> tuple[str, ...]:
    """Keeps new tasks. One whose id is there is the same task; one whose key is there, of the same owner, is the task
    that has the key.

    Args:
        conn: In one transaction.
        pen: As whom the leader writes.
        specs: In the order in which they are to run.
        now_ms: The wall clock.
        inline_bytes_max: Larger arguments become rows of their own.
        step_s: After so long a wait a task goes before newer ones that are one priority above it.
        late: They waited in an outbox and were acknowledged: one whose key is taken is kept all the same, cancelled.

    Returns:
        The tasks' ids, in the order of the specs; another id where the key belongs to a task that is there.
    """
    there = present(conn, [spec.id for spec in specs])
    by_key = _holders_of_keys(conn, [spec.key for spec in specs if spec.key is not None])
    ids: list[str] = []
    new: dict[str, Task] = {}
    for spec in specs:
        id_ = spec.id
        if id_ not in there and id_ not in new:
            if spec.key is not None:
                id_ = by_key.setdefault((spec.owner, spec.key), id_)
            inline = len(spec.payload) <= inline_bytes_max
            task = _task_of_spec(spec, now_ms, step_s, inline)
            if id_ == spec.id:
                new[id_] = task
            elif late:
                new[spec.id] = _same_as(task, id_, now_ms)
            if spec.id in new and not inline:
                write_payload(conn, pen, f"{spec.id}/args", spec.payload)
        ids.append(id_)
    write_tasks(conn, pen, list(new.values()))
    return tuple(ids)


def present(conn: Connection, ids: Iterable[str]) -> set[str]:
    """Those of these tasks that are here."""
    rows = conn.execute("SELECT id FROM tasks WHERE id IN (SELECT value FROM json_each(?))", (as_json(ids),))
    return {id_ for (id_,) in rows}


def check_ids(conn: Connection, specs: Sequence[TaskSpec]) -> None:
    """Whether those of these tasks that are here belong to who submits them now.

    Raises:
        Conflict: One is another's.
    """
    rows = conn.execute(
        "SELECT id, owner FROM tasks WHERE id IN (SELECT value FROM json_each(?))",
        (as_json(spec.id for spec in specs),),
    )
    owners = dict(rows.fetchall())
    for spec in specs:
        if owners.get(spec.id, spec.owner) != spec.owner:
            raise Conflict(f"the id {spec.id} is taken; leave it out, and the task gets one of its own")
