"""The database as asyncio sees it: one writer with group commit, snapshot readers, and streams on one snapshot.

All work is plain functions of a connection. A transaction is one hop to the thread that aiosqlite keeps for a
connection, so nothing of another coroutine can get between its statements.
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator
from contextlib import AsyncExitStack, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import aiosqlite

from meshq.errors import CorruptDatabase, DiskFailed, DiskFull, InvariantBroken, MeshqError, StoreError
from meshq.store.files import disk_error, make_private
from meshq.store.schema import QUEUE, Schema, migrate

Connection = sqlite3.Connection
T = TypeVar("T")

BUSY_S = 10.0
_END = object()

# The store itself failed, and not the one statement: all that wait for this commit fail.
_STORE_CODES = frozenset({
    sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL,
})  # fmt: skip
_DAMAGE_CODES = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
# Of errors that have no code of their own: what was stored was text, and the header is of no other version.
_DAMAGE_TEXTS = ("Could not decode to UTF-8", "unsupported file format")
_DISK_CODES = frozenset({sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN})


_BLANK = re.compile(r"(?:--[^\n]*|\s)+")  # what says nothing in a statement
# SQLite's text about a damaged schema may hold what is no text.
_ERRORS = (sqlite3.Error, UnicodeDecodeError)


def _code(error: Exception) -> int:
    if isinstance(error, UnicodeDecodeError) or str(error).startswith(_DAMAGE_TEXTS):
        return sqlite3.SQLITE_CORRUPT
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _is_the_stores(error: Exception) -> bool:
    # A work that meets what is no text in a value of somebody's says nothing of the file.
    return isinstance(error, sqlite3.Error) and _code(error) in _STORE_CODES


def _translated(error: Exception, where: str) -> MeshqError:
    code = _code(error)
    if code == sqlite3.SQLITE_FULL:
        return DiskFull(f"{where}: the disk is full; nothing was kept: make room there, or use another machine")
    if code in _DAMAGE_CODES:
        return CorruptDatabase(f"{where}: is damaged: {error}")
    if code in _DISK_CODES:
        return DiskFailed(f"{where}: can't be written or read: {error}; see whether its disk is read-only or failing")
    return StoreError(f"{where}: {error}")


class _Change(Generic[T]):
    """One work that waits for the writer, then what came of it."""

    __slots__ = ("committed", "error", "result", "withdrawn", "work")

    def __init__(self, work: Callable[[Connection], T]) -> None:
        self.work = work
        self.withdrawn = False
        self.committed = False
        self.error: BaseException | None = None
        self.result: T | None = None

    def attempt(self, conn: Connection) -> None:
        """Does the work in a savepoint, so that it fails alone; only a failing store goes on to the caller."""
        conn.execute("SAVEPOINT change")
        try:
            self.result = self.work(conn)
        except Exception as error:  # whatever it is, it belongs to the caller of write(), on the other thread
            if _is_the_stores(error):
                raise
            conn.execute("ROLLBACK TO change")
            self.error = error
        conn.execute("RELEASE change")

    def outcome(self) -> T:
        """The work's result, or its error."""
        if isinstance(self.error, (sqlite3.Error, OverflowError)):
            # What no database can hold should have been refused long before: it ends a request, and no daemon.
            raise InvariantBroken(f"what was to be written can't be: {self.error}") from self.error
        if self.error is not None:
            raise self.error
        if not self.committed:
            raise StoreError("the transaction was broken off; nothing was kept")
        return cast(T, self.result)


def _commit(changes: list[_Change[Any]], where: str, conn: Connection) -> None:
    try:
        conn.execute("BEGIN IMMEDIATE")
        for change in changes:
            change.attempt(conn)
        conn.execute("COMMIT")
        for change in changes:
            change.committed = True
    except _ERRORS as error:
        for change in changes:
            change.error = change.error or _translated(error, where)
    finally:
        _roll_back(conn)


def _roll_back(conn: Connection) -> None:
    # Where a disk fails, SQLite has done it by itself or can't; what went wrong is known already.
    with suppress(sqlite3.Error):
        if conn.in_transaction:
            conn.execute("ROLLBACK")


def _snapshot(work: Callable[[Connection], T], where: str, conn: Connection) -> T:
    try:
        conn.execute("BEGIN")
        return work(conn)
    except _ERRORS as error:
        if _is_the_stores(error):
            raise _translated(error, where) from error
        raise
    finally:
        _roll_back(conn)


def _look_through(where: str, conn: Connection) -> None:
    (found,) = conn.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        raise CorruptDatabase(f"{where}: is damaged: {found}")


class BaseDatabase(ABC):
    """One database: `Database` is a real one, `InlineDatabase` the simulator's.

    `on_corrupt` is called, beside the error that is raised, whenever the file turns out to be damaged.

    Group commit needs no task of its own: `write` leaves its work in a queue and sends the writer there, which takes
    all that waits. Whoever comes while a commit runs shares the next one, and a caller that is cancelled leaves
    nothing undone for the others.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._waiting: deque[_Change[Any]] = deque()
        self._closed = False
        self.on_corrupt: Callable[[], None] = lambda: None

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Does a work in a transaction, and returns its result once it is on disk.

        A work that raises is rolled back alone and its error raised here. A cancelled caller withdraws a work that
        has not begun; one that has begun may still be committed.

        Raises:
            DiskFull, DiskFailed, CorruptDatabase, StoreError: The store failed; nothing of this commit was kept.
        """
        self._check_open()
        change = _Change(work)
        self._waiting.append(change)
        try:
            await self._on_writer(self._commit_waiting)
        except asyncio.CancelledError:
            change.withdrawn = True
            raise
        with self._watched():
            return change.outcome()

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Does a work that changes nothing, on one snapshot.

        Raises:
            DiskFailed, CorruptDatabase, StoreError: The store failed.
        """
        self._check_open()
        with self._watched():
            return await self._on_reader(partial(_snapshot, work, self._where))

    async def check(self) -> None:
        """Looks through the whole file, which takes seconds for a large one.

        Raises:
            CorruptDatabase: It is damaged.
        """
        await self.read(partial(_look_through, self._where))

    @abstractmethod
    def stream(self, steps: Callable[[Connection], Iterator[T]]) -> AsyncGenerator[T, None]:
        """The steps of a generator function of the connection, all on one snapshot.

        The snapshot is held until the stream ends or is closed: use `contextlib.aclosing`.
        """

    @abstractmethod
    async def close(self) -> None:
        """Finishes what waits and closes all connections."""

    @abstractmethod
    async def _on_writer(self, work: Callable[[Connection], T]) -> T: ...

    @abstractmethod
    async def _on_reader(self, work: Callable[[Connection], T]) -> T: ...

    def _commit_waiting(self, conn: Connection) -> None:
        # Each write sends the writer here once, after it queued its work; so when that comes back, the work is done.
        changes = [self._waiting.popleft() for _ in range(len(self._waiting))]
        changes = [change for change in changes if not change.withdrawn]
        if changes:
            _commit(changes, self._where, conn)

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError(f"{self._where}: is closed")

    @contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except CorruptDatabase:
            self.on_corrupt()
            raise


class _Link:
    """A connection with its thread."""

    __slots__ = ("connection", "hops")

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self.connection = connection
        self.hops = 0

    async def hop(self, work: Callable[[Connection], T]) -> T:
        """Does the work on the connection's thread, after all that was sent there before."""
        execute: Callable[..., Awaitable[T]] = self.connection._execute
        self.hops += 1
        try:
            return await execute(work, self.connection._conn)
        finally:
            self.hops -= 1


def _prepare(path: Path, schema: Schema) -> None:
    """Makes or upgrades the file, so that whatever is wrong with it shows before a thread is started for it."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        make_private(path)
        with closing(sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)) as conn:
            conn.execute("PRAGMA journal_mode = WAL")
            conn.execute("PRAGMA synchronous = FULL")
            migrate(conn, schema, str(path))
            if damaged := {name for name, _ in _schema_of(schema) - _schema(conn)}:
                raise CorruptDatabase(f"{path}: is damaged: it lacks, or has changed, {', '.join(sorted(damaged))}")
    except OSError as error:
        raise disk_error(Path(error.filename or path), error) from error
    except _ERRORS as error:
        raise _translated(error, str(path)) from error


def _schema(conn: Connection) -> set[tuple[str, str]]:
    """Each table and index with its text, so that damage shows at the start, and not when a statement meets it."""
    # One that fails half-way would keep the file locked for as long as its traceback is kept.
    with closing(conn.execute("SELECT name, coalesce(sql, '') FROM sqlite_master")) as found:
        return {(name, _BLANK.sub(" ", sql)) for name, sql in found}


def _schema_of(schema: Schema) -> set[tuple[str, str]]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as model:
        migrate(model, schema, ":memory:")
        return _schema(model)


def _set_up_writer(conn: Connection) -> None:
    conn.execute("PRAGMA synchronous = FULL")
    conn.execute("PRAGMA cache_size = -32768")


def _set_up_reader(conn: Connection) -> None:
    conn.execute("PRAGMA query_only = ON")


class Database(BaseDatabase):
    """A database in a file: WAL, `synchronous=FULL`, a thread for each connection; `open` makes it."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path = path
        self._links = AsyncExitStack()
        self._readers: list[_Link] = []
        self._streams_idle: list[_Link] = []
        self._writer: _Link

    @classmethod
    async def open(cls, path: Path, *, schema: Schema = QUEUE, readers: int = 2) -> Database:
        """Opens or makes a database file, and brings it to the present version.

        Args:
            path: The file; its folder is made if there is none.
            schema: What it holds.
            readers: How many connections answer `read`; with 0 the writer does.

        Raises:
            CorruptDatabase: The file is damaged, or no database at all.
            DiskFull, DiskFailed: The folder or the file can't be written.
            NewerDatabase: A newer program wrote it.
            StoreError: Another program's database stands there. All with the path.
        """
        await asyncio.to_thread(_prepare, path, schema)
        database = cls(path)
        try:
            database._writer = await database._connect(_set_up_writer)
            for _ in range(readers):
                database._readers.append(await database._connect(_set_up_reader))
        except BaseException:
            await database.close()
            raise
        return database

    async def _connect(self, set_up: Callable[[Connection], None]) -> _Link:
        connection = aiosqlite.connect(self._path, timeout=BUSY_S, isolation_level=None)
        # A process that ends without closing must not hang on this thread; what is not committed is lost either way.
        thread: Any = getattr(connection, "_thread", connection)  # before 0.22 the connection is the thread
        thread.daemon = True
        try:
            await connection
            self._links.push_async_callback(connection.close)
            link = _Link(connection)
            await link.hop(set_up)
        except _ERRORS as error:
            raise _translated(error, self._where) from error
        return link

    async def _on_writer(self, work: Callable[[Connection], T]) -> T:
        return await self._writer.hop(work)

    async def _on_reader(self, work: Callable[[Connection], T]) -> T:
        link = min(self._readers, key=lambda reader: reader.hops, default=self._writer)
        return await link.hop(work)

    async def stream(self, steps: Callable[[Connection], Iterator[T]]) -> AsyncGenerator[T, None]:
        """As `BaseDatabase.stream`; each step is one hop, on a connection that no `read` uses."""
        self._check_open()
        link = self._streams_idle.pop() if self._streams_idle else await self._connect(_set_up_reader)
        steps_begun: list[Iterator[T]] = []

        def begin(conn: Connection) -> Iterator[T]:
            conn.execute("BEGIN")
            steps_begun.append(steps(conn))
            return steps_begun[0]

        def end(conn: Connection) -> None:
            for iterator in steps_begun:
                if isinstance(iterator, Generator):
                    iterator.close()
            _roll_back(conn)

        try:
            iterator = await link.hop(begin)
            while (step := await link.hop(lambda _: next(iterator, _END))) is not _END:
                yield cast(T, step)
        except _ERRORS as error:
            with self._watched():
                raise _translated(error, self._where) from error
        finally:
            await self._give_back(link, end)

    async def _give_back(self, link: _Link, end: Callable[[Connection], None]) -> None:
        if self._closed:
            return
        try:
            await link.hop(end)
        finally:
            # Even where this was cancelled: a thread takes its work in order, so `end` comes before the next stream.
            self._streams_idle.append(link)

    async def close(self) -> None:
        """As `BaseDatabase.close`; the writer goes last, so that the file is left without a journal."""
        self._closed = True
        await self._links.aclose()
