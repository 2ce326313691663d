"""The process that runs users' code: `python -m meshq.worker.child`, one for each slot, started by the pool.

It leads a process group of its own and dies with the daemon, whatever it is doing: the kernel kills the whole group
when the daemon's end of the lifeline closes (Linux), and a thread does the same when the socket does. What a task
prints goes to its log, within bounds; its stdin is empty, and its environment a few harmless variables.

What comes from other machines is a task's name and its arguments: the name is looked up among the functions that this
machine's user had loaded and allows, and the arguments are data, as `values` reads them. Nothing is imported or
unpickled because somebody sent its name.

The clock is read here and not handed in: this is another process, and it only measures how long a task ran.
"""

from __future__ import annotations

import inspect
import mmap
import os
import queue
import select
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import asdict
from time import monotonic, perf_counter
from typing import Any, NoReturn

from meshq.core.limits import PARTS_MAX
from meshq.errors import ConfigError, MeshqError
from meshq.tasks import call, context, registry
from meshq.wire import values
from meshq.worker import frames
from meshq.worker.bounds import hold_to_memory
from meshq.worker.failures import failure, message_of, pack_error, traceback_of
from meshq.worker.printing import Printing
from meshq.worker.teller import Teller

FLUSH_S = 0.002
FLUSH_BYTES = 1 << 20

Ended = tuple[int, bytes]
Job = tuple[str, bytes, str, int, float | None, bytes | None]


def die() -> NoReturn:
    """Ends this process and all that its tasks started."""
    os.killpg(0, signal.SIGKILL)
    os._exit(1)


def tie_to_daemon(lifeline: int) -> None:
    """Lets the kernel kill this process group when the daemon's end of the pipe closes.

    A thread can't be relied on for that: C code may hold the interpreter's lock for ever.
    """
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)
    if sys.platform == "linux":
        import fcntl

        fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    waiting = select.poll()
    waiting.register(lifeline, 0)
    if waiting.poll(0):  # the daemon died before the line was tied
        die()


class Child:
    """Runs the jobs of one frame after the other.

    Args:
        connection: The socket to the pool.
        marks: Shared with the pool: what is begun and ended, see `frames`.
        printing: What runs print.
    """

    def __init__(self, connection: socket.socket, marks: memoryview, printing: Printing) -> None:
        self._connection = connection
        self._reader = connection.makefile("rb")
        self._marks = marks
        self._pid = os.getpid()
        self._inbox: queue.SimpleQueue[list[Any]] = queue.SimpleQueue()
        self._functions: dict[str, tuple[Callable[..., Any], bool, tuple[type[BaseException], ...]]] = {}
        self._result_bytes_max = 0
        self._memory_bytes_max = 0
        self._spent = False
        # The lock guards what follows: the listening thread hands in outcomes too, when it is urged.
        self._lock = threading.Lock()
        self._printing = printing
        self._teller = Teller(self._send, self._lock)
        self._run: context.Run | None = None
        self._stopping = False
        self._frames = 0
        self._begun = 0
        self._end = 0
        self._ended: list[tuple[int, int, bytes, float]] = []
        self._ended_bytes = 0
        self._flushed_s = perf_counter()

    def main(self) -> None:
        """Listens, loads, and runs until the daemon is gone."""
        signal.signal(signal.SIGTERM, self._on_sigterm)
        threading.Thread(target=self._listen, name="meshq-listen", daemon=True).start()
        _, modules, self._result_bytes_max, allow, self._memory_bytes_max = self._inbox.get()
        hold_to_memory(self._memory_bytes_max)
        if not self._load(modules, allow):
            # Stays until the pool has read why; it closes the socket then.
            threading.Event().wait()
        while True:
            message = self._inbox.get()
            self._run_frame(message[1])

    def _load(self, modules: list[str], allow: list[str]) -> bool:
        try:
            registry.load_built_in()
            for module in modules:
                registry.load(module)
            infos = registry.DEFAULT.infos(registry.DEFAULT.allowed(call.offer(registry.DEFAULT, allow)))
        except ConfigError as error:
            self._send(frames.BROKEN, str(error))
            return False
        for info in infos:
            function = registry.resolve(info.name)
            final = registry.DEFAULT.options(info.name).final
            self._functions[info.name] = (function, inspect.iscoroutinefunction(function), final)
        self._send(frames.READY, [asdict(info) for info in infos])
        return True

    def _listen(self) -> None:
        while True:
            header = self._reader.read(frames.LENGTH.size)
            if len(header) < frames.LENGTH.size:
                die()
            (length,) = frames.LENGTH.unpack(header)
            body = self._reader.read(length)
            if len(body) < length:
                die()
            message = frames.decode(body)
            if message[0] == frames.URGE:
                self._on_urge()
            elif message[0] == frames.STOP:
                self._on_stop()
            else:
                self._inbox.put(message)

    def _on_urge(self) -> None:
        with self._lock:
            self._flush()
            self._give_back()

    def _give_back(self) -> None:
        if self._begun < self._end:
            self._end = self._begun
            self._send(frames.RECALLED, self._begun)

    def _on_stop(self) -> None:
        self._stopping = True
        if (run := self._run) is not None:
            run.stop()
        self._on_urge()

    def _on_sigterm(self, number: int, _: object) -> None:
        """The time limit of the run is over: one that asks is told so, and has the grace; any other ends at once."""
        run = self._run
        if run is not None and run.cares and os.getpid() == self._pid:
            run.stop()
        else:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def _run_frame(self, jobs: list[Job]) -> None:
        marks = self._marks
        if signal.getsignal(signal.SIGTERM) != self._on_sigterm:
            signal.signal(signal.SIGTERM, self._on_sigterm)  # a run before set it for itself
        with self._lock:
            self._frames += 1
            self._begun, self._end = 0, len(jobs)
            marks[frames.BEGUN] = marks[frames.ENDED] = 0
            marks[frames.FRAME] = self._frames
        while True:
            with self._lock:
                index = self._begun
                if index == self._end:
                    self._flush()
                    return
                self._begun = marks[frames.BEGUN] = index + 1
            started_s = perf_counter()
            code, blob = self._run_job(jobs[index], index)
            ended_s = perf_counter()
            if os.getpid() != self._pid:
                # The task forked and let its copy return; only the original may go on here.
                os._exit(0)
            self._teller.end()
            printed = self._printing.flush()
            with self._lock:
                self._ended.append((index, code, blob, ended_s - started_s))
                self._ended_bytes += len(blob)
                marks[frames.ENDED] = index + 1
                if ended_s - self._flushed_s > FLUSH_S or self._ended_bytes > FLUSH_BYTES:
                    self._flush()
                if self._spent:
                    self._flush()
                    os._exit(frames.SPENT)
                if printed:
                    # Until the pool has read it, nothing else is to print: so it knows whose it is.
                    self._flush()
                    self._give_back()

    def _flush(self) -> None:
        if self._ended:
            self._send(frames.OUTCOMES, self._ended)
            self._ended, self._ended_bytes = [], 0
        self._flushed_s = perf_counter()

    def _send(self, *message: Any) -> None:
        try:
            self._connection.sendall(frames.encode(*message))
        except OSError:
            die()

    def _run_job(self, job: Job, index: int) -> Ended:
        name, payload, id_, attempt, timeout_s, saved = job
        deadline = None if timeout_s is None else monotonic() + timeout_s
        self._run = run = context.Run(self._teller, id_, name, attempt, deadline, saved)
        if self._stopping:
            run.stop()
        self._teller.begin(run, index)
        context.enter(run)
        try:
            return self._run_task(run, payload)
        finally:
            context.enter(None)
            self._run = None

    def _run_task(self, run: context.Run, payload: bytes) -> Ended:
        name = run.name
        try:
            function, is_async, final = self._functions[name]
            args, kwargs = values.unpack_arguments(payload)
        except KeyError:
            text = f"no task is called {name} here"
            if name in registry.DEFAULT.names():
                text = f"this machine's configuration does not allow the task {name} (allow)"
            return frames.FAILED, pack_error("UnknownTask", text)
        except MeshqError as error:
            return frames.FAILED_FINALLY, pack_error("BadArguments", f"the arguments can't be read: {error}")
        try:
            result = function(*args, **kwargs)
            if is_async:
                result = _awaited(result)
        except BaseException as error:  # the edge of a task: whatever it raises is how it ended
            kinds = type(error).__mro__
            if context.Stopped in kinds:
                if run.told_to_stop:
                    return frames.STOPPED, b""
                text = "the task raised Stopped without being told to stop (should_stop)"
                return frames.FAILED, pack_error("meshq.Stopped", text, traceback_of(error))
            is_final = context.Final in kinds or any(kind in final for kind in kinds)
            return frames.FAILED_FINALLY if is_final else frames.FAILED, self._failure(error)
        return self._packed(result)

    def _failure(self, error: BaseException) -> bytes:
        if not isinstance(error, MemoryError) or not self._memory_bytes_max:
            return failure(error)
        self._spent = True
        # What filled the memory stands in the variables of the functions that were left.
        traceback.clear_frames(error.__traceback__)
        bound = f"a process may take {self._memory_bytes_max} bytes here (child_memory_bytes_max)"
        return pack_error("MemoryError", f"the task ran out of memory: {bound}", traceback_of(error))

    def _packed(self, result: Any) -> Ended:
        try:
            blob = values.pack(result, name="result", parts_max=PARTS_MAX)
        except values.Unencodable as error:
            return frames.FAILED_FINALLY, pack_error("Unencodable", f"the task ran, but its result is lost: {error}")
        except Exception as error:  # an object of the user's may misbehave in any way when it is looked at
            text = f"the task ran, but its result is lost: it can't be encoded: {message_of(error)}"
            return frames.FAILED_FINALLY, pack_error("Unencodable", text)
        if len(blob) > self._result_bytes_max:
            return frames.FAILED_FINALLY, pack_error(
                "ResultTooLarge",
                f"the task ran, but its result is lost: it takes {len(blob)} bytes, and "
                f"{self._result_bytes_max} are allowed (result_bytes_max); put it in a file and return the file's name",
            )
        return frames.DONE, blob


def _awaited(coroutine: Any) -> Any:
    import asyncio

    return asyncio.run(coroutine)


def main() -> None:
    """Takes the numbers of its three descriptors from the command line: socket, lifeline, marks."""
    connection_fd, lifeline, marks_fd = (int(text) for text in sys.argv[1:4])
    for descriptor in (connection_fd, lifeline, marks_fd):
        os.set_inheritable(descriptor, False)
    tie_to_daemon(lifeline)
    # Ctrl-C is for the daemon, which then decides; SIGTERM is how a time limit speaks.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    printing = Printing()
    shared = mmap.mmap(marks_fd, frames.MARKS_BYTES)
    Child(socket.socket(fileno=connection_fd), memoryview(shared).cast("Q"), printing).main()


if __name__ == "__main__":
    main()
