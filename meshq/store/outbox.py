"""The outbox: outcomes and submitted tasks that wait on this node's disk until a leader has them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from functools import partial
from itertools import islice
from typing import Any, TypeVar

import msgspec

from meshq.core.limits import OUTBOX_OWNER_TASKS_MAX, OUTBOX_TASKS_MAX
from meshq.core.reports import TaskView
from meshq.core.requests import Outcome, TaskSpec
from meshq.core.task import State
from meshq.errors import QueueFull
from meshq.store.database import BaseDatabase, Connection
from meshq.store.rows import UNREADABLE, as_json, pack

logger = logging.getLogger(__name__)

T = TypeVar("T")
Entry = tuple[int, int, str, T]  # number, wall clock, boot, what it holds

READ_BYTES_MAX = 8 << 20
# What a run kept on its way is of a kind of its own, so that a newer one can take its place.
_RESULT, _KEPT, _SUBMIT = "result", "kept", "submit"
_DECODERS: dict[str, msgspec.msgpack.Decoder[Any]] = {
    _RESULT: msgspec.msgpack.Decoder(Outcome),
    _KEPT: msgspec.msgpack.Decoder(Outcome),
    _SUBMIT: msgspec.msgpack.Decoder(TaskSpec),
}
_INSERT = "INSERT OR IGNORE INTO entries (kind, put_ms, boot, task, body, owner) VALUES (?, ?, ?, ?, ?, ?)"
_AMONG = "IN (SELECT value FROM json_each(?))"


class Outbox:
    """The outbox of one node. What can't be read is set aside and reported, never deleted, and stops nothing.

    Args:
        database: With the schema `OUTBOX`; the simulator hands in an inline one.
        wall_ms: The wall clock, in milliseconds.
        tasks_max: How many submitted tasks it takes.
        owner_tasks_max: How many of them of one credential.
    """

    def __init__(
        self,
        database: BaseDatabase,
        wall_ms: Callable[[], int],
        tasks_max: int = OUTBOX_TASKS_MAX,
        owner_tasks_max: int = OUTBOX_OWNER_TASKS_MAX,
    ) -> None:
        self._tasks_max = tasks_max
        self._owner_tasks_max = owner_tasks_max
        self._database = database
        self._wall_ms = wall_ms

    async def close(self) -> None:
        """Closes the file."""
        await self._database.close()

    async def put_results(self, outcomes: Sequence[Outcome], boot: str) -> None:
        """Keeps outcomes of runs of this boot; returns when they are on disk.

        Of what runs of one task kept on their way, the newest takes the place of the others.
        """
        put_ms = self._wall_ms()
        rows = [
            (_KEPT if outcome.kind == _KEPT else _RESULT, put_ms, boot, outcome.task, pack(outcome), "")
            for outcome in outcomes
        ]
        older = [(task,) for kind, _, _, task, _, _ in rows if kind == _KEPT]

        def work(conn: Connection) -> None:
            conn.executemany("DELETE FROM entries WHERE kind = 'kept' AND task = ?", older)
            conn.executemany(_INSERT, rows)

        await self._database.write(work)

    async def results(self, limit: int) -> list[tuple[int, str, Outcome]]:
        """The oldest outcomes: entry number, boot of the run, outcome."""
        entries: list[Entry[Outcome]] = await self._entries((_RESULT, _KEPT), limit)
        return [(entry, boot, outcome) for entry, _, boot, outcome in entries]

    async def put_submits(self, specs: Sequence[TaskSpec]) -> None:
        """Keeps tasks for the next leader; one whose id is here already is the same task.

        Raises:
            QueueFull: Too many wait already; none of these is kept.
        """
        put_ms = self._wall_ms()
        rows = [(_SUBMIT, put_ms, "", spec.id, pack(spec), spec.owner) for spec in specs]
        owners = {spec.owner for spec in specs} - {""}

        def work(conn: Connection) -> None:
            conn.executemany(_INSERT, rows)
            self._check_room(conn, owners)

        await self._database.write(work)

    def _check_room(self, conn: Connection, owners: Collection[str]) -> None:
        """After the new ones are there: those that had been before take no more room."""
        (count,) = conn.execute("SELECT count(*) FROM entries WHERE kind = 'submit'").fetchone()
        whose = ""
        for owner in owners:
            (there,) = conn.execute("SELECT count(*) FROM entries WHERE owner = ? AND owner <> ''", (owner,)).fetchone()
            if there > self._owner_tasks_max:
                whose = f" of the credential {owner}"
        if whose or count > self._tasks_max:
            most = self._owner_tasks_max if whose else self._tasks_max
            raise QueueFull(
                f"there is no leader, and at most {most} tasks{whose} are kept here for the next one; try again when "
                "there is one"
            )

    async def submits(self, limit: int) -> list[tuple[int, TaskSpec]]:
        """The oldest tasks: entry number, task."""
        entries: list[Entry[TaskSpec]] = await self._entries((_SUBMIT,), limit)
        return [(entry, spec) for entry, _, _, spec in entries]

    async def drop(self, entries: Sequence[int]) -> None:
        """Forgets these entries, whatever they hold."""
        numbers = [(entry,) for entry in entries]
        await self._database.write(
            lambda conn: conn.executemany("DELETE FROM entries WHERE entry = ?", numbers).close()
        )

    async def count(self) -> int:
        """How many entries wait."""
        return await self._number("SELECT count(*) FROM entries")

    async def count_submits(self) -> int:
        """How many tasks wait."""
        return await self._number("SELECT count(*) FROM entries WHERE kind = 'submit'")

    async def garbage(self) -> int:
        """How many entries were set aside since the outbox was made."""
        return await self._number("SELECT count(*) FROM garbage")

    async def find(self, text: str, limit: int = 6, owner: str = "") -> list[str]:
        """The ids of waiting tasks that begin or end with this; of this owner, or all without one."""

        def work(conn: Connection) -> list[str]:
            rows = conn.execute(
                "SELECT task, body FROM entries WHERE kind = 'submit'"
                " AND (substr(task, 1, :size) = :text OR substr(task, -:size) = :text) ORDER BY task",
                {"text": text.lower(), "size": len(text)},
            )
            return list(islice((task for task, body in rows if not owner or _is_of(owner, body)), limit))

        return await self._database.read(work) if text else []

    async def submit_views(self, ids: Collection[str]) -> list[TaskView]:
        """Those of these tasks that wait here, as people see them, in this order."""

        def work(conn: Connection) -> list[tuple[int, str, int, str, bytes]]:
            sql = f"SELECT entry, kind, put_ms, boot, body FROM entries WHERE kind = 'submit' AND task {_AMONG}"
            return conn.execute(sql, (as_json(ids),)).fetchall()

        good, _ = _decoded(await self._database.read(work))
        views = {spec.id: _view(spec, put_ms) for _, put_ms, _, spec in good}
        return [views[id_] for id_ in dict.fromkeys(ids) if id_ in views]

    async def expire(self, now_ms: int, ttl_s: float) -> int:
        """Forgets outcomes that waited longer than this, and tells how many. Submitted tasks are kept for ever."""
        before_ms = now_ms - int(ttl_s * 1000)
        sql = "DELETE FROM entries WHERE kind IN ('result', 'kept') AND put_ms < ?"
        return await self._database.write(lambda conn: conn.execute(sql, (before_ms,)).rowcount)

    async def set_aside_garbage(self) -> int:
        """Looks at every entry, moves those that can't be read to a table of their own, and tells how many."""

        def work(conn: Connection) -> int:
            bad: list[tuple[str, int]] = []
            for kind, entry, body in conn.execute("SELECT kind, entry, body FROM entries ORDER BY entry"):
                _, reason = _decode(kind, body)
                if reason is not None:
                    bad.append((reason, entry))
            return _set_aside(conn, bad)

        return await self._database.write(work)

    async def _entries(self, kinds: tuple[str, ...], limit: int) -> list[Entry[Any]]:
        # Results may be large, so that a number of them alone bounds nothing.
        sql = (
            "SELECT entry, kind, put_ms, boot, body FROM"
            " (SELECT *, sum(length(body)) OVER (ORDER BY entry) AS bytes FROM"
            f" (SELECT * FROM entries WHERE kind {_AMONG} ORDER BY entry LIMIT ?))"
            " WHERE bytes - length(body) < ? ORDER BY entry"
        )
        values = (as_json(kinds), limit, READ_BYTES_MAX)
        while True:
            rows = await self._database.read(lambda conn: conn.execute(sql, values).fetchall())
            good, bad = _decoded(rows)
            if not bad:
                return good
            # Set aside at once and asked again, so that what can't be read never stands before what can.
            moved = await self._database.write(partial(_set_aside, bad=bad))
            logger.warning("%d entries of the outbox can't be read and were set aside: %s", moved, bad[0][0])

    async def _number(self, sql: str) -> int:
        return await self._database.read(lambda conn: int(conn.execute(sql).fetchone()[0]))


def _decode(kind: str, body: object) -> tuple[Any, str | None]:
    decoder = _DECODERS.get(kind)
    if decoder is None or not isinstance(body, bytes):
        return None, f"no {_RESULT} or {_SUBMIT}"
    try:
        return decoder.decode(body), None
    except UNREADABLE as error:
        return None, str(error)


def _is_of(owner: str, body: object) -> bool:
    spec, _ = _decode(_SUBMIT, body)
    return isinstance(spec, TaskSpec) and spec.owner == owner


def _decoded(rows: Sequence[tuple[int, str, int, str, Any]]) -> tuple[list[Entry[Any]], list[tuple[str, int]]]:
    good: list[Entry[Any]] = []
    bad: list[tuple[str, int]] = []
    for entry, kind, put_ms, boot, body in rows:
        value, reason = _decode(kind, body)
        if reason is None:
            good.append((entry, put_ms, boot, value))
        else:
            bad.append((reason, entry))
    return good, bad


def _set_aside(conn: Connection, bad: Sequence[tuple[str, int]]) -> int:
    conn.executemany(
        "INSERT OR IGNORE INTO garbage (entry, kind, put_ms, boot, task, body, reason)"
        " SELECT entry, kind, put_ms, boot, task, body, ? FROM entries WHERE entry = ?",
        bad,
    )
    conn.executemany("DELETE FROM entries WHERE entry = ?", [(entry,) for _, entry in bad])
    return len(bad)


def _view(spec: TaskSpec, put_ms: int) -> TaskView:
    return TaskView(
        id=spec.id,
        name=spec.name,
        state=State.PENDING.value,
        attempt=0,
        retry_of=spec.retry_of,
        priority=spec.priority,
        submitted_ms=put_ms,
        queued=True,
        owner=spec.owner,
        batch=spec.batch,
        key=spec.key,
        not_before_ms=spec.not_before_ms,
        timeout_s=spec.timeout_s,
        retries=spec.retries,
    )
