"""A pool with real children and tasks of every kind, for the tests of the pool."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from meshq.core.limits import ERROR_BYTES_MAX
from meshq.core.requests import Job, Outcome
from meshq.wire.values import pack_arguments, unpack
from meshq.worker.pool import ChildPool

TASKS = '''
import asyncio, os, re, signal, subprocess, sys, threading, time
from meshq import task

@task
def note(path, text):
    with open(path, "a") as file:
        file.write(text + chr(10))
    return text

@task
def sleep(duration_s, path=None):
    if path:
        with open(path, "a") as file:
            file.write(f"{os.getpid()}{chr(10)}")
    time.sleep(duration_s)
    return duration_s

@task
def waits_for(path):
    """Short, unless the file is not there."""
    while not os.path.exists(path):
        time.sleep(0.005)

@task
def raises(kind, text):
    raise {"ValueError": ValueError, "KeyError": KeyError, "SystemExit": sys.exit, "KeyboardInterrupt":
           KeyboardInterrupt}[kind](text)

class Rude(Exception):
    def __str__(self):
        raise RuntimeError("no")

@task
def rude():
    raise Rude()

@task
def endless_text():
    raise ValueError("x" * 1_000_000)

@task
def returns_object():
    return {"inside": [object()]}

class Odd(dict):
    def items(self):
        raise RuntimeError("odd")
    keys = values = __iter__ = items

@task
def returns_odd():
    return Odd(a=1)

@task
def returns_bytes(size):
    return b"x" * size

@task
async def later(value):
    await asyncio.sleep(0)
    return value

@task
def exits(code):
    os._exit(code)

@task
def kills_itself():
    os.kill(os.getpid(), signal.SIGKILL)

@task
def faults():
    import ctypes
    ctypes.string_at(0)

@task
def fills_pipes(what):
    for fd in range(3, 100):
        try:
            os.set_blocking(fd, False)
            os.write(fd, what * 65536)
        except OSError:
            pass
    time.sleep(600)

@task
def prints():
    print("to stdout")
    print("to stderr", file=sys.stderr)
    os.write(1, b"raw bytes " * 1000)
    return sys.stdin.read()

@task
def forks():
    if os.fork() == 0:
        return "the copy"
    os.wait()
    return "the original"

@task
def stubborn(path):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    process = subprocess.Popen(["sleep", "600"])
    with open(path, "w") as file:
        file.write(f"{os.getpid()} {process.pid} ")
    time.sleep(600)

@task
def tells_late():
    def late(*_):
        raise RuntimeError("woken by SIGTERM")
    signal.signal(signal.SIGTERM, late)
    time.sleep(600)

@task
def holds_the_lock():
    re.match(r"(a+)+$", "a" * 60 + "b")

@task
def environment(name):
    return os.environ.get(name)

@task
def group():
    return [os.getpid(), os.getpgrp(), os.getsid(0)]
'''

Events = list[tuple[str, str]]


class Desk:
    """A running pool, and all outcomes that it gave, by task."""

    def __init__(self, pool: ChildPool, events: Events) -> None:
        self.pool, self.events = pool, events
        self.given: list[Outcome] = []
        self._count = 0

    def job(self, name: str, *args: Any, timeout_s: float | None = None, **kwargs: Any) -> Job:
        self._count += 1
        return Job(
            id=f"{self._count:032x}", name=name, epoch=7, attempt=2,
            payload=pack_arguments(args, kwargs), timeout_s=timeout_s,
        )  # fmt: skip

    async def ended(self, *jobs: Job) -> list[Outcome]:
        """The outcomes of these, in their order."""
        wanted = [job.id for job in jobs]
        while not set(wanted) <= {outcome.task for outcome in self.given}:
            self.given += await self.pool.outcomes()
        by_task = {outcome.task: outcome for outcome in self.given}
        assert len(by_task) == len(self.given), "two outcomes of one run"
        return [by_task[task] for task in wanted]

    async def call(self, name: str, *args: Any, **kwargs: Any) -> Outcome:
        job = self.job(name, *args, **kwargs)
        self.pool.put([job])
        return (await self.ended(job))[0]


@asynccontextmanager
async def opened(tmp_path: Path, slots: int = 2, **settings: Any) -> AsyncIterator[Desk]:
    module = tmp_path / "pool_tasks.py"
    module.write_text(TASKS)
    events: Events = []
    pool = ChildPool(slots, [str(module)], on_event=lambda name, text: events.append((name, text)), **settings)
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        group.create_task(pool.run())
        await pool.start()
        try:
            yield Desk(pool, events)
        finally:
            await pool.close(0.0)


def error(outcome: Outcome) -> dict[str, str]:
    assert outcome.error is not None
    assert len(outcome.error) <= ERROR_BYTES_MAX
    body: dict[str, str] = unpack(outcome.error)
    # Built-in exceptions come with `args`, too.
    assert {"type", "message", "traceback"} <= set(body) <= {"type", "message", "traceback", "args"}
    return body


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(15):
        while True:
            if condition():
                return
            await asyncio.sleep(0.005)


def lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


def lines(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def children() -> list[int]:
    """The processes that pools of this process have started."""
    pids = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [int(pid) for pid in pids if b"meshq.worker.child" in Path(f"/proc/{pid}/cmdline").read_bytes()]
