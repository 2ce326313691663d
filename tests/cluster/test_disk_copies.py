"""Copied, cloned and restored data directories, and wall clocks that jump, with real daemons."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from meshq import Client
from tests.cluster.conftest import MakeCluster
from tests.cluster.daemon import Daemon
from tests.cluster.disks import SMALL, ids_done, submit, told, wait_in_sync, wait_new_id, whole_three

FAKETIME = "libfaketimeMT.so.1"
DATABASES = ("queue.db", "queue.db-wal", "promise.db", "promise.db-wal", "outbox.db", "outbox.db-wal")

# -- copied, set back ------------------------------------------------------------------------------------


def test_a_cloned_directory_is_another_node(cluster: MakeCluster) -> None:
    two = cluster(2, options=SMALL, spare=1)
    first, second, copy = two.daemons
    two.wait_leader(second, two.ids[0], 30)
    two.wait_replicas(second, 2)
    ids = submit(second, 40)
    assert second.stop() == 0
    shutil.copytree(second.data_dir, copy.data_dir)
    second.start()
    copy.start()
    own = two.wait_answer(second)["node"]
    new = two.wait_answer(copy)["node"]
    assert own == two.ids[1]
    assert new not in two.ids
    for node in (own, new):
        wait_in_sync(two, first, node)
    two.wait_done(copy, 40, 60)
    assert ids_done(copy) == ids_done(second) == ids
    assert any("copied or restored" in line for line in told(copy, "renamed"))


def snapshot(daemon: Daemon, folder: Path) -> None:
    """A copy of a running daemon's databases, as of one moment."""
    folder.mkdir()
    daemon.pause()
    for name in DATABASES:
        with suppress(FileNotFoundError):
            shutil.copy(daemon.data_dir / name, folder)
    daemon.resume()


def put_back(daemon: Daemon, folder: Path) -> None:
    """Writes the old content into the present files, which stay the same files."""
    for name in DATABASES:
        path = daemon.data_dir / name
        if (folder / name).exists():
            with path.open("r+b" if path.exists() else "wb") as file:
                file.write((folder / name).read_bytes())
                file.truncate()
        else:
            path.unlink(missing_ok=True)
        path.with_name(f"{name}-shm").unlink(missing_ok=True)


def test_a_database_set_back_to_an_old_snapshot_is_another_node(cluster: MakeCluster, tmp_path: Path) -> None:
    three = whole_three(cluster)
    first, second, third = three.daemons
    ids = submit(third, 20, 0.01)
    three.wait_done(third, 20, 60)
    snapshot(first, tmp_path / "snapshot")
    three.wait_leader(third, three.ids[0])
    ids |= submit(third, 20, 0.01)
    three.wait_done(third, 40, 60)
    ids |= submit(third, 100)

    inode = (first.data_dir / "queue.db").stat().st_ino
    first.kill9()
    put_back(first, tmp_path / "snapshot")
    assert (first.data_dir / "queue.db").stat().st_ino == inode
    first.start()
    pid = first.pid
    now = wait_new_id(three, first, three.ids[0])
    assert first.pid == pid and first.alive()
    wait_in_sync(three, second, now)
    three.wait_done(second, 140, 90)
    assert ids_done(first) == ids_done(third) == ids


# -- left for good ---------------------------------------------------------------------------------------


def test_who_left_for_good_comes_back_as_a_new_node(cluster: MakeCluster) -> None:
    three = whole_three(cluster)
    first, second, third = three.daemons
    ids = submit(third, 60)
    assert third.ask("leave", "--yes", timeout_s=60)["left"]
    (left,) = third.data_dir.glob("left-*")
    assert (left / "node-id").read_text().strip() == three.ids[2]
    assert (left / "queue.db").stat().st_size > 0
    three.wait_status(
        second,
        lambda status: all(node["role"] == "worker" for node in status["nodes"] if node["id"] == three.ids[2]),
        20,
        "the one that left is no replica",
    )

    third.start()
    now = three.wait_answer(third)["node"]
    assert now not in three.ids
    wait_in_sync(three, first, now)
    three.wait_done(second, 60, 60)
    assert ids_done(third) == ids


def test_the_last_copy_stays_when_its_node_is_to_leave(cluster: MakeCluster) -> None:
    two = cluster(2, options=SMALL)
    first, second = two.daemons
    two.wait_leader(second, two.ids[0], 30)
    two.wait_replicas(second, 2)
    ids = submit(second, 20)
    two.wait_done(second, 20, 40)
    second.kill9()
    # Refused at once where the loss has shown already, else when nobody takes it off the roster.
    answer = first.cli("leave", "--yes", timeout_s=60)
    assert answer.code != 0
    assert not list(first.data_dir.glob("left-*"))
    if not first.alive():
        first.start()
    assert two.wait_answer(first)["node"] == two.ids[0]
    assert ids_done(first) == ids


# -- the wall clock --------------------------------------------------------------------------------------


class WallClocks:
    """A wall clock for each machine, which the test sets; all other clocks are the system's."""

    def __init__(self, folder: Path, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self._library = library
        self._monkeypatch = monkeypatch

    def _file(self, index: int) -> Path:
        return self._folder / f"clock{index}"

    def set(self, index: int, offset_h: float) -> None:
        """Sets it forward, or back, from the system's."""
        beside = self._file(index).with_suffix(".new")
        beside.write_text(f"{offset_h * 3600:+.0f}\n")
        beside.replace(self._file(index))

    def start(self, index: int, start: Callable[[], object]) -> None:
        """Starts a daemon that reads this clock."""
        if not self._file(index).exists():
            self.set(index, 0)
        with self._monkeypatch.context() as patch:
            patch.setenv("LD_PRELOAD", self._library)
            patch.setenv("FAKETIME_TIMESTAMP_FILE", str(self._file(index)))
            patch.setenv("FAKETIME_CACHE_DURATION", "1")
            patch.setenv("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            start()


@pytest.fixture
def clocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WallClocks:
    found = sorted(Path("/usr/lib").glob(f"**/faketime/{FAKETIME}"))
    if not found:
        reason = "faketime is not installed: apt-get install faketime"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    return WallClocks(tmp_path, str(found[0]), monkeypatch)


def test_a_wall_clock_that_jumps_changes_nothing(cluster: MakeCluster, clocks: WallClocks) -> None:
    # faketime makes a daemon slow: its lease is longer, so that only the clocks can end it.
    three = cluster(0, options=SMALL, spare=3, settings={"lease_s": 6})
    for index in range(3):
        clocks.start(index, three.start_next)
    three.wait_leader(three.daemons[2], three.ids[0], 30)
    three.wait_replicas(three.daemons[2], 3)
    ids = submit(three.daemons[2], 150)
    before = three.wait_status(
        three.daemons[2], lambda status: status["leader"] and status["tasks"]["done"] > 4, 60, "the work has begun"
    )
    leader = three.daemon(before["leader"])
    second, third = (daemon for daemon in three.daemons if daemon is not leader)

    # The leader's goes forward and then far back, so that a lease or a claim timed by it would end early, or never.
    clocks.set(leader.index, +5)
    clocks.set(second.index, -7)
    three.wait_done(third, 30, 60)
    clocks.set(leader.index, -5)
    clocks.set(third.index, -12)
    before = three.wait_done(third, 60, 60)
    assert before["tasks"]["pending"] > 0, "the queue was empty before the clocks had jumped"
    node = three.ids[leader.index]
    leader.kill9()
    three.wait_status(third, lambda status: status["leader"] not in (None, node), 40, "another leads")

    # A machine that comes back with an older wall clock than it had is no older life of itself.
    clocks.set(leader.index, -30)
    clocks.start(leader.index, leader.start)
    assert three.wait_answer(leader)["node"] == node
    wait_in_sync(three, third, node)
    more = submit(second, 30)
    for daemon in (second, leader, third):  # each as it sees it: one that has no leader just then is behind
        three.wait_done(daemon, 180, 90)
        assert ids_done(daemon) == ids | more
    with Client(third.data_dir) as client:
        workers = {record.worker for record in client.tasks() if record.id in more}
    assert node in workers, "the machine that came back got no work"
