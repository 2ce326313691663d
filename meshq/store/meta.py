"""Facts about this database itself, by name. They are not replicated. Plain functions of a connection."""

from __future__ import annotations

from meshq.store.database import Connection


def get(conn: Connection, key: str) -> str | None:
    """The fact of this name; None where it was never noted."""
    row = conn.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return None if row is None else str(row[0])


def put(conn: Connection, key: str, value: str) -> None:
    """Notes a fact, in place of what was noted before."""
    conn.execute(
        "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        (key, value),
    )


def delete(conn: Connection, key: str) -> None:
    """Forgets a fact, if it was noted."""
    conn.execute("DELETE FROM meta WHERE key = ?", (key,))
