"""Finished tasks become tombstones after their time, and tombstones are dropped after theirs: by a majority's leader.

A tombstone keeps an older version of its task from coming back. Once it is dropped, nobody remembers the task; so
who might still have an older version is told by how far the dropped ones went, and takes a full copy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

from meshq.core import task as moves
from meshq.errors import InvariantBroken
from meshq.store import values
from meshq.store.database import Connection
from meshq.store.feed import Pen, read_vector, write_tasks
from meshq.store.reads import TASK_COLUMNS, task_of
from meshq.store.rows import as_json
from meshq.store.vectors import drop, read_dropped

__all__ = ["SPARED_MS", "drop_tombstones", "purge", "read_dropped"]

# Longer than the way of an answer, and than most changes of the leader, so that a client which waits for a task that
# is kept for no time at all, and asks again and again, has its result.
SPARED_MS = 10_000
_SELECT = (
    f"SELECT {TASK_COLUMNS} FROM tasks INDEXED BY {{}} AND epoch <= ?"
    " AND seq <= coalesce((SELECT value FROM json_each(?) WHERE key = tasks.writer), 0)"
    " ORDER BY {} LIMIT ?"
)
_FORGOTTEN_MS = "CAST(finished_ms + keep_s * 1000 AS INTEGER)"
_OLD = _SELECT.format("tasks_finished WHERE rank = 1 AND keep_s IS NULL AND finished_ms < ?", "finished_ms")
_OLD_OF_THEIR_OWN = _SELECT.format(
    f"tasks_kept WHERE rank = 1 AND keep_s IS NOT NULL AND {_FORGOTTEN_MS} < ?", _FORGOTTEN_MS
)


def purge(
    conn: Connection, pen: Pen, before_ms: int, *, committed: Mapping[str, int], limit: int, now_ms: int
) -> tuple[str, ...]:
    """Makes tombstones of tasks that finished long ago; all that is left of them is that they were there.

    One with a time of its own (`keep_s`) goes SPARED_MS after that is over, however short it is: whoever waits for it
    is told first.

    Args:
        conn: In one transaction.
        pen: As whom the leader writes.
        before_ms: Tasks that finished before this wall time are purged, where they have no time of their own.
        committed: Only tasks whose stamp is within it are.
        limit: At most so many.
        now_ms: The wall clock.

    Returns:
        The tasks that were purged.

    Raises:
        InvariantBroken: No majority is behind the pen.
    """
    _check_majority(pen)
    rows: list[Sequence[Any]] = []
    for sql, until_ms in ((_OLD, before_ms), (_OLD_OF_THEIR_OWN, now_ms - SPARED_MS)):
        rows += conn.execute(sql, (until_ms, pen.epoch, as_json(committed), limit - len(rows)))
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
    dropped: dict[str, int] = {}
    for writer, mine in read_vector(conn).items():
        rows = conn.execute(
            "SELECT seq, finished_ms FROM tasks INDEXED BY tasks_tombstones"
            " WHERE rank = 2 AND writer = ? AND seq <= ? ORDER BY seq",
            (writer, min(committed.get(writer, 0), mine)),
        )
        for seq, _ in takewhile(lambda row: (row[1] or 0) < before_ms, rows):
            dropped[writer] = seq
    return drop(conn, dropped)


def _check_majority(pen: Pen) -> None:
    if not pen.majority:
        raise InvariantBroken("only the leader of a majority purges")
