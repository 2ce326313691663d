"""A copy of a large file in a thread of its own, with a bar."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from meshq.cli.progress import Bar
from meshq.store.backup import Copied, OnProgress


class _Stopped(Exception):
    """The user does not want it any more."""


async def copied(file: Path, work: Callable[[OnProgress], Copied]) -> Copied:
    """Does the work on this file; Ctrl-C ends it at its next step, and it cleans up."""
    stopped = False
    bar = Bar(str(file), unit="pages")

    def on_progress(done: int, total: int) -> None:
        if stopped:
            raise _Stopped
        bar.done, bar.total = done, total

    try:
        return await asyncio.to_thread(work, on_progress)
    finally:
        stopped = True
        bar.close()
