"""One daemon for each data directory: a lock that ends with its process, in a file that names the process."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from meshq.errors import Conflict
from meshq.store.files import disk_error

PID_FILE = "meshq.pid"


class Lock:
    """The right to a data directory, held until `release` or the end of the process."""

    def __init__(self, handle: int) -> None:
        self._handle: int | None = handle

    def release(self) -> None:
        """Gives the directory free; a second time does nothing."""
        if self._handle is not None:
            # The file stays: removing it would let two others each lock a file of this name.
            handle, self._handle = self._handle, None
            with contextlib.suppress(OSError):  # a disk that fails keeps nobody from stopping
                os.ftruncate(handle, 0)
            os.close(handle)


def acquire(data_dir: Path) -> Lock:
    """Takes the data directory for this process; the directory is made if there is none.

    Raises:
        Conflict: Another daemon has it; the message names its pid.
        DiskFull, DiskFailed: The directory can't be written; with the path.
    """
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(data_dir / PID_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise disk_error(data_dir, error) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
    except BlockingIOError:
        pid = _pid(handle)
        os.close(handle)
        who = f"with pid {pid} " if pid else ""
        raise Conflict(f"{data_dir}: a meshq daemon {who}runs on this data directory") from None
    except OSError as error:
        os.close(handle)
        raise disk_error(data_dir / PID_FILE, error) from error
    return Lock(handle)


def holder(data_dir: Path) -> int | None:
    """The pid of the daemon that has this data directory; None where none has."""
    try:
        handle = os.open(data_dir / PID_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _pid(handle)
    finally:
        os.close(handle)
    return None


def _pid(handle: int) -> int | None:
    text = os.pread(handle, 32, 0).strip()
    return int(text) if text.isdigit() else None
