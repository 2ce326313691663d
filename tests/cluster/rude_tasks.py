"""Tasks that misbehave in every way that a careless program finds."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from meshq import task


class Odd(Exception):
    """Nothing can be said of it."""

    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__

    def __reduce__(self) -> str:
        raise RuntimeError("no")


@task
def stubborn(path: str) -> None:
    """Ignores SIGTERM, and has a process that does, too; writes both numbers into PATH."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    other = subprocess.Popen(["sleep", "600"])
    Path(path).write_text(f"{os.getpid()} {other.pid} ")
    while True:
        time.sleep(600)


@task
def forks() -> str:
    """Forks, and lets both return."""
    return "copy" if os.fork() == 0 else "original"


@task
def fills_pipes() -> None:
    """Writes into whatever is open."""
    for descriptor in range(3, 100):
        try:
            os.set_blocking(descriptor, False)
            os.write(descriptor, b"\xff" * 65536)
        except OSError:
            pass
    time.sleep(600)


@task
def prints(lines: int) -> str:
    """Prints that many lines of 1 KiB."""
    for number in range(lines):
        print(f"{number:08}", "x" * 1014)
    return "printed"


@task
def raises_odd() -> None:
    """Raises what can't be looked at."""
    raise Odd


@task
def raises_surrogate() -> None:
    """Raises what no encoding has."""
    raise ValueError("\udcff")


@task
def exits() -> None:
    """Calls sys.exit."""
    sys.exit("enough")


@task
def faults() -> None:
    """Reads where nothing is."""
    ctypes.string_at(0)


@task
def eats() -> int:
    """Takes memory without end."""
    found = []
    while True:
        found.append(bytearray(32 << 20))


@task
def is_killed() -> None:
    """Ends as the kernel ends who takes too much memory."""
    os.kill(os.getpid(), signal.SIGKILL)
