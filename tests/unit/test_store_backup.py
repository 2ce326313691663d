"""A copy of the queue while it is written, and a data directory out of one: real files, every refusal and crash."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from meshq.errors import Conflict, NotFound, StoreError
from meshq.store import backup
from meshq.store.backup import Copied
from tests.unit.queue_files import NODE, made, names, opened, quiet, tasks_in

# -- backup ------------------------------------------------------------------------------------------------

WRITE = """
import itertools, os, sqlite3, sys
conn = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=10)
conn.execute("PRAGMA wal_autocheckpoint = 20")
for number in itertools.count():
    conn.execute("BEGIN IMMEDIATE")
    for table in ("vector", "committed"):
        conn.execute(f"INSERT INTO {table} (writer, seq) VALUES ('w', 1) ON CONFLICT DO UPDATE SET seq = seq + 1")
    conn.execute("UPDATE tasks SET payload = ? WHERE id = ?", (os.urandom(3000), f"{number * 7 % 3000:032x}"))
    conn.execute("COMMIT")
    if number == 0:
        print("writing", flush=True)
"""


def test_a_backup_is_one_moment_while_another_process_writes(tmp_path: Path) -> None:
    source, target = made(tmp_path / "data", NODE, 3000, 3000), tmp_path / "copy"
    steps: list[tuple[int, int]] = []
    # A new thing is written between any two steps: until it is, this process waits.
    with subprocess.Popen([sys.executable, "-c", WRITE, str(source)], stdout=subprocess.PIPE) as writer:
        try:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"writing\n"

            def step(done: int, total: int) -> None:
                # Begun anew, it would come to the same pages once more.
                assert not steps or done > steps[-1][0]
                steps.append((done, total))
                with opened(source) as conn:
                    before = conn.execute("SELECT seq FROM vector").fetchone()
                    while conn.execute("SELECT seq FROM vector").fetchone() == before:
                        assert writer.poll() is None

            copied = backup.backup(source, target, step)
        finally:
            writer.kill()
    assert copied == Copied(3000, target.stat().st_size)
    assert len(steps) > 2
    assert steps[-1][0] == steps[-1][1]
    assert tasks_in(target) == tasks_in(source)
    with opened(target) as conn:
        assert conn.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert conn.execute("SELECT seq FROM vector").fetchone() == conn.execute("SELECT seq FROM committed").fetchone()


def test_a_backup_is_a_single_private_file(tmp_path: Path) -> None:
    source, target = made(tmp_path / "data", NODE, 5), tmp_path / "copy"
    before = names(source.parent)
    backup.backup(source, target, quiet)
    assert names(tmp_path) == {"data", "copy"}
    assert names(source.parent) == before
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    target.chmod(0o400)
    with closing(sqlite3.connect(f"file:{target}?mode=ro", uri=True)) as conn:
        assert conn.execute("SELECT count(*) FROM tasks").fetchone() == (5,)
    assert names(tmp_path) == {"data", "copy"}


def test_a_backup_replaces_a_file_only_by_force(tmp_path: Path) -> None:
    source, target = made(tmp_path / "data", NODE, 5), tmp_path / "copy"
    target.write_text("dear")
    with pytest.raises(Conflict, match="copy: is there already; --force"):
        backup.backup(source, target, quiet)
    assert target.read_text() == "dear"
    backup.backup(source, target, quiet, force=True)
    assert len(tasks_in(target)) == 5


def test_a_file_that_came_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    source, target = made(tmp_path / "data", NODE, 5), tmp_path / "copy"
    with pytest.raises(Conflict):
        backup.backup(source, target, lambda *_: target.write_text("dear"))
    assert target.read_text() == "dear"
    assert names(tmp_path) == {"data", "copy"}


def test_a_backup_that_is_broken_off_leaves_nothing(tmp_path: Path) -> None:
    source, target = made(tmp_path / "data", NODE, 5), tmp_path / "copy"

    def stop(_: int, __: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        backup.backup(source, target, stop)
    assert names(tmp_path) == {"data"}


def test_where_no_backup_can_be(tmp_path: Path) -> None:
    source = made(tmp_path / "data", NODE, 5)
    for target, kind, says in (
        (tmp_path, Conflict, "is a folder"),
        (tmp_path / "data" / "copy", Conflict, "would be lost with it"),
        (source, Conflict, "would be lost with it"),
        (Path(os.devnull), Conflict, "is no file"),
        (tmp_path / "none" / "copy", StoreError, "none/copy: can't be written: No such file"),
    ):
        with pytest.raises(kind, match=says):
            backup.backup(source, target, quiet, force=True)
    with pytest.raises(NotFound, match="there is no queue"):
        backup.backup(tmp_path / "queue.db", tmp_path / "copy", quiet)
    assert names(tmp_path) == {"data"}


SMALL = """
mkdir "$1/small" && mount -t tmpfs -o size=200k none "$1/small" || exit 77
"$2" -c 'import sys
from pathlib import Path
from meshq.store import backup
try: backup.backup(Path(sys.argv[1]), Path(sys.argv[2]), lambda *_: None)
except backup.StoreError as error: print(type(error).__name__, error)' "$1/data/queue.db" "$1/small/copy"
ls -A "$1/small"
"""


def test_a_disk_that_fills_up_is_named_and_left_clean(tmp_path: Path) -> None:
    made(tmp_path / "data", NODE, 500, 3000)
    unshare = shutil.which("unshare")
    if unshare is None or os.geteuid() != 0:
        pytest.skip("a small disk needs Linux and root")
    done = subprocess.run(
        [unshare, "-m", "sh", "-c", SMALL, "sh", tmp_path, sys.executable],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    if done.returncode == 77:
        pytest.skip("no tmpfs can be mounted here")
    assert done.stdout == f"DiskFull {tmp_path}/small/copy: the disk is full; nothing was kept\n", done.stderr
