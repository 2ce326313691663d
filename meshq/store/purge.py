"""Finished tasks become tombstones after their time, and tombstones are dropped after theirs: by a majority's leader.

A tombstone keeps an older version of its task from coming back. Once it is dropped, nobody remembers the task; so
who might still have an older version is told by how far the dropped ones went, and takes a full copy.
"""

from __future__ import annotations

from collections.abc import Mapping

from meshq.core import task as moves
from meshq.errors import InvariantBroken
from meshq.store import values
from meshq.store.database import Connection
from meshq.store.feed import Pen, read_vector, write_tasks
from meshq.store.reads import TASK_COLUMNS, task_of
from meshq.store.rows import as_json
from meshq.store.vectors import drop, read_dropped

__all__ = ["drop_tombstones", "purge", "read_dropped"]


def purge(
    conn: Connection, pen: Pen, before_ms: int, *, committed: Mapping[str, int], limit: int, now_ms: int
) -> tuple[str, ...]:
    """Makes tombstones of tasks that finished long ago; all that is left of them is that they were there.

    Args:
        conn: In one transaction.
        pen: As whom the leader writes.
        before_ms: Tasks that finished before this wall time are purged.
        committed: Only tasks whose stamp is within it are.
        limit: At most so many.
        now_ms: The wall clock.

    Returns:
        The tasks that were purged.

    Raises:
        InvariantBroken: No majority is behind the pen.
    """
    _check_majority(pen)
    rows = conn.execute(
        f"SELECT {TASK_COLUMNS} FROM tasks INDEXED BY tasks_finished WHERE rank = 1 AND finished_ms < ? AND epoch <= ?"
        " AND seq <= coalesce((SELECT value FROM json_each(?) WHERE key = tasks.writer), 0)"
        " ORDER BY finished_ms LIMIT ?",
        (before_ms, pen.epoch, as_json(committed), limit),
    )
    tasks = [moves.purged(task_of(row), now_ms) for row in rows]
    write_tasks(conn, pen, tasks)
    ids = tuple(task.id for task in tasks)
    values.delete_of(conn, ids)
    return ids


def drop_tombstones(conn: Connection, pen: Pen, before_ms: int, *, committed: Mapping[str, int]) -> int:
    """Drops old tombstones: of each writer those before its first one that is not committed, or not old enough.

    Args:
        conn: In one transaction.
        pen: As whom the leader writes.
        before_ms: Tombstones made before this wall time are old enough.
        committed: What is known committed.

    Returns:
        How many were dropped.

    Raises:
        InvariantBroken: No majority is behind the pen.
    """
    _check_majority(pen)
    mine = read_vector(conn)
    dropped: dict[str, int] = {}
    kept: set[str] = set()
    rows = conn.execute(
        "SELECT writer, seq, finished_ms FROM tasks INDEXED BY tasks_state WHERE state = 'purged' ORDER BY writer, seq"
    )
    for writer, seq, purged_ms in rows:
        fits = seq <= min(committed.get(writer, 0), mine.get(writer, 0)) and (purged_ms or 0) < before_ms
        if fits and writer not in kept:
            dropped[writer] = seq
        elif not fits:
            kept.add(writer)
    return drop(conn, dropped)


def _check_majority(pen: Pen) -> None:
    if not pen.majority:
        raise InvariantBroken("only the leader of a majority purges")
