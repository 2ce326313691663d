"""What can be asked about the queue. `queue` offers these too; they change nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from meshq.core import limits
from meshq.core.ids import ID_LENGTH, short
from meshq.core.reports import MergeReport, TaskView, TaskViews
from meshq.core.requests import TasksQuery
from meshq.core.task import COLUMNS, FINISHED, State, Task
from meshq.errors import Ambiguous, Malformed, NotFound
from meshq.store import values
from meshq.store.clashes import clashes
from meshq.store.database import Connection
from meshq.store.fullcopy import held
from meshq.store.rows import as_json

__all__ = [
    "SHOWN_STATES", "TASK_COLUMNS", "clashes", "counts", "find", "get", "get_many", "gone", "held", "next_due_ms",
    "open_count", "open_count_of", "page", "payload_of", "reports", "running", "running_ids", "running_workers",
    "task_of", "view", "views",
]  # fmt: skip

SHOWN_STATES = (State.PENDING, State.RUNNING, State.DONE, State.FAILED, State.CANCELLED)
CANDIDATES_MAX = 5

TASK_COLUMNS = ", ".join(f"tasks.{column}" for column in COLUMNS)
_VIEW_FIELDS = (
    "id", "name", "state", "attempt", "error", "retry_of", "priority", "worker", "failures", "crashes",
    "losses", "submitted_ms", "started_ms", "finished_ms", "owner", "batch", "key", "not_before_ms", "timeout_s",
    "retries",
)  # fmt: skip
_VIEW_COLUMNS = ", ".join(f"tasks.{column}" for column in (*_VIEW_FIELDS, "majority", "writer", "seq"))
_AMONG = "tasks.id IN (SELECT value FROM json_each(?))"
# With the second condition SQLite knows that the index of owned tasks holds all that are asked for.
_OWNED = " AND tasks.owner = :owner AND tasks.owner <> ''"


def task_of(row: Sequence[Any]) -> Task:
    """A task out of its columns."""
    return Task(**dict(zip(COLUMNS, row, strict=True)))


def find(conn: Connection, text: str, owner: str = "") -> str:
    """The id that this is, or is the unique beginning or end of; among the tasks of this owner, or all without one.

    Raises:
        NotFound: There is none, or the text is too short to look for.
        Ambiguous: There is more than one; the message names some.
    """
    text = text.lower()
    owned = _OWNED if owner else ""
    asked = {"text": text, "size": len(text), "limit": CANDIDATES_MAX + 1, "owner": owner}
    if conn.execute(f"SELECT 1 FROM tasks WHERE id = :text AND rank < 2{owned}", asked).fetchone():
        return text
    if conn.execute(f"SELECT 1 FROM tasks WHERE id = :text{owned}", asked).fetchone():
        raise NotFound(f"task {text} had finished and was purged; nothing is left of it")
    if len(text) >= ID_LENGTH:
        raise NotFound(f"there is no task {text!r}")
    if len(text) < limits.ID_CHARS_MIN:
        raise NotFound(f"no task {text!r}; the beginning or end of an id has {limits.ID_CHARS_MIN} characters or more")
    found = [
        id_
        for (id_,) in conn.execute(
            "SELECT id FROM tasks WHERE ((id >= :text AND id < :text || char(0x10ffff)) OR substr(id, -:size) = :text)"
            f" AND rank < 2{owned} LIMIT :limit",
            asked,
        )
    ]
    if not found:
        raise NotFound(f"there is no task {text!r}")
    if len(found) > 1:
        more = " and more" if len(found) > CANDIDATES_MAX else ""
        names = ", ".join(short(id_) for id_ in found[:CANDIDATES_MAX])
        raise Ambiguous(f"{text!r} fits more than one task: {names}{more}; give more of its characters")
    return str(found[0])


def get(conn: Connection, id_: str) -> Task | None:
    """The task of this whole id, as it is stored; None where there is none."""
    row = conn.execute(f"SELECT {TASK_COLUMNS} FROM tasks WHERE id = ?", (id_,)).fetchone()
    return task_of(row) if row else None


def get_many(conn: Connection, ids: Collection[str]) -> dict[str, Task]:
    """The tasks of these whole ids, by id; those that are not here are left out."""
    rows = conn.execute(f"SELECT {TASK_COLUMNS} FROM tasks WHERE {_AMONG}", (as_json(ids),))
    return {row[0]: task_of(row) for row in rows}


def _is_within(writer: str, seq: int, vector: Mapping[str, int] | None) -> bool:
    return vector is None or seq <= vector.get(writer, 0)


def _view(
    row: Sequence[Any],
    shown: Mapping[str, int] | None,
    committed: Mapping[str, int] | None,
    result: bytes | None = None,
) -> TaskView:
    *columns, majority, writer, seq = row
    fields = dict(zip(_VIEW_FIELDS, columns, strict=True))
    if fields["state"] not in FINISHED:
        return TaskView(**fields, result=result)
    if not _is_within(writer, seq, shown):
        state = State.PENDING if fields["started_ms"] is None else State.RUNNING
        return TaskView(**fields | {"state": state.value, "error": None, "finished_ms": None})
    # Only what is both accepted under a majority and known to be on one can't be replaced any more.
    return TaskView(**fields, result=result, majority=bool(majority) and _is_within(writer, seq, committed))


def views(
    conn: Connection,
    ids: Collection[str],
    shown: Mapping[str, int] | None = None,
    committed: Mapping[str, int] | None = None,
    with_result: bool = False,
    owner: str = "",
) -> list[TaskView]:
    """The tasks of these whole ids as people see them, in this order; those that are not here are left out.

    Also left out are those that would make the answer too large, but never all: whoever asks asks again.

    Args:
        conn: On one snapshot.
        ids: Whole ids.
        shown: Up to where versions are shown: what is finished beyond it is shown as not finished yet. None shows all.
        committed: What is known committed: what is finished beyond it has no majority. None stands for `shown`.
        with_result: Whether the results come along.
        owner: Only tasks of this owner; all without one.
    """
    result = "coalesce(tasks.result, payloads.body)" if with_result else "NULL"
    join = "LEFT JOIN payloads ON payloads.ref = tasks.result_ref" if with_result else ""
    rows = conn.execute(
        f"SELECT {result}, {_VIEW_COLUMNS} FROM tasks {join} WHERE tasks.id IN (SELECT value FROM json_each(:ids))"
        f" AND tasks.rank < 2{_OWNED if owner else ''}",
        {"ids": as_json(ids), "owner": owner},
    )
    found = {row[1]: _view(row[1:], shown, committed, row[0]) for row in _fitting(rows)}
    return [found[id_] for id_ in dict.fromkeys(ids) if id_ in found]


def view(conn: Connection, id_: str, shown: Mapping[str, int] | None, committed: Mapping[str, int] | None) -> TaskView:
    """One task with its result, as `views` shows it.

    Raises:
        NotFound: It is not here, or not any more.
    """
    found = views(conn, (id_,), shown, committed, with_result=True)
    if not found:
        raise gone(id_)
    return found[0]


def gone(id_: str) -> NotFound:
    """What is said of a task that was here a moment ago, and was purged since."""
    return NotFound(f"there is no task {id_} any more: it was purged meanwhile")


def page(
    conn: Connection,
    query: TasksQuery,
    shown: Mapping[str, int] | None = None,
    committed: Mapping[str, int] | None = None,
) -> TaskViews:
    """A page of the list of tasks, newest first, without their results; `shown` and `committed` as for `views`.

    Raises:
        Malformed: There is no such state.
    """
    conditions, values = ["rank < 2"], []
    if query.state is not None:
        if query.state not in SHOWN_STATES:
            raise Malformed(f"no state is called {query.state!r}; there are {', '.join(SHOWN_STATES)}")
        conditions.append("state = ?")
        values.append(query.state)
    if query.name is not None:
        conditions.append("name = ?")
        values.append(query.name)
    if query.owner:
        conditions.append("owner = ? AND owner <> ''")
        values.append(query.owner)
    if query.batch is not None:
        conditions.append("batch = ?")
        values.append(query.batch)
    if query.after is not None:
        conditions.append("id < ?")
        values.append(query.after)
    # Without statistics SQLite would take the index of a state for as good, and look through all tasks in it.
    index = "" if query.batch is None else "INDEXED BY tasks_batch"
    limit = min(max(query.limit, 1), limits.PAGE_TASKS_MAX)
    rows = conn.execute(
        f"SELECT {_VIEW_COLUMNS} FROM tasks {index} WHERE {' AND '.join(conditions)} ORDER BY id DESC LIMIT ?",
        (*values, limit + 1),
    ).fetchall()
    kept = list(_fitting(rows[:limit]))
    found = [_view(row, shown, committed) for row in kept]
    # One that is finished and not committed yet is shown in another state than it was found by.
    fitting = tuple(view for view in found if query.state is None or view.state == query.state)
    return TaskViews(tasks=fitting, next=kept[-1][0] if len(rows) > len(kept) else None)


def _fitting(rows: Iterable[Sequence[Any]]) -> Iterator[Sequence[Any]]:
    """Rows until those with large values make an answer too large; at least one."""
    before = 0
    for row in rows:
        size = sum(len(column) for column in row if isinstance(column, bytes))
        if before and before + size > limits.ANSWER_BYTES_MAX:
            return
        before += size
        yield row


def counts(conn: Connection) -> dict[str, int]:
    """How many tasks there are in each state, those with none too; purged ones don't count."""
    found = dict(conn.execute("SELECT state, count(*) FROM tasks GROUP BY state"))
    return {state.value: found.get(state.value, 0) for state in SHOWN_STATES}


def open_count(conn: Connection) -> int:
    """How many tasks are not finished."""
    (count,) = conn.execute("SELECT count(*) FROM tasks WHERE state IN ('pending', 'running')").fetchone()
    return int(count)


def open_count_of(conn: Connection, owner: str, most: int) -> int:
    """How many tasks of this credential are not finished; counted up to `most`."""
    own = "SELECT 1 FROM tasks INDEXED BY tasks_owner_open WHERE owner = ? AND owner <> '' AND rank = 0 LIMIT ?"
    (count,) = conn.execute(f"SELECT count(*) FROM ({own})", (owner, most)).fetchone()
    return int(count)


def running(conn: Connection) -> list[Task]:
    """All tasks that run, by worker."""
    rows = conn.execute(f"SELECT {TASK_COLUMNS} FROM tasks WHERE state = 'running' ORDER BY worker, rowid")
    return [task_of(row) for row in rows]


def running_ids(conn: Connection) -> list[str]:
    """The tasks that run, by worker."""
    return [id_ for (id_,) in conn.execute("SELECT id FROM tasks WHERE state = 'running' ORDER BY worker, rowid")]


def running_workers(conn: Connection) -> list[str]:
    """The nodes on which tasks run."""
    sql = "SELECT DISTINCT worker FROM tasks WHERE state = 'running' AND worker IS NOT NULL ORDER BY worker"
    return [worker for (worker,) in conn.execute(sql)]


def next_due_ms(conn: Connection, now_ms: int) -> int | None:
    """When, by the wall clock, the next waiting task may begin that may not yet; None where there is none."""
    (due_ms,) = conn.execute(
        "SELECT min(not_before_ms) FROM tasks INDEXED BY tasks_due"
        " WHERE state = 'pending' AND not_before_ms > 0 AND not_before_ms > ?",
        (now_ms,),
    ).fetchone()
    return None if due_ms is None else int(due_ms)


def payload_of(conn: Connection, task: Task) -> bytes | None:
    """The task's packed `[args, kwargs]`, wherever it stands; None where it is not here."""
    return task.payload if task.payload_ref is None else values.body_of(conn, task.payload_ref)


def reports(conn: Connection, limit: int = values.REPORTS_MAX) -> tuple[MergeReport, ...]:
    """The newest reports of merges, newest first."""
    return tuple(report for _, report in values.reports(conn)[:limit])
