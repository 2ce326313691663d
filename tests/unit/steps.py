"""How much work a statement is: SQLite's own steps, which do not depend on the machine."""

from __future__ import annotations

from meshq.store.database import Connection


class Steps:
    """Counts a connection's steps from now on, in portions of `each`."""

    def __init__(self, conn: Connection, each: int) -> None:
        self.count = 0
        conn.set_progress_handler(self._one, each)

    def _one(self) -> int:
        self.count += 1
        return 0
