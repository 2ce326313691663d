"""What no node would ever write, found in a database when a daemon starts: set aside, and begun anew."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import msgspec
import pytest

from meshq.client.aio import AsyncClient
from meshq.config import Config
from meshq.core.limits import EPOCH_MAX
from meshq.node.daemon import Daemon
from meshq.node.embedded import ALONE
from meshq.store import identity


@asynccontextmanager
async def daemon(data_dir: Path) -> AsyncIterator[AsyncClient]:
    """A daemon that nobody else can reach, and a client of it."""
    found = Daemon(msgspec.structs.replace(Config(slots=1), **ALONE), data_dir, alone=True)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(found.run())
        await found.ready.wait()
        async with AsyncClient(data_dir, connect_timeout_s=10.0) as client:
            yield client
        found.stop_asked.set()


async def lived(data_dir: Path) -> str:
    """One life that leads; its node."""
    async with daemon(data_dir) as client:
        await client.result(await client.submit("echo", 1), timeout_s=30)
        return (await client.status()).node


def misspelt(table: str, word: str, found: str) -> str:
    """One changed byte in the schema of a table."""
    return (
        "PRAGMA writable_schema = ON;"
        f" UPDATE sqlite_master SET sql = replace(sql, '{word}', '{found}') WHERE name = '{table}'"
    )


@pytest.mark.parametrize(
    ("file", "sql", "says"),
    [
        (
            "promise.db",
            f"UPDATE promise SET epoch = {EPOCH_MAX}",
            f"the promise is of epoch {EPOCH_MAX}, not from 0 to",
        ),
        ("promise.db", "UPDATE promise SET epoch = -1", "the promise is of epoch -1, not from 0 to"),
        (
            "queue.db",
            f"UPDATE roster SET epoch = {EPOCH_MAX}",
            f"the roster is of epoch {EPOCH_MAX}, not from 0",
        ),
        ("queue.db", "UPDATE roster SET members = x'c1'", "the roster can't be read"),
        ("promise.db", misspelt("promise", "holder", "holdes"), "it lacks, or has changed, promise"),
        ("queue.db", misspelt("tasks", "started_ms", "started_mz"), "it lacks, or has changed, tasks"),
    ],
)
async def test_it_is_set_aside_with_the_reason(
    tmp_path: Path, file: str, sql: str, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    node = await lived(tmp_path)
    with closing(sqlite3.connect(tmp_path / file)) as conn:
        conn.executescript(sql)
        conn.commit()
    async with daemon(tmp_path):
        now = identity.read_id(tmp_path)
    assert now != node, "who may have promised anything has a new id"
    assert f"{file}: is damaged: {says}" in caplog.text
    assert f"{file} was damaged and is kept as {tmp_path / file}.damaged-" in caplog.text
