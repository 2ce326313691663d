"""What runs in real children tell, keep and are told: progress, checkpoints, the end of their time."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from meshq.core.limits import CHECKPOINT_BYTES_MAX
from meshq.core.requests import Job, Outcome, RunProgress
from meshq.wire.values import unpack
from meshq.worker.pool import ChildPool
from tests.unit.worker_desk import Desk, children, error, until

TASKS = """
import asyncio, os, threading, time
import meshq
from meshq import current, task

def wait_for(path):
    while not os.path.exists(path):
        time.sleep(0.005)

@task
def facts():
    run = current()
    return [run.id, run.name, run.attempt, run.saved, run.deadline is None, run.left_s(), run.should_stop()]

@task
async def facts_later():
    await asyncio.sleep(0)
    found = []
    thread = threading.Thread(target=lambda: found.append(current().id))
    thread.start()
    thread.join()
    return [current().id, *found]

@task
def outside():
    left = current()
    later.append(left)
    return None

later = []

@task
def speaks_of_another():
    later[-1].progress(7, 7, "not mine")
    later[-1].checkpoint(b"not mine")
    current().progress(1, 2)

@task
def tells(gate, *steps):
    for step in steps:
        current().progress(*step)
    wait_for(gate)

@task
def tells_nonsense():
    try:
        current().progress(float("nan"))
    except ValueError as error:
        return str(error)

@task
def tells_fast(count):
    began_s = time.perf_counter()
    run = current()
    for number in range(count):
        run.progress(number, count)
    return time.perf_counter() - began_s

@task
def keeps(count, size, end):
    run = current()
    for number in range(count):
        run.checkpoint(number.to_bytes(4, "big") + bytes(size))
    if end == "dies":
        os._exit(3)
    if end == "fails":
        raise ValueError("after it kept something")
    if end:
        wait_for(end)
    return len(run.saved or b"")

@task
def forks_and_tells():
    child = os.fork()
    if child == 0:
        try:
            current().progress(1, 1)
        except RuntimeError:
            os._exit(7)
        os._exit(8)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

@task
def careful(path, kept="half"):
    run = current()
    run.should_stop()
    open(path, "w").close()
    while not run.should_stop():
        time.sleep(0.005)
    run.checkpoint(kept.encode())
    raise meshq.Stopped

@task
async def careful_later(path):
    run = current()
    run.should_stop()
    open(path, "w").close()
    while not run.should_stop():
        await asyncio.sleep(0.005)
    run.checkpoint(b"half, later")

@task
def finishes_when_told(path):
    open(path, "w").close()
    while not current().should_stop():
        time.sleep(0.005)
    return "whole"

@task
def asked_once_and_hangs():
    current().should_stop()
    time.sleep(600)

@task
def gives_up_by_itself():
    raise meshq.Stopped

@task
def no_use():
    raise meshq.Final("there is no such file")

class NoFile(LookupError):
    pass

@task(final=LookupError)
def raises(kind):
    raise {"NoFile": NoFile, "KeyError": KeyError, "ValueError": ValueError}[kind]("x")
"""


@asynccontextmanager
async def opened(tmp_path: Path, slots: int = 1) -> AsyncIterator[Desk]:
    module = tmp_path / "told_tasks.py"
    module.write_text(TASKS)
    events: list[tuple[str, str]] = []
    pool = ChildPool(slots, [str(module)], on_event=lambda name, text: events.append((name, text)))
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(pool.run())
        await pool.start()
        try:
            yield Desk(pool, events)
        finally:
            await pool.close(0.0)


async def all_of(desk: Desk, job: Job) -> list[Outcome]:
    """The outcomes of this run, up to the one that ends it."""
    found: list[Outcome] = []
    while not found or found[-1].kind == "kept":
        found += [outcome for outcome in await desk.pool.outcomes() if outcome.task == job.id]
    return found


def result(outcome: Outcome) -> object:
    assert outcome.kind == "done", error(outcome)
    assert outcome.result is not None
    return unpack(outcome.result)


async def test_a_run_knows_who_it_is(tmp_path: Path) -> None:
    async with opened(tmp_path) as desk:
        job = replace(desk.job("facts"), checkpoint=b"saved")
        limited = desk.job("facts", timeout_s=50.0)
        desk.pool.put([job, limited])
        first, second = await desk.ended(job, limited)
        assert result(first) == [job.id, "facts", 2, b"saved", True, None, False]
        seen = result(second)
        assert isinstance(seen, list)
        assert (seen[:5], seen[6]) == ([limited.id, "facts", 2, None, False], False)
        assert 40 < seen[5] <= 50
        later = desk.job("facts_later")
        desk.pool.put([later])
        assert result((await desk.ended(later))[0]) == [later.id, later.id]


# -- progress ----------------------------------------------------------------------------------------------------


async def test_the_newest_progress_of_each_run_is_told_until_it_ends(tmp_path: Path) -> None:
    async with opened(tmp_path, 2) as desk:
        gate = tmp_path / "gate"
        jobs = [desk.job("tells", str(gate), (1, 10), (2, 10, "on it")), desk.job("tells", str(gate), (5,))]
        desk.pool.put(jobs)
        expected = {
            RunProgress(task=jobs[0].id, done=2.0, total=10.0, note="on it"),
            RunProgress(task=jobs[1].id, done=5.0),
        }
        await until(lambda: set(desk.pool.progress()) == expected)
        desk.pool.kill([jobs[1].id])
        assert [told.task for told in desk.pool.progress()] == [jobs[0].id]
        gate.touch()
        await desk.ended(jobs[0])
        assert desk.pool.progress() == ()
        assert result(await desk.call("tells_nonsense")) == "progress: done must be finite and at least 0, not nan"


async def test_a_tight_loop_of_progress_costs_little(tmp_path: Path) -> None:
    async with opened(tmp_path) as desk:
        spent_s = result(await desk.call("tells_fast", 1_000_000))
        assert isinstance(spent_s, float)
        assert spent_s < 10.0  # about one second where nothing else runs


async def test_what_is_said_of_a_run_that_is_over_counts_for_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as desk:
        await desk.call("outside")
        outcome = await desk.call("speaks_of_another")
        assert outcome.kind == "done"
        assert {each.kind for each in desk.given} == {"done"}
        assert desk.events == []


async def test_a_fork_of_a_task_tells_nothing_and_spoils_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as desk:
        assert result(await desk.call("forks_and_tells")) == 7
        assert (await desk.call("echo", 1)).kind == "done"


# -- checkpoints -------------------------------------------------------------------------------------------------


async def test_what_a_run_keeps_comes_before_its_outcome_and_the_newest_is_the_last(tmp_path: Path) -> None:
    async with opened(tmp_path) as desk:
        for end, kind in (("fails", "failed"), ("dies", "crashed")):
            job = desk.job("keeps", 5, 10, end)
            desk.pool.put([job])
            *kept, last = await all_of(desk, job)
            assert last.kind == kind
            assert {(each.kind, each.epoch, each.attempt, each.result) for each in kept} == {("kept", 7, 2, None)}
            assert kept[-1].checkpoint == (4).to_bytes(4, "big") + bytes(10)


async def test_the_pool_says_what_a_run_keeps_while_it_runs(tmp_path: Path) -> None:
    async with opened(tmp_path) as desk:
        gate = tmp_path / "gate"
        job = desk.job("keeps", 1, 0, str(gate))
        desk.pool.put([job])
        (kept,) = await desk.pool.outcomes()
        assert (kept.kind, kept.checkpoint, kept.claim) == ("kept", bytes(4), job.claim)
        assert desk.pool.held() == (job,)
        gate.touch()
        assert result((await desk.ended(job))[0]) == 0


async def test_checkpoints_in_a_tight_loop_are_thinned_out_and_the_last_is_there(tmp_path: Path) -> None:
    async with opened(tmp_path) as desk:
        job = desk.job("keeps", 3000, CHECKPOINT_BYTES_MAX - 4, "fails")
        desk.pool.put([job])
        *kept, last = await all_of(desk, job)
        assert last.kind == "failed"
        assert kept[-1].checkpoint == (2999).to_bytes(4, "big") + bytes(CHECKPOINT_BYTES_MAX - 4)
        assert len(kept) < 300


async def test_a_success_needs_no_checkpoint_and_a_killed_run_has_none(tmp_path: Path) -> None:
    async with opened(tmp_path) as desk:
        job = desk.job("keeps", 5, 10, "")
        desk.pool.put([job])
        await until(lambda: not desk.pool.held())
        (outcome,) = await desk.pool.outcomes()
        assert outcome.kind == "done"
        gate = tmp_path / "gate"
        job = desk.job("keeps", 1, 0, str(gate))
        last = desk.job("echo", 1)
        desk.pool.put([job])
        await desk.pool.outcomes()
        desk.pool.put([last])
        desk.pool.kill([job.id])
        (outcome,) = await desk.pool.outcomes()
        assert outcome.task == last.id


async def test_a_run_that_goes_again_after_its_child_was_killed_for_another_has_its_checkpoint(tmp_path: Path) -> None:
    async with opened(tmp_path) as desk:
        path = tmp_path / "there"
        # An idle child that dies while a frame is on its way: what it had not begun runs in the next one.
        job = replace(desk.job("keeps", 0, 0, ""), checkpoint=bytes(77))
        desk.pool.put([desk.job("careful", str(path)), job])
        await until(path.exists)
        desk.pool.kill([desk.pool.held()[0].id])
        assert result((await desk.ended(job))[0]) == 77


# -- the end of its time -----------------------------------------------------------------------------------------


async def test_a_time_limit_is_told_to_who_asks_and_what_it_saves_is_kept(tmp_path: Path) -> None:
    async with opened(tmp_path) as desk:
        for name, saved in (("careful", b"half"), ("careful_later", b"half, later")):
            job = desk.job(name, str(tmp_path / name), timeout_s=0.5)
            desk.pool.put([job])
            kept, last = await all_of(desk, job)
            assert (kept.kind, kept.checkpoint) == ("kept", saved)
            assert error(last)["message"] == "timed out after 0.5 s"
        assert (await desk.call("echo", 1)).kind == "done"


async def test_who_asked_and_does_not_heed_it_is_ended_after_the_grace(tmp_path: Path) -> None:
    async with opened(tmp_path) as desk:
        assert error(await desk.call("asked_once_and_hangs", timeout_s=0.1))["message"] == "timed out after 0.1 s"
        assert (await desk.call("echo", 1)).kind == "done"


async def test_a_stop_of_the_daemon_is_told_and_who_gives_up_is_released(tmp_path: Path) -> None:
    async with opened(tmp_path, 2) as desk:
        careful, whole = tmp_path / "careful", tmp_path / "whole"
        jobs = [desk.job("careful", str(careful)), desk.job("finishes_when_told", str(whole))]
        desk.pool.put(jobs)
        await until(lambda: careful.exists() and whole.exists())
        await desk.pool.close(20.0)
        outcomes = await desk.pool.outcomes()
        assert [(each.kind, each.checkpoint) for each in outcomes if each.task == jobs[0].id] == [
            ("kept", b"half"), ("released", None),
        ]  # fmt: skip
        assert [result(each) for each in outcomes if each.task == jobs[1].id] == ["whole"]
        assert desk.events == []


async def test_who_gives_up_without_being_told_has_failed(tmp_path: Path) -> None:
    async with opened(tmp_path) as desk:
        outcome = await desk.call("gives_up_by_itself")
        assert (outcome.kind, outcome.final, error(outcome)["type"]) == ("failed", False, "meshq.Stopped")
        assert "without being told to" in error(outcome)["message"]


async def test_a_drain_releases_what_is_unbegun_and_lets_the_rest_run(tmp_path: Path) -> None:
    async with opened(tmp_path) as desk:
        gate, pids = tmp_path / "gate", tmp_path / "pids"
        jobs = [desk.job("tells", str(gate), (1, 2)), desk.job("echo", 1), desk.job("echo", 2)]
        desk.pool.put(jobs)
        await until(desk.pool.progress)
        desk.pool.drain(True)
        late = desk.job("echo", 3)
        desk.pool.put([late])
        assert [each.kind for each in await desk.ended(*jobs[1:], late)] == ["released"] * 3
        assert desk.pool.held() == (jobs[0],)
        gate.touch()
        assert (await desk.ended(jobs[0]))[0].kind == "done"
        desk.pool.drain(False)
        assert (await desk.call("echo", str(pids))).kind == "done"


# -- what need not be tried again ----------------------------------------------------------------------------------


async def test_final_exceptions(tmp_path: Path) -> None:
    async with opened(tmp_path) as desk:
        outcome = await desk.call("no_use")
        assert (outcome.kind, outcome.final) == ("failed", True)
        assert (error(outcome)["type"], error(outcome)["message"]) == ("meshq.Final", "there is no such file")
        for kind, final in (("NoFile", True), ("KeyError", True), ("ValueError", False)):
            outcome = await desk.call("raises", kind)
            assert (outcome.kind, outcome.final) == ("failed", final), kind


async def test_sigterm_from_outside_ends_a_run_that_does_not_ask(tmp_path: Path) -> None:
    async with opened(tmp_path) as desk:
        gate = tmp_path / "gate"
        job = desk.job("tells", str(gate), (os.getpid(),))
        desk.pool.put([job])
        await until(desk.pool.progress)
        (pid,) = children()
        os.kill(pid, signal.SIGTERM)
        (outcome,) = await desk.ended(job)
        assert outcome.kind == "crashed"
        assert "killed by SIGTERM" in error(outcome)["message"]
