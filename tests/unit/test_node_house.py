"""The data directory over the lives of its nodes: what is damaged, lost, copied or left begins anew, and is kept."""

from __future__ import annotations

import logging
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from meshq.core.events import Promise
from meshq.core.ids import uuid7
from meshq.core.requests import TaskSpec
from meshq.errors import CorruptDatabase, NewerDatabase
from meshq.node import house
from meshq.node.clock import SystemClock
from meshq.node.house import House, Trouble
from meshq.store import identity, peers
from meshq.store.database import Connection

CLOCK = SystemClock()
QUIET = Trouble()


class Wall(SystemClock):
    """A wall clock that somebody set."""

    def __init__(self, wall_ms: int) -> None:
        super().__init__()
        self._wall_ms = wall_ms

    def wall_ms(self) -> int:
        return self._wall_ms


class Lives:
    """One data directory, and the lives on it; the nth id that is made is `ids[n]`."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.ids: list[str] = []
        self.told: list[str] = []

    def new_id(self) -> str:
        self.ids.append(uuid7(len(self.ids) + 1, len(self.ids) << 12))
        return self.ids[-1]

    async def live(self, trouble: Trouble = QUIET, *, crash: bool = False) -> tuple[str, str, set[str], int]:
        """One life: who lived, under which id before, with which peers it began, and its promised epoch."""
        found: tuple[str, str, set[str], int] | None = None

        class Crash(Exception):
            pass

        try:
            async with house.move_in(self.data_dir, trouble, CLOCK, self.new_id, self.told.append) as here:
                found = (here.node, here.formerly, await names(here), (await here.promises.load()).epoch)
                await here.database.write(lambda conn: peers.remember_peer(conn, "p", "peer", ("10.0.0.1:1",), 1))
                await here.promises.save(Promise(5, "p", 2.5))
                await here.outbox.put_submits([TaskSpec(id="waits", name="primes", payload=b"")])
                if crash:
                    raise Crash
        except Crash:
            pass
        assert found is not None
        return found

    def kept(self) -> list[str]:
        return sorted(path.name for path in self.data_dir.iterdir() if "damaged" in path.name)


async def names(here: House) -> set[str]:
    return {peer.node for peer in await here.database.read(peers.known_peers)}


@pytest.fixture
def lives(tmp_path: Path) -> Lives:
    (tmp_path / "data").mkdir()
    return Lives(tmp_path / "data")


def spoil(path: Path) -> None:
    path.write_bytes(b"no database at all" * 1000)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 8192 * 4096])


async def test_a_node_keeps_its_id_and_all_it_has(lives: Lives) -> None:
    assert await lives.live() == (uuid7(1, 0), "", set(), 0)
    assert await lives.live(crash=True) == (lives.ids[0], "", {"p"}, 5)
    assert await lives.live() == (lives.ids[0], "", {"p"}, 5)
    assert len(lives.ids) == 1
    assert not lives.kept()


async def test_a_copied_directory_gets_an_id_of_its_own_and_keeps_the_rows(lives: Lives, tmp_path: Path) -> None:
    await lives.live()
    copy = Lives(tmp_path / "copy")
    copy.ids = [*lives.ids]
    shutil.copytree(lives.data_dir, copy.data_dir)
    assert await copy.live() == (copy.ids[1], lives.ids[0], {"p"}, 5)
    assert await copy.live() == (copy.ids[1], lives.ids[0], {"p"}, 5)
    assert identity.read_id(copy.data_dir) == copy.ids[1]
    assert await lives.live() == (lives.ids[0], "", {"p"}, 5)


async def test_a_database_brought_in_from_elsewhere_is_a_new_node(lives: Lives, tmp_path: Path) -> None:
    await lives.live()
    other = Lives(tmp_path / "other")
    other.data_dir.mkdir()
    shutil.copy(lives.data_dir / "queue.db", other.data_dir)
    other.ids = [*lives.ids]
    assert await other.live() == (other.ids[1], lives.ids[0], {"p"}, 0)


async def test_an_id_that_shows_to_be_in_use_elsewhere_is_given_up(lives: Lives) -> None:
    await lives.live()
    assert await lives.live(Trouble(copied="somebody has more")) == (lives.ids[1], lives.ids[0], {"p"}, 5)
    assert await lives.live() == (lives.ids[1], lives.ids[0], {"p"}, 5)


@pytest.mark.parametrize("name", ["queue.db", "promise.db"])
@pytest.mark.parametrize("harm", [spoil, half, empty, Path.unlink])
async def test_a_loss_costs_the_id(lives: Lives, name: str, harm: Callable[[Path], None]) -> None:
    await lives.live()
    harm(lives.data_dir / name)
    node, formerly, known, epoch = await lives.live()
    assert (node, formerly) == (lives.ids[1], lives.ids[0])
    assert (known, epoch) == ((set(), 5) if name == "queue.db" else ({"p"}, 0))
    assert bool(lives.kept()) == (harm is not Path.unlink)
    assert await lives.live() == (lives.ids[1], lives.ids[0], {"p"}, 5)


async def test_a_damaged_file_is_kept_as_it_was_and_told(lives: Lives, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    await lives.live()
    spoil(lives.data_dir / "queue.db")
    before = (lives.data_dir / "queue.db").read_bytes()
    await lives.live()
    (kept,) = lives.kept()
    assert (lives.data_dir / kept).read_bytes() == before
    assert f"{lives.data_dir / kept}: this node takes a new id and fetches its copy" in caplog.text
    assert f"sqlite3 {lives.data_dir / kept} .recover" in caplog.text
    assert f"no longer {lives.ids[0][-8:]}" in caplog.text


async def test_lives_are_in_order_whatever_the_wall_clock_says(lives: Lives) -> None:
    boots = []
    for wall_ms in (9_000, 5_000, 5_000, 20_000, 1_000):
        clock = Wall(wall_ms)
        async with house.move_in(lives.data_dir, QUIET, clock, lives.new_id, lives.told.append) as here:
            boots.append(here.boot)
    assert boots == sorted(set(boots))
    assert boots[3][:12] == f"{20_000:012x}"


async def test_a_damaged_outbox_costs_no_id(lives: Lives) -> None:
    await lives.live()
    spoil(lives.data_dir / "outbox.db")
    assert await lives.live() == (lives.ids[0], "", {"p"}, 5)
    assert len(lives.kept()) == 1


def grow(conn: Connection) -> None:
    for n in range(300):
        peers.remember_peer(conn, f"{n:05}", "x" * 1000, (), 0)


async def test_damage_inside_is_looked_for_after_a_crash_only(lives: Lives) -> None:
    async with house.move_in(lives.data_dir, QUIET, CLOCK, lives.new_id, lives.told.append) as here:
        await here.database.write(grow)
    path = lives.data_dir / "queue.db"

    def spoil_inside() -> None:
        with path.open("r+b") as file:
            file.seek(200_000)
            file.write(b"\xff" * 50_000)

    spoil_inside()
    async with house.move_in(lives.data_dir, QUIET, CLOCK, lives.new_id, lives.told.append) as here:
        assert here.node == lives.ids[0]
        with pytest.raises(CorruptDatabase):
            await names(here)
        assert set(lives.told) == {"queue.db"}
    assert await lives.live(Trouble(damaged=frozenset(lives.told))) == (lives.ids[1], lives.ids[0], set(), 0)

    async with house.move_in(lives.data_dir, QUIET, CLOCK, lives.new_id, lives.told.append) as here:
        await here.database.write(grow)
    lives.told.clear()
    await lives.live(crash=True)
    spoil_inside()
    assert await lives.live() == (lives.ids[2], lives.ids[1], set(), 5)
    assert lives.told == []
    assert len([name for name in lives.kept() if not name.endswith(("-wal", "-shm"))]) == 2


async def test_a_newer_database_is_no_damage(lives: Lives) -> None:
    await lives.live()
    with closing(sqlite3.connect(lives.data_dir / "outbox.db")) as conn:
        conn.execute("PRAGMA user_version = 99")
    with pytest.raises(NewerDatabase, match=r"outbox\.db"):
        await lives.live()
    assert not lives.kept()


@pytest.mark.parametrize("waiting", [0, 1])
async def test_who_moves_out_leaves_a_house_for_a_new_node(lives: Lives, waiting: int) -> None:
    await lives.live()
    folder = house.move_out(lives.data_dir, CLOCK, waiting=waiting)
    left = {"node-id", "queue.db", "promise.db", *(() if waiting else ("outbox.db",))}
    assert {path.name for path in folder.iterdir()} == left
    async with house.move_in(lives.data_dir, QUIET, CLOCK, lives.new_id, lives.told.append) as here:
        assert (here.node, here.formerly) == (lives.ids[1], "")
        assert await names(here) == set()
        assert await here.outbox.count() == waiting
    again = house.move_out(lives.data_dir, CLOCK, waiting=0)
    assert again != folder
    assert (folder / "node-id").read_text().strip() == lives.ids[0]
