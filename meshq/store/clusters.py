"""Two clusters that become one: what that does to the copies of the one that ends."""

from __future__ import annotations

from meshq.store import fullcopy, meta
from meshq.store.database import Connection
from meshq.store.rows import pack_members

DISSOLVED = "dissolved"  # the fact that tells which cluster this copy came from


def dissolve(conn: Connection, into: str) -> None:
    """This database's cluster becomes part of another: its rows are kept, and every row of the other goes before them.

    All copies of the cluster that held the same rows hold the same ones afterwards. Nothing counts as committed any
    more, and what was finished as accepted by a majority. Which tombstones this cluster dropped is forgotten, for it
    means nothing to the other one.

    Args:
        conn: In one transaction.
        into: The other cluster's genesis.
    """
    row = conn.execute("SELECT genesis FROM roster").fetchone()
    conn.execute("UPDATE tasks SET majority = 0, epoch = 0")
    conn.execute("UPDATE payloads SET epoch = 0")
    for table in ("committed", "dropped", "roster"):
        conn.execute(f"DELETE FROM {table}")
    conn.execute(
        "INSERT INTO roster (one, genesis, members, recovery, epoch, version, writer, seq)"
        " VALUES (1, ?, ?, 0, 0, 0, '', 0)",
        (into, pack_members(())),
    )
    fullcopy.forget(conn)
    meta.put(conn, DISSOLVED, row[0] if row else "")
