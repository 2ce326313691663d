"""What people do to tasks: calling them off, and running finished ones again. `queue` offers these."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from meshq.core import limits
from meshq.core import task as moves
from meshq.core.requests import TaskSpec
from meshq.core.task import FINISHED, OPEN, State, Task
from meshq.errors import Conflict, InvariantBroken, NotFound
from meshq.store.database import Connection
from meshq.store.feed import Pen, write_tasks
from meshq.store.reads import TASK_COLUMNS, get, payload_of, task_of

CHUNK_TASKS = 5000
_OF_BATCH = "tasks INDEXED BY tasks_batch WHERE batch = :batch AND (:owner = '' OR owner = :owner)"
# With a batch the failed ones among its tasks are looked for, else all that failed. A purged one counts as a retry too.
_FAILED = (
    "FROM tasks INDEXED BY {index} WHERE {place} AND state = 'failed' AND id > :after"
    " AND (:owner = '' OR owner = :owner)"
    " AND NOT EXISTS (SELECT 1 FROM tasks AS again INDEXED BY tasks_retry WHERE again.retry_of = tasks.id)"
    " ORDER BY id LIMIT :limit"
)
_FAILED_ANYWHERE = _FAILED.format(index="tasks_state", place="true")
_FAILED_OF_BATCH = _FAILED.format(index="tasks_batch", place="batch = :batch")


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


def cancel_batch(conn: Connection, pen: Pen, batch: str, owner: str, now_ms: int) -> tuple[str, ...]:
    """Calls all open tasks of a batch off, in this one transaction.

    Args:
        conn: In one transaction.
        pen: As whom the leader writes.
        batch: Its name.
        owner: Only tasks of this owner; all without one.
        now_ms: The wall clock.

    Returns:
        Those that were open.

    Raises:
        NotFound: There is no task of this batch.
    """
    check_batch(conn, batch, owner)
    found = f"SELECT {TASK_COLUMNS} FROM {_OF_BATCH} AND id > :after AND rank = 0 ORDER BY id LIMIT :limit"
    asked: dict[str, Any] = {"batch": batch, "owner": owner, "after": "", "limit": CHUNK_TASKS}
    ids: list[str] = []
    # In parts, so that a large batch never stands in memory whole.
    while rows := conn.execute(found, asked).fetchall():
        write_tasks(conn, pen, [moves.cancelled(task_of(row), now_ms, "cancelled with its batch") for row in rows])
        ids += (row[0] for row in rows)
        asked["after"] = ids[-1]
    return tuple(ids)


def check_batch(conn: Connection, batch: str, owner: str) -> None:
    """Whether there is a task of this batch, of this owner or anybody's.

    Raises:
        NotFound: There is none.
    """
    sql = f"SELECT 1 FROM {_OF_BATCH} AND rank < 2 LIMIT 1"
    if conn.execute(sql, {"batch": batch, "owner": owner}).fetchone() is None:
        raise NotFound(f"there is no batch {batch!r}, or all of it was purged")


def retry_spec(conn: Connection, id_: str, new_id: str) -> TaskSpec:
    """A new task like this finished one, which it names, of the same owner; without its key, which the old one has.

    Raises:
        NotFound: There is none of this whole id.
        Conflict: It is not finished yet.
    """
    task = _present(conn, id_)
    if task.state not in FINISHED:
        raise Conflict(f"task {id_} is {task.state}; only a finished one can be run again")
    return _again(conn, task, new_id)


def retryable(conn: Connection, batch: str | None, owner: str, most: int = limits.BATCH_TASKS_MAX) -> dict[str, int]:
    """How many tasks failed and were not run again, by name.

    Args:
        conn: On one snapshot.
        batch: Only tasks of this batch; all without one.
        owner: Only tasks of this owner; all without one.
        most: So many one request may be about.

    Raises:
        NotFound: There is no task of this batch.
        Conflict: They are more.
    """
    if batch is not None:
        check_batch(conn, batch, owner)
    sql, asked = _failed("id, name", batch, owner, "", most + 1)
    found = dict(conn.execute(f"SELECT name, count(*) FROM ({sql}) GROUP BY name", asked).fetchall())
    if sum(found.values()) > most:
        which = "all" if batch is None else f"those of the batch {batch}"
        advice = "name a batch, or retry them one by one" if batch is None else "retry them one by one"
        raise Conflict(f"more than {most} tasks have failed, too many to retry {which} at once; {advice}")
    return found


def retry_specs(
    conn: Connection, batch: str | None, owner: str, new_id: Callable[[], str], after: str, bytes_max: int
) -> list[TaskSpec]:
    """New tasks like those that failed and were not run again; a part of them, since their arguments may be large.

    Args:
        conn: In the transaction in which they are submitted: whoever asks again meanwhile finds them run again.
        batch, owner: As for `retryable`.
        new_id: Makes an id.
        after: Only tasks beyond this id.
        bytes_max: No more once their arguments are that large.
    """
    sql, asked = _failed(TASK_COLUMNS, batch, owner, after, CHUNK_TASKS)
    specs: list[TaskSpec] = []
    size = 0
    for row in conn.execute(sql, asked).fetchall():
        specs.append(_again(conn, task_of(row), new_id()))
        size += len(specs[-1].payload)
        if size >= bytes_max:
            break
    return specs


def _failed(columns: str, batch: str | None, owner: str, after: str, limit: int) -> tuple[str, dict[str, Any]]:
    sql = _FAILED_ANYWHERE if batch is None else _FAILED_OF_BATCH
    return f"SELECT {columns} {sql}", {"batch": batch, "owner": owner, "after": after, "limit": limit}


def _again(conn: Connection, task: Task, new_id: str) -> TaskSpec:
    payload = payload_of(conn, task)
    if payload is None:
        raise InvariantBroken(f"the arguments of task {task.id} are not here")
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
        backoff=task.backoff,
        max_running=task.max_running,
        keep_s=task.keep_s,
    )


def _present(conn: Connection, id_: str) -> Task:
    task = get(conn, id_)
    if task is None or task.state == State.PURGED:
        raise NotFound(f"there is no task {id_!r}")
    return task
