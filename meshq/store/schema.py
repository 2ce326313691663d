"""The schemas of the three databases, and how a file is brought up to the version that this program knows."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path

from meshq.errors import NewerDatabase, StoreError

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Schema:
    """One kind of database file.

    Args:
        name: What the database holds, for messages.
        whole: The file with the whole schema, for people and for the test that compares it.
        folder: Where its migrations stand, named `NNNN_what.sql` and applied in that order.
    """

    name: str
    whole: Path
    folder: Path

    def migrations(self) -> list[str]:
        """The migrations' SQL, in order; the n-th makes version n."""
        return [path.read_text("utf-8") for path in sorted(self.folder.glob("[0-9]*.sql"))]


QUEUE = Schema("queue", HERE / "schema.sql", HERE / "migrations")
OUTBOX = Schema("outbox", HERE / "outbox.sql", HERE / "migrations" / "outbox")
PROMISE = Schema("promise", HERE / "promise.sql", HERE / "migrations" / "promise")


def migrate(conn: sqlite3.Connection, schema: Schema, where: str) -> None:
    """Brings a database, new or old, to the present version.

    Args:
        conn: In autocommit mode, outside a transaction.
        schema: What the database is to hold.
        where: The file's path, for messages.

    Raises:
        NewerDatabase: A newer program wrote it.
        StoreError: It belongs to another program.
    """
    migrations = schema.migrations()
    version = version_of(conn, len(migrations), where)
    if version == 0 and conn.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
        raise StoreError(f"{where}: is a database of another program")
    for number, sql in enumerate(migrations[version:], version + 1):
        # One script is one transaction: a crash leaves the old version whole.
        conn.executescript(f"BEGIN IMMEDIATE;\n{sql}\nPRAGMA user_version = {number};\nCOMMIT;")


def version_of(conn: sqlite3.Connection, known: int, where: str) -> int:
    """The version of a database; 0 for a new one, or one of another program.

    Args:
        conn: To it.
        known: The newest version that this program knows.
        where: The file's path, for messages.

    Raises:
        NewerDatabase: A newer program wrote it.
    """
    (version,) = conn.execute("PRAGMA user_version").fetchone()
    if version > known:
        raise NewerDatabase(
            f"{where}: is of version {version}, and this meshq knows versions up to {known}; "
            "upgrade meshq on this machine"
        )
    return int(version)
