"""A bar for what takes longer than a second; only on a terminal, on stderr."""

from __future__ import annotations

import asyncio
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from meshq.cli.render import duration, line

if TYPE_CHECKING:
    from meshq.client.aio import AsyncClient
    from meshq.client.handle import Handle
    from meshq.client.record import Record

SHOWN_AFTER_S = 1.0
DRAWN_EVERY_S = 0.2
LOOKED_EVERY_S = 0.5
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


async def finished(client: AsyncClient, task: Handle | str, label: str, timeout_s: float | None = None) -> Record:
    """Waits for one task, as `AsyncClient.finished`; the bar shows how far its run says that it is."""
    bar = Bar(label, unit="waits")
    clock = asyncio.get_running_loop()
    end_s = math.inf if timeout_s is None else clock.time() + timeout_s
    try:
        while bar.is_shown and (left_s := end_s - clock.time()) > 0:
            record = await client.finished(task, min(left_s, LOOKED_EVERY_S))
            if record.finished:
                return record
            bar.done, bar.total, told = record.progress or (0.0, 0.0, "")
            bar.unit = line(told) or record.state
        return await client.finished(task, None if timeout_s is None else max(0.0, end_s - clock.time()))
    finally:
        bar.close()


class Bar:
    """One line, which is erased before anything else is written: stdout may be the same terminal.

    `done`, `total` and `unit` may be set from any thread; all else belongs to the event loop, which must run.

    Args:
        label: What is done.
        total: How many steps that takes, if it is known yet.
        unit: What a step is.
    """

    def __init__(self, label: str, total: int = 0, unit: str = "finished") -> None:
        self.done: float = 0
        self.total: float = total
        self.unit = unit
        self._label = label
        self._drawn = False
        self._loop = asyncio.get_running_loop()
        self._began_s = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
            self._timer = self._loop.call_later(SHOWN_AFTER_S, self._draw)

    @property
    def is_shown(self) -> bool:
        """Whether anybody sees it, once it has taken long enough."""
        return self._timer is not None

    def step(self, text: str = "", steps: int = 1) -> None:
        """Counts one step or several, and prints what there is to say about them, if anything."""
        self.done += steps
        if text:
            self._erase()
            click.echo(text)

    def close(self) -> None:
        """Takes the bar away."""
        if self._timer is not None:
            self._timer.cancel()
        self._erase()

    def _draw(self) -> None:
        filled = max(0, min(BAR_CELLS, int(BAR_CELLS * self.done / (self.total or 1))))
        bar = "#" * filled + "-" * (BAR_CELLS - filled)
        waited = duration(self._loop.time() - self._began_s)
        steps = f"[{bar}] {self.done:.15g} of {self.total:.15g} " if self.total else ""
        text = f"{steps}{self.unit}, {waited} so far: {self._label}"
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
