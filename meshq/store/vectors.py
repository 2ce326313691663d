"""What this node holds, what is committed and what was dropped: each a seq for each writer.

Plain functions of a connection, each called inside a transaction.
"""

from __future__ import annotations

from collections.abc import Mapping

from meshq.store.database import Connection

_RAISE = (
    "INSERT INTO {table} (writer, seq) VALUES (?, ?)"
    " ON CONFLICT (writer) DO UPDATE SET seq = excluded.seq WHERE excluded.seq > {table}.seq"
)


def read_vector(conn: Connection) -> dict[str, int]:
    """For each writer: this node holds every version up to there, or a later one."""
    return dict(conn.execute("SELECT writer, seq FROM vector ORDER BY writer"))


def read_committed(conn: Connection) -> dict[str, int]:
    """For each writer: every version up to there is known to be on a majority."""
    return dict(conn.execute("SELECT writer, seq FROM committed ORDER BY writer"))


def merge_committed(conn: Connection, committed: Mapping[str, int]) -> None:
    """Raises the committed vector to what this one says, where that is more."""
    conn.executemany(_RAISE.format(table="committed"), committed.items())


def read_seq(conn: Connection, node: str) -> int:
    """The last seq that this node took; 0 before the first."""
    row = conn.execute("SELECT seq FROM vector WHERE writer = ?", (node,)).fetchone()
    return int(row[0]) if row else 0


def take_seqs(conn: Connection, node: str, count: int) -> int:
    """Takes the node's next seqs, which are never given again, and returns the first."""
    last = read_seq(conn, node)
    if count:
        conn.execute(_RAISE.format(table="vector"), (node, last + count))
    return last + 1


def merge_vector(conn: Connection, vector: Mapping[str, int]) -> None:
    """Raises this node's vector to what this one says, where that is more."""
    conn.executemany(_RAISE.format(table="vector"), vector.items())


def top_epoch(conn: Connection) -> int:
    """The highest epoch of any row that is here; it looks at all of them."""
    tables = " UNION ALL ".join(f"SELECT max(epoch) AS epoch FROM {table}" for table in ("tasks", "payloads", "roster"))
    (epoch,) = conn.execute(f"SELECT coalesce(max(epoch), 0) FROM ({tables})").fetchone()
    return int(epoch)


def read_dropped(conn: Connection) -> dict[str, int]:
    """For each writer: its tombstones up to there were dropped.

    Who does not hold every version up to there may hold an old version of a task that nobody remembers.
    """
    return dict(conn.execute("SELECT writer, seq FROM dropped ORDER BY writer"))


def drop(conn: Connection, dropped: Mapping[str, int]) -> int:
    """Drops the tombstones up to there, and notes it; tells how many were here."""
    known = read_dropped(conn)
    further = [(writer, seq) for writer, seq in dropped.items() if seq > known.get(writer, 0)]
    if not further:
        return 0
    conn.executemany(_RAISE.format(table="dropped"), further)
    before = conn.total_changes
    conn.executemany(
        "DELETE FROM tasks INDEXED BY tasks_tombstones WHERE rank = 2 AND writer = ? AND seq <= ?", further
    )
    return conn.total_changes - before
