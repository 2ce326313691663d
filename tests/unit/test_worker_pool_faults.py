"""The pool with real children that are killed, hang and die as users' code does."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest

from meshq.core.requests import Outcome
from meshq.errors import ConfigError, Stopping
from meshq.wire.values import unpack
from meshq.worker.pool import ChildPool
from tests.unit.worker_desk import TASKS, Desk, error, lines, lives, opened, until

# -- death -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "args", "words"),
    [
        ("exits", (3,), "the child that ran it died: exit code 3"),
        ("exits", (0,), "the child that ran it died: exit code 0"),
        ("faults", (), "the child that ran it died: killed by SIGSEGV (a fault in native code)"),
        ("kills_itself", (), "the child that ran it died: killed by SIGKILL (out of memory?)"),
    ],
)
async def test_a_child_that_dies_costs_its_run_one_attempt_and_nothing_else(
    tmp_path: Path, name: str, args: tuple[Any, ...], words: str
) -> None:
    async with opened(tmp_path, 1) as desk:
        jobs = [desk.job("echo", number) for number in range(5)]
        jobs.insert(2, desk.job(name, *args))
        desk.pool.put(jobs)
        outcomes = await desk.ended(*jobs)
        assert [outcome.kind for outcome in outcomes] == ["done", "done", "crashed", "done", "done", "done"]
        assert error(outcomes[2])["message"] == words
        assert [event for event, _ in desk.events] == ["child_died"]


@pytest.mark.parametrize("what", [b"\0", b"\xff"])
async def test_a_task_that_writes_over_all_that_its_child_has_open_is_charged_for_it(
    tmp_path: Path, what: bytes
) -> None:
    async with opened(tmp_path, 1) as desk:
        filling = desk.job("fills_pipes", what)
        desk.pool.put([filling, desk.job("echo", 1)])
        (outcome,) = await desk.ended(filling)
        assert outcome.kind == "crashed"
        words = "the child that ran it died: killed, for it wrote into its connection with the daemon"
        assert error(outcome)["message"] == words
        assert (await desk.call("echo", 1)).kind == "done"


async def test_kill_9_from_outside(tmp_path: Path) -> None:
    async with opened(tmp_path, 1) as desk:
        pids = tmp_path / "pids"
        job = desk.job("sleep", 600, str(pids))
        desk.pool.put([job, desk.job("echo", 1)])
        await until(lambda: lines(pids))
        os.kill(int(lines(pids)[0]), signal.SIGKILL)
        (outcome,) = await desk.ended(job)
        assert outcome.kind == "crashed"
        assert "SIGKILL" in error(outcome)["message"]
        assert (await desk.call("echo", 1)).kind == "done"


async def test_an_idle_child_that_is_killed_is_replaced(tmp_path: Path) -> None:
    async with opened(tmp_path, 1) as desk:
        for _ in range(3):
            outcome = await desk.call("group")
            assert outcome.result is not None
            pid, group, session = unpack(outcome.result)
            assert pid == group == session != os.getpid()
            os.kill(pid, signal.SIGKILL)
        assert (await desk.call("echo", 1)).kind == "done"
        assert {outcome.kind for outcome in desk.given} == {"done"}


async def test_in_a_frame_only_the_run_that_was_running_is_charged(tmp_path: Path) -> None:
    async with opened(tmp_path, 1) as desk:
        gate, notes = tmp_path / "gate", tmp_path / "notes"
        gate.touch()
        for _ in range(30):
            await desk.call("note", str(notes), "x")
            await desk.call("waits_for", str(gate))
        outcome = await desk.call("group")
        assert outcome.result is not None
        pid = unpack(outcome.result)[0]
        gate.unlink()
        notes.unlink()
        jobs = [desk.job("note", str(notes), str(number)) for number in range(60)]
        jobs.insert(30, desk.job("waits_for", str(gate)))
        desk.pool.put(jobs)
        await until(lambda: len(lines(notes)) >= 30)
        os.kill(pid, signal.SIGKILL)
        outcomes = await desk.ended(*jobs)
        assert [outcome.kind for outcome in outcomes] == ["done"] * 30 + ["crashed"] + ["done"] * 30


async def test_children_that_die_with_many_runs_waiting_lose_none(tmp_path: Path) -> None:
    async with opened(tmp_path, 2) as desk:
        await desk.call("echo", 1)
        jobs = [desk.job("exits", 1) if number % 60 == 30 else desk.job("echo", number) for number in range(400)]
        desk.pool.put(jobs)
        outcomes = await desk.ended(*jobs)
        assert [outcome.kind for outcome in outcomes] == [
            "crashed" if number % 60 == 30 else "done" for number in range(400)
        ]


# -- time limits, kill ---------------------------------------------------------------------------------------------


async def test_a_time_limit_fails_the_run_and_only_this_one(tmp_path: Path) -> None:
    async with opened(tmp_path, 1) as desk:
        jobs = [desk.job("sleep", 600, timeout_s=0.1), desk.job("echo", 1), desk.job("sleep", 0.01, timeout_s=20.0)]
        desk.pool.put(jobs)
        outcomes = await desk.ended(*jobs)
        assert [(outcome.kind, outcome.final) for outcome in outcomes] == [
            ("failed", False), ("done", False), ("done", False),
        ]  # fmt: skip
        assert error(outcomes[0])["message"] == "timed out after 0.1 s"
        assert [event for event, _ in desk.events] == ["timed_out"]


async def test_a_time_limit_wins_over_what_the_task_says_when_it_is_told(tmp_path: Path) -> None:
    async with opened(tmp_path, 1) as desk:
        outcome = await desk.call("tells_late", timeout_s=0.1)
        assert error(outcome)["message"] == "timed out after 0.1 s"
        assert (await desk.call("echo", 1)).kind == "done"


async def test_a_time_limit_ends_those_who_ignore_sigterm_and_what_they_started(tmp_path: Path) -> None:
    async with opened(tmp_path, 1) as desk:
        path = tmp_path / "pids"
        outcome = await desk.call("stubborn", str(path), timeout_s=0.5)
        assert error(outcome)["message"] == "timed out after 0.5 s"
        await until(lambda: not any(lives(int(pid)) for pid in lines(path)))


async def test_kill_ends_a_run_at_once_and_gives_no_outcome(tmp_path: Path) -> None:
    async with opened(tmp_path, 1) as desk:
        path = tmp_path / "pids"
        running, waiting, last = desk.job("stubborn", str(path)), desk.job("echo", 1), desk.job("echo", 2)
        desk.pool.put([running, waiting, last])
        await until(lambda: len(lines(path)) == 2)
        desk.pool.kill([running.id, waiting.id, "f" * 32])
        assert desk.pool.held() == (last,)
        await desk.ended(last)
        assert [outcome.task for outcome in desk.given] == [last.id]
        await until(lambda: not any(lives(int(pid)) for pid in lines(path)))
        assert desk.events == []


async def test_a_killed_task_may_come_again_at_once(tmp_path: Path) -> None:
    async with opened(tmp_path, 1) as desk:
        path = tmp_path / "pids"
        job = desk.job("sleep", 0.2, str(path))
        desk.pool.put([job])
        await until(lambda: lines(path))
        desk.pool.kill([job.id])
        desk.pool.put([job])
        (outcome,) = await desk.ended(job)
        assert outcome.kind == "done"
        assert len(lines(path)) == 2


async def test_a_kill_inside_a_frame_costs_the_others_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path, 1) as desk:
        gate = tmp_path / "gate"
        gate.touch()
        for _ in range(30):
            await desk.call("waits_for", str(gate))
            await desk.call("echo", 0)
        gate.unlink()
        jobs = [desk.job("waits_for", str(gate)), *(desk.job("echo", number) for number in range(20))]
        desk.pool.put(jobs)
        desk.pool.kill([jobs[0].id])
        outcomes = await desk.ended(*jobs[1:])
        assert {outcome.kind for outcome in outcomes} == {"done"}


async def test_a_task_that_holds_the_interpreter_can_be_killed(tmp_path: Path) -> None:
    async with opened(tmp_path, 1) as desk:
        assert error(await desk.call("holds_the_lock", timeout_s=0.3))["message"] == "timed out after 0.3 s"


# -- start and stop --------------------------------------------------------------------------------------------------


async def test_close_releases_what_is_unbegun_and_lets_the_rest_end(tmp_path: Path) -> None:
    async with opened(tmp_path, 1) as desk:
        path = tmp_path / "pids"
        jobs = [desk.job("sleep", 0.3, str(path)), desk.job("echo", 1), desk.job("echo", 2)]
        desk.pool.put(jobs)
        await until(lambda: lines(path))
        await desk.pool.close(10.0)
        late = desk.job("echo", 3)
        desk.pool.put([late])
        outcomes = await desk.ended(*jobs, late)
        assert [outcome.kind for outcome in outcomes] == ["done", "released", "released", "released"]
        assert desk.pool.held() == ()


async def test_close_kills_what_does_not_end_in_time(tmp_path: Path) -> None:
    async with opened(tmp_path, 2) as desk:
        path = tmp_path / "pids"
        job = desk.job("stubborn", str(path))
        desk.pool.put([job])
        await until(lambda: len(lines(path)) == 2)
        await desk.pool.close(0.1)
        (outcome,) = await desk.ended(job)
        assert (outcome.kind, outcome.error) == ("released", None)
        assert desk.pool.running() == 0
        await until(lambda: not any(lives(int(pid)) for pid in lines(path)))


async def test_a_cancelled_pool_ends_its_children_and_releases_its_runs(tmp_path: Path) -> None:
    pool, pids = ChildPool(1, [str(tmp_path / "pool_tasks.py")]), tmp_path / "pids"
    (tmp_path / "pool_tasks.py").write_text(TASKS)
    job = Desk(pool, []).job("stubborn", str(pids))
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        running = group.create_task(pool.run())
        await pool.start()
        pool.put([job])
        await until(lambda: len(lines(pids)) == 2)
        running.cancel()
    assert [outcome.kind for outcome in await pool.outcomes()] == ["released"]
    await until(lambda: not any(lives(int(pid)) for pid in lines(pids)))


async def test_no_slots() -> None:
    pool = ChildPool(0)
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(pool.run())
        assert await pool.start() == ()
        assert (pool.slots, pool.free(), pool.running()) == (0, 0, 0)
        await pool.close(1.0)


async def started(pool: ChildPool) -> None:
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        group.create_task(pool.run())
        await pool.start()


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import no_such_module\n", ["broken.py can't be loaded", "Traceback", "No module named 'no_such_module'"]),
        ("import os\nos._exit(5)\n", ["die while they load the tasks: exit code 5"]),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n", ["killed by SIGSEGV (a fault in native code)"]),
    ],
)
async def test_a_module_that_fails_to_load_stops_the_start(tmp_path: Path, source: str, words: list[str]) -> None:
    (tmp_path / "broken.py").write_text(source)
    with pytest.raises(ExceptionGroup) as caught:
        await started(ChildPool(2, [str(tmp_path / "broken.py")], on_event=lambda name, text: None))
    (failure,) = caught.value.exceptions
    assert isinstance(failure, ConfigError)
    for word in words:
        assert word in failure.message


async def test_a_pool_that_is_closed_while_it_starts() -> None:
    pool = ChildPool(1)
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        group.create_task(pool.run())
        await asyncio.sleep(0)
        await pool.close(0.0)
        with pytest.raises(Stopping):
            await pool.start()


async def test_a_cancelled_wait_for_outcomes_loses_none(tmp_path: Path) -> None:
    async with opened(tmp_path, 1) as desk:
        jobs = [desk.job("echo", number) for number in range(300)]
        desk.pool.put(jobs)
        while len(desk.given) < 300:
            waiting: Awaitable[list[Outcome]] = desk.pool.outcomes()
            try:
                async with asyncio.timeout(0.0002):
                    desk.given += await waiting
            except TimeoutError:
                pass
        await desk.ended(*jobs)
