"""Where other nodes were last reached, remembered over a restart. Plain functions of a connection."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from meshq.core.limits import PEERS_MAX
from meshq.store.database import Connection
from meshq.store.rows import pack

_decoder = msgspec.msgpack.Decoder(tuple[str, ...])


@dataclass(frozen=True, slots=True)
class KnownPeer:
    """A node that was reached before: `addresses` are `IP:PORT`, `heard_ms` is the wall clock."""

    node: str
    name: str
    addresses: tuple[str, ...]
    heard_ms: int


def remember_peer(conn: Connection, node: str, name: str, addresses: tuple[str, ...], heard_ms: int) -> None:
    """Keeps where a node was reached, the addresses that worked best first; of too many, those heard long ago go."""
    conn.execute(
        "INSERT INTO peers (node, name, addresses, heard_ms) VALUES (?, ?, ?, ?) ON CONFLICT (node) DO UPDATE SET"
        " name = excluded.name, addresses = excluded.addresses, heard_ms = excluded.heard_ms",
        (node, name, pack(addresses), heard_ms),
    )
    conn.execute(
        "DELETE FROM peers WHERE node IN (SELECT node FROM peers ORDER BY heard_ms DESC, node LIMIT -1 OFFSET ?)",
        (PEERS_MAX,),
    )


def known_peers(conn: Connection) -> list[KnownPeer]:
    """All nodes that were ever reached and not forgotten, those heard last first."""
    rows = conn.execute("SELECT node, name, addresses, heard_ms FROM peers ORDER BY heard_ms DESC, node")
    return [KnownPeer(node, name, _decoder.decode(addresses), heard_ms) for node, name, addresses, heard_ms in rows]


def forget(conn: Connection, node: str) -> None:
    """Forgets a node."""
    conn.execute("DELETE FROM peers WHERE node = ?", (node,))
