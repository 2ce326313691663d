"""Tasks that say what they do: they print, tell how far they are, and fail where they are asked to."""

import time
from pathlib import Path

import meshq

GATE_WAIT_S = 60.0


@meshq.task(retries=0)
def talk(path: str, number: int = 0) -> int:
    """Prints and tells its progress, and waits until PATH exists."""
    print(f"begins {number}", flush=True)
    meshq.current().progress(1, 4, "waits")
    end = time.monotonic() + GATE_WAIT_S
    while not Path(path).exists():
        if time.monotonic() > end:
            raise TimeoutError("the gate was never opened")
        time.sleep(0.02)
    print("grün", flush=True)
    return number


@meshq.task
def fails_until(path: str) -> str:
    """Fails as long as there is no such file."""
    if not Path(path).exists():
        raise FileNotFoundError(path)
    return path


@meshq.task(retries=0)
def goes_on(path: str) -> int:
    """Keeps the number of its run, and waits until PATH exists; returns what it found kept."""
    job = meshq.current()
    found = int(job.saved or b"0")
    job.checkpoint(str(found + 1).encode())
    job.progress(found + 1)
    end = time.monotonic() + GATE_WAIT_S
    while not Path(path).exists():
        if time.monotonic() > end:
            raise TimeoutError("the gate was never opened")
        time.sleep(0.02)
    return found
