"""What tasks printed on this node: the last 1 MiB of each, in plain files, at offsets that only grow.

A log is cut into segments, each a file whose name says at which byte of the log it begins; the oldest ones go. What
can't be written is a gap, and no task notices it. Nothing is held open between two writes.
"""

from __future__ import annotations

import asyncio
import os
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Final, TypeVar

from meshq.core.ids import is_id
from meshq.core.limits import LOG_BYTES_MAX

SEGMENT_BYTES: Final = 256 << 10
# What the smallest file takes on a disk.
BLOCK_BYTES: Final = 4096
# What is printed is written together, so often.
WRITE_S: Final = 0.1
# While the disk is slower than what is printed, so much waits for it.
WAITING_BYTES_MAX: Final = 8 << 20
T = TypeVar("T")
_NAME = re.compile(r"([0-9a-f]{32})-(\d{1,18})\.log")


class _Log:
    """One task's: where it ends, and [start, size] of its segments."""

    __slots__ = ("end", "segments")

    def __init__(self) -> None:
        self.end = 0
        self.segments: list[list[int]] = []


class LogFiles:
    """The files; used by one thread at a time.

    Args:
        folder: Made when there is something to be kept.
        bytes_max: How much disk all of them take at most.
    """

    def __init__(self, folder: Path, bytes_max: int) -> None:
        self._folder = folder
        self._bytes_max = bytes_max
        self._logs: dict[str, _Log] = {}  # the one written longest ago first
        self._bytes = 0
        self.troubles: list[str] = []

    def scan(self) -> None:
        """Takes up what an earlier daemon left."""
        found: list[tuple[float, str, int, int]] = []
        try:
            with os.scandir(self._folder) as entries:
                for entry in entries:
                    name = _NAME.fullmatch(entry.name)
                    if name is not None:
                        status = entry.stat()
                        found.append((status.st_mtime, name[1], int(name[2]), status.st_size))
        except FileNotFoundError:
            pass
        except OSError as error:
            self.troubles.append(f"{self._folder}: can't be read: {error.strerror}")
        for _, task, start, size in sorted(found):
            log = self._logs[task] = self._logs.pop(task, _Log())
            log.segments.append([start, size])
            log.segments.sort()
            log.end = sum(log.segments[-1])
            self._bytes += _on_disk(size)
        self._make_room()

    def append(self, task: str, data: bytes) -> None:
        """Writes at a log's end; what can't be written is a gap in it."""
        log = self._logs[task] = self._logs.pop(task, _Log())
        view = memoryview(data)
        while view:
            last = log.segments[-1] if log.segments else [0, 0]
            if sum(last) != log.end or last[1] >= SEGMENT_BYTES:
                last = [log.end, 0]
            part = view[: SEGMENT_BYTES - last[1]]
            written = self._write(self._path(task, last[0]), part)
            if written and not last[1]:
                log.segments.append(last)
            self._bytes += _on_disk(last[1] + written) - _on_disk(last[1])
            last[1] += written
            if written < len(part):
                log.end += len(view)
                break
            log.end += written
            view = view[written:]
        while sum(size for _, size in log.segments[1:]) >= LOG_BYTES_MAX:
            self._drop_first(task)
        self._make_room()
        if not log.segments:
            self._logs.pop(task, None)  # else each task on a disk that is full would be remembered

    def skip(self, task: str, size: int) -> None:
        """Leaves a gap at a log's end."""
        if task in self._logs:
            self._logs[task].end += size

    def read(self, task: str, after: int) -> tuple[bytes, int, int]:
        """At most 1 MiB from this byte on, the offset behind it, and how much was lost before it."""
        log = self._logs.get(task) or _Log()
        if after >= log.end:
            return b"", log.end, 0
        text, at = bytearray(), after
        for start, size in log.segments:
            if start + size <= at:
                continue
            if start > at and text:
                break  # a gap: who asks for what follows is told of it
            begin = max(at, start)
            most = min(start + size - begin, LOG_BYTES_MAX - len(text))
            if part := self._read(self._path(task, start), begin - start, most):
                text += part
                at = begin + len(part)
        if not text:
            return b"", log.end, log.end - after
        return bytes(text), at, at - len(text) - after

    def _path(self, task: str, start: int) -> Path:
        return self._folder / f"{task}-{start}.log"

    def _write(self, path: Path, data: memoryview) -> int:
        """How much of it was written."""
        try:
            try:
                handle = self._open(path)
            except FileNotFoundError:
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                handle = self._open(path)
            try:
                return os.write(handle, data)
            finally:
                os.close(handle)
        except OSError as error:
            self.troubles.append(f"{path}: can't be written: {error.strerror}")
            return 0

    def _open(self, path: Path) -> int:
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def _read(self, path: Path, skip: int, size: int) -> bytes:
        try:
            with path.open("rb") as file:
                file.seek(skip)
                return file.read(size)
        except FileNotFoundError:
            return b""
        except OSError as error:
            self.troubles.append(f"{path}: can't be read: {error.strerror}")
            return b""

    def _make_room(self) -> None:
        while self._bytes > self._bytes_max:
            task, log = next(iter(self._logs.items()))
            self._drop_first(task)
            if not log.segments:
                del self._logs[task]

    def _drop_first(self, task: str) -> None:
        start, size = self._logs[task].segments.pop(0)
        self._bytes -= _on_disk(size)
        path = self._path(task, start)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            self.troubles.append(f"{path}: can't be deleted: {error.strerror}")


def _on_disk(size: int) -> int:
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES


class Logs:
    """`core.ports.TaskLogs`, for real: a thread does what takes time; `run` must be running.

    Args:
        folder, bytes_max: As for `LogFiles`; with 0 nothing is kept.
        on_event: Is told `log_not_kept`, and why.
    """

    def __init__(self, folder: Path, bytes_max: int, on_event: Callable[[str, str], object]) -> None:
        self._files = LogFiles(folder, bytes_max)
        self._keeps = bytes_max > 0
        self._on_event = on_event
        self._thread = ThreadPoolExecutor(1, "meshq-logs")
        # The thread takes what waits here: (bytes lost before it, what was printed).
        # What waits for the thread: what was printed, and the sizes of gaps in it.
        self._lock = threading.Lock()
        self._waiting: dict[str, list[bytes | int]] = {}
        self._waiting_bytes = 0
        self._scanned = False
        self._some = asyncio.Event()
        self._readers: dict[str, list[asyncio.Event]] = {}

    def add(self, task: str, data: bytes) -> None:
        """Takes what a run of this task printed. It never waits and never fails."""
        if not self._keeps or not is_id(task):
            return
        with self._lock:
            fits = self._waiting_bytes + len(data) <= WAITING_BYTES_MAX
            self._waiting.setdefault(task, []).append(data if fits else len(data))
            self._waiting_bytes += len(data) if fits else 0
        if not fits:
            self._on_event("log_not_kept", f"task {task}: more is printed than the disk can write")
        self._some.set()
        for event in self._readers.get(task, ()):
            event.set()

    async def read(self, task: str, after: int, wait_s: float) -> tuple[bytes, int, int]:
        """What was printed from the byte `after` on; waits up to `wait_s` for something."""
        more = asyncio.Event()
        self._readers.setdefault(task, []).append(more)
        try:
            found = await self._in_thread(lambda: self._files.read(task, after))
            if wait_s > 0 and not found[0] and not found[2]:
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await more.wait()
                found = await self._in_thread(lambda: self._files.read(task, after))
            return found
        finally:
            self._readers[task].remove(more)
            if not self._readers[task]:
                del self._readers[task]

    async def run(self) -> None:
        """Writes until it is cancelled; what waits then is written, too."""
        try:
            while True:
                await self._some.wait()
                self._some.clear()
                await self._in_thread(lambda: None)
                await asyncio.sleep(WRITE_S)
        finally:
            self._thread.shutdown()
            self._write()
            self._tell()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        def written() -> T:
            self._write()
            return work()

        result = await asyncio.get_running_loop().run_in_executor(self._thread, written)
        self._tell()
        return result

    def _write(self) -> None:
        with self._lock:
            waiting, self._waiting, self._waiting_bytes = self._waiting, {}, 0
        if not self._scanned:
            self._scanned = True
            self._files.scan()
        for task, parts in waiting.items():
            for gap, group in groupby(parts, key=lambda part: isinstance(part, int)):
                if gap:
                    self._files.skip(task, sum(part for part in group if isinstance(part, int)))
                else:
                    self._files.append(task, b"".join(part for part in group if isinstance(part, bytes)))

    def _tell(self) -> None:
        troubles, self._files.troubles = self._files.troubles, []
        if troubles:
            self._on_event("log_not_kept", troubles[0])
