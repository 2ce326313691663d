"""Tasks for the cluster tests. Each run leaves lines in a file, so that a second run can't hide."""

import os
import time
from pathlib import Path

from meshq import task

GATE_WAIT_S = 40.0


def _write(path: str, line: str) -> None:
    # One write with O_APPEND: lines of several processes do not mix.
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(fd, f"{line}\n".encode())
    finally:
        os.close(fd)


@task
def note(path: str, wait_s: float, number: int = 0) -> int:
    """Notes its start, and after a while its end."""
    _write(path, f"start {number}")
    time.sleep(wait_s)
    _write(path, f"end {number}")
    return number


@task
def gate(path: str, number: int) -> int:
    """Notes its start, waits until PATH.open exists, and notes its end with the wall clock's time."""
    _write(path, f"start {number}")
    end = time.monotonic() + GATE_WAIT_S
    while not Path(f"{path}.open").exists():
        if time.monotonic() > end:
            raise TimeoutError("the gate was never opened")
        time.sleep(0.02)
    _write(path, f"end {number} {time.time()}")
    return number


@task
def mark(path: str, name: str, wait_s: float) -> list[str]:
    """Notes its start and its end with a token of this run's own, and returns it: a result tells which run's it is."""
    token = os.urandom(6).hex()
    _write(path, f"start {name} {token}")
    time.sleep(wait_s)
    _write(path, f"end {name} {token}")
    return [name, token]
