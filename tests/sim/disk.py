"""A simulated machine's disk: it outlives the processes, is slow, fails as disks do, and tells what changed on it."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from meshq.store import feed, meta
from meshq.store.database import Connection
from meshq.store.inline import InlineDatabase, memory_connection
from meshq.store.rows import unpack_members
from meshq.store.schema import OUTBOX, PROMISE, QUEUE

DISK_S = (0.0001, 0.001)


class Failing(StrEnum):
    """How a disk fails."""

    NOT = ""
    FULL = "full"
    READ_ONLY = "read-only"
    WRITE = "write error"


# At which statement which error comes, as SQLite itself would say it.
_ERRORS = {
    Failing.FULL: ("COMMIT", sqlite3.SQLITE_FULL, "database or disk is full"),
    Failing.READ_ONLY: ("BEGIN IMMEDIATE", sqlite3.SQLITE_READONLY, "attempt to write a readonly database"),
    Failing.WRITE: ("COMMIT", sqlite3.SQLITE_IOERR_FSYNC, "disk I/O error"),
}


class SimConnection(sqlite3.Connection):
    """A connection to a file on a disk that may fail."""

    failing = Failing.NOT

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        """As usual, unless the disk fails."""
        if self.failing:
            at, code, text = _ERRORS[self.failing]
            if sql == at:
                error = sqlite3.OperationalError(text)
                error.sqlite_errorcode = code
                raise error
        return super().execute(sql, parameters)


@dataclass(frozen=True, slots=True)
class Touched:
    """A row that a statement wrote or deleted, whether or not that was rolled back later.

    A key is in its table's order; `state`, `attempt` and `worker` are a task's, as written.
    """

    table: str
    row: str
    old: tuple[Any, ...] | None
    new: tuple[Any, ...] | None
    state: str = ""
    attempt: int = 0
    worker: str = ""


# Table, the column that names a row, and the key that decides between two versions of it.
WATCHED = (
    ("tasks", "id", feed.TASK_KEY),
    ("payloads", "ref", feed.PAYLOAD_KEY),
    ("roster", "one", feed.ROSTER_KEY),
)
_MORE = {"tasks": "new.state, new.attempt, coalesce(new.worker, '')"}


class Disk:
    """The three databases of a machine. A crash loses nothing that was committed.

    `slow` multiplies how long everything takes. `touched` are the rows written since whoever watches last emptied it.
    """

    def __init__(self) -> None:
        self.queue = _connection(QUEUE)
        self.promise = _connection(PROMISE)
        self.outbox = _connection(OUTBOX)
        self.slow = 1.0
        self.touched: list[Touched] = []
        self.queue.create_function("touched", -1, self._note)
        for table, name, key in WATCHED:
            _watch(self.queue, table, name, key)

    def open(
        self, rng: random.Random, sleep: Callable[[float], Awaitable[None]], after_write: Callable[[str], None]
    ) -> tuple[InlineDatabase, InlineDatabase, InlineDatabase]:
        """The databases, for one start.

        Args:
            rng: Chance.
            sleep: Lets time pass.
            after_write: Is told `queue`, `promise` or `outbox` after each of its transactions.
        """

        async def delay() -> None:
            await sleep(rng.uniform(*DISK_S) * self.slow)

        return (
            InlineDatabase(self.queue, delay, lambda: after_write("queue")),
            InlineDatabase(self.promise, delay, lambda: after_write("promise")),
            InlineDatabase(self.outbox, delay, lambda: after_write("outbox")),
        )

    def copy(self) -> Disk:
        """Another disk with the same databases."""
        other = Disk()
        for name in ("queue", "promise", "outbox"):
            getattr(self, name).backup(getattr(other, name))
        return other

    def note(self, key: str, value: str) -> None:
        """Notes a fact about the queue's database, as the house does."""
        meta.put(self.queue, key, value)

    def fail(self, how: Failing, *names: str) -> None:
        """Has these databases fail from now, or all."""
        for name in names or ("queue", "promise", "outbox"):
            connection: SimConnection = getattr(self, name)
            connection.failing = how

    @property
    def fails(self) -> bool:
        """Whether any of them fails now."""
        return any(conn.failing for conn in (self.queue, self.promise, self.outbox))

    def close(self) -> None:
        """The end of the world."""
        for conn in (self.queue, self.promise, self.outbox):
            conn.close()

    def rows(self, sql: str, parameters: Any = ()) -> list[tuple[Any, ...]]:
        """What a checker reads from outside."""
        return self.queue.execute(sql, parameters).fetchall()

    def versions(self, table: str, rows: Collection[str] | None = None) -> dict[str, tuple[Any, ...]]:
        """The keys of these rows of a table, or of all, by what names the row."""
        name, key = next((name, key) for watched, name, key in WATCHED if watched == table)
        sql = f"SELECT {name}, {', '.join(key)} FROM {table}"
        if rows is None:
            found = self.rows(sql)
        else:
            found = self.rows(f"{sql} WHERE {name} IN ({', '.join('?' * len(rows))})", tuple(rows))
        return {str(row): tuple(values) for row, *values in found}

    def genesis(self) -> str:
        """The cluster whose roster is here; empty where there is none."""
        rows = self.rows("SELECT genesis FROM roster")
        return str(rows[0][0]) if rows else ""

    def roster_size(self) -> int:
        """How many replicas the roster here names."""
        ((members,),) = self.rows("SELECT members FROM roster")
        return len(unpack_members(members))

    def promised(self) -> tuple[int, str]:
        """The epoch and the holder that were promised."""
        row = self.promise.execute("SELECT epoch, holder FROM promise").fetchone()
        return (int(row[0]), str(row[1])) if row else (0, "")

    def _note(self, table: str, row: Any, size: int, *values: Any) -> None:
        old, new, more = values[:size], values[size : 2 * size], values[2 * size :]
        self.touched.append(
            Touched(table, str(row), None if old[-1] is None else old, None if new[-1] is None else new, *more)
        )


def _connection(schema: Any) -> SimConnection:
    conn = memory_connection(schema, SimConnection)
    assert isinstance(conn, SimConnection)
    return conn


def _watch(conn: Connection, table: str, name: str, key: tuple[str, ...]) -> None:
    """Has each statement that changes a row say so. A trigger that only selects counts as no change of its own."""
    more = ", " + _MORE[table] if table in _MORE else ""
    old, new = (", ".join(f"{side}.{column}" for column in key) for side in ("old", "new"))
    none = ", ".join("NULL" for _ in key)
    for verb, row, values in (
        ("INSERT", "new", f"{none}, {new}{more}"),
        ("UPDATE", "new", f"{old}, {new}{more}"),
        ("DELETE", "old", f"{old}, {none}"),
    ):
        conn.execute(
            f"CREATE TEMP TRIGGER touched_{table}_{verb} AFTER {verb} ON main.{table}"
            f" BEGIN SELECT touched('{table}', {row}.{name}, {len(key)}, {values}); END"
        )
