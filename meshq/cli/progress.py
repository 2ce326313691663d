"""A bar for what takes longer than a second; only on a terminal, on stderr."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

SHOWN_AFTER_S = 1.0


@contextmanager
def progress(label: str, total: int) -> Iterator[Callable[[], None]]:
    """Yields what is to be called at each step. Needs a running event loop."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    bar = Progress(
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        console=Console(stderr=True), transient=True, redirect_stdout=sys.stdout.isatty(),
    )  # fmt: skip
    task = bar.add_task(label, total=total)
    timer = asyncio.get_running_loop().call_later(SHOWN_AFTER_S, bar.start)
    try:
        yield lambda: bar.advance(task)
    finally:
        timer.cancel()
        bar.stop()
