"""One writer with group commit, snapshot readers, streams: the same for the real database and its inline twin."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import aiosqlite
import pytest

from meshq.errors import CorruptDatabase, DiskFailed, DiskFull, InvariantBroken, NewerDatabase, StoreError
from meshq.store.database import BaseDatabase, Connection, Database
from meshq.store.inline import InlineDatabase, memory_connection
from meshq.store.schema import OUTBOX, PROMISE, QUEUE, Schema, migrate


@pytest.fixture(params=["file", "inline"])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[BaseDatabase]:
    opened: BaseDatabase
    if request.param == "file":
        opened = await Database.open(tmp_path / "queue.db")
    else:
        opened = InlineDatabase(memory_connection(), lambda: asyncio.sleep(0))
    yield opened
    await opened.close()


@pytest.fixture
async def on_disk(tmp_path: Path) -> AsyncIterator[Database]:
    opened = await Database.open(tmp_path / "queue.db")
    yield opened
    await opened.close()


def keys(conn: Connection) -> list[str]:
    return [key for (key,) in conn.execute("SELECT key FROM meta ORDER BY key")]


def writing(key: str, database: BaseDatabase, error: Exception | None = None) -> asyncio.Future[str]:
    def work(conn: Connection) -> str:
        conn.execute("INSERT INTO meta (key, value) VALUES (?, '')", (key,))
        if error is not None:
            raise error
        return key

    return asyncio.ensure_future(database.write(work))


# -- what both do ----------------------------------------------------------------------------------------


async def test_a_write_returns_what_its_work_does_and_is_read_afterwards(database: BaseDatabase) -> None:
    assert await writing("a", database) == "a"
    assert await database.read(keys) == ["a"]


async def test_a_work_that_raises_is_rolled_back_alone(database: BaseDatabase) -> None:
    futures = [writing(f"k{n}", database, ValueError("no") if n % 3 == 1 else None) for n in range(9)]
    results = await asyncio.gather(*futures, return_exceptions=True)
    assert [isinstance(result, ValueError) for result in results] == [n % 3 == 1 for n in range(9)]
    assert await database.read(keys) == [f"k{n}" for n in range(9) if n % 3 != 1]


async def test_a_constraint_that_fails_belongs_to_its_caller(database: BaseDatabase) -> None:
    results = await asyncio.gather(*(writing(key, database) for key in ("a", "a", "b")), return_exceptions=True)
    assert isinstance(results[1], InvariantBroken)
    assert "UNIQUE" in results[1].message
    assert await database.read(keys) == ["a", "b"]


@pytest.mark.parametrize("value", [1 << 63, object()], ids=["too large", "no value"])
async def test_what_no_database_can_hold_ends_its_own_write_only(database: BaseDatabase, value: object) -> None:
    def work(conn: Connection) -> None:
        conn.execute("INSERT INTO meta (key, value) VALUES ('kept', ?)", ("",))
        conn.execute("INSERT INTO meta (key, value) VALUES ('odd', ?)", (value,))

    # Beside others in one commit, and alone.
    results = await asyncio.gather(writing("a", database), database.write(work), return_exceptions=True)
    assert results[0] == "a"
    assert isinstance(results[1], InvariantBroken)
    with pytest.raises(InvariantBroken, match="can't be"):
        await database.write(work)
    assert await writing("b", database) == "b"
    assert await database.read(keys) == ["a", "b"]


async def test_a_cancelled_caller_disturbs_nobody(database: BaseDatabase) -> None:
    futures = [writing(f"k{n}", database) for n in range(5)]
    await asyncio.sleep(0)
    futures[0].cancel()
    futures[3].cancel()
    results = await asyncio.gather(*futures, return_exceptions=True)
    assert [results[n] for n in (1, 2, 4)] == ["k1", "k2", "k4"]
    assert isinstance(results[0], asyncio.CancelledError)
    assert {"k1", "k2", "k4"} <= set(await database.read(keys))


async def test_a_stream_gives_its_steps_in_order(database: BaseDatabase) -> None:
    for key in "abc":
        await writing(key, database)

    def steps(conn: Connection) -> Iterator[str]:
        for (key,) in conn.execute("SELECT key FROM meta ORDER BY key"):
            yield key

    assert [step async for step in database.stream(steps)] == ["a", "b", "c"]


async def test_a_stream_ends_with_the_error_of_its_steps(database: BaseDatabase) -> None:
    def steps(conn: Connection) -> Iterator[str]:
        raise ValueError("broken")
        yield ""

    with pytest.raises(ValueError, match="broken"):
        _ = [step async for step in database.stream(steps)]
    assert await database.read(keys) == []


async def test_a_closed_database_refuses(database: BaseDatabase) -> None:
    await database.close()
    with pytest.raises(StoreError, match="closed"):
        await database.read(keys)
    with pytest.raises(StoreError, match="closed"):
        await writing("a", database)


# -- the real one ----------------------------------------------------------------------------------------


async def test_all_that_wait_share_one_commit(on_disk: Database) -> None:
    begun, go = threading.Event(), threading.Event()
    statements: list[str] = []

    def slow(conn: Connection) -> None:
        conn.set_trace_callback(statements.append)
        begun.set()
        go.wait(10)

    first = asyncio.ensure_future(on_disk.write(slow))
    await asyncio.to_thread(begun.wait, 10)
    others = [writing(f"k{n}", on_disk) for n in range(20)]
    await asyncio.sleep(0)
    go.set()
    await asyncio.gather(first, *others)
    assert [sql for sql in statements if sql.startswith(("BEGIN", "COMMIT"))] == ["COMMIT", "BEGIN IMMEDIATE", "COMMIT"]
    assert len(await on_disk.read(keys)) == 20


async def test_a_cancelled_caller_whose_work_has_not_begun_takes_it_back(on_disk: Database) -> None:
    begun, go = threading.Event(), threading.Event()

    def slow(_: Connection) -> None:
        begun.set()
        go.wait(10)

    first = asyncio.ensure_future(on_disk.write(slow))
    await asyncio.to_thread(begun.wait, 10)
    taken_back, kept = writing("taken back", on_disk), writing("kept", on_disk)
    await asyncio.sleep(0)
    taken_back.cancel()
    await asyncio.gather(taken_back, return_exceptions=True)
    go.set()
    await asyncio.gather(first, kept)
    assert await on_disk.read(keys) == ["kept"]


async def test_a_full_disk_fails_all_of_the_commit_and_nothing_is_kept(on_disk: Database) -> None:
    def limit(conn: Connection) -> None:
        (pages,) = conn.execute("PRAGMA page_count").fetchone()
        conn.execute(f"PRAGMA max_page_count = {pages + 3}")

    await on_disk.write(limit)
    begun, go = threading.Event(), threading.Event()

    def slow(_: Connection) -> None:
        begun.set()
        go.wait(10)

    def large(conn: Connection) -> None:
        conn.execute("INSERT INTO meta (key, value) VALUES ('large', ?)", ("x" * 100_000,))

    first = asyncio.ensure_future(on_disk.write(slow))
    await asyncio.to_thread(begun.wait, 10)
    small, too_large = writing("small", on_disk), asyncio.ensure_future(on_disk.write(large))
    await asyncio.sleep(0)
    go.set()
    results = await asyncio.gather(first, small, too_large, return_exceptions=True)
    assert [type(result) for result in results[1:]] == [DiskFull, DiskFull]
    assert await on_disk.read(keys) == []
    assert await writing("later", on_disk) == "later"


async def test_a_reader_can_change_nothing(on_disk: Database) -> None:
    with pytest.raises(DiskFailed, match="readonly"):
        await on_disk.read(lambda conn: conn.execute("INSERT INTO meta (key, value) VALUES ('a', '')"))


async def test_a_stream_stays_on_its_snapshot_and_keeps_nobody_from_reading(on_disk: Database) -> None:
    for key in "abc":
        await writing(key, on_disk)

    def steps(conn: Connection) -> Iterator[list[str]]:
        while True:
            yield keys(conn)

    async with aclosing(on_disk.stream(steps)) as one, aclosing(on_disk.stream(steps)) as two:
        assert await anext(one) == ["a", "b", "c"]
        await writing("d", on_disk)
        assert await anext(two) == ["a", "b", "c", "d"]
        reads = await asyncio.gather(*(on_disk.read(keys) for _ in range(8)))
        assert reads == [["a", "b", "c", "d"]] * 8
        assert await anext(one) == ["a", "b", "c"]
    async with aclosing(on_disk.stream(steps)) as again:
        assert await anext(again) == ["a", "b", "c", "d"]


async def test_a_stream_that_is_cancelled_leaves_its_connection_usable(on_disk: Database) -> None:
    begun, go = threading.Event(), threading.Event()

    def steps(conn: Connection) -> Iterator[list[str]]:
        begun.set()
        go.wait(10)
        yield keys(conn)

    async def drink() -> None:
        async with aclosing(on_disk.stream(steps)) as stream:
            await anext(stream)

    drinking = asyncio.ensure_future(drink())
    await asyncio.to_thread(begun.wait, 10)
    drinking.cancel()
    await asyncio.sleep(0)
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await drinking
    await writing("a", on_disk)
    async with aclosing(on_disk.stream(steps)) as stream:
        assert await anext(stream) == ["a"]


async def test_what_was_written_is_there_after_a_restart(tmp_path: Path) -> None:
    first = await Database.open(tmp_path / "queue.db")
    await writing("a", first)
    assert await first.read(lambda conn: conn.execute("PRAGMA journal_mode").fetchone()[0]) == "wal"
    assert await first.write(lambda conn: conn.execute("PRAGMA synchronous").fetchone()[0]) == 2
    await first.close()
    again = await Database.open(tmp_path / "queue.db")
    assert await again.read(keys) == ["a"]
    await again.close()


async def test_aiosqlite_runs_a_plain_function_in_order_on_the_connections_thread() -> None:
    """Pins the private part of aiosqlite that one transaction = one hop stands on."""
    connection = await aiosqlite.connect(":memory:", isolation_level=None)
    execute: Callable[..., Awaitable[Any]] = connection._execute
    assert isinstance(connection._conn, sqlite3.Connection)
    order: list[int] = []
    jobs = [asyncio.ensure_future(execute(order.append, n)) for n in range(5)]
    await asyncio.sleep(0)
    jobs[1].cancel()
    assert await execute(threading.get_ident) != threading.get_ident()
    assert order == [0, 1, 2, 3, 4]
    await asyncio.gather(*jobs, return_exceptions=True)
    await connection.close()


async def test_a_process_that_ends_without_closing_does_not_hang(tmp_path: Path) -> None:
    code = """
import asyncio, sys
from pathlib import Path
from meshq.store.database import Database
kept = []
async def main():
    kept.append(await Database.open(Path(sys.argv[1])))
    raise SystemExit(7)
asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, str(tmp_path / "queue.db"))
    try:
        assert await asyncio.wait_for(process.wait(), 30) == 7
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


# -- files that can't be used ----------------------------------------------------------------------------


async def test_a_newer_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    await (await Database.open(path)).close()
    with sqlite3.connect(path) as conn:
        conn.execute("PRAGMA user_version = 99")
    conn.close()
    with pytest.raises(NewerDatabase, match=r"queue\.db: is of version 99"):
        await Database.open(path)


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    path.write_bytes(b"this is no database at all" * 100)
    with pytest.raises(CorruptDatabase, match=r"queue\.db"):
        await Database.open(path)


async def test_a_database_of_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    with sqlite3.connect(path) as conn:
        conn.execute("CREATE TABLE songs (title TEXT)")
    conn.close()
    with pytest.raises(StoreError, match="another program"):
        await Database.open(path)


async def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"file: can't be written"):
        await Database.open(tmp_path / "file" / "queue.db")
    (tmp_path / "folder" / "queue.db").mkdir(parents=True)
    with pytest.raises(DiskFailed, match=r"folder/queue\.db: can't be written"):
        await Database.open(tmp_path / "folder" / "queue.db")


# -- schemas ---------------------------------------------------------------------------------------------


def described(conn: sqlite3.Connection) -> list[tuple[str, str, str]]:
    rows = conn.execute("SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY type, name")
    # Where a column was added later, its comma stands after the space.
    return [(kind, name, re.sub(r"\s*([(),])\s*", r"\1", " ".join(sql.split()))) for kind, name, sql in rows]


@pytest.mark.parametrize("schema", [QUEUE, OUTBOX, PROMISE], ids=lambda schema: schema.name)
def test_the_schema_equals_its_migrations(schema: Schema) -> None:
    migrated = sqlite3.connect(":memory:", isolation_level=None)
    migrate(migrated, schema, ":memory:")
    whole = sqlite3.connect(":memory:")
    whole.executescript(schema.whole.read_text("utf-8"))
    assert described(migrated) == described(whole)
    assert described(whole)
    assert migrated.execute("PRAGMA user_version").fetchone() == (len(schema.migrations()),)
    migrate(migrated, schema, ":memory:")
    migrated.close()
    whole.close()
