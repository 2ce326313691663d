"""The promise on disk, in a file of its own, so that heartbeats never wait for a batch of tasks."""

from __future__ import annotations

from meshq.core.events import Promise
from meshq.errors import InvariantBroken
from meshq.store.database import BaseDatabase, Connection
from meshq.store.files import PROMISE_FILE
from meshq.store.rows import check_epoch, check_kinds

_KINDS: dict[str, type] = {"epoch": int, "holder": str, "lease_s": float}


class PromiseStore:
    """The highest epoch that this node promised, and to whom.

    Args:
        database: With the schema `PROMISE`. It has no reader, so that what is loaded is what was saved last.
    """

    def __init__(self, database: BaseDatabase) -> None:
        self._database = database

    async def load(self) -> Promise:
        """What was promised last; of epoch 0 before the first promise.

        Raises:
            CorruptDatabase: It can't be read, or is of an epoch that is none: no other node would take a word of this
                one.
        """

        def work(conn: Connection) -> Promise:
            row = conn.execute("SELECT epoch, holder, lease_s FROM promise").fetchone()
            if row is None:
                return Promise()
            columns, what = dict(zip(_KINDS, row, strict=True)), f"{PROMISE_FILE}: is damaged: the promise"
            check_kinds(columns, _KINDS, what)
            check_epoch(columns["epoch"], what)
            return Promise(**columns)

        return await self._database.read(work)

    async def save(self, promise: Promise) -> None:
        """Keeps a promise; returns when it is on disk.

        Raises:
            InvariantBroken: A higher epoch was promised before.
            StoreError: It can't be written; nothing that depends on the promise may be said.
        """

        def work(conn: Connection) -> None:
            cursor = conn.execute(
                "INSERT INTO promise (one, epoch, holder, lease_s) VALUES (1, ?, ?, ?)"
                " ON CONFLICT (one) DO UPDATE SET epoch = excluded.epoch, holder = excluded.holder,"
                " lease_s = excluded.lease_s WHERE excluded.epoch >= promise.epoch",
                (promise.epoch, promise.holder, promise.lease_s),
            )
            if cursor.rowcount != 1:
                raise InvariantBroken(f"epoch {promise.epoch} is lower than the one that was promised before")

        await self._database.write(work)

    async def reset(self) -> None:
        """Forgets what was promised in a cluster that is no more; for how long its leases lasted is kept."""
        await self._database.write(lambda conn: conn.execute("UPDATE promise SET epoch = 0, holder = ''"))

    async def close(self) -> None:
        """Closes the file."""
        await self._database.close()
