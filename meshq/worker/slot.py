"""What the pool knows about one slot: its present child, and the frame of runs that this child has."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

from meshq.core.limits import LOG_BYTES_MAX
from meshq.worker.backlog import Run
from meshq.worker.output import Output
from meshq.worker.process import Process

# Whose run prints: the task's id and its name.
Printer = tuple[str, str]


class Frame:
    """Runs that a child has: those that are not done, by their index."""

    __slots__ = ("number", "runs", "timed_out", "timer", "undone")

    def __init__(self, runs: list[Run], number: int) -> None:
        self.runs = runs
        self.undone = dict(enumerate(runs))
        self.number = number
        self.timed_out = False
        self.timer: asyncio.TimerHandle | None = None


class Slot:
    """One child after the other. `condemned`: the pool kills it; `dying`: it is dead, or will be in a moment.

    Args:
        number: Which slot it is.
        output_bytes_max: How much of what its children print in a minute is kept.
        on_printed: Takes that, with the run that was on; None before the first one.
        apart: Whether what each run printed is read apart.
    """

    def __init__(
        self, number: int, output_bytes_max: int, on_printed: Callable[[Printer | None, bytes], None], apart: bool
    ) -> None:
        self.number = number
        self._on_printed = on_printed
        reader, tail = (self.present, min(output_bytes_max, LOG_BYTES_MAX)) if apart else (lambda: None, 0)
        self.output = Output(f"slot {number}", output_bytes_max, self._print, reader, tail)
        self.process: Process | None = None
        self.ready = False
        self.frame: Frame | None = None
        self.frames = 0
        self.condemned = False
        self.dying = False
        self._last: Printer | None = None

    def _print(self, data: bytes) -> None:
        self._on_printed(self.present(), data)

    def present(self) -> Printer | None:
        """The run that is on, or else the one that was last; None where this child had none."""
        frame, process = self.frame, self.process
        if frame is None or process is None:
            return self._last
        begun, _, number = process.marks()
        # The marks are in memory that the user's code can write to.
        if number != frame.number or not 0 < begun <= len(frame.runs):
            return self._last
        job = frame.runs[begun - 1].job
        return job.id, job.name

    def clear(self) -> None:
        """The frame is over."""
        self._last = self.present()
        if self.frame is not None and self.frame.timer is not None:
            self.frame.timer.cancel()
        self.frame = None

    def renew(self) -> None:
        """The next child comes."""
        self.frames, self.condemned, self.dying, self.ready, self._last = 0, False, False, False, None

    def kill(self) -> None:
        """Ends the child, with its process group, without blame for what it runs."""
        self.condemned = True
        if self.process is not None:
            self.process.signal(signal.SIGKILL)
