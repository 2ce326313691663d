"""Restoring a queue from a copy: a new node with the same tasks, or nothing at all."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshq.core.limits import EPOCH_MAX
from meshq.errors import Conflict, CorruptDatabase, NewerDatabase, NotFound, StoreError
from meshq.store import backup, files, identity, lock, peers
from meshq.store.schema import OUTBOX, QUEUE
from tests.unit.queue_files import NODE, OTHER, TASK, is_somebodys, made, names, opened, quiet, tasks_in

# -- restore -----------------------------------------------------------------------------------------------


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A backup of 40 tasks."""
    backup.backup(made(tmp_path / "source", NODE, 40), tmp_path / "copy", quiet)
    return tmp_path / "copy"


def test_a_restore_makes_a_new_node_with_the_same_tasks(tmp_path: Path, copy: Path) -> None:
    data_dir = tmp_path / "new" / "data"
    copied = backup.restore(copy, data_dir, quiet)
    assert (copied.tasks, copied.aside) == (40, None)
    queue = data_dir / files.QUEUE_FILE
    assert tasks_in(queue) == tasks_in(copy) == [f"{n:032x}" for n in reversed(range(40))]
    assert names(data_dir) == {files.QUEUE_FILE, lock.PID_FILE}
    assert stat.S_IMODE(queue.stat().st_mode) == 0o600
    assert not is_somebodys(data_dir)
    with opened(queue) as conn:
        assert peers.known_peers(conn) == []
        assert not identity.read_running(conn)
        noted = identity.read_noted(conn)
        assert (noted.node, noted.machine) == ("", "")
        # Whatever id is put beside it, nobody goes on with it.
        assert identity.why_not_the_node(noted, identity.whereabouts(queue))
    assert lock.holder(data_dir) is None


def test_a_copy_of_an_earlier_version_is_brought_to_this_one(tmp_path: Path) -> None:
    old = tmp_path / "old"
    with opened(old) as conn:
        conn.executescript(QUEUE.migrations()[0])
        conn.execute("PRAGMA user_version = 1")
        conn.execute(TASK, ("0" * 32, 0, 1, b""))
    assert backup.restore(old, tmp_path / "data", quiet).tasks == 1
    with opened(tmp_path / "data" / files.QUEUE_FILE) as conn:
        assert conn.execute("PRAGMA user_version").fetchone() == (len(QUEUE.migrations()),)
    with opened(old) as conn:
        assert conn.execute("PRAGMA user_version").fetchone() == (1,)


def test_a_raw_copy_with_its_journal_is_whole(tmp_path: Path) -> None:
    source, raw = made(tmp_path / "source", NODE, 3), tmp_path / "raw"
    with opened(source) as conn:
        conn.execute(TASK, ("f" * 32, 0, 9, b""))
        raw.write_bytes(source.read_bytes())
        (tmp_path / "raw-wal").write_bytes((source.parent / "queue.db-wal").read_bytes())
    assert backup.restore(raw, tmp_path / "data", quiet).tasks == 4


def test_a_queue_that_is_there_is_set_aside_by_force_only(tmp_path: Path, copy: Path) -> None:
    data_dir = tmp_path / "data"
    queue = made(data_dir, OTHER, 7)
    (data_dir / "outbox.db").write_bytes(b"an outbox")
    before = names(data_dir)
    with pytest.raises(Conflict, match="has a queue already; --force"):
        backup.restore(copy, data_dir, quiet)
    assert names(data_dir) == before | {lock.PID_FILE}
    assert len(tasks_in(queue)) == 7

    first = backup.restore(copy, data_dir, quiet, force=True)
    assert first.aside == data_dir / "queue.db.replaced"
    assert len(tasks_in(first.aside)) == 7
    assert len(tasks_in(queue)) == 40
    assert identity.read_id(data_dir) is None
    assert (data_dir / "node-id.replaced").read_text().strip() == OTHER
    assert (data_dir / "promise.db.replaced").read_bytes() == b"a promise"
    assert (data_dir / "outbox.db").read_bytes() == b"an outbox"
    with opened(queue) as conn:
        # The leader that meets the new node learns that the one before is gone.
        assert identity.read_noted(conn).node == OTHER

    second = backup.restore(copy, data_dir, quiet, force=True)
    assert second.aside == data_dir / "queue.db.replaced-2"
    assert len(tasks_in(first.aside)) == 7


LAST = "f" * 32


def killed(data_dir: Path) -> Path:
    """A queue whose daemon was killed: its last task stands in the journal only."""
    queue = made(data_dir, OTHER, 7)
    code = (
        "import os, sqlite3, sys; conn = sqlite3.connect(sys.argv[1]);"
        f"conn.execute({TASK!r}, ({LAST!r}, 0, 99, b'')); conn.commit(); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code, queue], check=True)
    assert (data_dir / "queue.db-wal").stat().st_size
    return queue


def test_what_a_killed_daemon_left_in_the_journal_is_set_aside_too(tmp_path: Path, copy: Path) -> None:
    queue = killed(tmp_path / "data")
    aside = backup.restore(copy, tmp_path / "data", quiet, force=True).aside
    assert aside is not None
    assert LAST in tasks_in(aside)
    assert tasks_in(queue) == tasks_in(copy)


@pytest.mark.parametrize("journal", [b"", b"rubbish" * 1000, None], ids=["empty", "rubbish", "sound"])
def test_a_damaged_queue_and_its_journal_are_set_aside_as_they_are(
    tmp_path: Path, copy: Path, journal: bytes | None
) -> None:
    data_dir = tmp_path / "data"
    queue = killed(data_dir)
    if journal is None:
        journal = (data_dir / "queue.db-wal").read_bytes()
    queue.write_bytes(b"no database at all")
    (data_dir / "queue.db-wal").write_bytes(journal)
    backup.restore(copy, data_dir, quiet, force=True)
    assert (data_dir / "queue.db.replaced").read_bytes() == b"no database at all"
    assert (data_dir / "queue.db.replaced-wal").read_bytes() == journal
    # Nothing of the old journal is taken for the new queue's.
    assert names(data_dir) & {"queue.db-wal", "queue.db-shm"} == set()
    assert tasks_in(queue) == tasks_in(copy)


def test_a_queue_can_be_made_anew_out_of_itself(tmp_path: Path) -> None:
    queue = made(tmp_path / "data", NODE, 7)
    backup.restore(queue, tmp_path / "data", quiet, force=True)
    assert len(tasks_in(queue)) == 7
    assert not is_somebodys(tmp_path / "data")


def test_a_running_daemon_is_refused(tmp_path: Path, copy: Path) -> None:
    held = lock.acquire(tmp_path / "data")
    with pytest.raises(Conflict, match=rf"pid {os.getpid()} runs on this data directory; stop it first, with: meshq"):
        backup.restore(copy, tmp_path / "data", quiet, force=True)
    held.release()
    assert names(tmp_path / "data") == {lock.PID_FILE}


def bad_files(folder: Path, whole: bytes) -> Iterator[tuple[Path, type[StoreError], str]]:
    """Files that are not to be restored, each with what is said."""
    contents: dict[str, tuple[bytes, type[StoreError], str]] = {
        "empty": (b"", StoreError, "is empty; give a file that meshq backup made"),
        "text": (b"hello\n" * 100, StoreError, "is no database; give a file that meshq backup made"),
        "head": (whole[:50], CorruptDatabase, "is cut off"),
        "short": (whole[: len(whole) // 2], CorruptDatabase, rf"is cut off: it has {len(whole) // 2} of {len(whole)}"),
        "byte": (whole[:-1], CorruptDatabase, "is cut off.*; give another copy"),
        "holes": (whole[:4096] + b"\0" * (len(whole) - 4096), CorruptDatabase, "is damaged"),
        "page": (whole[: -4096 * 3] + os.urandom(4096) + whole[-4096 * 2 :], CorruptDatabase, "is damaged"),
    }
    for name, (content, kind, says) in contents.items():
        (folder / name).write_bytes(content)
        yield folder / name, kind, says
    for name, sql, newer in (
        ("another", "CREATE TABLE notes (text TEXT)", False),
        ("numbered", "CREATE TABLE notes (text TEXT); PRAGMA user_version = 1", False),
        ("outbox", OUTBOX.whole.read_text("utf-8") + "; PRAGMA user_version = 1", False),
        ("newer", f"CREATE TABLE notes (text TEXT); PRAGMA user_version = {len(QUEUE.migrations()) + 1}", True),
    ):
        with opened(folder / name) as conn:
            conn.executescript(sql)
        says = "no queue of meshq; give a file that meshq backup made"
        if newer:
            says = f"is of version {len(QUEUE.migrations()) + 1}, and .* up to {len(QUEUE.migrations())}; upgrade meshq"
        yield folder / name, NewerDatabase if newer else StoreError, says
    for name, sql in (
        ("trigger", "CREATE TRIGGER t AFTER INSERT ON tasks BEGIN DELETE FROM meta; END"),
        ("lacks", "DROP TABLE committed"),
        ("column", "ALTER TABLE tasks ADD COLUMN more TEXT"),
    ):
        (folder / name).write_bytes(whole)
        with opened(folder / name) as conn:
            conn.execute(sql)
        yield folder / name, StoreError, "no queue of meshq"
    for name, sql, says in (
        (
            "epoch",
            f"UPDATE tasks SET epoch = {EPOCH_MAX} WHERE id LIKE '%07'",
            f"epoch: .*<= {EPOCH_MAX - 1}; give another",
        ),
        ("state", "UPDATE tasks SET state = 'asleep' WHERE id LIKE '%07'", f"task '{7:032x}': state: .*'asleep'"),
    ):
        (folder / name).write_bytes(whole)
        with opened(folder / name) as conn:
            conn.execute(sql)
        yield folder / name, CorruptDatabase, f"is damaged: .*{says}"


def test_what_is_no_good_is_refused_and_changes_nothing(tmp_path: Path, copy: Path) -> None:
    folder, data_dir = tmp_path / "bad", tmp_path / "data"
    folder.mkdir()
    made(data_dir, OTHER, 7)
    lock.acquire(data_dir).release()
    before = {path.name: path.read_bytes() for path in data_dir.iterdir()}
    for path, kind, says in bad_files(folder, copy.read_bytes()):
        with pytest.raises(kind, match=says) as caught:
            backup.restore(path, data_dir, quiet, force=True)
        assert str(path) in caught.value.message
        assert {each.name: each.read_bytes() for each in data_dir.iterdir()} == before, path
    with pytest.raises(NotFound, match="there is no such file"):
        backup.restore(tmp_path / "none", tmp_path / "made", quiet)
    with pytest.raises(StoreError, match="bad: is a folder; give a file that meshq backup made"):
        backup.restore(folder, tmp_path / "made", quiet)
    assert not (tmp_path / "made").exists()


def test_a_backup_of_a_damaged_queue_is_refused(tmp_path: Path) -> None:
    source = made(tmp_path / "data", NODE, 200)
    whole = source.read_bytes()
    source.write_bytes(whole[: -4096 * 3] + os.urandom(4096) + whole[-4096 * 2 :])
    with pytest.raises(CorruptDatabase, match=r"queue\.db: is damaged"):
        backup.backup(source, tmp_path / "copy", quiet)
    assert names(tmp_path) == {"data"}


CRASH = """
import os, signal, sys
from pathlib import Path
from meshq.store import backup
left = int(sys.argv[3])
def on_event(name, args):
    global left
    if name in ("os.link", "os.rename", "os.remove", "tempfile.mkstemp", "sqlite3.connect"):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(on_event)
backup.restore(Path(sys.argv[1]), Path(sys.argv[2]), lambda *_: None, force=True)
"""


@pytest.mark.parametrize("state", ["stopped", "killed", "damaged"])
def test_a_crash_leaves_nothing_or_all(tmp_path: Path, copy: Path, state: str) -> None:
    done = 0
    outcomes = set()
    for number in range(1, 60):
        data_dir = tmp_path / f"data-{number}"
        queue = made(data_dir, OTHER, 7) if state == "stopped" else killed(data_dir)
        if state == "damaged":
            queue.write_bytes(b"no database at all")
            (data_dir / "queue.db-wal").write_bytes(b"rubbish")
        child = subprocess.run([sys.executable, "-c", CRASH, copy, data_dir, str(number)], check=False)
        done = child.returncode
        if done == 0:
            break
        assert done == -signal.SIGKILL
        if queue.read_bytes() == b"no database at all":
            # Damaged as before; what is in the journal is never gone.
            assert b"rubbish" in [path.read_bytes() for path in data_dir.glob("queue.db*-wal")]
            continue
        restored = len(tasks_in(queue)) == 40
        outcomes.add(restored)
        # The old queue, whole and with its node, or the new one with none.
        assert restored or len(tasks_in(queue)) == (7 if state == "stopped" else 8)
        assert is_somebodys(data_dir) is not restored
        again = backup.restore(copy, data_dir, quiet, force=True)
        assert not [name for name in names(data_dir) if name.startswith(".queue")]
        assert again.tasks == 40
    assert done == 0
    assert outcomes == ({True} if state == "damaged" else {True, False})
