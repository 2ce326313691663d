"""A copy of the queue in one file, and a data directory out of such a copy. Blocking: call it outside of a daemon.

A restored copy is not the node that it was made on: it goes to the network under a new id.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from meshq.core.limits import PULL_FRAME_BYTES
from meshq.errors import Conflict, CorruptDatabase, DiskFull, Malformed, MeshqError, NotFound, StoreError
from meshq.store import feed, files, identity, lock
from meshq.store.database import BUSY_S, Connection
from meshq.store.files import PROMISE_FILE, QUEUE_FILE
from meshq.store.rows import unpack_frame
from meshq.store.schema import QUEUE, migrate, version_of

PAGES_PER_STEP = 1024
# No file has this inode: whoever finds it noted knows that the database is a copy.
RESTORED = "restored"
_MAGIC = b"SQLite format 3\0"
_HEADER_BYTES = 100
_OURS = "; give a file that meshq backup made"
_DAMAGE_CODES = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

OnProgress = Callable[[int, int], object]


@dataclass(frozen=True, slots=True)
class Copied:
    """A whole copy: how many tasks are in it, and its size. `aside` is what the queue before it is called now."""

    tasks: int
    size_bytes: int
    aside: Path | None = None


def backup(source: Path, target: Path, on_progress: OnProgress, *, force: bool = False) -> Copied:
    """Copies a queue as it is at this moment into one file, mode 0600, whether or not a daemon writes meanwhile.

    Args:
        source: `queue.db` in a data directory.
        target: The file; it appears whole or not at all.
        on_progress: Called with the number of pages copied and of all; what it raises ends the copy.
        force: Whether a file that is there already is replaced.

    Raises:
        NotFound: There is no queue.
        Conflict: The target is there already, or is a place where it would be lost with the queue.
        CorruptDatabase, NewerDatabase, StoreError: The queue or the target can't be used; with its path.
    """
    if not files.is_there(source):
        raise NotFound(f"{source}: there is no queue; --data-dir names the data directory of another daemon")
    if target.resolve().parent == source.resolve().parent:
        raise Conflict(f"{target}: stands in the data directory, and would be lost with it; choose another place")
    _check_free(target, force)
    with _beside(target) as copy:
        with closing(_connect(source, "mode=rw")) as conn, closing(_connect(copy, "mode=rw")) as into:
            conn.execute("PRAGMA query_only = ON")
            _copy(conn, source, into, target, on_progress)
            tasks = _count(into, source)
        size_bytes = copy.stat().st_size
        # Asked again: the copy may have taken long.
        _check_free(target, force)
        _put(copy, target)
    return Copied(tasks, size_bytes)


def restore(file: Path, data_dir: Path, on_progress: OnProgress, *, force: bool = False) -> Copied:
    """Makes a copy of a queue the queue of a data directory, whose next daemon is a new node.

    Args:
        file: What `backup` made.
        data_dir: Made if there is none. What is in it of another node is set aside, never deleted; its outbox
            stays, since the tasks in it are acknowledged, whoever delivers them.
        on_progress: As for `backup`.
        force: Whether a queue that is there already is set aside.

    Raises:
        NotFound: There is no such file.
        Conflict: A daemon runs on the data directory, or it has a queue.
        NewerDatabase, CorruptDatabase, StoreError: The file is of a newer meshq, damaged, or no queue; or the data
            directory can't be written. Nothing was changed.
    """
    try:
        return _restore(file, data_dir, on_progress, force=force)
    except CorruptDatabase as error:
        error.append("; give another copy")
        raise


def _restore(file: Path, data_dir: Path, on_progress: OnProgress, *, force: bool) -> Copied:
    _check_file(file)
    with closing(_opened_copy(file)) as conn:
        with _talking(file):
            _check_queue(conn, file, _OURS)
        held = _locked(data_dir)
        try:
            queue = data_dir / QUEUE_FILE
            if files.is_there(queue) and not force:
                raise Conflict(f"{data_dir}: has a queue already; --force sets it aside and restores this one")
            for left in data_dir.glob(f".{QUEUE_FILE}.*"):
                left.unlink()  # of a restore that was killed
            with _beside(queue) as copy:
                with closing(_connect(copy, "mode=rw")) as into:
                    _copy(conn, file, into, queue, on_progress)
                    _make_nobodys(into, data_dir)
                    _check_rows(into, file)
                    tasks = _count(into, file)
                size_bytes = copy.stat().st_size
                aside = _keep(queue)
                _put(copy, queue)
            for name in (PROMISE_FILE, identity.ID_FILE):
                files.set_aside(data_dir / name, f"{name}.replaced")
        finally:
            held.release()
    return Copied(tasks, size_bytes, aside)


def _locked(data_dir: Path) -> lock.Lock:
    try:
        return lock.acquire(data_dir)
    except Conflict as error:
        error.append("; stop it first, with: meshq down")
        raise


def _make_nobodys(conn: Connection, data_dir: Path) -> None:
    """Brings a copy to the present version, and makes it one that no node may go on with under its old id.

    A daemon sees that by itself, so that nothing bad comes of a restore that broke off after it.
    """
    queue = data_dir / QUEUE_FILE
    with _talking(queue):
        migrate(conn, QUEUE, str(queue))
        node = None
        with suppress(StoreError):  # a file without an id is set aside like one with it
            node = identity.read_id(data_dir)
        conn.execute("BEGIN")
        identity.write_noted(conn, identity.Noted(node=node or "", inode=RESTORED))
        identity.write_running(conn, running=False)
        conn.execute("DELETE FROM peers")
        conn.execute("COMMIT")


def _keep(queue: Path) -> Path | None:
    """Gives the queue that is to be replaced a second name, so that there is one at every moment."""
    with suppress(sqlite3.Error, StoreError, NotFound):
        _check_file(queue)
        with closing(_connect(queue, "mode=rw")) as conn:
            # What is in the journal goes into the file, which is complete without it then. A damaged one keeps it.
            conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    beside = [suffix for suffix in files.BESIDE if queue.with_name(queue.name + suffix).exists()]
    name = files.free_path(queue.with_name(f"{queue.name}.replaced"), ("", *files.BESIDE)).name
    try:
        for suffix in (*beside, *([""] if queue.exists() else [])):
            os.link(queue.with_name(queue.name + suffix), queue.with_name(name + suffix))
        files.sync_folder(queue.parent)
        for suffix in beside:
            queue.with_name(queue.name + suffix).unlink()
    except OSError as error:
        raise files.disk_error(queue, error, "can't be set aside") from error
    return queue.with_name(name) if queue.with_name(name).exists() else None


def _copy(conn: Connection, source: Path, into: Connection, target: Path, on_progress: OnProgress) -> None:
    """Copies page for page, so that the order of arrival (the rowids) stays, and looks at all of the copy."""

    def step(_: int, left: int, total: int) -> None:
        on_progress(total - left, total)

    with _talking(source):
        # One read transaction around all steps. Without it, each write of the daemon would begin the copy anew.
        conn.execute("BEGIN")
        _check_queue(conn, source)
    with _talking(source, target):
        into.execute("PRAGMA journal_mode = MEMORY")
        into.execute("PRAGMA synchronous = OFF")
        conn.backup(into, pages=PAGES_PER_STEP, progress=step)
        conn.execute("ROLLBACK")
        # A single file, which needs no other beside it to be read.
        into.execute("PRAGMA journal_mode = DELETE")
    with _talking(source):
        (found,) = into.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise CorruptDatabase(f"{source}: is damaged: {found}")


def _check_file(file: Path) -> None:
    """Whether a file looks like a whole database, as its first bytes tell."""
    try:
        with file.open("rb") as handle:
            head = handle.read(_HEADER_BYTES)
        size_bytes = file.stat().st_size
    except FileNotFoundError:
        raise NotFound(f"{file}: there is no such file") from None
    except IsADirectoryError:
        raise StoreError(f"{file}: is a folder{_OURS}") from None
    except OSError as error:
        raise StoreError(f"{file}: can't be read: {error.strerror}") from error
    if not head.startswith(_MAGIC):
        raise StoreError(f"{file}: is {'no database' if head else 'empty'}{_OURS}")
    page_bytes = int.from_bytes(head[16:18]) if head[16:18] != b"\0\1" else 1 << 16
    whole_bytes = page_bytes * int.from_bytes(head[28:32])
    if size_bytes < max(_HEADER_BYTES, whole_bytes) and not _journal(file).exists():
        raise CorruptDatabase(f"{file}: is cut off: it has {size_bytes} of {whole_bytes} bytes")


def _check_rows(conn: Connection, path: Path) -> None:
    """Whether all rows are such as other nodes take: one that is not would keep every copy from being made."""
    with _talking(path):
        try:
            for rows in feed.rows_beyond(conn, {}, PULL_FRAME_BYTES):
                unpack_frame(rows)
        except Malformed as error:
            raise CorruptDatabase(f"{path}: is damaged: {error}") from error


def _check_queue(conn: Connection, path: Path, advice: str = "") -> None:
    """Whether this is a queue, of this or an earlier version."""
    migrations = QUEUE.migrations()
    version = version_of(conn, len(migrations), str(path))
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as model:
        for sql in migrations[:version]:
            model.executescript(sql)
        if version < 1 or _structure(conn) != _structure(model):
            raise StoreError(f"{path}: is a database of another program or purpose, and no queue of meshq{advice}")


def _structure(conn: Connection) -> list[tuple[object, ...]]:
    return conn.execute(
        "SELECT part.type, part.name, part.tbl_name, field.name, field.type, field.'notnull', field.pk"
        " FROM sqlite_master AS part LEFT JOIN pragma_table_info(part.name) AS field"
        " WHERE part.name NOT LIKE 'sqlite~_%' ESCAPE '~' ORDER BY 1, 2, field.cid"
    ).fetchall()


def _count(conn: Connection, path: Path) -> int:
    with _talking(path):
        return int(conn.execute("SELECT count(*) FROM tasks WHERE rank < 2").fetchone()[0])


def _opened_copy(file: Path) -> Connection:
    # Without a journal beside it nobody writes it, and it may lie where nothing can be written.
    return _connect(file, "mode=ro" if _journal(file).exists() else "mode=ro&immutable=1")


def _journal(file: Path) -> Path:
    return file.with_name(f"{file.name}-wal")


def _connect(path: Path, how: str) -> Connection:
    with _talking(path):
        uri = f"file:{quote(str(path.absolute()))}?{how}"
        return sqlite3.connect(uri, uri=True, timeout=BUSY_S, isolation_level=None)


def _check_free(target: Path, force: bool) -> None:
    if target.is_dir():
        raise Conflict(f"{target}: is a folder; give the name of a file")
    if target.exists() and not force:
        raise Conflict(f"{target}: is there already; --force replaces it")
    if target.exists() and not target.is_file():
        raise Conflict(f"{target}: is no file")


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """An empty file of this user's beside the target, which is gone afterwards unless it was put in its place."""
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.absolute().parent)
    except OSError as error:
        raise files.disk_error(target, error) from error
    os.close(handle)
    copy = Path(name)
    try:
        yield copy
    finally:
        copy.unlink(missing_ok=True)


def _put(copy: Path, target: Path) -> None:
    """Gives a finished copy its name; both are on disk when this returns."""
    try:
        handle = os.open(copy, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        copy.replace(target)
        files.sync_folder(target.absolute().parent)
    except OSError as error:
        # Some file systems, of networks above all, have no fsync for folders.
        if error.errno != errno.EINVAL:
            raise files.disk_error(target, error) from error


@contextmanager
def _talking(path: Path, target: Path | None = None) -> Iterator[None]:
    """Gives SQLite's errors the name of the file that they are about."""
    try:
        yield
    except sqlite3.Error as error:
        raise _named(error, path, target) from error


def _named(error: sqlite3.Error, path: Path, target: Path | None) -> MeshqError:
    code = int(getattr(error, "sqlite_errorcode", 0)) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return DiskFull(f"{target or path}: the disk is full; nothing was kept")
    if code in _DAMAGE_CODES:
        return CorruptDatabase(f"{path}: is damaged or no database: {error}")
    return StoreError(f"{path}: {error}" if target is None else f"{path} can't be copied to {target}: {error}")
