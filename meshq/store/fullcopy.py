"""A full copy, as the one who takes it sees it: what is here and did not arrive is put aside.

Nobody remembers the tombstones that this node missed, so a task that only it has may be one that was purged long
ago, or one that nobody else ever saw. Which it is, a person has to judge.

A copy is named by its answerer's vector: whoever has the same vector has the same rows. One that another copy
overtakes ends nothing, and neither does one that breaks off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from meshq.core.messages import Rows
from meshq.core.reports import Clash
from meshq.core.task import COLUMNS, State, Task
from meshq.store import meta, values
from meshq.store.clashes import clashes
from meshq.store.database import Connection
from meshq.store.rows import as_json, pack

_UNDER_WAY = "full copy"
_COLUMNS = ", ".join(f"tasks.{column}" for column in COLUMNS)
_decoder = msgspec.msgpack.Decoder(tuple[Task, tuple[Clash, ...]])


@dataclass(frozen=True, slots=True)
class Held:
    """A task that was put aside.

    Args:
        task: As it was here, its large values in their places.
        clashes: Its outcomes that had lost.
        at_ms: When it was put aside, by the wall clock; 0 if that was not told.
        source: The node whose copy did not have it.
    """

    task: Task
    clashes: tuple[Clash, ...]
    at_ms: int
    source: str


def _name(vector: Mapping[str, int]) -> str:
    return as_json(dict(sorted(vector.items())))


def begins(rows: Rows) -> bool:
    """Whether this is the first frame of a full copy: an empty one that says what was dropped."""
    return rows.full and not rows.last and bool(rows.dropped)


def begin(conn: Connection, vector: Mapping[str, int]) -> None:
    """From now on everything that is here has to be shown."""
    forget(conn)
    conn.execute("INSERT INTO suspects (id) SELECT id FROM tasks")
    meta.put(conn, _UNDER_WAY, _name(vector))


def forget(conn: Connection) -> None:
    """No copy is under way any more."""
    conn.execute("DELETE FROM suspects")
    meta.delete(conn, _UNDER_WAY)


def under_way(conn: Connection) -> str | None:
    """The name of the copy that began last and did not end; None if there is none."""
    return meta.get(conn, _UNDER_WAY)


def shown(conn: Connection, ids: Sequence[str]) -> None:
    """Another node has these tasks too."""
    conn.execute("DELETE FROM suspects WHERE id IN (SELECT value FROM json_each(?))", (as_json(ids),))


def is_of(copy: str | None, vector: Mapping[str, int]) -> bool:
    """Whether this is the copy that began last."""
    return copy == _name(vector)


def end(conn: Connection, vector: Mapping[str, int], now_ms: int, source: str) -> int:
    """The copy is here whole: puts aside what it did not have, and tells how many tasks that were.

    Tombstones just go. What came from a cluster that became part of this one (its epoch is 0) and is new to the
    answerer stays: it can't have been purged here.
    """
    rows = conn.execute(
        f"SELECT {_COLUMNS} FROM suspects JOIN tasks ON tasks.id = suspects.id WHERE NOT (tasks.epoch = 0 AND"
        " tasks.seq > coalesce((SELECT value FROM json_each(?) WHERE key = tasks.writer), 0))",
        (_name(vector),),
    ).fetchall()
    tasks = [Task(**dict(zip(COLUMNS, row, strict=True))) for row in rows]
    aside = [task for task in tasks if task.state != State.PURGED]
    for task in aside:
        conn.execute(
            "INSERT INTO held (id, at_ms, source, task) VALUES (?, ?, ?, ?)",
            (task.id, now_ms, source, pack((_whole(conn, task), clashes(conn, task.id)))),
        )
    conn.executemany("DELETE FROM tasks WHERE id = ?", [(task.id,) for task in tasks])
    values.delete_of(conn, [task.id for task in tasks])
    forget(conn)
    return len(aside)


def _whole(conn: Connection, task: Task) -> dict[str, object]:
    fields: dict[str, object] = {column: getattr(task, column) for column in COLUMNS}
    # A reference stays where its value is not here, as the only trace of it.
    for name in ("payload", "result"):
        body = values.body_of(conn, getattr(task, name + "_ref"))
        if body is not None:
            fields |= {name: body, name + "_ref": None}
    return fields


def held(conn: Connection) -> tuple[Held, ...]:
    """What was put aside, oldest first."""
    rows = conn.execute("SELECT task, at_ms, source FROM held ORDER BY number")
    return tuple(Held(*_decoder.decode(packed), at_ms, source) for packed, at_ms, source in rows)
