"""Processes and what they started, as `/proc` shows them."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path

FREEZE_S = 5.0


def descendants(pid: int) -> list[int]:
    """The processes that this one started, those that these started, and so on."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*"):
        status, parent = _stat(int(path.name))
        if status not in ("", "Z"):
            parents[int(path.name)] = parent
    found = [pid]
    for each in found:
        found += [child for child, parent in parents.items() if parent == each]
    return found[1:]


def runs(pid: int) -> bool:
    """Whether there is such a process, stopped or not, and it is no zombie."""
    return _stat(pid)[0] not in ("", "Z")


def stands_still(pid: int) -> bool:
    """Whether it is stopped."""
    return _stat(pid)[0] == "T"


def send(pids: Iterable[int], number: int) -> None:
    """Sends a signal to those that still run."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def freeze(pid: int) -> None:
    """Stops a process and all that it started, and returns when they stand still."""
    stopped: set[int] = set()
    # The first one before the others: it starts nothing any more while they are looked for.
    new = {pid}
    while new:
        send(new, signal.SIGSTOP)
        end = time.monotonic() + FREEZE_S
        while moving := [each for each in new if runs(each) and not stands_still(each)]:
            assert time.monotonic() < end, f"processes {moving} do not stop"
            time.sleep(0.002)
        stopped |= new
        new = set(descendants(pid)) - stopped


def thaw(pid: int) -> None:
    """Lets them go on, the first one last."""
    send([*descendants(pid), pid], signal.SIGCONT)


def _stat(pid: int) -> tuple[str, int]:
    """The process's state and its parent; an empty state where it is gone."""
    try:
        # Its name stands in brackets and may hold anything.
        state, parent = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
    except OSError:
        return "", 0
    return state, int(parent)
