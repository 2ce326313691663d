"""The queue: its changes, and through `outcomes` and `reads` the rest of what is asked of it.

A change goes: read the row, take core.task's transition, write it through the feed. These are plain functions of
a connection, each called inside a transaction of the leader.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from meshq.core import limits
from meshq.core import task as moves
from meshq.core.ids import short
from meshq.core.requests import ClaimRef, TaskSpec
from meshq.core.task import COLUMNS, FINISHED, OPEN, State, Task
from meshq.errors import Conflict, InvariantBroken, NotFound
from meshq.store.database import Connection
from meshq.store.feed import Pen, read_seq, write_payload, write_tasks
from meshq.store.outcomes import FinishDone, count_losses, finish, release
from meshq.store.reads import (
    TASK_COLUMNS,
    clashes,
    counts,
    find,
    get,
    get_many,
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
    task_of,
    views,
)
from meshq.store.rows import as_json

__all__ = [
    "Budget", "FinishDone", "adopt", "cancel", "check_ids", "claim", "clashes", "count_losses", "counts", "find",
    "finish", "get", "get_many", "held", "next_due_ms", "open_count", "open_count_of", "page", "payload_of", "present",
    "release", "reports", "retry_spec", "running", "running_ids", "running_workers", "submit", "views",
]  # fmt: skip

_EPOCH, _WRITER, _SEQ = (COLUMNS.index(column) for column in ("epoch", "writer", "seq"))


@dataclass(frozen=True, slots=True)
class Budget:
    """How much work a worker is given at once.

    Args:
        slots_free: At least so many tasks.
        ahead_s: And at least so much estimated run time, all together.
        run_s: How long a task of a name runs, as estimated; one that is unknown counts as `ahead_s`.
    """

    slots_free: int
    ahead_s: float = 0.0
    run_s: Mapping[str, float] = field(default_factory=dict)


# -- submit ----------------------------------------------------------------------------------------------


def _task_of_spec(spec: TaskSpec, now_ms: int, inline: bool) -> Task:
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
    )


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
    conn: Connection, pen: Pen, specs: Sequence[TaskSpec], now_ms: int, inline_bytes_max: int
) -> tuple[str, ...]:
    """Keeps new tasks. One whose id is there is the same task; one whose key is there, of the same owner, is the task
    that has the key.

    Args:
        conn: In one transaction.
        pen: As whom the leader writes.
        specs: In the order in which they are to run.
        now_ms: The wall clock.
        inline_bytes_max: Larger arguments become rows of their own.

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
            if id_ == spec.id:
                inline = len(spec.payload) <= inline_bytes_max
                new[id_] = _task_of_spec(spec, now_ms, inline)
                if not inline:
                    write_payload(conn, pen, f"{id_}/args", spec.payload)
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


# -- claims ----------------------------------------------------------------------------------------------


def _may_be_given(node: str, shown: Mapping[str, int], only_after: int | None) -> tuple[str, list[Any]]:
    if only_after is not None:
        return "tasks.writer = ? AND tasks.seq > ? AND tasks.seq <= ?", [node, only_after, shown.get(node, 0)]
    stamps = [stamp for stamp in shown.items() if stamp[1] > 0]
    condition = f"({' OR '.join(['(tasks.writer = ? AND tasks.seq <= ?)'] * len(stamps))})"
    return condition, [value for stamp in stamps for value in stamp]


# One whose large arguments are not here yet waits for the pull that brings them.
_WAITING = (
    f"SELECT coalesce(tasks.payload, payloads.body), {TASK_COLUMNS}"
    " FROM tasks INDEXED BY tasks_pending LEFT JOIN payloads ON payloads.ref = tasks.payload_ref"
    " WHERE tasks.state = 'pending' AND tasks.epoch <= ? AND tasks.not_before_ms <= ?"
    " AND tasks.name IN (SELECT value FROM json_each(?)) AND {}"
    " AND (tasks.payload_ref IS NULL OR payloads.ref IS NOT NULL)"
    " ORDER BY tasks.priority DESC, tasks.rowid LIMIT ?"
)


def claim(
    conn: Connection,
    pen: Pen,
    node: str,
    names: Collection[str],
    budget: Budget,
    *,
    shown: Mapping[str, int],
    now_ms: int,
    limit: int,
    only_after: int | None = None,
    avoid: Collection[str] = (),
) -> list[tuple[Task, bytes]]:
    """Gives a worker its next tasks: of the highest priority first, then the oldest by the order of arrival here.

    Args:
        conn: In one transaction.
        pen: As whom the leader writes.
        node: The worker.
        names: The tasks that it knows.
        budget: How much it wants.
        shown: Only tasks whose stamp is within it are given: what is committed, and in a split what it wrote too.
        now_ms: The wall clock, for tasks that are to start later.
        limit: At most so many.
        only_after: Only tasks that the pen's node itself wrote after this seq, as long as older ones may still run
            elsewhere. What it wrote again with its first write of the epoch is not among them.
        avoid: Tasks that this worker is not to be given now.

    Returns:
        The tasks, running now, each with its packed `[args, kwargs]`.
    """
    if not names or not any(shown.values()):
        return []
    condition, values = _may_be_given(pen.node, shown, only_after)
    if avoid:
        condition += " AND tasks.id NOT IN (SELECT value FROM json_each(?))"
        values.append(as_json(list(avoid)))
    rows = conn.execute(_WAITING.format(condition), (pen.epoch, now_ms, as_json(names), *values, limit))
    first = read_seq(conn, pen.node) + 1
    taken: list[tuple[Task, bytes]] = []
    ahead_s, size = 0.0, 0
    for payload, *columns in rows:
        enough = len(taken) >= budget.slots_free and ahead_s >= budget.ahead_s
        size += len(payload)
        if enough or (taken and size > limits.ANSWER_BYTES_MAX):
            break
        # Stamped before it moves, as write_tasks will stamp it: copying a task once more costs more than its write.
        columns[_EPOCH], columns[_WRITER], columns[_SEQ] = pen.epoch, pen.node, first + len(taken)
        task = moves.claimed(task_of(columns), node, now_ms)
        taken.append((task, payload))
        ahead_s += budget.run_s.get(task.name, budget.ahead_s)
    rows.close()
    write_tasks(conn, pen, [task for task, _ in taken])
    return taken


def adopt(
    conn: Connection,
    pen: Pen,
    runs: Sequence[ClaimRef],
    worker: str,
    now_ms: int,
    cause: str = "adopted after a takeover",
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Takes over runs that a worker announces and that this leader did not give.

    That nobody else holds them, the caller knows.

    Returns:
        The tasks whose runs count now, and those whose runs don't: finished, not here, or no run of this task.
    """
    tasks = get_many(conn, [run.task for run in runs])
    adopted: dict[str, Task] = {}
    refused: list[str] = []
    for run in runs:
        task = tasks.get(run.task)
        # Some claims may have been lost with the leader that gave them, but never so many: it is no run of ours.
        if task is not None and task.state in OPEN and run.attempt <= task.attempt + limits.ATTEMPTS_AHEAD_MAX:
            adopted.setdefault(run.task, moves.adopted(task, worker, run.attempt, now_ms, cause))
        else:
            refused.append(run.task)
    write_tasks(conn, pen, list(adopted.values()))
    return tuple(adopted), tuple(dict.fromkeys(refused))


# -- by hand ---------------------------------------------------------------------------------------------


def cancel(conn: Connection, pen: Pen, id_: str, now_ms: int) -> Task:
    """Calls a task off; one that is finished stays as it is.

    Returns:
        The task as it is now: its stamp must be committed before the answer leaves.

    Raises:
        NotFound: There is none of this whole id.
    """
    task = _present(conn, id_)
    if task.state not in OPEN:
        return task
    write_tasks(conn, pen, [moves.cancelled(task, now_ms)])
    return _present(conn, id_)


def retry_spec(conn: Connection, id_: str, new_id: str) -> TaskSpec:
    """A new task like this finished one, which it names, of the same owner; without its key, which the old one has.

    Raises:
        NotFound: There is none of this whole id.
        Conflict: It is not finished yet.
    """
    task = _present(conn, id_)
    if task.state not in FINISHED:
        raise Conflict(f"task {id_} is {task.state}; only a finished one can be run again")
    payload = payload_of(conn, task)
    if payload is None:
        raise InvariantBroken(f"the arguments of task {id_} are not here")
    return TaskSpec(
        id=new_id,
        name=task.name,
        payload=payload,
        priority=task.priority,
        timeout_s=task.timeout_s,
        retries=task.retries,
        backoff_s=task.backoff_s,
        retry_of=task.id,
        batch=task.batch,
        owner=task.owner,
    )


def _present(conn: Connection, id_: str) -> Task:
    task = get(conn, id_)
    if task is None or task.state == State.PURGED:
        raise NotFound(f"there is no task {id_!r}")
    return task
