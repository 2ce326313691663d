"""What runs in real children print: whose it was is told exactly, and none of it goes to the daemon's stderr."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from meshq.core.requests import Job
from meshq.worker.bounds import Bounds
from meshq.worker.pool import ChildPool
from tests.unit.worker_desk import Desk, children, error, until

TASKS = """
import logging, os, subprocess, sys, time
from meshq import current, task

print("while it is loaded")

@task
def says(text, end=chr(10)):
    print(text, end=end)

@task
def silent():
    pass

@task
def says_everywhere(text):
    print(text, "out")
    print(text, "err", file=sys.stderr)
    current().log.warning("%s log", text)
    logging.getLogger("mine").error("%s last resort", text)
    os.write(1, f"{text} fd\\n".encode())
    subprocess.run(["sh", "-c", f"echo {text} sub; echo {text} suberr >&2"], check=True)
    print(text, "end")

@task
def says_and_dies(text, how):
    print(text)
    if how == "exit":
        os._exit(3)
    os.kill(os.getpid(), 9 if how == "kill" else 11)

@task
def says_and_waits(text, path):
    print(text)
    while not os.path.exists(path):
        time.sleep(0.005)

@task
def floods(size_bytes):
    line = "x" * 99 + chr(10)
    for _ in range(size_bytes // 100):
        sys.stdout.write(line)
    print("the end")

@task
def closes():
    sys.stdout.close()
    sys.stderr.close()

@task
def says_surrogates():
    print("a \\ud800 b")
    sys.stdout.flush()

@task
def raises_surrogates():
    class Odd(Exception):
        __qualname__ = "\\ud800"
    raise Odd("\\udfff")

@task
def raises_unreadable(kind):
    class Worse(Exception):
        def __str__(self):
            raise SystemExit("no")
        __repr__ = __str__
    if kind == "exit":
        sys.exit(Worse())
    raise Worse
"""


class Printed:
    """What each task printed."""

    def __init__(self) -> None:
        self.of: dict[str, bytes] = defaultdict(bytes)

    def add(self, task: str, data: bytes) -> None:
        self.of[task] += data


@asynccontextmanager
async def opened(
    tmp_path: Path, slots: int = 1, output_bytes_max: int = 1 << 20
) -> AsyncIterator[tuple[Desk, Printed]]:
    module = tmp_path / "printing_tasks.py"
    module.write_text(TASKS)
    events: list[tuple[str, str]] = []
    printed = Printed()
    bounds = Bounds(output_bytes_max=output_bytes_max)
    pool = ChildPool(
        slots, [str(module)], bounds=bounds, on_event=lambda name, text: events.append((name, text)),
        on_printed=printed.add,
    )  # fmt: skip
    async with asyncio.timeout(90), asyncio.TaskGroup() as group:
        group.create_task(pool.run())
        await pool.start()
        try:
            yield Desk(pool, events), printed
        finally:
            await pool.close(0.0)


async def test_each_runs_words_are_its_own_when_its_outcome_is_there(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async with opened(tmp_path, 2) as (desk, printed):
        jobs: list[Job] = []
        for number in range(300):
            if number % 3:
                jobs.append(desk.job("says", f"I am {number}", end="" if number % 2 else "\n"))
            else:
                jobs.append(desk.job("silent"))
        desk.pool.put(jobs)
        await desk.ended(*jobs)
        for number, job in enumerate(jobs):
            text = f"I am {number}{'' if number % 2 else chr(10)}"
            assert printed.of.get(job.id) == (text.encode() if number % 3 else None)
    captured = capfd.readouterr()
    assert (captured.out, set(captured.err.splitlines())) == ("", {"while it is loaded"})


async def test_short_runs_that_share_a_frame_are_told_apart(tmp_path: Path) -> None:
    """Until one of a name prints, they go to a child together."""
    async with opened(tmp_path) as (desk, printed):
        for _ in range(30):
            await desk.call("silent")
            await desk.call("says", "", end="")
        jobs = [desk.job("says", "" if number != 40 else "me", end="") for number in range(80)]
        jobs += [desk.job("silent") for _ in range(20)]
        desk.pool.put(jobs)
        outcomes = await desk.ended(*jobs)
        assert {outcome.kind for outcome in outcomes} == {"done"}
        assert printed.of == {jobs[40].id: b"me"}


async def test_whatever_way_it_prints_the_order_is_kept(tmp_path: Path) -> None:
    async with opened(tmp_path) as (desk, printed):
        jobs = [desk.job("says_everywhere", word) for word in ("one", "two", "three")]
        desk.pool.put(jobs)
        await desk.ended(*jobs)
        for job, word in zip(jobs, ("one", "two", "three"), strict=True):
            said = printed.of[job.id].decode().splitlines()
            assert [line.rpartition(" WARNING ")[2] for line in said] == [
                f"{word} {way}" for way in ("out", "err", "log", "last resort", "fd", "sub", "suberr", "end")
            ]


@pytest.mark.parametrize("how", ["exit", "kill", "fault"])
async def test_the_last_words_of_a_child_that_dies_are_its_runs(tmp_path: Path, how: str) -> None:
    async with opened(tmp_path) as (desk, printed):
        jobs = [desk.job("says_and_dies", "last words", how), desk.job("says", "next")]
        desk.pool.put(jobs)
        outcomes = await desk.ended(*jobs)
        assert [outcome.kind for outcome in outcomes] == ["crashed", "done"]
        assert printed.of == {jobs[0].id: b"last words\n", jobs[1].id: b"next\n"}


async def test_what_a_run_prints_is_there_while_it_runs(tmp_path: Path) -> None:
    async with opened(tmp_path) as (desk, printed):
        job = desk.job("says_and_waits", "so far", str(tmp_path / "gate"))
        desk.pool.put([job])
        await until(lambda: printed.of[job.id] == b"so far\n")
        desk.pool.kill([job.id])
        assert (await desk.call("echo", 1)).kind == "done"


async def test_a_run_that_prints_100_mb_is_cut_off_and_disturbs_nobody(tmp_path: Path) -> None:
    async with opened(tmp_path, 2, output_bytes_max=200_000) as (desk, printed):
        flood = desk.job("floods", 100 << 20)
        others = [desk.job("silent") for _ in range(2000)]
        desk.pool.put([flood, *others])
        await desk.ended(flood, *others)
        text = printed.of[flood.id].decode()
        # A second minute may have begun.
        assert 400_000 < len(text) < 801_000
        assert text.count("printed more than 200000 bytes within a minute; the rest is left out but for its end") >= 1
        assert text.endswith("x\nthe end\n"), "the last words are the ones that count"
        assert {outcome.kind for outcome in desk.given} == {"done"}
        # Whoever prints in the same slot within the same minute is heard all the same.
        jobs = [desk.job("says", "heard") for _ in range(50)]
        desk.pool.put(jobs)
        await desk.ended(*jobs)
        said = [printed.of[job.id].decode() for job in jobs]
        assert all(text.endswith("heard\n") for text in said)


async def test_a_run_that_closes_its_streams_takes_them_from_nobody_else(tmp_path: Path) -> None:
    async with opened(tmp_path) as (desk, printed):
        jobs = [desk.job("closes"), desk.job("says_everywhere", "still")]
        desk.pool.put(jobs)
        outcomes = await desk.ended(*jobs)
        assert [outcome.kind for outcome in outcomes] == ["done", "done"]
        assert {f"still {way}" for way in ("out", "err", "end")} <= set(printed.of[jobs[1].id].decode().splitlines())


async def test_texts_that_no_encoding_has_fail_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as (desk, printed):
        job = desk.job("says_surrogates")
        desk.pool.put([job])
        assert (await desk.ended(job))[0].kind == "done"
        assert printed.of[job.id] == b"a \\ud800 b\n"
        failed = error(await desk.call("raises_surrogates"))
        assert (failed["type"], failed["message"]) == ("printing_tasks.\\ud800", "\\udfff")
        failed = error(await desk.call("raises_unreadable", "plain"))
        assert "whose text can't be shown: its str() raised SystemExit" in failed["message"]
        failed = error(await desk.call("raises_unreadable", "exit"))
        assert "whose text can't be shown" in failed["message"]
        assert desk.events == []


async def test_sigkill_from_outside_is_told_with_what_it_may_mean(tmp_path: Path) -> None:
    async with opened(tmp_path) as (desk, printed):
        job = desk.job("says_and_waits", "here", str(tmp_path / "gate"))
        desk.pool.put([job])
        await until(lambda: printed.of[job.id])
        (pid,) = children()
        os.kill(pid, signal.SIGKILL)
        (outcome,) = await desk.ended(job)
        assert error(outcome)["message"] == "the child that ran it died: killed by SIGKILL (out of memory?)"
