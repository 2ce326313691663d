"""Databases that are damaged: told wherever it is met."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from meshq.errors import CorruptDatabase
from meshq.store.database import BaseDatabase, Connection, Database
from meshq.store.inline import InlineDatabase, memory_connection


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


# -- damage ----------------------------------------------------------------------------------------------


async def filled(path: Path) -> Database:
    """A database of a few hundred pages, all of them in its file."""
    database = await Database.open(path)

    def fill(conn: Connection) -> None:
        conn.executemany("INSERT INTO meta (key, value) VALUES (?, ?)", [(f"k{n:04}", "x" * 1000) for n in range(500)])

    await database.write(fill)
    await database.close()
    return await Database.open(path)


def values(conn: Connection) -> int:
    return int(conn.execute("SELECT sum(length(value)) FROM meta").fetchone()[0])


def spoil(path: Path) -> None:
    """Overwrites all pages but those at the beginning, which the schema needs."""
    content = bytearray(path.read_bytes())
    content[100_000:] = b"\xff" * (len(content) - 100_000)
    path.write_bytes(content)


def cut(path: Path) -> None:
    """Leaves the first half, on the end of a page."""
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 8192 * 4096)


@pytest.mark.parametrize("harm", [spoil, cut])
async def test_damage_is_named_and_told_wherever_it_is_met(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    path = tmp_path / "queue.db"
    database = await filled(path)
    told: list[str] = []
    database.on_corrupt = lambda: told.append("corrupt")
    await database.check()
    harm(path)

    def steps(conn: Connection) -> Iterator[int]:
        yield values(conn)

    with pytest.raises(CorruptDatabase, match=r"queue\.db: is damaged"):
        await database.read(values)
    with pytest.raises(CorruptDatabase, match=r"queue\.db: is damaged"):
        _ = [step async for step in database.stream(steps)]
    with pytest.raises(CorruptDatabase, match=r"queue\.db: is damaged"):
        await database.write(lambda conn: conn.execute("UPDATE meta SET value = value || 'y'").rowcount)
    with pytest.raises(CorruptDatabase, match=r"queue\.db: is damaged"):
        await database.check()
    assert len(told) == 4
    await database.close()


async def test_a_file_that_was_cut_is_refused_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    await (await filled(path)).close()
    cut(path)
    with pytest.raises(CorruptDatabase, match=r"queue\.db: is damaged"):
        await Database.open(path)


async def test_a_file_without_its_tables_is_refused_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    await (await Database.open(path)).close()
    with sqlite3.connect(path) as conn:
        conn.execute("DROP TABLE roster")
        conn.execute("DROP TABLE vector")
    conn.close()
    with pytest.raises(CorruptDatabase, match="it lacks roster, vector"):
        await Database.open(path)
