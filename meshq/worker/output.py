"""What children print: passed on to the task's log, up to a bound for each minute; to stderr where nobody keeps one.

Of what is beyond the bound the last part is kept in memory until the run ends: there stands what went wrong.
Whoever prints without end fills no disk and no memory, and is slowed down; it is not stopped.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Final

MINUTE_S: Final = 60.0
CHUNK_BYTES: Final = 64 << 10
# Beyond the bound, so long a pause after each chunk: what is thrown away costs the daemon next to nothing.
PAUSE_S: Final = 0.005
# What a dead child left in its pipe, and what one that outlived it may add meanwhile.
_REST_CHUNKS: Final = 16


def to_stderr(data: bytes) -> None:
    """Writes to the daemon's stderr; where that is gone, nobody reads it."""
    with suppress(OSError):
        os.write(2, data)


class Output:
    """What the children of one slot print, one after the other.

    Args:
        name: What the line calls them that says that something is left out.
        bytes_max: For each minute.
        write: Where it goes.
        reader: Who reads it now: each of them is told once a minute that something is left out.
        tail_bytes_max: How much of what is beyond the bound is written at a run's end; 0 for none.
    """

    def __init__(
        self,
        name: str,
        bytes_max: int,
        write: Callable[[bytes], None] = to_stderr,
        reader: Callable[[], object] = lambda: None,
        tail_bytes_max: int = 0,
    ) -> None:
        self._name = name
        self._bytes_max = bytes_max
        self._write = write
        self._reader = reader
        self._left = bytes_max
        self._until = float("-inf")
        self._told: list[object] = []
        self._tail = bytearray()
        self._tail_bytes_max = tail_bytes_max
        self.dropped_bytes = 0

    def take(self, data: bytes, now_s: float) -> bool:
        """Passes on what is allowed; False where something was left out."""
        if now_s >= self._until:
            self.end()
            self._left, self._until = self._bytes_max, now_s + MINUTE_S
            self._told = []
        kept, over = data[: self._left], len(data) - self._left
        self._left -= len(kept)
        if kept:
            self._write(kept)
        if over <= 0:
            return True
        if self._bytes_max and self._told != [reader := self._reader()]:
            self._told = [reader]
            less = "but for its end " if self._tail_bytes_max else ""
            self._write(
                f"\nmeshq: {self._name} printed more than {self._bytes_max} bytes within a minute; the rest is left "
                f"out {less}(child_output_bytes_max)\n".encode()
            )
        self.dropped_bytes += over
        if self._tail_bytes_max:
            self._tail += data[len(kept) :]
            if len(self._tail) > 2 * self._tail_bytes_max:
                del self._tail[: -self._tail_bytes_max]
        return False

    def end(self) -> None:
        """The run is over: writes the last of what it printed beyond the bound."""
        tail, self._tail = self._tail[-self._tail_bytes_max :], bytearray()
        if tail:
            self._write(bytes(tail))


class Pipe:
    """The daemon's end of what one child prints to; `end` is for the child.

    Raises:
        OSError: There are no descriptors left.
    """

    def __init__(self, output: Output) -> None:
        self._output = output
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._descriptor, self.end = os.pipe()
        os.set_blocking(self._descriptor, False)
        self._loop.add_reader(self._descriptor, self._on_readable)

    def given(self) -> None:
        """The child has its end, so that this process closes it."""
        if self.end >= 0:
            os.close(self.end)
            self.end = -1

    def close(self) -> None:
        """Passes on what is left, and closes the pipe."""
        self.given()
        self.drain()
        if self._descriptor >= 0:
            self._stop()

    def drain(self) -> None:
        """Passes on what is in the pipe now, where a run is over."""
        if self._descriptor < 0:
            return
        for _ in range(_REST_CHUNKS):
            if not (data := self._read()):
                break
            self._output.take(data, self._loop.time())
        self._output.end()

    def _on_readable(self) -> None:
        data = self._read()
        if data == b"":
            self._stop()  # all who could write are gone
        elif data is not None and not self._output.take(data, self._loop.time()):
            self._loop.remove_reader(self._descriptor)
            self._timer = self._loop.call_later(PAUSE_S, self._on_pause_over)

    def _on_pause_over(self) -> None:
        self._loop.add_reader(self._descriptor, self._on_readable)

    def _read(self) -> bytes | None:
        """What there is; nothing at the end, None where the end is not reached."""
        try:
            return os.read(self._descriptor, CHUNK_BYTES)
        except BlockingIOError:
            return None

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)
        self._descriptor = -1
