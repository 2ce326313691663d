"""Two clusters that become one: what that does to the copies of the one that ends."""

from __future__ import annotations

from collections.abc import Iterable

from meshq.store import fullcopy, meta
from meshq.store.database import Connection
from meshq.store.rows import pack_members, unpack_members

DISSOLVED = "dissolved"  # the fact that tells which clusters this copy came from
CAME_FROM_MAX = 16


def dissolve(conn: Connection, into: str) -> None:
    """This database's cluster becomes part of another: its rows are kept, and every row of the other goes before them.

    All copies of the cluster that held the same rows hold the same ones afterwards. Nothing counts as committed any
    more, and what was finished as accepted by a majority. Which tombstones this cluster dropped is forgotten, for it
    means nothing to the other one.

    Args:
        conn: In one transaction.
        into: The other cluster's genesis.
    """
    ended = conn.execute("SELECT genesis, absorbed FROM roster").fetchone()
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
    if ended:
        # Those too that became part of it: a node that slept through both ends looks for where its own went.
        note_came_from(conn, (*came_from(conn), *unpack_members(ended[1]), ended[0]))


def came_from(conn: Connection) -> tuple[str, ...]:
    """The geneses of the clusters that this copy came from and that its present one may not know of yet."""
    return tuple((meta.get(conn, DISSOLVED) or "").split())


def note_came_from(conn: Connection, geneses: Iterable[str]) -> None:
    """Notes these in place of what was noted before; the newest ones, where they are many."""
    meta.put(conn, DISSOLVED, " ".join([*dict.fromkeys(geneses)][-CAME_FROM_MAX:]))
