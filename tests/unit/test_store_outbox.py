"""The outbox keeps what no leader has yet, whatever happens to its file."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from meshq.core.requests import Outcome, TaskSpec
from meshq.errors import DiskFull, QueueFull
from meshq.store.database import Database
from meshq.store.inline import InlineDatabase, memory_connection
from meshq.store.outbox import Outbox
from meshq.store.schema import OUTBOX


class Wall:
    def __init__(self) -> None:
        self.ms = 1000

    def __call__(self) -> int:
        return self.ms


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.fixture(params=["file", "inline"])
async def outbox(request: pytest.FixtureRequest, tmp_path: Path, wall: Wall) -> AsyncIterator[Outbox]:
    if request.param == "file":
        opened = Outbox(await Database.open(tmp_path / "outbox.db", schema=OUTBOX, readers=1), wall)
    else:
        opened = Outbox(InlineDatabase(memory_connection(OUTBOX)), wall)
    yield opened
    await opened.close()


def outcome(n: int) -> Outcome:
    return Outcome(task=f"task{n}", epoch=3, attempt=1, kind="done", result=b"r", run_s=0.5)


def spec(n: int) -> TaskSpec:
    return TaskSpec(id=f"task{n}", name="primes", payload=b"p", priority=n, key="k", timeout_s=2.0)


async def test_results_come_back_oldest_first_until_they_are_dropped(outbox: Outbox) -> None:
    await outbox.put_results([outcome(1), outcome(2)], "boot1")
    await outbox.put_results([outcome(1)], "boot2")
    kept = await outbox.results(10)
    assert [(boot, found) for _, boot, found in kept] == [
        ("boot1", outcome(1)), ("boot1", outcome(2)), ("boot2", outcome(1)),
    ]  # fmt: skip
    assert await outbox.results(2) == kept[:2]
    await outbox.drop([kept[0][0], kept[2][0]])
    assert await outbox.results(10) == kept[1:2]
    assert await outbox.count() == 1


async def test_submits_come_back_once_each(outbox: Outbox) -> None:
    await outbox.put_submits([spec(2), spec(1)])
    await outbox.put_submits([spec(1), spec(3)])
    kept = await outbox.submits(10)
    assert [found for _, found in kept] == [spec(2), spec(1), spec(3)]
    await outbox.put_results([outcome(1)], "boot")
    assert (await outbox.count(), await outbox.count_submits()) == (4, 3)
    await outbox.drop([kept[0][0]])
    assert await outbox.submits(10) == kept[1:]


async def test_waiting_tasks_can_be_looked_at(outbox: Outbox, wall: Wall) -> None:
    await outbox.put_submits([spec(1), spec(2)])
    await outbox.put_results([outcome(3)], "boot")
    (view,) = await outbox.submit_views(["task2", "task3", "unknown"])
    assert (view.id, view.state, view.queued, view.attempt, view.submitted_ms) == ("task2", "pending", True, 0, 1000)
    assert await outbox.find("task") == ["task1", "task2"]
    assert await outbox.find("SK2") == ["task2"]
    assert await outbox.find("3") == []
    assert await outbox.find("") == []


async def test_old_results_expire_and_submits_never(outbox: Outbox, wall: Wall) -> None:
    await outbox.put_results([outcome(1)], "boot")
    await outbox.put_submits([spec(1)])
    wall.ms = 9000
    await outbox.put_results([outcome(2)], "boot")
    assert await outbox.expire(12_000, 10.0) == 1
    assert [found for _, _, found in await outbox.results(10)] == [outcome(2)]
    assert len(await outbox.submits(10)) == 1


def broken(conn: sqlite3.Connection) -> None:
    for kind, body in [("result", b"\xc1"), ("result", b"\x80"), ("submit", "text"), ("song", b"la"), ("result", b"")]:
        conn.execute(
            "INSERT INTO entries (kind, put_ms, boot, task, body) VALUES (?, 1, 'b', hex(randomblob(4)), ?)",
            (kind, body),
        )


async def test_garbage_is_set_aside_and_stops_nothing() -> None:
    conn = memory_connection(OUTBOX)
    outbox = Outbox(InlineDatabase(conn), lambda: 5)
    broken(conn)
    await outbox.put_results([outcome(1)], "boot")
    await outbox.put_submits([spec(1)])
    before = conn.execute("SELECT entry, kind, body FROM entries WHERE boot = 'b'").fetchall()
    assert [found for _, _, found in await outbox.results(1)] == [outcome(1)], "though garbage stands before it"
    assert [found for _, found in await outbox.submits(1)] == [spec(1)]
    assert await outbox.set_aside_garbage() == 1, "the song, which nobody had asked for"
    assert await outbox.set_aside_garbage() == 0
    assert await outbox.garbage() == 5
    assert conn.execute("SELECT entry, kind, body FROM garbage ORDER BY entry").fetchall() == before
    assert await outbox.count() == 2


async def test_what_is_in_the_outbox_survives_a_restart(tmp_path: Path, wall: Wall) -> None:
    path = tmp_path / "outbox.db"
    outbox = Outbox(await Database.open(path, schema=OUTBOX, readers=1), wall)
    await outbox.put_results([outcome(1)], "boot")
    await outbox.close()
    again = Outbox(await Database.open(path, schema=OUTBOX, readers=1), wall)
    assert [found for _, _, found in await again.results(10)] == [outcome(1)]
    await again.close()


async def test_what_a_full_disk_did_not_take_is_not_there(tmp_path: Path, wall: Wall) -> None:
    database = await Database.open(tmp_path / "outbox.db", schema=OUTBOX, readers=1)
    outbox = Outbox(database, wall)
    await outbox.put_submits([spec(1)])

    def limit(conn: sqlite3.Connection) -> None:
        (pages,) = conn.execute("PRAGMA page_count").fetchone()
        conn.execute(f"PRAGMA max_page_count = {pages + 3}")

    await database.write(limit)
    with pytest.raises(DiskFull, match=r"outbox\.db: the disk is full; nothing was kept: make room there"):
        await outbox.put_submits([replace(spec(2), payload=b"x" * 100_000)])
    assert [found for _, found in await outbox.submits(10)] == [spec(1)]
    await outbox.put_submits([spec(3)])
    assert [found for _, found in await outbox.submits(10)] == [spec(1), spec(3)]
    await outbox.close()


async def test_submits_beyond_the_most_are_refused_as_a_whole_and_results_are_not() -> None:
    outbox = Outbox(InlineDatabase(memory_connection(OUTBOX)), lambda: 5, tasks_max=3)
    await outbox.put_submits([spec(1), spec(2)])
    with pytest.raises(QueueFull, match="at most 3 tasks are kept"):
        await outbox.put_submits([spec(3), spec(4)])
    assert await outbox.count_submits() == 2
    await outbox.put_submits([spec(3)])
    await outbox.put_submits([spec(1), spec(3)])  # these are here, and take no more room
    await outbox.put_results([outcome(number) for number in range(5)], "boot1")
    assert await outbox.count() == 8


async def test_of_what_runs_of_a_task_kept_only_the_newest_waits_and_before_its_outcome(
    outbox: Outbox, wall: Wall
) -> None:
    def kept(n: int, data: bytes) -> Outcome:
        return Outcome(task=f"task{n}", epoch=3, attempt=1, kind="kept", checkpoint=data)

    await outbox.put_results([kept(1, b"a"), outcome(2)], "boot1")
    await outbox.put_results([kept(2, b"b"), kept(1, b"c")], "boot1")
    await outbox.put_results([kept(1, b"d")], "boot1")
    await outbox.put_results([outcome(1)], "boot1")
    waiting = await outbox.results(10)
    assert [found for _, _, found in waiting] == [outcome(2), kept(2, b"b"), kept(1, b"d"), outcome(1)]
    assert await outbox.count_submits() == 0
    assert await outbox.set_aside_garbage() == 0
    await outbox.drop([waiting[1][0]])
    assert len(await outbox.results(10)) == 3
    wall.ms += 10_000
    assert await outbox.expire(wall.ms, 5.0) == 3


async def test_the_holder_of_a_credential_fills_only_its_share() -> None:
    outbox = Outbox(InlineDatabase(memory_connection(OUTBOX)), lambda: 5, tasks_max=9, owner_tasks_max=2)
    await outbox.put_submits([replace(spec(1), owner="bob")])
    with pytest.raises(QueueFull, match="at most 2 tasks of the credential bob are kept"):
        await outbox.put_submits([replace(spec(number), owner="bob") for number in (2, 3)])
    assert await outbox.count_submits() == 1
    await outbox.put_submits([replace(spec(number), owner="bob") for number in (1, 2)])
    for number in (3, 4, 5):
        await outbox.put_submits([spec(number)])
    await outbox.put_submits([replace(spec(6), owner="eve")])
    assert [(found.id, found.owner) for _, found in await outbox.submits(9)] == [
        ("task1", "bob"), ("task2", "bob"), ("task3", ""), ("task4", ""), ("task5", ""), ("task6", "eve"),
    ]  # fmt: skip
