"""Disks that are full, read-only, damaged, copied or set back, and wall clocks that jump, for real."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.cluster.conftest import MakeCluster
from tests.cluster.daemon import Daemon
from tests.cluster.disks import SMALL, ids_done, submit, told, wait_in_sync, wait_new_id, whole_three

# -- disks -----------------------------------------------------------------------------------------------


class Disks:
    """File systems of the test's own, mounted where a daemon will have its data directory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()

    def tmpfs(self, index: int, size_mib: int = 16) -> Path:
        """A disk of that size in memory."""
        path = self._folder / f"data{index}"
        path.mkdir()
        run("mount", "-t", "tmpfs", "-o", f"size={size_mib}m,mode=700", "meshq-test", str(path))
        self._stack.callback(unmount, path)
        return path

    def ext4(self, index: int, size_mib: int = 32) -> Path:
        """A disk in a file, which can fail as one does that is pulled out."""
        path, image = self._folder / f"data{index}", self._folder / f"disk{index}"
        path.mkdir(exist_ok=True)
        if not image.exists():
            with image.open("wb") as file:
                file.truncate(size_mib << 20)
            run("mkfs.ext4", "-q", str(image))
        try:
            run("mount", "-o", "loop", str(image), str(path))
        except AssertionError as error:
            pytest.skip(f"no file can be mounted here: {error}")
        self._stack.callback(unmount, path)
        return path

    def repair(self, index: int) -> None:
        """Unmounts a disk in a file that has failed, checks it, and mounts it again.

        Other daemons' namespaces may hold the old mount, so it is a copy of the disk that is mounted.
        """
        image = self._folder / f"disk{index}"
        run("umount", str(self._folder / f"data{index}"))
        shutil.copy(image, image.with_suffix(".copy"))
        image.with_suffix(".copy").replace(image)
        done = subprocess.run(["e2fsck", "-fy", str(image)], capture_output=True, timeout=60, check=False)
        assert done.returncode in (0, 1), done.stdout
        self.ext4(index)

    def close(self) -> None:
        """Unmounts all of them."""
        self._stack.close()


def run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr or done.stdout}"


def unmount(path: Path) -> None:
    subprocess.run(["umount", str(path)], capture_output=True, timeout=20, check=False)


@pytest.fixture
def disks(tmp_path: Path) -> Iterator[Disks]:
    """To be asked for before `cluster`, so that the daemons end before their disks."""
    if os.geteuid() != 0:
        pytest.skip("file systems are mounted by root only")
    made = Disks(tmp_path)
    yield made
    made.close()


def fill(disk: Path) -> Path:
    """Takes all the room that is left."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            with suppress(OSError):
                while True:
                    file.write(b"x" * size)
    return filler


# -- full, read-only, failing ----------------------------------------------------------------------------


def test_a_leader_with_a_full_disk_makes_way_and_returns(disks: Disks, cluster: MakeCluster) -> None:
    disk = disks.tmpfs(0)
    three = whole_three(cluster)
    first, second, third = three.daemons
    ids = submit(third, 300)
    before = three.wait_done(third, 20, 60)["tasks"]
    assert before["pending"] > 100, f"the queue was nearly empty when the disk ran full: {before}"

    filler = fill(disk)
    three.wait_status(third, lambda status: status["leader"] in three.ids[1:], 30, "one with room leads")
    assert first.alive(), first.tail()
    # It takes tasks all the same, and brings them to the one that has room.
    ids |= submit(first, 5)
    three.wait_done(second, len(ids), 90)
    assert first.alive(), first.tail()

    filler.unlink()
    wait_in_sync(three, second, three.ids[0])
    assert ids_done(first) == ids_done(third) == ids
    assert {first.status()["node"]} == {three.ids[0]}


def test_a_full_disk_without_others_is_said_and_waits_for_room(disks: Disks, cluster: MakeCluster) -> None:
    disk = disks.tmpfs(0)
    one = cluster(1, options=SMALL)
    (daemon,) = one.daemons
    one.wait_leader(daemon, one.ids[0])
    ids = submit(daemon, 3, 0.01)
    one.wait_done(daemon, 3, 30)

    filler = fill(disk)
    refused = one.wait_until(lambda: _refusal(daemon), 20, "a submit is refused")
    assert "the disk is full; nothing was kept: make room there" in refused
    assert daemon.alive(), daemon.tail()

    filler.unlink()
    one.wait_leader(daemon, one.ids[0], 30)
    ids |= submit(daemon, 3, 0.01)
    one.wait_done(daemon, 6, 30)
    assert ids <= ids_done(daemon)

    # And one that is to start on a full disk says so, and where.
    assert daemon.stop() == 0
    fill(disk)
    daemon.start()
    assert daemon.wait(20) != 0
    assert f"{disk}" in daemon.tail() and os.strerror(errno.ENOSPC) in daemon.tail()


def _refusal(daemon: Daemon) -> str:
    answer = daemon.cli("submit", "pause", "0.01", "--count", "200")
    return answer.err if answer.code != 0 and "full" in answer.err else ""


def test_a_read_only_disk_is_named_at_the_start(disks: Disks, cluster: MakeCluster) -> None:
    disk = disks.tmpfs(0)
    one = cluster(1, options=SMALL)
    (daemon,) = one.daemons
    one.wait_leader(daemon, one.ids[0])
    assert daemon.stop() == 0
    run("mount", "-o", "remount,ro", str(disk))
    daemon.start()
    assert daemon.wait(20) != 0
    assert f"{disk}: can't be written: {os.strerror(errno.EROFS)}" in daemon.tail()
    run("mount", "-o", "remount,rw", str(disk))
    daemon.start()
    assert one.wait_answer(daemon)["node"] == one.ids[0]


def test_a_leader_whose_disk_fails_makes_way(disks: Disks, cluster: MakeCluster) -> None:
    disk = disks.ext4(0)
    three = whole_three(cluster)
    first, second, third = three.daemons
    ids = submit(third, 200)
    three.wait_done(third, 10, 60)

    # As the kernel does when a disk reports an error: read-only from now on, whoever has files open.
    run("mount", "-o", "remount,abort", str(disk))
    three.wait_status(third, lambda status: status["leader"] in three.ids[1:], 30, "one that can write leads")
    ids |= submit(second, 5)
    three.wait_done(second, len(ids), 90)
    assert first.alive(), first.tail()
    assert ids_done(third) == ids

    first.kill9()
    disks.repair(0)
    first.start()
    assert three.wait_answer(first)["node"] == three.ids[0]
    wait_in_sync(three, second, three.ids[0])
    assert ids_done(first) == ids


# -- damaged ---------------------------------------------------------------------------------------------


def overwrite(path: Path) -> None:
    """All pages but the first ones."""
    with path.open("r+b") as file:
        size = path.stat().st_size
        start = min(8 * 4096, size // 2)
        file.seek(start)
        file.write(b"\xff" * (size - start))


def cut(path: Path) -> None:
    """Half of the file is gone."""
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 8192 * 4096)


@pytest.mark.parametrize("harm", [overwrite, cut])
def test_a_damaged_copy_is_set_aside_and_fetched_anew(cluster: MakeCluster, harm: Callable[[Path], None]) -> None:
    three = whole_three(cluster)
    first, second, third = three.daemons
    ids = submit(third, 200)
    three.wait_done(third, 10, 60)

    # After a stop in order nothing is looked through at the start: it shows when it is read.
    if harm is overwrite:
        assert third.stop() == 0
    else:
        third.kill9()
    harm(third.data_dir / "queue.db")
    third.start()
    now = wait_new_id(three, third, three.ids[2])
    wait_in_sync(three, first, now)
    three.wait_done(second, 200, 90)
    assert ids_done(third) == ids_done(first) == ids
    kept = [path for path in third.data_dir.iterdir() if path.name.startswith("queue.db.damaged-")]
    assert kept
    assert any(str(kept[0]).removesuffix("-wal").removesuffix("-shm") in line for line in told(third, "set_aside"))


def test_a_damaged_leader_and_its_promises(cluster: MakeCluster) -> None:
    three = whole_three(cluster)
    first, second, third = three.daemons
    ids = submit(third, 200)
    three.wait_done(third, 10, 60)
    first.kill9()
    (first.data_dir / "promise.db").write_bytes(b"no database at all" * 1000)
    first.start()
    now = wait_new_id(three, first, three.ids[0])
    assert now > three.ids[2]
    wait_in_sync(three, second, now)
    three.wait_done(second, 200, 90)
    assert ids_done(first) == ids
