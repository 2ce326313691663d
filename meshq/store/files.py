"""What several parts do with files: name a failure of the disk, make it lasting, set a damaged database aside."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from meshq.errors import DiskFailed, DiskFull, StoreError

# The databases of a data directory.
QUEUE_FILE: Final = "queue.db"
PROMISE_FILE: Final = "promise.db"
OUTBOX_FILE: Final = "outbox.db"
# Beside a database in WAL mode; they belong to it, and hold part of what it holds.
BESIDE = ("-wal", "-shm")
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def disk_error(path: Path, error: OSError, what: str = "can't be written") -> StoreError:
    """The error that says what the disk refused: `DiskFull` where that was for want of room."""
    text = f"{path}: {what}: {error.strerror or error}"
    return DiskFull(f"{text}; make room there") if error.errno in _FULL else DiskFailed(text)


def sync_folder(folder: Path) -> None:
    """Makes new names in a folder outlast a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_private(path: Path, text: str) -> None:
    """Puts a text into a file that only its owner reads; all of it is on disk when this returns, or nothing is changed.

    Raises:
        DiskFull, DiskFailed: It can't be written; with the path.
    """
    beside = path.with_name(path.name + ".new")
    try:
        handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(handle, text.encode())
            os.fsync(handle)
        finally:
            os.close(handle)
        beside.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise disk_error(path, error) from error


def stamp(wall_ms: int) -> str:
    """A time as a part of a file's name, in UTC."""
    return datetime.fromtimestamp(wall_ms / 1000, UTC).strftime("%Y%m%dT%H%M%SZ")


def is_there(path: Path) -> bool:
    """Whether a database holds anything; one that was cut down to nothing does not."""
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False


def free_path(path: Path, suffixes: Sequence[str] = ("",)) -> Path:
    """This path, or the first one with a number behind it, under which nothing is there with any of these suffixes."""
    free, number = path, 1
    while any(free.with_name(free.name + suffix).exists() for suffix in suffixes):
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free


def set_aside(path: Path, name: str, *, folder: Path | None = None) -> Path | None:
    """Renames a database with what is beside it. Nothing is ever overwritten or deleted.

    Args:
        path: The database; it is closed.
        name: What it is to be called; a number is added where that is taken.
        folder: Where it goes, on the same disk; it is there. None to leave it where it is.

    Returns:
        Where it is now; None where there was nothing of it.

    Raises:
        DiskFull, DiskFailed: It can't be renamed; with the path.
    """
    suffixes = [suffix for suffix in ("", *BESIDE) if path.with_name(path.name + suffix).exists()]
    if not suffixes:
        return None
    target = free_path((folder or path.parent) / name, ("", *BESIDE))
    try:
        for suffix in suffixes:
            path.with_name(path.name + suffix).rename(target.with_name(target.name + suffix))
        sync_folder(path.parent)
        sync_folder(target.parent)
    except OSError as error:
        raise disk_error(path, error, "can't be set aside") from error
    return target


def make_private(path: Path) -> None:
    """Makes a database's file if there is none, and lets nobody else read it: the folder may have been there before.

    SQLite gives the files beside it the mode of this one; those that are left of an earlier run are looked at, too.

    Raises:
        OSError: That can't be done.
    """
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    for each in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
        if each.exists() and stat.S_IMODE(each.stat().st_mode) & 0o077:
            each.chmod(0o600)
