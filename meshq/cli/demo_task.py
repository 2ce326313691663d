"""The task of `meshq demo`, which writes down each of its runs, so that the demo believes nobody but the runs."""

from __future__ import annotations

import os
import time

from meshq.tasks.registry import task


@task(name="demo")
def demo_task(number: int, took_s: float, ledger: str) -> int:
    """Squares a number, and takes its time for it.

    Args:
        number: Which task of the demo this is.
        took_s: Seconds.
        ledger: The file in which it notes that it begins, and that it ends.
    """
    _note(ledger, f"begin {number}\n")
    time.sleep(took_s)
    _note(ledger, f"end {number}\n")
    return number * number


def _note(ledger: str, line: str) -> None:
    # One short write to a file that is only added to, so that those of several processes don't mix.
    file = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, line.encode("ascii"))
    finally:
        os.close(file)
