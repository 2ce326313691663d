"""What stands beside the queue in the data directory: promise, peers, lock; and how files are set aside."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from meshq.core.events import Promise
from meshq.core.limits import PEERS_MAX
from meshq.errors import Conflict, DiskFailed, DiskFull, InvariantBroken, StoreError
from meshq.store import files, lock, peers
from meshq.store.database import Database
from meshq.store.inline import InlineDatabase, memory_connection
from meshq.store.promise import PromiseStore
from meshq.store.schema import PROMISE

# -- promise ---------------------------------------------------------------------------------------------


async def test_a_promise_survives_a_restart(tmp_path: Path) -> None:
    store = PromiseStore(await Database.open(tmp_path / "promise.db", schema=PROMISE, readers=0))
    assert await store.load() == Promise()
    await store.save(Promise(3, "a", 2.5))
    await store.save(Promise(3, "b", 5.0))
    await store.close()
    again = PromiseStore(await Database.open(tmp_path / "promise.db", schema=PROMISE, readers=0))
    assert await again.load() == Promise(3, "b", 5.0)
    await again.close()


async def test_a_promise_never_goes_back() -> None:
    store = PromiseStore(InlineDatabase(memory_connection(PROMISE)))
    await store.save(Promise(3, "a", 2.5))
    with pytest.raises(InvariantBroken, match="epoch 2"):
        await store.save(Promise(2, "b", 2.5))
    assert await store.load() == Promise(3, "a", 2.5)


# -- peers -----------------------------------------------------------------------------------------------


def test_peers_are_remembered_those_heard_last_first() -> None:
    conn = memory_connection()
    peers.remember_peer(conn, "n1", "one", ("10.0.0.1:7373", "[fe80::1]:7373"), 100)
    peers.remember_peer(conn, "n2", "two", (), 200)
    peers.remember_peer(conn, "n1", "uno", ("10.0.0.9:7373",), 300)
    assert peers.known_peers(conn) == [
        peers.KnownPeer("n1", "uno", ("10.0.0.9:7373",), 300), peers.KnownPeer("n2", "two", (), 200),
    ]  # fmt: skip
    peers.forget(conn, "n1")
    assert [peer.node for peer in peers.known_peers(conn)] == ["n2"]


def test_of_too_many_peers_those_heard_long_ago_are_forgotten() -> None:
    conn = memory_connection()
    for number in range(PEERS_MAX + 5):
        peers.remember_peer(conn, f"n{number}", "", (), number)
    known = peers.known_peers(conn)
    assert (len(known), known[0].heard_ms, known[-1].heard_ms) == (PEERS_MAX, PEERS_MAX + 4, 5)


# -- lock ------------------------------------------------------------------------------------------------

HOLD = "import sys; from pathlib import Path; from meshq.store import lock; held = lock.acquire(Path(sys.argv[1])); \
print('held', flush=True); sys.stdin.read()"


def test_a_second_daemon_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"held\n"
        with pytest.raises(Conflict, match=rf"pid {first.pid} "):
            lock.acquire(tmp_path)
        assert lock.holder(tmp_path) == first.pid
        first.kill()
    assert lock.holder(tmp_path) is None
    lock.acquire(tmp_path).release()


def test_a_lock_can_be_taken_again_once_it_is_released(tmp_path: Path) -> None:
    data_dir = tmp_path / "new" / "folder"
    assert lock.holder(data_dir) is None
    held = lock.acquire(data_dir)
    assert lock.holder(data_dir) == os.getpid()
    with pytest.raises(Conflict):
        lock.acquire(data_dir)
    held.release()
    held.release()
    assert lock.holder(data_dir) is None
    lock.acquire(data_dir).release()


def test_a_data_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"file: can't be written"):
        lock.acquire(tmp_path / "file")


# -- setting aside ---------------------------------------------------------------------------------------


def test_a_database_is_set_aside_with_what_is_beside_it_and_nothing_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    assert files.set_aside(path, "queue.db.damaged") is None
    for number in (1, 2):
        path.write_text(f"rows {number}")
        (tmp_path / "queue.db-wal").write_text(f"journal {number}")
        kept = files.set_aside(path, "queue.db.damaged")
        assert kept is not None
        assert kept.read_text() == f"rows {number}"
        assert kept.with_name(f"{kept.name}-wal").read_text() == f"journal {number}"
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        "queue.db.damaged", "queue.db.damaged-2", "queue.db.damaged-2-wal", "queue.db.damaged-wal",
    ]  # fmt: skip


def test_a_journal_without_its_database_is_kept_too(tmp_path: Path) -> None:
    (tmp_path / "queue.db-wal").write_text("journal")
    files.set_aside(tmp_path / "queue.db", "kept")
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("kept-wal", "journal")]


def test_a_database_goes_into_another_folder(tmp_path: Path) -> None:
    (tmp_path / "queue.db").write_text("rows")
    (tmp_path / "left").mkdir()
    assert files.set_aside(tmp_path / "queue.db", "queue.db", folder=tmp_path / "left") == tmp_path / "left/queue.db"
    assert (tmp_path / "left/queue.db").read_text() == "rows"


def test_a_time_in_a_files_name() -> None:
    assert files.stamp(1_700_000_000_000) == "20231114T221320Z"


@pytest.mark.parametrize(
    ("number", "kind", "advice"), [(errno.ENOSPC, DiskFull, "; make room there"), (errno.EROFS, DiskFailed, "")]
)
def test_what_a_disk_refuses_is_named(number: int, kind: type[StoreError], advice: str) -> None:
    error = files.disk_error(Path("/data"), OSError(number, os.strerror(number)))
    assert type(error) is kind
    assert str(error) == f"/data: can't be written: {os.strerror(number)}{advice}"
