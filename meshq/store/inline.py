"""The simulator's database: the same transactions, done in line on one connection that outlives the node."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import TypeVar

from meshq.store.database import BaseDatabase, Connection
from meshq.store.schema import QUEUE, Schema, migrate

T = TypeVar("T")


def memory_connection(schema: Schema = QUEUE, factory: type[Connection] = sqlite3.Connection) -> Connection:
    """A new database in memory.

    Args:
        schema: What it holds.
        factory: The class of the connection; the simulator's own can fail as a disk does.
    """
    conn = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False, factory=factory)
    migrate(conn, schema, ":memory:")
    return conn


class InlineDatabase(BaseDatabase):
    """A database on one given connection, without threads.

    Args:
        conn: Stays open when the database is closed: it is the disk, which outlives the process.
        delay: Awaited before and after each transaction, as the disk's slowness; the transaction itself never waits.
            So a crash falls before it, or after it and before anybody was told, and never into the middle of one.
        after_write: Called when the writer is done with a transaction, before anybody is told.
    """

    def __init__(
        self,
        conn: Connection,
        delay: Callable[[], Awaitable[None]] | None = None,
        after_write: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(":memory:")
        self._conn = conn
        self._delay = delay
        self._after_write = after_write
        self._turn = asyncio.Lock()  # the real writer is a thread, which takes its work in order

    async def _on_writer(self, work: Callable[[Connection], T]) -> T:
        async with self._turn:
            if not self._waiting:
                return work(self._conn)  # whoever was here before did it all
            await self._pause()
            result = work(self._conn)
            if self._after_write is not None:
                self._after_write()
            await self._pause()
            return result

    async def _on_reader(self, work: Callable[[Connection], T]) -> T:
        await self._pause()
        return work(self._conn)

    async def _pause(self) -> None:
        if self._delay is not None:
            await self._delay()

    async def stream(self, steps: Callable[[Connection], Iterator[T]]) -> AsyncGenerator[T, None]:
        """As `BaseDatabase.stream`; all steps are taken at once."""
        for step in await self.read(lambda conn: list(steps(conn))):
            yield step

    async def close(self) -> None:
        """Refuses what comes later."""
        self._closed = True
