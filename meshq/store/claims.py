"""Handing out: which waiting tasks a worker is given, and runs that are taken over. `queue` offers these.

Waiting tasks stand in groups, of one name and one bound (`max_running`); those that may not start yet stand apart. A
claim merges the groups that it may take from, so that it looks at no more rows than it gives, whatever else waits.
"""

from __future__ import annotations

import heapq
import sqlite3
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from meshq.core import limits
from meshq.core import task as moves
from meshq.core.requests import ClaimRef
from meshq.core.task import COLUMNS, OPEN, Task
from meshq.store.database import Connection
from meshq.store.feed import Pen, read_seq, write_tasks
from meshq.store.reads import TASK_COLUMNS, get_many, payload_of, task_of
from meshq.store.rows import as_json
from meshq.store.values import CHECKPOINT, body_of, checkpoint_ref

# So many tasks whose time has come are sorted by their places; more of them are looked for in their groups.
DUE_SORTED_MAX = 1000
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


@dataclass(frozen=True, slots=True)
class Given:
    """A task that was given: running now, with its packed `[args, kwargs]`, and what an earlier run kept last."""

    task: Task
    payload: bytes
    checkpoint: bytes | None = None


# One whose large arguments are not here yet waits for the pull that brings them. Large values themselves are read when
# a task is taken: what is sorted here is many.
_WAITING = (
    f"SELECT tasks.name, tasks.max_running, tasks.order_ms, tasks.rowid,"
    f" EXISTS (SELECT 1 FROM payloads WHERE ref = tasks.id || '{CHECKPOINT}'), {TASK_COLUMNS}"
    " FROM tasks INDEXED BY {index} WHERE tasks.state = 'pending' AND {group} AND tasks.epoch <= ? AND {stamps}"
    " AND (tasks.payload_ref IS NULL OR EXISTS (SELECT 1 FROM payloads WHERE ref = tasks.payload_ref))"
    " ORDER BY tasks.order_ms, tasks.rowid"
)
_OF_NOW = "tasks.name = ? AND tasks.max_running = ? AND (tasks.not_before_ms > 0) = 0"
_OF_LATER = "tasks.name = ? AND tasks.max_running = ? AND (tasks.not_before_ms > 0) = 1 AND tasks.not_before_ms <= ?"
_DUE = "tasks.not_before_ms > 0 AND tasks.not_before_ms <= ?"
_DUE_OF = f"{_DUE} AND tasks.name IN (SELECT value FROM json_each(?)) AND (tasks.max_running = 0 OR ?)"
_DUE_COUNT = (
    f"SELECT count(*) FROM (SELECT 1 FROM tasks INDEXED BY tasks_due WHERE tasks.state = 'pending' AND {_DUE} LIMIT ?)"
)
# Two steps, since SQLite would go through the rest of a group to find the pair that comes after it.
_NEXT_GROUP = "SELECT name, max_running FROM tasks INDEXED BY tasks_pending WHERE state = 'pending' AND {} LIMIT 1"
_NEXT_BOUND = _NEXT_GROUP.format("name = ? AND max_running > ? ORDER BY max_running")
_NEXT_NAME = _NEXT_GROUP.format("name > ? ORDER BY name, max_running")
_Row = Sequence[Any]


@dataclass(frozen=True, slots=True)
class _Source:
    """Rows in their order. Of a group none is given where one is not, since its name is full."""

    rows: sqlite3.Cursor
    is_group: bool = False


class _Running:
    """How many tasks of a name run, counted when it is asked for first."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn
        self._counts: dict[str, int] = {}

    def fills(self, name: str, bound: int) -> bool:
        """Whether no more of this name may run, as far as a task with this bound is concerned."""
        if bound and name not in self._counts:
            sql = "SELECT count(*) FROM tasks INDEXED BY tasks_running WHERE state = 'running' AND name = ?"
            (self._counts[name],) = self._conn.execute(sql, (name,)).fetchone()
        return bool(bound) and self._counts[name] >= bound

    def add(self, name: str) -> None:
        """One more runs."""
        if name in self._counts:
            self._counts[name] += 1


class _Waiting:
    """The tasks that a worker may be given, in their order.

    Args:
        conn: In one transaction.
        running: Counts what runs.
        stamps: The condition on the stamps of what may be given, and its values.
        names: The tasks that the worker knows.
        now_ms: The wall clock.
        bounded: Whether tasks may be given whose name has a bound.
    """

    def __init__(
        self,
        conn: Connection,
        running: _Running,
        stamps: tuple[str, list[Any]],
        names: Collection[str],
        now_ms: int,
        *,
        bounded: bool,
    ) -> None:
        self._conn = conn
        self._running = running
        self._stamps = stamps
        self._names = frozenset(names)
        self._now_ms = now_ms
        self._bounded = bounded

    def rows(self) -> Generator[_Row, None, None]:
        """Whether they kept something, and their columns; whoever takes one adds it to what runs before the next."""
        sources = list(self._sources())
        # No two rows have the same rowid, so that the rest of an entry is never compared.
        heap = [(row[2], row[3], row, source) for source in sources if (row := source.rows.fetchone()) is not None]
        heapq.heapify(heap)
        try:
            while heap:
                *_, row, source = heap[0]
                full = self._running.fills(row[0], row[1])
                if not full:
                    yield row[4:]
                further = None if full and source.is_group else source.rows.fetchone()
                if further is None:
                    heapq.heappop(heap)
                else:
                    heapq.heapreplace(heap, (further[2], further[3], further, source))
        finally:
            for source in sources:
                source.rows.close()

    def _sources(self) -> Iterator[_Source]:
        """One for each group, and one for those of all groups whose time has come, where they are few."""
        (count,) = self._conn.execute(_DUE_COUNT, (self._now_ms, DUE_SORTED_MAX + 1)).fetchone()
        if 0 < count <= DUE_SORTED_MAX:
            yield _Source(self._select("tasks_due", _DUE_OF, self._now_ms, as_json(self._names), self._bounded))
        for group in self._groups():
            yield _Source(self._select("tasks_pending", _OF_NOW, *group), is_group=True)
            if count > DUE_SORTED_MAX:
                yield _Source(self._select("tasks_pending", _OF_LATER, *group, self._now_ms), is_group=True)

    def _groups(self) -> Iterator[tuple[str, int]]:
        """The groups in which something waits that may be given; steps from one to the next along the index."""
        name, bound = "", -1
        while group := self._next_group(name, bound):
            name, bound = group
            if name in self._names and (self._bounded or not bound) and not self._running.fills(name, bound):
                yield name, bound

    def _next_group(self, name: str, bound: int) -> tuple[str, int] | None:
        found: tuple[str, int] | None = self._conn.execute(_NEXT_BOUND, (name, bound)).fetchone()
        return found or self._conn.execute(_NEXT_NAME, (name,)).fetchone()

    def _select(self, index: str, group: str, *values: Any) -> sqlite3.Cursor:
        condition, stamps = self._stamps
        sql = _WAITING.format(index=index, group=group, stamps=condition)
        return self._conn.execute(sql, (*values, *stamps))


def _may_be_given(pen: Pen, shown: Mapping[str, int], only_after: int | None) -> tuple[str, list[Any]]:
    if only_after is not None:
        return "tasks.writer = ? AND tasks.seq > ? AND tasks.seq <= ?", [
            pen.epoch, pen.node, only_after, shown.get(pen.node, 0)
        ]  # fmt: skip
    stamps = [stamp for stamp in shown.items() if stamp[1] > 0]
    condition = f"({' OR '.join(['(tasks.writer = ? AND tasks.seq <= ?)'] * len(stamps))})"
    return condition, [pen.epoch, *(value for stamp in stamps for value in stamp)]


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
    bounded: bool = True,
) -> list[Given]:
    """Gives a worker its next tasks, by their places: the highest priority first, then the oldest.

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
        bounded: Whether it is known what runs, so that tasks can be given whose name has a bound.
    """
    if not names or not any(shown.values()):
        return []
    condition, stamps = _may_be_given(pen, shown, only_after)
    if avoid:
        condition += " AND tasks.id NOT IN (SELECT value FROM json_each(?))"
        stamps.append(as_json(list(avoid)))
    running = _Running(conn)
    waiting = _Waiting(conn, running, (condition, stamps), names, now_ms, bounded=bounded)
    first = read_seq(conn, pen.node) + 1
    taken: list[Given] = []
    ahead_s, size = 0.0, 0
    with closing(waiting.rows()) as rows:
        for has_kept, *columns in rows:
            if len(taken) >= limit or (len(taken) >= budget.slots_free and ahead_s >= budget.ahead_s):
                break
            # Stamped before it moves, as write_tasks will stamp it: copying a task once more costs more than its write.
            columns[_EPOCH], columns[_WRITER], columns[_SEQ] = pen.epoch, pen.node, first + len(taken)
            task = moves.claimed(task_of(columns), node, now_ms)
            payload = payload_of(conn, task) or b""
            checkpoint = body_of(conn, checkpoint_ref(task.id)) if has_kept else None
            size += len(payload) + len(checkpoint or b"")
            if taken and size > limits.ANSWER_BYTES_MAX:
                break
            taken.append(Given(task, payload, checkpoint))
            running.add(task.name)
            ahead_s += budget.run_s.get(task.name, budget.ahead_s)
    write_tasks(conn, pen, [given.task for given in taken])
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
