"""Data directories as daemons leave them, for the tests of copies of the queue."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from meshq.core.ids import uuid7
from meshq.store import files, identity, peers
from meshq.store.schema import QUEUE, migrate

NODE = uuid7(1, 1)
OTHER = uuid7(2, 2)
TASK = (
    "INSERT INTO tasks (id, rank, majority, epoch, version, writer, seq, state, name, payload, priority,"
    " not_before_ms, retries, backoff_s, attempt, failures, crashes, losses, submitted_ms)"
    " VALUES (?, ?, 0, 1, 1, 'w', ?, 'pending', 'echo', ?, 0, 0, 0, 1.0, 0, 0, 0, 0, 1)"
)


def quiet(_: int, __: int) -> None:
    """No progress bar."""


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        yield conn


def made(data_dir: Path, node: str, tasks: int, payload_bytes: int = 100) -> Path:
    """A data directory as a daemon leaves it."""
    data_dir.mkdir(exist_ok=True)
    queue = data_dir / files.QUEUE_FILE
    with opened(queue) as conn:
        conn.execute("PRAGMA journal_mode = WAL")
        migrate(conn, QUEUE, str(queue))
        conn.execute("BEGIN")
        # Later ids come first, so that their order of arrival is not that of their ids.
        rows = [(f"{n:032x}", 0, tasks - n, os.urandom(payload_bytes)) for n in reversed(range(tasks))]
        conn.executemany(TASK, rows)
        peers.remember_peer(conn, OTHER, "other", ("10.0.0.9:7373",), 1)
        here = identity.whereabouts(queue)
        identity.write_noted(conn, identity.Noted(node=node, inode=here.inode, machine=here.machine))
        identity.write_running(conn, running=True)
        conn.execute("COMMIT")
    identity.write_id(data_dir, node)
    (data_dir / files.PROMISE_FILE).write_bytes(b"a promise")
    return queue


def tasks_in(path: Path) -> list[str]:
    with opened(path) as conn:
        return [task for (task,) in conn.execute("SELECT id FROM tasks ORDER BY rowid")]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def is_somebodys(data_dir: Path) -> bool:
    """Whether a daemon that starts here goes on under the id that is there."""
    known = identity.read_id(data_dir)
    queue = data_dir / files.QUEUE_FILE
    with opened(queue) as conn:
        here = identity.whereabouts(queue)
        found = identity.Noted(node=known or "", inode=here.inode, machine=here.machine)
        return known is not None and not identity.why_not_the_node(identity.read_noted(conn), found)
