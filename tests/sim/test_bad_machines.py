"""Machines on which children die, tasks that kill theirs, and workers that were lost, paused or asleep."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from meshq.core import requests as ask
from meshq.core.requests import Job, Outcome, TaskSpec
from meshq.node.reign import Reign
from tests.sim.story import Worker, call, done, members, message_of, pool, running, states, story, submit, view
from tests.sim.world import SimWorld

BAD, GOOD = "bad machine", "good machine"


def spec_of(world: SimWorld, name: str = "work", **options: Any) -> TaskSpec:
    """A new task that is tried again at once."""
    return world.spec(name, backoff_s=0.0, **options)


def crashed(job: Job) -> Outcome:
    """The child that ran it died."""
    return replace(done(job), kind="crashed", result=None)


async def crash_one(worker: Worker, wait_s: float = 1.0) -> Job:
    """The worker is given a run, and its child dies."""
    job = await worker.one(wait_s)
    assert (await worker.hand_in(crashed(job))).dropped == {}
    return job


async def pass_one(worker: Worker, wait_s: float = 1.0) -> Job:
    """The worker is given a run, which ends well."""
    job = await worker.one(wait_s)
    assert (await worker.hand_in(done(job))).dropped == {}
    return job


def reign_of(world: SimWorld) -> Reign:
    """The leadership of whoever leads."""
    (leader,) = world.leaders()
    reign = running(world, leader).leadership.reign
    assert reign is not None
    return reign


def paused(world: SimWorld, worker: str) -> str:
    """Why the leader gives it no work."""
    return reign_of(world).dispatcher.paused(worker)


def counted(world: SimWorld, name: str) -> int:
    return sum(running(world, node).counters[name] for node in world.nodes)


async def two_workers(world: SimWorld) -> tuple[Worker, Worker]:
    """Two workers that speak to the first machine."""
    bad, good = Worker(world, world.nodes[0], BAD), Worker(world, world.nodes[0], GOOD)
    await bad.beat()
    await good.beat()
    return bad, good


async def pause_bad(world: SimWorld, bad: Worker, good: Worker) -> None:
    """Three tasks crash on one machine, and pass on the other."""
    await submit(world, bad.node, *(spec_of(world) for _ in range(3)))
    for _ in range(3):
        await crash_one(bad)
    for _ in range(3):
        await pass_one(good)
    assert paused(world, BAD)


# -- a bad machine -----------------------------------------------------------------------------------------


@story()
async def test_a_machine_where_tasks_crash_that_pass_elsewhere_gets_no_more_work(world: SimWorld) -> None:
    bad, good = await two_workers(world)
    specs = [spec_of(world) for _ in range(3)]
    await submit(world, bad.node, *specs)
    assert {(await crash_one(bad)).id for _ in specs} == {spec.id for spec in specs}
    assert await bad.get(1.0) == (), "they are tried elsewhere first"
    assert paused(world, BAD) == ""
    assert (await pass_one(good)).attempt == 2
    reason = paused(world, BAD)
    assert reason.startswith("3 different tasks crashed here one after the other (")
    assert "while work passed on good machine; no work for 600 s more" in reason
    assert all(spec.id[-8:] in reason for spec in specs)
    # Its pause costs nobody anything but the one crash.
    await submit(world, bad.node, spec_of(world))
    assert await bad.get(5.0) == ()
    for _ in range(3):
        await pass_one(good)
    shown = [await view(world, bad.node, spec.id) for spec in specs]
    assert [(task.state, task.crashes, task.worker) for task in shown] == [("done", 1, GOOD)] * 3
    assert paused(world, GOOD) == ""
    assert counted(world, "machine_paused") == 1


@story(bad_machine_pause_s=60.0)
async def test_after_its_pause_one_more_crash_is_enough_until_one_success(world: SimWorld) -> None:
    bad, good = await two_workers(world)
    await pause_bad(world, bad, good)
    await submit(world, bad.node, spec_of(world))
    since = world.loop.time()
    assert await bad.get(30.0) == ()
    # A Get that waits is answered when the pause ends.
    job = await bad.one(60.0)
    assert 59.0 < world.loop.time() - since < 62.0
    assert paused(world, BAD) == ""
    await world.until("it is told", lambda: counted(world, "machine_let_in") == 1, 2.0)
    await bad.hand_in(crashed(job))
    assert "a task crashed here" in paused(world, BAD)
    await good.beat()
    assert (await pass_one(good)).id == job.id
    assert counted(world, "machine_paused") == 2
    # A daemon that starts anew is let in at once; with one success it is like all others.
    bad.dies()
    await bad.beat()
    assert paused(world, BAD) == ""
    await world.until("it is told", lambda: counted(world, "machine_let_in") == 2, 2.0)
    await submit(world, bad.node, spec_of(world))
    await pass_one(bad)
    await submit(world, bad.node, spec_of(world))
    await crash_one(bad)
    assert (await pass_one(good)).attempt == 2
    assert paused(world, BAD) == ""


@story(bad_machine_crashes=2)
async def test_the_setting_says_how_many_crashes_pause(world: SimWorld) -> None:
    bad, good = await two_workers(world)
    await submit(world, bad.node, spec_of(world), spec_of(world))
    await crash_one(bad)
    await pass_one(good, wait_s=5.0)
    assert paused(world, BAD) == ""
    await crash_one(bad)
    assert paused(world, BAD).startswith("2 different tasks crashed here")


@story()
async def test_explain_says_that_a_task_waits_for_another_machine_or_for_the_end_of_a_pause(world: SimWorld) -> None:
    bad, good = await two_workers(world)
    await submit(world, bad.node, spec_of(world))
    other = await good.one()
    await good.beat(other)
    await submit(world, bad.node, spec := spec_of(world))
    await crash_one(bad)
    waits = (await call(world, bad.node, ask.TaskStoryQuery(id=spec.id))).waits
    assert waits == "all 1 slots of the workers that know work, but not those on which it crashed, are busy"
    await good.hand_in(done(other))
    await pass_one(good)
    await submit(world, bad.node, spec_of(world))
    await pass_one(bad)
    await pause_bad(world, bad, good)
    for _ in range(12):
        await bad.beat()
        await asyncio.sleep(1.0)
    await submit(world, bad.node, spec := spec_of(world))
    waits = (await call(world, bad.node, ask.TaskStoryQuery(id=spec.id))).waits
    assert waits.startswith("every worker that knows work is paused; bad machine: 3 different tasks crashed here")


@story()
async def test_what_an_earlier_boot_left_says_nothing_about_the_present_one(world: SimWorld) -> None:
    bad, good = await two_workers(world)
    await submit(world, bad.node, spec_of(world))
    late = await bad.one()
    await submit(world, bad.node, *(spec_of(world) for _ in range(3)))
    for _ in range(3):
        job = await bad.one(holds=[late])
        await bad.hand_in(crashed(job))
    for _ in range(3):
        await pass_one(good)
    bad.dies()
    await bad.beat()
    await submit(world, bad.node, spec_of(world), spec_of(world))
    await crash_one(bad)
    assert paused(world, BAD)
    left = ask.SubmitResult(node=BAD, boot="1", outcomes=(done(late),))
    assert (await call(world, bad.node, left)).dropped == {}
    assert paused(world, BAD)


@story()
async def test_a_task_that_crashed_does_not_wait_for_one_that_drains(world: SimWorld) -> None:
    bad, _ = await two_workers(world)
    await submit(world, bad.node, spec := spec_of(world))
    await crash_one(bad)
    assert await bad.get(1.0) == ()
    await call(world, bad.node, ask.Heartbeat(node=GOOD, boot="1", name=GOOD, slots=1, running=(), draining=True))
    assert (await bad.one(2.0)).id == spec.id


@story()
async def test_a_task_that_crashed_goes_back_where_nobody_else_can_try_it(world: SimWorld) -> None:
    bad, good = await two_workers(world)
    await submit(world, bad.node, spec := spec_of(world))
    await crash_one(bad)
    getting = asyncio.create_task(bad.get(30.0))
    since = world.loop.time()
    while not getting.done():
        await bad.beat()
        await asyncio.sleep(1.0)
    (job,) = await getting
    assert (job.id, job.attempt) == (spec.id, 2)
    # The other one has been silent for so long that it is no hope any more.
    assert 9.0 <= world.loop.time() - since <= 13.0
    await good.beat()
    await bad.hand_in(done(job))
    assert (await view(world, bad.node, spec.id)).state == "done"


@story(machines=2)
async def test_a_new_leader_begins_without_a_grudge(world: SimWorld) -> None:
    first, second = world.nodes
    bad, good = await two_workers(world)
    await pause_bad(world, bad, good)
    await running(world, first).leadership.hand_over(5.0)
    await world.until("the other leads", lambda: world.reigns(second))
    assert paused(world, BAD) == ""


@story(machines=2)
async def test_crashes_of_runs_that_a_new_leader_adopted_count(world: SimWorld) -> None:
    first, second = world.nodes
    bad, good = await two_workers(world)
    await submit(world, first, *(spec_of(world) for _ in range(3)))
    runs = await bad.get(1.0, free=3)
    assert len(runs) == 3
    await running(world, first).leadership.hand_over(5.0)
    await world.until("the other leads", lambda: world.reigns(second))
    bad.node = good.node = second
    assert await bad.beat(*runs) == ()
    await good.beat()
    await bad.hand_in(*(crashed(job) for job in runs))
    assert paused(world, BAD) == ""
    await world.until("all have spoken", lambda: reign_of(world).dispatcher.census_over)
    await good.beat()
    await pass_one(good)
    assert paused(world, BAD).startswith("3 different tasks crashed here one after the other (work ")


# -- poison ------------------------------------------------------------------------------------------------


@story(machines=3, slots=1)
async def test_a_poison_task_fails_after_three_crashes_and_pauses_nobody(world: SimWorld) -> None:
    first = world.nodes[0]
    poison = [spec_of(world, "crash") for _ in range(5)]
    await submit(world, first, *poison, *(spec_of(world) for _ in range(30)))
    await world.until("all are finished", lambda: states(world, first) == {"failed": 5, "done": 30}, 120.0)
    for spec in poison:
        shown = await view(world, first, spec.id)
        assert (shown.state, shown.crashes, shown.failures, shown.losses, shown.attempt) == ("failed", 3, 0, 0, 3)
        assert "died 3 times" in message_of(shown)
        tried = [name for task, name, _ in world.runs if task == spec.id]
        assert sorted(tried) == ["n0", "n1", "n2"], "each machine had its try"
    assert counted(world, "machine_paused") == 0


@story()
async def test_bad_arguments_to_a_good_task_pause_nobody_for_long(world: SimWorld) -> None:
    bad, good = await two_workers(world)
    third = Worker(world, bad.node, "third")
    await third.beat()
    await submit(world, bad.node, *(spec_of(world) for _ in range(3)))
    for _ in range(3):
        await crash_one(bad)
    await submit(world, bad.node, fine := spec_of(world, priority=1))
    assert (await pass_one(good)).id == fine.id
    assert paused(world, BAD), "as far as anybody can know"
    await crash_one(good)
    assert paused(world, BAD) == "", "it crashes there too: the task is to blame"
    for worker in (good, good, third, third, third):
        await crash_one(worker)
    assert [paused(world, name) for name in (BAD, GOOD, "third")] == [""] * 3
    assert states(world, bad.node) == {"failed": 3, "done": 1}
    # What failed counts no more.
    await submit(world, bad.node, *(spec_of(world) for _ in range(3)))
    await crash_one(bad)
    await crash_one(bad)
    await pass_one(good)
    assert paused(world, BAD) == ""
    await crash_one(bad)
    assert paused(world, BAD)


@story(slots=1)
async def test_what_failed_by_crashes_runs_again_only_by_hand(world: SimWorld) -> None:
    (node,) = world.nodes
    await submit(world, node, spec := spec_of(world, "crash", retries=10))
    shown = await view(world, node, spec.id, wait_s=30.0)
    assert (shown.state, shown.crashes, shown.attempt) == ("failed", 3, 3)
    await asyncio.sleep(1000.0)
    await submit(world, node, spec)
    assert (await view(world, node, spec.id)).state == "failed"
    assert len(world.runs) == 3
    again: ask.Submitted = await call(world, node, ask.Retry(id=spec.id))
    shown = await view(world, node, again.ids[0], wait_s=30.0)
    assert (shown.state, shown.crashes, shown.retry_of) == ("failed", 3, spec.id)
    assert len(world.runs) == 6


# -- lost, paused, asleep ----------------------------------------------------------------------------------


@story(machines=3, slots=1)
async def test_a_worker_that_dies_and_comes_back_costs_its_task_a_loss_and_no_crash(world: SimWorld) -> None:
    first, _, third = world.nodes
    pool(world, third).run_s = (1000.0, 1000.0)
    await submit(world, first, *(spec_of(world) for _ in world.nodes))
    await world.until("only the third runs", lambda: states(world, first) == {"done": 2, "running": 1})
    (task,) = (held.id for held in pool(world, third).held())
    world.crash(third)
    await asyncio.sleep(1.0)
    world.start(third)
    shown = await view(world, first, task, wait_s=30.0)
    assert (shown.state, shown.losses, shown.crashes, shown.failures, shown.attempt) == ("done", 1, 0, 0, 2)


@story(machines=3, slots=1)
async def test_pauses_sleeps_and_cuts_of_a_worker_count_for_nothing(world: SimWorld) -> None:
    first, _, third = world.nodes
    for _ in range(2):
        pool(world, third).run_s = (1000.0, 1000.0)
        specs = [spec_of(world) for _ in world.nodes]
        await submit(world, first, *specs)
        await world.until("only the third runs", lambda: states(world, first).get("running") == 1)
        (task,) = (held.id for held in pool(world, third).held())
        if len(world.runs) < 4:
            world.pause(third)
            await asyncio.sleep(30.0)
            world.resume(third)
        else:
            world.network.isolate(third)
            await asyncio.sleep(30.0)
            world.network.heal()
        # What it has still was finished by another one meanwhile.
        shown = await view(world, first, task, wait_s=30.0)
        assert (shown.state, shown.attempt) == ("done", 2)
        await world.until("it ended the run", lambda: not pool(world, third).held())
        assert shown.losses + shown.crashes + shown.failures == 0
    assert counted(world, "run_invalid") == 2
    assert len(members(world, first)) == 3


@story(machines=3, slots=1)
async def test_a_worker_that_slept_for_a_day_renews_first_and_ends_what_others_finished(world: SimWorld) -> None:
    first, _, third = world.nodes
    pool(world, third).run_s = (1000.0, 1000.0)
    specs = [spec_of(world) for _ in world.nodes]
    await submit(world, first, *specs)
    await world.until("only the third runs", lambda: states(world, first) == {"done": 2, "running": 1})
    (task,) = (held.id for held in pool(world, third).held())
    world.sleep(third)
    await world.until("another did it", lambda: states(world, first) == {"done": 3})
    await asyncio.sleep(300.0)
    await submit(world, first, *(spec_of(world) for _ in range(20)))
    pool(world, third).run_s = None
    runs = len(world.runs)
    world.wake(third)
    await world.until("it ended the run", lambda: task not in {held.id for held in pool(world, third).held()}, 10.0)
    await world.until("all are done", lambda: states(world, first) == {"done": 23})
    assert running(world, third).counters["slept"] == 1
    assert running(world, third).counters["run_invalid"] == 1
    assert len(world.runs) == runs + 20, "nothing ran twice"
    shown = await view(world, first, task)
    assert (shown.attempt, shown.losses, shown.crashes) == (2, 0, 0)
