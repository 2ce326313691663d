"""The simulator's database: the same transactions, done in line on one connection that outlives the node."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import TypeVar

from meshq.store.database import BaseDatabase, Connection
from meshq.store.schema import QUEUE, Schema, migrate

T = TypeVar("T")


def memory_connection(schema: Schema = QUEUE) -> Connection:
    """A new database in memory."""
    conn = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    migrate(conn, schema, ":memory:")
    return conn


class InlineDatabase(BaseDatabase):
    """A database on one given connection, without threads.

    Args:
        conn: Stays open when the database is closed: it is the disk, which outlives the process.
        delay: Awaited before each transaction, as the disk's slowness; the transaction itself never waits, so that
            a crash can't fall into the middle of one.
    """

    def __init__(self, conn: Connection, delay: Callable[[], Awaitable[None]] | None = None) -> None:
        super().__init__(":memory:")
        self._conn = conn
        self._delay = delay

    async def _on_writer(self, work: Callable[[Connection], T]) -> T:
        if self._delay is not None:
            await self._delay()
        return work(self._conn)

    _on_reader = _on_writer

    async def stream(self, steps: Callable[[Connection], Iterator[T]]) -> AsyncGenerator[T, None]:
        """As `BaseDatabase.stream`; all steps are taken at once."""
        for step in await self.read(lambda conn: list(steps(conn))):
            yield step

    async def close(self) -> None:
        """Refuses what comes later."""
        self._closed = True
