"""A child dies with its daemon, whatever it is doing. The daemon here is a process of its own, killed for real."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

DAEMON = """
import asyncio, sys
from meshq.core.requests import (Job)
from meshq.wire.values import pack_arguments
from meshq.worker.pool import ChildPool

async def main():
    module, name, path = sys.argv[1:]
    pool = ChildPool(1, [module])
    async with asyncio.TaskGroup() as group:
        group.create_task(pool.run())
        await pool.start()
        pool.put([Job(id="0" * 32, name=name, epoch=1, attempt=1, payload=pack_arguments([path], {}))])
        await asyncio.sleep(600)

asyncio.run(main())
"""

TASKS = """
import os, re, signal, subprocess, time
from meshq import task

def tell(path, *pids):
    with open(path + ".part", "w") as file:
        file.write(" ".join(map(str, pids)))
    os.rename(path + ".part", path)

@task
def sleeps(path):
    tell(path, os.getpid())
    time.sleep(600)

@task
def holds_the_lock(path):
    tell(path, os.getpid())
    re.match(r"(a+)+$", "a" * 60 + "b")

@task
def has_grandchildren(path):
    process = subprocess.Popen(["sleep", "600"])
    fork = os.fork()
    if fork == 0:
        time.sleep(600)
    tell(path, os.getpid(), process.pid, fork)
    re.match(r"(a+)+$", "a" * 60 + "b")

@task
def ignores_signals(path):
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    tell(path, os.getpid())
    time.sleep(600)
"""


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def until(condition: Callable[[], bool], wait_s: float = 15.0) -> bool:
    deadline = time.monotonic() + wait_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills a process group when a pipe closes")
@pytest.mark.parametrize("name", ["sleeps", "holds_the_lock", "has_grandchildren", "ignores_signals"])
def test_kill_9_of_the_daemon_ends_the_child_and_all_that_it_started(tmp_path: Path, name: str) -> None:
    (tmp_path / "child_tasks.py").write_text(TASKS)
    told = tmp_path / "pids"
    arguments = [sys.executable, "-c", DAEMON, str(tmp_path / "child_tasks.py"), name, str(told)]
    with subprocess.Popen(arguments) as daemon:
        try:
            assert until(told.exists), "the task never began"
            pids = [int(word) for word in told.read_text().split()]
            assert all(map(lives, pids))
        finally:
            daemon.send_signal(signal.SIGKILL)
    assert until(lambda: not any(map(lives, pids)), 5.0), f"{name}: {pids} outlived their daemon"
