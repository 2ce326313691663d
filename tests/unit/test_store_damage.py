"""Databases that are damaged: told wherever it is met."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from meshq.errors import CorruptDatabase
from meshq.store.database import Connection, Database


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
    with pytest.raises(CorruptDatabase, match="it lacks, or has changed, roster, vector"):
        await Database.open(path)


async def test_text_that_is_none_any_more_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    database = await filled(path)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"x" * 100, b"\xff" * 100, 1))
    told: list[str] = []
    database.on_corrupt = lambda: told.append("corrupt")
    with pytest.raises(CorruptDatabase, match=r"queue\.db: is damaged: Could not decode"):
        await database.read(lambda conn: conn.execute("SELECT value FROM meta").fetchall())
    with pytest.raises(CorruptDatabase, match=r"queue\.db: is damaged: Could not decode"):
        await database.write(lambda conn: conn.execute("SELECT value FROM meta").fetchall())
    assert told == ["corrupt", "corrupt"]
    await database.close()


async def test_a_value_that_is_no_text_is_no_damage_of_the_file(tmp_path: Path) -> None:
    database = await filled(tmp_path / "queue.db")
    told: list[str] = []
    database.on_corrupt = lambda: told.append("corrupt")
    for there in (database.read, database.write):
        with pytest.raises(UnicodeDecodeError):
            await there(lambda conn: b"\xed\xa0".decode())
    assert told == []
    await database.close()


async def test_a_schema_that_is_no_text_is_refused_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    await (await Database.open(path)).close()
    path.write_bytes(path.read_bytes().replace(b"CREATE TABLE meta", b"CREATE \xff\xfe\xfd\xfc\xfb meta"))
    with pytest.raises(CorruptDatabase, match=r"queue\.db: is damaged"):
        await Database.open(path)


async def test_so_is_a_header_of_a_format_that_does_not_exist(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    await (await Database.open(path)).close()
    content = bytearray(path.read_bytes())
    content[47] = 77  # the schema format, 1 to 4
    path.write_bytes(content)
    with pytest.raises(CorruptDatabase, match=r"queue\.db: is damaged: unsupported file format"):
        await Database.open(path)
