"""The logs of tasks: the last of each is kept, offsets only grow, and no disk makes trouble for a task."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from meshq.core.limits import LOG_BYTES_MAX
from meshq.store.logs import BLOCK_BYTES, WAITING_BYTES_MAX, LogFiles, Logs

A, B = "a" * 32, "b" * 32


@asynccontextmanager
async def opened(folder: Path, bytes_max: int = 64 << 20) -> AsyncIterator[tuple[Logs, list[tuple[str, str]]]]:
    events: list[tuple[str, str]] = []
    logs = Logs(folder, bytes_max, lambda name, text: events.append((name, text)))
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        running = group.create_task(logs.run())
        await asyncio.sleep(0)
        yield logs, events
        running.cancel()


async def whole(logs: Logs, task: str, after: int = 0) -> tuple[bytes, int]:
    """All there is from here on, and how much was lost of it."""
    text, lost_all = b"", 0
    while True:
        part, following, lost = await logs.read(task, after, 0.0)
        assert following == after + lost + len(part)
        text, lost_all, after = text + part, lost_all + lost, following
        if not part:
            return text, lost_all


async def test_what_was_printed_is_read_from_any_byte_on_and_outlives_a_restart(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    async with opened(folder) as (logs, _):
        assert await logs.read(A, 0, 0.0) == (b"", 0, 0)
        assert not folder.exists()
        logs.add(A, b"one\n")
        logs.add(B, b"other\n")
        logs.add(A, b"two\n")
        assert await logs.read(A, 0, 0.0) == (b"one\ntwo\n", 8, 0)
        assert await logs.read(A, 4, 0.0) == (b"two\n", 8, 0)
        assert await logs.read(A, 8, 0.0) == (b"", 8, 0)
        assert await logs.read(A, 99, 0.0) == (b"", 8, 0)
        logs.add(A, b"last\n")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    async with opened(folder) as (logs, events):
        assert await logs.read(A, 4, 0.0) == (b"two\nlast\n", 13, 0)
        logs.add(A, b"again\n")
        assert await logs.read(A, 13, 0.0) == (b"again\n", 19, 0)
        assert events == []


async def test_the_last_mebibyte_of_each_is_kept_and_what_is_gone_is_told(tmp_path: Path) -> None:
    lines = b"".join(b"%07d\n" % number for number in range(400_000))
    async with opened(tmp_path / "logs") as (logs, _):
        for start in range(0, len(lines), 50_000):
            logs.add(A, lines[start : start + 50_000])
            if start % 500_000 == 0:
                await logs.read(B, 0, 0.0)
        text, lost = await whole(logs, A)
        assert LOG_BYTES_MAX <= len(text) < LOG_BYTES_MAX + (512 << 10)
        assert text == lines[lost:]
        assert lost + len(text) == len(lines)
        assert await whole(logs, A, len(lines) - 8) == (lines[-8:], 0)
    assert sum(path.stat().st_size for path in (tmp_path / "logs").iterdir()) == len(text)


async def test_of_all_logs_those_written_longest_ago_go_first(tmp_path: Path) -> None:
    names = [f"{number:032x}" for number in range(20)]
    async with opened(tmp_path / "logs", 8 * BLOCK_BYTES) as (logs, events):
        for name in names:
            logs.add(name, b"x" * 10)
            await logs.read(name, 0, 0.0)
        logs.add(names[12], b"y" * 10)
        logs.add(names[0], b"z" * 10)
        left = [name for name in names if (await logs.read(name, 0, 0.0))[0]]
        assert left == [names[0], names[12], *names[14:]]
        assert events == []
    assert len(list((tmp_path / "logs").iterdir())) == 8
    async with opened(tmp_path / "logs", 2 * BLOCK_BYTES) as (logs, _):
        await logs.read(A, 0, 0.0)
        assert len(list((tmp_path / "logs").iterdir())) == 2


async def test_one_log_takes_no_more_than_all_may(tmp_path: Path) -> None:
    async with opened(tmp_path / "logs", 300 << 10) as (logs, _):
        for number in range(100):
            logs.add(A, b"%09d\n" % number * 1000)
            await logs.read(B, 0, 0.0)
        text, lost = await whole(logs, A)
        assert 0 < len(text) <= 300 << 10
        assert lost + len(text) == 1_000_000
        assert text.endswith(b"000000099\n")


async def test_with_no_room_at_all_nothing_is_kept(tmp_path: Path) -> None:
    async with opened(tmp_path / "logs", 0) as (logs, events):
        logs.add(A, b"x")
        assert await logs.read(A, 0, 0.0) == (b"", 0, 0)
        assert events == []
    assert not (tmp_path / "logs").exists()


async def test_a_reader_waits_for_more_and_several_may(tmp_path: Path) -> None:
    async with opened(tmp_path / "logs") as (logs, _), asyncio.TaskGroup() as group:
        logs.add(A, b"one\n")
        readers = [group.create_task(logs.read(A, 4, 20.0)) for _ in range(3)]
        other = group.create_task(logs.read(B, 0, 0.2))
        # All of them have looked once: this one's turn comes after theirs.
        await logs.read(A, 0, 0.0)
        assert not any(reader.done() for reader in readers)
        logs.add(A, b"two\n")
        assert [await reader for reader in readers] == [(b"two\n", 8, 0)] * 3
        assert await other == (b"", 0, 0)


async def test_a_disk_that_takes_nothing_is_counted_and_leaves_a_gap(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.write_text("a file where the folder should be")
    async with opened(folder) as (logs, events):
        for number in range(50):
            logs.add(f"{number:032x}", b"lost\n")
        assert await logs.read(A, 0, 0.0) == (b"", 0, 0)
        assert {name for name, _ in events} == {"log_not_kept"}
        assert str(folder) in events[0][1]
        folder.unlink()
        logs.add(A, b"kept\n")
        assert await logs.read(A, 0, 0.0) == (b"kept\n", 5, 0)
        # What stands in the way of the next write fails it, and what comes after that is told apart.
        path = folder / f"{A}-0.log"
        path.rename(tmp_path / "aside")
        path.mkdir()
        logs.add(A, b"lost\n")
        await logs.read(A, 10, 0.0)
        path.rmdir()
        (tmp_path / "aside").rename(path)
        logs.add(A, b"back\n")
        assert await logs.read(A, 0, 0.0) == (b"kept\n", 5, 0)
        assert await logs.read(A, 5, 0.0) == (b"back\n", 15, 5)


async def test_a_log_that_somebody_deleted_is_lost_and_nothing_else(tmp_path: Path) -> None:
    async with opened(tmp_path / "logs") as (logs, _):
        logs.add(A, b"one\n")
        logs.add(B, b"other\n")
        await logs.read(A, 0, 0.0)
        for path in (tmp_path / "logs").glob(f"{A}*"):
            path.unlink()
        assert await logs.read(A, 0, 0.0) == (b"", 4, 4)
        assert await logs.read(B, 0, 0.0) == (b"other\n", 6, 0)


async def test_what_comes_faster_than_the_disk_writes_is_dropped_and_told(tmp_path: Path) -> None:
    async with opened(tmp_path / "logs") as (logs, events):
        chunk = 1 << 20
        count = WAITING_BYTES_MAX // chunk
        for _ in range(count + 3):
            logs.add(A, bytes(chunk))
        logs.add(B, b"")
        assert [name for name, _ in events] == ["log_not_kept"] * 3
        logs.add(A, b"")
        text, lost = await whole(logs, A)
        assert len(text) + lost == (count + 3) * chunk
        logs.add(A, b"after\n")
        assert await logs.read(A, (count + 3) * chunk, 0.0) == (b"after\n", (count + 3) * chunk + 6, 0)


@pytest.mark.parametrize("task", ["", "../../etc/passwd", "A" * 32, "a" * 31, "a" * 32 + "/x"])
async def test_what_is_no_task_has_no_file(tmp_path: Path, task: str) -> None:
    async with opened(tmp_path / "logs") as (logs, _):
        logs.add(task, b"x")
        assert await logs.read(task, 0, 0.0) == (b"", 0, 0)
    assert not (tmp_path / "logs").exists()


def test_strange_files_are_left_alone(tmp_path: Path) -> None:
    for name in ("README", f"{A}-x.log", f"{A}-0.log.bak"):
        (tmp_path / name).write_text("mine")
    files = LogFiles(tmp_path, 1)
    files.scan()
    assert len(list(tmp_path.iterdir())) == 3
    assert files.troubles == []
