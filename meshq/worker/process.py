"""One child as the pool sees it: the process, its process group, its socket, its marks and what it prints."""

from __future__ import annotations

import asyncio
import mmap
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from meshq.errors import Malformed
from meshq.worker import frames
from meshq.worker.output import Output, Pipe

# How long to wait for the socket's end after the process's: a grandchild that left the group may hold it.
_REST_S = 1.0

OnMessage = Callable[[list[Any]], None]


class _Exit(asyncio.SubprocessProtocol):
    def __init__(self, gone: asyncio.Event, exited: asyncio.Event) -> None:
        self._gone, self._exited = gone, exited

    def process_exited(self) -> None:
        self._gone.set()
        self._exited.set()


class _Link(asyncio.Protocol):
    def __init__(self, on_message: OnMessage, gone: asyncio.Event, closed: asyncio.Event) -> None:
        self._on_message = on_message
        self._gone, self._closed = gone, closed
        self._splitter = frames.Splitter()
        self.sound = True

    def data_received(self, data: bytes) -> None:
        try:
            messages = self._splitter.feed(data) if self.sound else []
            for message in messages:
                self._on_message(message)
        except (Malformed, ValueError, TypeError, IndexError, KeyError):
            # Only the user's own code can have written this, and nothing after it can be believed.
            self.sound = False
            self._gone.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone.set()
        self._closed.set()


class Process:
    """A running child; made by `spawn`, ended by `end`, which must be awaited in every case."""

    def __init__(
        self,
        transport: asyncio.SubprocessTransport,
        link: tuple[asyncio.Transport, _Link],
        lifeline: int,
        marks: mmap.mmap,
        printed: Pipe,
        events: tuple[asyncio.Event, asyncio.Event, asyncio.Event],
    ) -> None:
        self.pid = transport.get_pid()
        self._transport, self._lifeline = transport, lifeline
        self._link, self._heard = link
        self._printed = printed
        self._shared, self._marks = marks, memoryview(marks).cast("Q")
        self._gone, self._exited, self._closed = events

    @classmethod
    async def spawn(cls, on_message: OnMessage, environ: Mapping[str, str], output: Output) -> Process:
        """Starts a child, which inherits three descriptors, its standard ones, and nothing else.

        Args:
            on_message: Is called with each message that comes from it.
            environ: Its whole environment.
            output: Takes what it prints.

        Raises:
            OSError: There are no processes or descriptors left.
        """
        loop = asyncio.get_running_loop()
        gone, exited, closed = asyncio.Event(), asyncio.Event(), asyncio.Event()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        lifeline_theirs, lifeline = os.pipe()
        marks_fd = _memory(frames.MARKS_BYTES)
        given = (theirs.fileno(), lifeline_theirs, marks_fd)
        transport: asyncio.SubprocessTransport | None = None
        printed: Pipe | None = None
        try:
            printed = Pipe(output)
            shared = mmap.mmap(marks_fd, frames.MARKS_BYTES)
            transport, _ = await loop.subprocess_exec(
                lambda: _Exit(gone, exited),
                sys.executable, "-P", "-m", "meshq.worker.child", *map(str, given),
                stdin=subprocess.DEVNULL, stdout=printed.end, stderr=printed.end,
                pass_fds=given, close_fds=True, start_new_session=True, env=environ,
            )  # fmt: skip
            link = await loop.create_unix_connection(lambda: _Link(on_message, gone, closed), sock=ours)
        except BaseException:
            ours.close()
            os.close(lifeline)
            if transport is not None:
                with suppress(ProcessLookupError):
                    transport.kill()
                await exited.wait()
                transport.close()
            if printed is not None:
                printed.close()
            raise
        finally:
            if printed is not None:
                printed.given()
            theirs.close()
            os.close(lifeline_theirs)
            os.close(marks_fd)
        return cls(transport, link, lifeline, shared, printed, (gone, exited, closed))

    def send(self, *message: Any) -> None:
        """Sends a message; to a dead child it is lost."""
        self._link.write(frames.encode(*message))

    def drain(self) -> None:
        """Passes on what it has printed so far."""
        self._printed.drain()

    def marks(self) -> tuple[int, int, int]:
        """Jobs begun, jobs ended, and the number of the frame that these belong to."""
        return self._marks[frames.BEGUN], self._marks[frames.ENDED], self._marks[frames.FRAME]

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the whole process group."""
        # The number can't mean another group: as long as one member lives, the system gives it to nobody, and
        # afterwards not before all other numbers were used.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    async def gone(self) -> None:
        """Waits until the child is dead, or is as good as dead because its socket is."""
        await self._gone.wait()

    async def end(self) -> int:
        """Kills the whole group, reads what the child still said, and returns how it ended, as `subprocess` does."""
        try:
            self.signal(signal.SIGKILL)
            await self._exited.wait()
            self.signal(signal.SIGKILL)
            with suppress(TimeoutError):
                async with asyncio.timeout(_REST_S):
                    await self._closed.wait()
        finally:
            self._link.abort()
            self._transport.close()
            self._printed.close()
            os.close(self._lifeline)
        code = self._transport.get_returncode()
        return code if code is not None else -signal.SIGKILL

    def ending(self, code: int) -> str:
        """How it ended, in words, by what `end` returned."""
        if not self._heard.sound:
            return "killed, for it wrote into its connection with the daemon"
        return _ending(code)

    def forget(self) -> None:
        """Gives the marks back; they can't be read any more."""
        self._marks.release()
        self._shared.close()


def _memory(size_bytes: int) -> int:
    """A descriptor of some memory that a child can inherit."""
    if sys.platform == "linux":
        descriptor = os.memfd_create("meshq-marks")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size_bytes)
    return descriptor


# What a person may look for who sees that signal and sent none.
_HINTS = {signal.SIGKILL: " (out of memory?)", signal.SIGSEGV: " (a fault in native code)"}


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        number = signal.Signals(-code)
    except ValueError:
        return f"killed by signal {-code}"
    return f"killed by {number.name}{_HINTS.get(number, '')}"
