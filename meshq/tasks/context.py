"""What a task sees of its own run: `meshq.current()`; and the same without a daemon, for tests: `meshq.eager()`.

The clock is read here and not handed in: this is the process that runs users' code, not a daemon.
"""

from __future__ import annotations

import logging
import math
import numbers
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Protocol

from meshq.core.limits import CHECKPOINT_BYTES_MAX, NOTE_CHARS_MAX

# What a task logs through it stands among what it prints.
LOGGER = logging.getLogger("meshq.task")


class Final(Exception):
    """Raised by a task that need not be tried again: it fails for good, whatever retries it has left."""

    __module__ = "meshq"


class Stopped(Exception):
    """Raised by a task that was told to stop (`should_stop`): it waits again, at the cost of no attempt."""

    __module__ = "meshq"


class Home(Protocol):
    """Where a run's words go."""

    def on_progress(self, run: Run, done: float, total: float, note: str) -> None:
        """How far it is."""

    def on_checkpoint(self, run: Run, data: bytes) -> None:
        """What the next attempt shall have."""


class Run:
    """The run of a task, as the task sees it; `meshq.current()` gives it.

    Args:
        home: Where its words go.
        task: The task's id.
        name: The task's name.
        attempt: 1 for the first run of the task, and so on.
        deadline: When its time limit ends it, on `time.monotonic`'s clock; None without one.
        saved: What an earlier attempt gave to `checkpoint` last; None where there was nothing.
    """

    __slots__ = ("_home", "_stopping", "attempt", "cares", "deadline", "id", "name", "saved")

    def __init__(
        self, home: Home, task: str, name: str, attempt: int, deadline: float | None, saved: bytes | None
    ) -> None:
        self.id, self.name, self.attempt = task, name, attempt
        self.deadline, self.saved = deadline, saved
        self._home = home
        self._stopping = False
        # Whether it ever asked: who doesn't is ended without being told.
        self.cares = False

    @property
    def log(self) -> logging.Logger:
        """A logger whose lines stand in the task's log, among what it prints."""
        return LOGGER

    def left_s(self) -> float | None:
        """Seconds until its time limit ends it, 0 at the least; None without a limit."""
        return None if self.deadline is None else max(0.0, self.deadline - monotonic())

    def should_stop(self) -> bool:
        """Whether this run is to end: its time limit is over (two seconds are left then), or its daemon stops.

        Save a checkpoint if there is something to be saved, and raise `meshq.Stopped`. A task that never asks is
        ended all the same.
        """
        self.cares = True
        return self._stopping

    def stop(self) -> None:
        """Tells it to end."""
        self._stopping = True

    @property
    def told_to_stop(self) -> bool:
        """Whether it was told, which this does not count as asking."""
        return self._stopping

    def progress(self, done: float, total: float = 0, note: str = "") -> None:
        """Tells how far this run is; shown wherever the task is. It may be called as often as one likes.

        Args:
            done: How much of its work is done, in a unit of its own.
            total: How much there is in all; 0 where that is not known.
            note: A few words on what it does now, on one line.

        Raises:
            TypeError: No numbers, or no text.
            ValueError: A number that is negative or not finite, or a note of more than 200 characters.
        """
        if type(note) is not str:
            raise TypeError(f"progress: note must be a str, not {type(note).__name__}")
        if len(note) > NOTE_CHARS_MAX:
            raise ValueError(f"progress: note has {len(note)} characters; at most {NOTE_CHARS_MAX} are allowed")
        # A file's name may be no Unicode, which no message takes.
        note = note.encode("utf-8", "replace").decode()
        self._home.on_progress(self, _amount("done", done), _amount("total", total), note)

    def checkpoint(self, data: bytes | bytearray | memoryview) -> None:
        """Keeps this for the next attempt, should there be one: as `saved`, on whichever machine. The newest counts.

        It returns at once; a moment later it is on the disks of the cluster. It is gone when the task is purged.

        Args:
            data: At most 1 MiB.

        Raises:
            TypeError: No bytes.
            ValueError: Too many of them.
        """
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"checkpoint: data must be bytes, not {type(data).__name__}")
        data = bytes(data)
        if len(data) > CHECKPOINT_BYTES_MAX:
            raise ValueError(f"checkpoint: data has {len(data)} bytes; at most {CHECKPOINT_BYTES_MAX} are allowed")
        self._home.on_checkpoint(self, data)


def _amount(label: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, numbers.Real)):
        raise TypeError(f"progress: {label} must be a number, not {type(value).__name__}")
    try:
        amount = float(value)
    except OverflowError:
        amount = math.inf
    if not 0.0 <= amount < math.inf:
        raise ValueError(f"progress: {label} must be finite and at least 0, not {amount}")
    return amount


# A process runs one task at a time, so that its threads, and all that is async, may share this.
_present: Run | None = None


def enter(run: Run | None) -> Run | None:
    """Makes this the run that `current` gives, and returns what that was before."""
    global _present
    before, _present = _present, run
    return before


def current() -> Run:
    """The run of the task that calls this; from its threads and coroutines, too.

    Raises:
        RuntimeError: No task runs in this process.
    """
    if _present is None:
        raise RuntimeError(
            "meshq.current() is for the code of a task while it runs; to call a task's function by hand, write: "
            "with meshq.eager(): …"
        )
    return _present


class EagerRun(Run):
    """The run of tasks that are called by hand; it notes all that they tell.

    `told` holds each progress as (done, total, note), `kept` each checkpoint and `logged` each line, oldest first.
    """

    __slots__ = ("_stops_after", "kept", "logged", "told")

    def __init__(
        self, task: str, attempt: int, deadline: float | None, saved: bytes | None, stops_after: int | None
    ) -> None:
        super().__init__(_Notes(), task, "eager", attempt, deadline, saved)
        self._stops_after = stops_after
        self.told: list[tuple[float, float, str]] = []
        self.kept: list[bytes] = []
        self.logged: list[str] = []

    def should_stop(self) -> bool:
        """Whether `stop` was called, or this was asked more often than `stops_after`."""
        if self._stops_after is not None:
            if not self._stops_after:
                self.stop()
            self._stops_after = max(0, self._stops_after - 1)
        return super().should_stop()


class _Notes:
    def on_progress(self, run: Run, done: float, total: float, note: str) -> None:
        assert isinstance(run, EagerRun)
        run.told.append((done, total, note))

    def on_checkpoint(self, run: Run, data: bytes) -> None:
        assert isinstance(run, EagerRun)
        run.kept.append(data)


class _Lines(logging.Handler):
    def __init__(self, lines: list[str]) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(record.getMessage())


@contextmanager
def eager(
    *,
    task: str = "0" * 32,
    attempt: int = 1,
    timeout_s: float | None = None,
    saved: bytes | None = None,
    stops_after: int | None = None,
) -> Iterator[EagerRun]:
    """Lets a task's function be called by hand, without a daemon: inside, `meshq.current()` gives this run.

        with meshq.eager(saved=b"2") as run:
            assert add_up([1, 2, 3, 4]) == 7
        assert run.told[-1] == (4, 4, "")
        assert run.kept == [b"3", b"4"]

    Args:
        task: The task's id.
        attempt: Which run of the task it is.
        timeout_s: For `deadline` and `left_s`; nothing is ended.
        saved: What an earlier attempt kept.
        stops_after: How many times `should_stop` says no before it says yes; None for always no.

    Raises:
        RuntimeError: It is used within another one.
    """
    deadline = None if timeout_s is None else monotonic() + timeout_s
    run = EagerRun(task, attempt, deadline, saved, stops_after)
    if isinstance(_present, EagerRun):
        raise RuntimeError("meshq.eager() within meshq.eager(): only one run is the current one")
    handler, level = _Lines(run.logged), LOGGER.level
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.DEBUG)
    before = enter(run)
    try:
        yield run
    finally:
        enter(before)
        LOGGER.setLevel(level)
        LOGGER.removeHandler(handler)
