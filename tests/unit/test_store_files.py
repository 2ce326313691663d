"""What stands beside the queue in the data directory: promise, peers, lock, node id."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from meshq.core.events import Promise
from meshq.core.ids import uuid7
from meshq.errors import Conflict, InvariantBroken, StoreError
from meshq.store import identity, lock, peers
from meshq.store.inline import InlineDatabase, memory_connection
from meshq.store.promise import PromiseStore
from meshq.store.schema import PROMISE

# -- promise ---------------------------------------------------------------------------------------------


async def test_a_promise_survives_a_restart(tmp_path: Path) -> None:
    store = await PromiseStore.open(tmp_path / "promise.db")
    assert await store.load() == Promise()
    await store.save(Promise(3, "a", 2.5))
    await store.save(Promise(3, "b", 5.0))
    await store.close()
    again = await PromiseStore.open(tmp_path / "promise.db")
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


# -- node id ---------------------------------------------------------------------------------------------


def test_the_id_is_made_once_and_kept(tmp_path: Path) -> None:
    made = [uuid7(2, 2), uuid7(1, 1)]
    first = identity.load_or_create(tmp_path, made.pop)
    assert first == uuid7(1, 1)
    assert identity.load_or_create(tmp_path, made.pop) == first
    assert len(made) == 1
    assert [path.name for path in tmp_path.iterdir()] == [identity.ID_FILE]


@pytest.mark.parametrize("content", [b"", b"garbage", b"\xff\x00", uuid7(1, 1).encode() * 2])
def test_garbage_instead_of_an_id_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / identity.ID_FILE
    path.write_bytes(content)
    with pytest.raises(StoreError, match="node-id: holds no node id"):
        identity.load_or_create(tmp_path, lambda: uuid7(1, 1))
    assert path.read_bytes() == content


def test_a_folder_in_which_no_id_can_be_kept_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="can't be written"):
        identity.load_or_create(tmp_path / "missing", lambda: uuid7(1, 1))
    (tmp_path / identity.ID_FILE).mkdir()
    with pytest.raises(StoreError, match="can't be read"):
        identity.load_or_create(tmp_path, lambda: uuid7(1, 1))
