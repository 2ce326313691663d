"""Two clusters that become one: what that does to the copies of the one that ends."""

from __future__ import annotations

from collections.abc import Mapping

from meshq.core.membership import Ended
from meshq.core.quorum import majority
from meshq.store import fullcopy, meta
from meshq.store.database import Connection
from meshq.store.rows import pack_members, unpack_members

DISSOLVED = "dissolved"  # the fact that tells which clusters this copy came from
CAME_FROM_MAX = 16


def dissolve(conn: Connection, into: str, me: str) -> None:
    """This database's cluster becomes part of another: its rows are kept, and every row of the other goes before them.

    All copies of the cluster that held the same rows hold the same ones afterwards. Nothing counts as committed any
    more, and what was finished as accepted by a majority. Which tombstones this cluster dropped is forgotten, for it
    means nothing to the other one.

    Args:
        conn: In one transaction.
        into: The other cluster's genesis.
        me: This node; what it says of where it came from counts if it was a replica there.
    """
    ended = conn.execute("SELECT genesis, absorbed, members, epoch, into_genesis FROM roster").fetchone()
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
    members = unpack_members(ended[2]) if ended else ()
    if ended and me in members:
        # Those too that became part of it: a node that slept through both ends looks for where its own went.
        needed = majority(len(members))
        earlier = dict.fromkeys(unpack_members(ended[1]), Ended(needed=needed))
        this = Ended(needed=needed, epoch=ended[3] if ended[4] == into else 0)
        note_came_from(conn, came_from(conn) | earlier | {ended[0]: this})


def came_from(conn: Connection) -> dict[str, Ended]:
    """The geneses of the clusters that this copy came from and that its present one may not know of yet."""
    noted = (entry.split("/") for entry in (meta.get(conn, DISSOLVED) or "").split())
    return {genesis: Ended(needed=int(needed), epoch=int(epoch)) for genesis, needed, epoch in noted}


def note_came_from(conn: Connection, geneses: Mapping[str, Ended]) -> None:
    """Notes these in place of what was noted before; the newest ones, where they are many."""
    newest = [*geneses.items()][-CAME_FROM_MAX:]
    meta.put(conn, DISSOLVED, " ".join(f"{genesis}/{ended.needed}/{ended.epoch}" for genesis, ended in newest))
