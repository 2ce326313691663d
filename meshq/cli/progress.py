"""A bar for what takes longer than a second; only on a terminal, on stderr."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from meshq.cli.render import duration

SHOWN_AFTER_S = 1.0
DRAWN_EVERY_S = 0.2
BAR_CELLS = 30
ERASE = "\r\x1b[2K"


@contextmanager
def progress(label: str, total: int) -> Iterator[Callable[[str], None]]:
    """Yields what prints a line on stdout, above the bar, and counts one step. Needs a running event loop."""
    bar = Bar(label, total)
    try:
        yield bar.step
    finally:
        bar.close()


class Bar:
    """One line, which is erased before anything else is written: stdout may be the same terminal.

    `done` and `total` may be set from any thread; all else belongs to the event loop, which must run.

    Args:
        label: What is done.
        total: How many steps that takes, if it is known yet.
        unit: What a step is.
    """

    def __init__(self, label: str, total: int = 0, unit: str = "finished") -> None:
        self.done = 0
        self.total = total
        self._label = label
        self._unit = unit
        self._drawn = False
        self._loop = asyncio.get_running_loop()
        self._began_s = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
            self._timer = self._loop.call_later(SHOWN_AFTER_S, self._draw)

    def step(self, line: str) -> None:
        """Counts one step, and prints a line about it."""
        self.done += 1
        self._erase()
        click.echo(line)

    def close(self) -> None:
        """Takes the bar away."""
        if self._timer is not None:
            self._timer.cancel()
        self._erase()

    def _draw(self) -> None:
        filled = BAR_CELLS * self.done // max(1, self.total)
        bar = "#" * filled + "-" * (BAR_CELLS - filled)
        waited = duration(self._loop.time() - self._began_s)
        text = f"[{bar}] {self.done} of {self.total} {self._unit}, {waited} so far: {self._label}"
        # A line that wraps could not be erased. (A name may have wide characters.)
        cells = os.get_terminal_size(sys.stderr.fileno()).columns
        while len(text.encode("utf-8")) >= cells > 1:
            text = text[: len(text) - 1]
        sys.stderr.write(f"{ERASE}{text}")
        sys.stderr.flush()
        self._drawn = True
        self._timer = self._loop.call_later(DRAWN_EVERY_S, self._draw)

    def _erase(self) -> None:
        if self._drawn:
            self._drawn = False
            sys.stderr.write(ERASE)
            sys.stderr.flush()
