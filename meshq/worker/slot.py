"""What the pool knows about one slot: its present child, and the frame of runs that this child has."""

from __future__ import annotations

import asyncio
import signal

from meshq.worker.backlog import Run
from meshq.worker.output import Output
from meshq.worker.process import Process


class Frame:
    """Runs that a child has: those that are not done, by their index."""

    __slots__ = ("number", "timed_out", "timer", "undone")

    def __init__(self, runs: list[Run], number: int) -> None:
        self.undone = dict(enumerate(runs))
        self.number = number
        self.timed_out = False
        self.timer: asyncio.TimerHandle | None = None


class Slot:
    """One child after the other. `condemned`: the pool kills it; `dying`: it is dead, or will be in a moment."""

    def __init__(self, number: int, output_bytes_max: int) -> None:
        self.number = number
        self.output = Output(f"slot {number}", output_bytes_max)
        self.process: Process | None = None
        self.ready = False
        self.frame: Frame | None = None
        self.frames = 0
        self.condemned = False
        self.dying = False

    def kill(self) -> None:
        """Ends the child, with its process group, without blame for what it runs."""
        self.condemned = True
        if self.process is not None:
            self.process.signal(signal.SIGKILL)
