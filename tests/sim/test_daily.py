"""The options and acts of daily use, across changes of the leader: delays, retries, keys, batches, bounds, checkpoints."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from meshq.core.infos import TaskInfo
from meshq.core.requests import (
    Cancel,
    CancelBatch,
    Job,
    Outcome,
    Retry,
    RetryFailed,
    Submit,
    Submitted,
    TaskQuery,
    TaskSpec,
    TasksQuery,
    TaskStoryQuery,
)
from meshq.errors import Malformed, NotFound, UnknownTask
from tests.sim.host import ANYTHING, STEPS, TASKS, WALL_START_MS
from tests.sim.story import (
    Worker,
    all_done,
    begin,
    call,
    done,
    is_whole,
    message_of,
    of,
    pool,
    raised,
    running,
    story,
    submit,
    view,
)
from tests.sim.world import SimWorld


async def new_leader(world: SimWorld) -> str:
    """Waits until another leads and has done its first write."""
    await world.until("another leads", lambda: any(world.reigns(node) for node in world.nodes))
    (leader,) = world.leaders()
    return leader


async def all_have(world: SimWorld, *tasks: str) -> None:
    """Waits until every machine that runs has these tasks in the versions of the leader."""
    (leader,) = world.leaders()

    def same() -> bool:
        here = [world.machines[node] for node in world.nodes if world.machines[node].running is not None]
        versions = world.machines[leader].disk.versions("tasks", tasks)
        return all(machine.disk.versions("tasks", tasks) == versions for machine in here)

    await world.until("all have them", same)


def kept(job: Job, checkpoint: bytes) -> Outcome:
    """The run kept something, and goes on."""
    return Outcome(task=job.id, epoch=job.epoch, attempt=job.attempt, kind="kept", checkpoint=checkpoint)


def values_of(world: SimWorld, node: str, task: str) -> list[str]:
    """The names of a task's values on this machine's disk, without the task's id."""
    rows = world.machines[node].disk.rows("SELECT ref FROM payloads WHERE ref LIKE ? ORDER BY ref", (f"{task}/%",))
    return [str(ref).partition("/")[2] for (ref,) in rows]


def in_seconds(world: SimWorld, delay_s: float) -> int:
    """The wall clock in so many seconds."""
    return WALL_START_MS + int((world.loop.now + delay_s) * 1000)


# -- options that were left open -------------------------------------------------------------------------


OWN = TaskInfo(name="own", params=ANYTHING, priority=7, timeout_s=30.0, retries=2, max_running=4)


@story()
async def test_what_a_submit_leaves_open_is_as_the_task_has_it(world: SimWorld) -> None:
    (node,) = world.nodes
    await Worker(world, node, "w1", (*TASKS, OWN)).beat()
    left_open = ("priority", "timeout_s", "retries", "max_running")
    made = [
        world.spec("own", unset=left_open), world.spec("own", unset=("retries",), priority=1),
        world.spec("work", unset=left_open, retries=1), world.spec("own"),
    ]  # fmt: skip
    await submit(world, node, *made)
    columns = "priority, timeout_s, retries, max_running"
    rows = [world.machines[node].disk.rows(f"SELECT {columns} FROM tasks WHERE id = ?", (spec.id,)) for spec in made]
    assert rows == [[(7, 30.0, 2, 4)], [(1, None, 2, 0)], [(0, None, 1, 0)], [(0, None, 0, 0)]]


@story()
async def test_an_option_out_of_range_is_refused_by_its_name_and_nothing_is_kept(world: SimWorld) -> None:
    (node,) = world.nodes
    await Worker(world, node, "w1").beat()
    wrong: Sequence[tuple[dict[str, Any], str]] = (
        ({"backoff": "quadratic"}, "backoff: must be one of constant, linear, exponential, not 'quadratic'"),
        ({"max_running": -1}, "max_running: must be from 0"),
        ({"keep_s": float("inf")}, "keep_s: must be 0 or more seconds"),
        ({"unset": ("name",)}, "unset: 'name' can't be left open; priority, timeout_s"),
    )
    for options, message in wrong:
        with pytest.raises(Malformed, match=message):
            await submit(world, node, world.spec(), world.spec(**options))
    assert world.machines[node].disk.rows("SELECT id FROM tasks") == []
    # One that waited in an outbox was acknowledged: it fails, in a row that every copy takes.
    late = world.spec(backoff="quadratic")
    await of(begin(world, node, lambda daemon: daemon.gateway.lead(Submit(tasks=(late,), late=True))))
    shown = await view(world, node, late.id)
    assert (shown.state, "quadratic" in message_of(shown)) == ("failed", True)
    assert world.machines[node].disk.rows("SELECT backoff FROM tasks") == [("exponential",)]


# -- delays and retries ----------------------------------------------------------------------------------


@story(machines=3)
async def test_a_delay_and_a_wait_before_a_retry_outlast_the_leader(world: SimWorld) -> None:
    first, _, third = world.nodes
    worker = Worker(world, third, "w1")
    await worker.beat()
    delayed = world.spec(not_before_ms=in_seconds(world, 60.0))
    failing = world.spec(retries=1, backoff="constant", backoff_s=100.0)
    due_s = world.loop.now + 60.0
    await submit(world, first, delayed, failing)
    job = await worker.one(5.0)
    assert job.id == failing.id
    await worker.hand_in(raised(job))
    failed_s = world.loop.now
    await all_have(world, delayed.id, failing.id)
    world.crash(first)
    await new_leader(world)
    for spec, least_s, most_s in ((delayed, due_s, due_s), (failing, failed_s + 50.0, failed_s + 100.0)):
        job = await _next(worker, 200.0)
        assert job.id == spec.id
        assert least_s - 0.1 <= world.loop.now <= most_s + 1.5
        await worker.hand_in(done(job))
    assert (await view(world, third, failing.id)).attempt == 2


async def _next(worker: Worker, within_s: float) -> Job:
    """The next run of a worker that lives all the time."""
    deadline = worker.world.loop.now + within_s
    while worker.world.loop.now < deadline:
        await worker.beat()
        if jobs := await worker.get(1.0):
            return jobs[0]
    raise AssertionError(f"{worker.name} was given nothing within {within_s} s")


@story()
async def test_what_waits_long_goes_before_what_is_a_priority_above_and_newer(world: SimWorld) -> None:
    (node,) = world.nodes
    worker = Worker(world, node, "w1")
    await worker.beat()
    await submit(world, node, old := world.spec())
    await asyncio.sleep(55.0)
    await submit(world, node, above := world.spec(priority=1))
    await asyncio.sleep(10.0)
    await submit(world, node, late := world.spec(priority=1))
    given = []
    for _ in range(3):
        given.append(await _next(worker, 5.0))
        await worker.hand_in(done(given[-1]))
    assert [job.id for job in given] == [above.id, old.id, late.id]


# -- keys ------------------------------------------------------------------------------------------------


@story(machines=3, slots=1)
async def test_a_key_names_the_same_task_whoever_leads(world: SimWorld) -> None:
    first, second, third = world.nodes
    spec = world.spec(key="nightly")
    assert (await submit(world, third, spec)).ids == (spec.id,)
    world.crash(first)
    leader = await new_leader(world)
    for node in (second, third):
        assert (await submit(world, node, world.spec(key="nightly"))).ids == (spec.id,)
    assert (await view(world, leader, spec.id, wait_s=60.0)).state == "done"
    assert (await submit(world, leader, world.spec(key="nightly"))).ids == (spec.id,), "it is kept"
    assert len({task for task, _, _ in world.runs}) == 1


@story(machines=3, without_majority="stop")
async def test_a_key_that_is_taken_meanwhile_calls_off_what_waited_in_an_outbox_and_it_says_so(
    world: SimWorld,
) -> None:
    first, second, third = world.nodes
    await submit(world, first, spec := world.spec(key="nightly"))
    world.network.isolate(third)
    await world.until("it has no leader", lambda: running(world, third).elector.leader() is None)
    again = world.spec(key="nightly")
    assert (await submit(world, third, again)).queued
    assert world.reigns(first)
    await Worker(world, first, "w1").beat()
    world.network.heal()
    await world.until("it is delivered", lambda: _is_there(world, first, again.id))
    shown = await view(world, second, again.id)
    assert shown.state == "cancelled", "what was acknowledged never disappears"
    assert f"is that of task {spec.id}" in str(shown.error)
    assert (await submit(world, second, world.spec(key="nightly"))).ids == (spec.id,)


def _is_there(world: SimWorld, node: str, task: str) -> bool:
    return bool(world.machines[node].disk.rows("SELECT 1 FROM tasks WHERE id = ?", (task,)))


@story(machines=3)
async def test_after_a_heal_two_tasks_may_have_a_key_and_the_lower_id_answers(world: SimWorld) -> None:
    first, second, third = world.nodes
    for node in world.nodes:
        await Worker(world, node, f"w-{node}").beat()
    world.network.isolate(first)
    await world.until("the others have a leader", lambda: world.reigns(second))
    await asyncio.sleep(10.0)
    await Worker(world, first, "wa").beat()
    await Worker(world, second, "wb").beat()
    here, there = world.spec(key="nightly"), world.spec(key="nightly")
    assert (await submit(world, first, here)).ids == (here.id,)
    assert (await submit(world, third, there)).ids == (there.id,)
    world.network.heal()
    await world.until("one cluster again", lambda: is_whole(world), within_s=120.0)
    await world.until("both are there", lambda: _is_there(world, first, there.id) and _is_there(world, first, here.id))
    await Worker(world, first, "wa").beat()
    for node in world.nodes:
        assert (await submit(world, node, world.spec(key="nightly"))).ids == (min(here.id, there.id),)


# -- batches ---------------------------------------------------------------------------------------------


@story(machines=3)
async def test_a_batch_is_called_off_as_a_whole_and_stays_so(world: SimWorld) -> None:
    first, _, third = world.nodes
    worker = Worker(world, third, "w1")
    await worker.beat()
    batch, other = [world.spec(batch="b") for _ in range(4)], world.spec(batch="other")
    await submit(world, first, *batch, other)
    over, run = await worker.get(5.0, free=2)
    await worker.hand_in(done(over))
    assert [view.id for view in (await call(world, third, TasksQuery(batch="b"))).tasks] == sorted(
        (spec.id for spec in batch), reverse=True
    )
    changed = await call(world, third, CancelBatch(batch="b"))
    assert sorted(changed.ids) == sorted(spec.id for spec in batch if spec.id != over.id)
    assert await worker.beat(run) == (run.id,), "its run is to be ended"
    world.crash(first)
    leader = await new_leader(world)
    for spec in batch:
        assert (await view(world, leader, spec.id)).state == ("done" if spec.id == over.id else "cancelled")
    assert (await call(world, third, CancelBatch(batch="b"))).ids == (), "a repeated request changes nothing"
    with pytest.raises(NotFound, match="no batch 'none'"):
        await call(world, third, CancelBatch(batch="none"))
    assert (await _next(worker, 30.0)).id == other.id


@story(machines=3)
async def test_what_failed_is_run_again_once_however_often_that_is_asked_and_whoever_leads(world: SimWorld) -> None:
    first, second, third = world.nodes
    worker = Worker(world, third, "w1")
    await worker.beat()
    made = [world.spec(batch="b", backoff="linear", keep_s=500.0) for _ in range(3)]
    elsewhere = world.spec(batch="other")
    await submit(world, first, *made, elsewhere)
    for job in await worker.get(5.0, free=4):
        await worker.hand_in(done(job) if job.id == made[0].id else raised(job))
    answer: Submitted = await call(world, third, RetryFailed(batch="b"))
    assert (len(answer.ids), answer.majority) == (2, True)
    # The answer may have been lost with the leader.
    world.crash(first)
    await new_leader(world)
    await worker.beat()
    assert (await call(world, third, RetryFailed(batch="b"))).ids == ()
    tasks = {shown.id: shown for shown in (await call(world, third, TasksQuery(batch="b"))).tasks}
    assert sorted(str(tasks[id_].retry_of) for id_ in answer.ids) == sorted(spec.id for spec in made[1:])
    more: Submitted = await call(world, second, RetryFailed())
    assert [(await view(world, second, id_)).retry_of for id_ in more.ids] == [elsewhere.id]
    with pytest.raises(NotFound, match="no batch 'none'"):
        await call(world, third, RetryFailed(batch="none"))
    columns = "backoff, keep_s"
    rows = world.machines[third].disk.rows(f"SELECT {columns} FROM tasks WHERE id = ?", (answer.ids[0],))
    assert rows == [("linear", 500.0)]


@story()
async def test_dead_letters_that_nobody_can_run_stay_and_do_not_keep_others_from_being_retried(world: SimWorld) -> None:
    (node,) = world.nodes
    worker = Worker(world, node, "w1")
    await worker.beat()
    good, unknown = world.spec(), world.spec("nobody knows it")
    await of(begin(world, node, lambda daemon: daemon.gateway.lead(Submit(tasks=(unknown,), late=True))))
    with pytest.raises(UnknownTask, match="nobody knows it"):
        await call(world, node, RetryFailed())
    await submit(world, node, good)
    await worker.hand_in(raised(await worker.one()))
    (again,) = (await call(world, node, RetryFailed())).ids
    assert (await view(world, node, again)).retry_of == good.id
    assert (await worker.one()).id == again


# -- cancel ----------------------------------------------------------------------------------------------


@story(machines=3)
async def test_a_cancelled_task_stays_so_across_a_killed_leader_and_what_is_finished_is_not_touched(
    world: SimWorld,
) -> None:
    first, second, third = world.nodes
    worker = Worker(world, third, "w1")
    await worker.beat()
    waits, runs, over = world.spec(), world.spec(priority=1), world.spec(priority=2)
    await submit(world, first, waits, runs, over)
    await worker.hand_in(done(await worker.one(5.0)))
    run = await worker.one(5.0)
    for spec in (waits, runs):
        assert (await call(world, second, Cancel(id=spec.id))).state == "cancelled"
    assert (await call(world, second, Cancel(id=over.id))).state == "done"
    world.crash(first)
    leader = await new_leader(world)
    assert await worker.beat(run) == (run.id,)
    assert (await worker.hand_in(done(run))).dropped == {run.id: "finished"}
    for spec, state in ((waits, "cancelled"), (runs, "cancelled"), (over, "done")):
        assert (await call(world, leader, Cancel(id=spec.id))).state == state
    assert await worker.get(15.0) == ()


# -- kept for no time ------------------------------------------------------------------------------------


@story(machines=3, slots=1)
async def test_what_is_kept_for_no_time_is_purged_once_whoever_waits_for_it_has_it(world: SimWorld) -> None:
    first, second, third = world.nodes
    spec, other = world.spec(keep_s=0.0, key="k"), world.spec()
    await submit(world, first, spec, other)
    shown = await view(world, third, spec.id, wait_s=60.0)
    assert (shown.state, shown.result is not None) == ("done", True)
    finished_s = world.loop.now
    await world.until(
        "it is purged everywhere", lambda: all(_state(world, node, spec.id) == "purged" for node in world.nodes)
    )
    assert 10.0 <= world.loop.now - finished_s < 17.0
    with pytest.raises(NotFound, match="had finished and was purged"):
        await view(world, second, spec.id)
    with pytest.raises(NotFound, match="had finished and was purged"):
        await call(world, second, Retry(id=spec.id))
    assert (await view(world, second, other.id)).state == "done"
    assert (await submit(world, second, again := world.spec(key="k"))).ids == (again.id,), "its key is free"


@story(machines=3, slots=1)
async def test_who_waits_for_it_across_a_change_of_the_leader_has_it_too(world: SimWorld) -> None:
    first, _, third = world.nodes
    for node in world.nodes:
        pool(world, node).run_s = (8.0, 8.0)
    specs = [world.spec(keep_s=0.0) for _ in world.nodes]
    await submit(world, first, *specs)
    waiting = [begin(world, third, _waits_for(spec)) for spec in specs]
    await asyncio.sleep(7.5)
    world.crash(first)
    for each in waiting:
        assert (await of(each)).state == "done"


def _waits_for(spec: TaskSpec) -> Any:
    return lambda daemon: daemon.gateway.call(TaskQuery(id=spec.id, wait_s=60.0))


def _state(world: SimWorld, node: str, task: str) -> str:
    rows = world.machines[node].disk.rows("SELECT state FROM tasks WHERE id = ?", (task,))
    return str(rows[0][0]) if rows else ""


# -- checkpoints -----------------------------------------------------------------------------------------


@story(machines=3)
async def test_what_a_run_keeps_reaches_the_next_attempt_across_a_killed_leader(world: SimWorld) -> None:
    first, _, third = world.nodes
    worker = Worker(world, third, "w1")
    await worker.beat()
    await submit(world, first, spec := world.spec(retries=1, backoff_s=0.0))
    job = await worker.one(5.0)
    assert job.checkpoint is None
    for checkpoint in (b"a third", b"half"):
        assert (await worker.hand_in(kept(job, checkpoint))).dropped == {}
    assert (await view(world, third, spec.id)).state == "running", "the run goes on"
    world.crash(first)
    leader = await new_leader(world)
    assert await worker.beat(job) == ()
    assert (await worker.hand_in(kept(job, b"two thirds"), raised(job))).dropped == {}
    again = await _next(worker, 30.0)
    assert (again.id, again.attempt, again.checkpoint) == (spec.id, 2, b"two thirds")
    # The earlier run speaks late: it is not the present one.
    assert (await worker.hand_in(kept(job, b"nothing"))).dropped == {spec.id: "not the present claim"}
    assert values_of(world, leader, spec.id) == ["checkpoint"]
    await worker.hand_in(done(again))
    await all_done_here(world, spec.id)
    assert [values_of(world, node, spec.id) for node in world.nodes[1:]] == [[], []], "nobody needs it any more"


async def all_done_here(world: SimWorld, task: str) -> None:
    """Waits until every machine that runs has this task, done."""
    here = [node for node in world.nodes if world.machines[node].running is not None]
    await world.until("it is done everywhere", lambda: all(_state(world, node, task) == "done" for node in here))


@story(machines=3, slots=1)
async def test_a_task_goes_on_from_its_checkpoint_when_its_machine_is_killed(world: SimWorld) -> None:
    first, *others = world.nodes
    for node in world.nodes:
        pool(world, node).run_s = (20.0, 20.0)
    await submit(world, first, spec := world.spec("steps"))
    await world.until("it runs", lambda: bool(world.runs))
    where = next(node for node in world.nodes if world.name(node) == world.runs[0][1])
    await asyncio.sleep(14.0)  # three of its five steps
    world.crash(where)
    left = next(node for node in world.nodes if node != where)
    await world.until("it runs again", lambda: len(world.runs) == 2)
    since = world.loop.now
    shown = await view(world, left, spec.id, wait_s=60.0)
    assert (shown.state, shown.attempt) == ("done", 2)
    assert 7.0 < world.loop.now - since < 9.5, f"two of {STEPS} steps of 4 s were left"
    assert others


@story(machines=3)
async def test_checkpoints_survive_a_merge_and_go_with_their_task(world: SimWorld) -> None:
    first, second, third = world.nodes
    here = Worker(world, first, "w1")
    await here.beat()
    await submit(world, first, spec := world.spec(retries=1, backoff_s=0.0, keep_s=30.0))
    job = await here.one(5.0)
    world.network.isolate(first)
    await world.until("the others have a leader", lambda: world.reigns(second))
    await world.until("it goes on alone", lambda: bool(running(world, first).elector.kind()))
    await asyncio.sleep(1.0)
    assert await here.beat(job) == ()
    await here.hand_in(kept(job, b"in the split"))
    world.network.heal()
    await world.until("one cluster again", lambda: is_whole(world), within_s=120.0)
    await world.until("all have it", lambda: all(values_of(world, node, spec.id) for node in world.nodes))
    again = await _next(here, 60.0)
    assert (again.id, again.checkpoint) == (spec.id, b"in the split")
    await here.hand_in(raised(again, final=True))
    await world.until(
        "it is purged", lambda: all(_state(world, node, spec.id) == "purged" for node in world.nodes), within_s=90.0
    )
    assert [values_of(world, node, spec.id) for node in world.nodes] == [[], [], []]
    assert third


@story()
async def test_a_checkpoint_that_can_not_be_kept_is_refused_and_the_run_goes_on(world: SimWorld) -> None:
    (node,) = world.nodes
    worker = Worker(world, node, "w1")
    await worker.beat()
    await submit(world, node, spec := world.spec())
    job = await worker.one()
    with pytest.raises(Malformed, match="at most 1048576 are kept"):
        await worker.hand_in(kept(job, b"x" * ((1 << 20) + 1)))
    with pytest.raises(Malformed, match="has to bring a checkpoint"):
        await worker.hand_in(replace(kept(job, b""), checkpoint=None))
    assert (await worker.hand_in(kept(job, b"x" * (1 << 20)))).dropped == {}
    assert (await worker.hand_in(done(job))).dropped == {}
    assert (await worker.hand_in(kept(job, b"late"))).dropped == {spec.id: "finished"}
    assert values_of(world, node, spec.id) == []


# -- bounds ----------------------------------------------------------------------------------------------


async def _all_given(worker: Worker, held: list[Job]) -> list[Job]:
    """All that a worker holds once it has asked for more."""
    return [*held, *await worker.get(0.3, free=9, holds=held)]


@story()
async def test_a_bound_counts_all_tasks_of_its_name_on_all_workers(world: SimWorld) -> None:
    (node,) = world.nodes
    a, b = Worker(world, node, "w1"), Worker(world, node, "w2")
    await a.beat()
    await b.beat()
    await submit(world, node, *(world.spec(max_running=3) for _ in range(9)), free := world.spec("slow"))
    mine = await _all_given(a, [])
    theirs = await _all_given(b, [])
    assert len([job for job in (*mine, *theirs) if job.name == "work"]) == 3
    assert free.id in [job.id for job in (*mine, *theirs)], "another name goes past what is full"
    (waits, *_) = (await call(world, node, TasksQuery(state="pending"))).tasks
    told = (await call(world, node, TaskStoryQuery(id=waits.id))).waits
    assert told == "3 tasks named work run, and with it at most 3 may"
    # Each way to end a run makes room for one more, at once.
    for outcome in (done, raised):
        ended = next(job for job in mine if job.name == "work")
        waiting = begin(world, node, lambda daemon: daemon.gateway.call(b.next_get(20.0, free=9, holds=theirs)))
        await asyncio.sleep(1.0)
        assert not waiting.done()
        await a.hand_in(outcome(ended))
        mine.remove(ended)
        theirs += (await of(waiting)).jobs
        assert len([job for job in (*mine, *theirs) if job.name == "work"]) == 3


@story(machines=3)
async def test_a_bound_holds_across_a_killed_leader(world: SimWorld) -> None:
    first, second, third = world.nodes
    a, b = Worker(world, second, "w1"), Worker(world, third, "w2")
    await a.beat()
    await b.beat()
    await submit(world, first, *(world.spec(max_running=2) for _ in range(6)))
    mine = list(await a.get(5.0, free=1))
    theirs = list(await b.get(5.0, free=1))
    assert (len(mine), len(theirs)) == (1, 1)
    await all_have(world, mine[0].id, theirs[0].id)
    world.crash(first)
    await new_leader(world)
    # One speaks at once, the other one late: its run is not known here until then, and new tasks may not be given.
    await a.beat(*mine)
    await submit(world, second, *(world.spec(max_running=2) for _ in range(3)), free := world.spec("slow"))
    until_s = world.loop.now + 8.0
    while world.loop.now < until_s:
        await a.beat(*mine)
        mine = await _all_given(a, mine)
        assert len([job for job in mine if job.name == "work"]) == 1
    assert free.id in [job.id for job in mine], "what has no bound need not wait"
    assert await b.beat(*theirs) == ()
    until_s = world.loop.now + 15.0
    while world.loop.now < until_s:
        await a.beat(*mine)
        await b.beat(*theirs)
        mine, theirs = await _all_given(a, mine), await _all_given(b, theirs)
        assert len([job for job in (*mine, *theirs) if job.name == "work"]) == 2
    await b.hand_in(done(theirs[0]))
    theirs = await _all_given(b, theirs[1:])
    assert len([job for job in (*mine, *theirs) if job.name == "work"]) == 2


@story(machines=3, slots=3)
async def test_real_workers_never_run_more_than_the_bound_while_leaders_come_and_go(world: SimWorld) -> None:
    first, second, third = world.nodes
    for node in world.nodes:
        pool(world, node).run_s = (3.0, 5.0)
    specs = [world.spec(max_running=2) for _ in range(12)]
    await submit(world, first, *specs)
    finishing = asyncio.ensure_future(all_done(world, *(spec.id for spec in specs), within_s=400.0))
    most, killed = 0, False
    while not finishing.done():
        running_now = sum(len(pool(world, node).held()) for node in world.nodes if world.machines[node].serves)
        most = max(most, running_now)
        if world.loop.now > 15.0 and not killed:
            killed = True
            world.crash(first)
            world.loop.call_later(20.0, world.start, first)
        await asyncio.sleep(0.1)
    await finishing
    assert most == 2
    assert second
    assert third


@story(machines=3)
async def test_each_part_of_a_split_counts_for_itself(world: SimWorld) -> None:
    first, second, third = world.nodes
    here, there = Worker(world, first, "w1"), Worker(world, second, "w2")
    world.network.isolate(first)
    await world.until("the others have a leader", lambda: world.reigns(second))
    await world.until("it goes on alone", lambda: bool(running(world, first).elector.kind()))
    for worker, node in ((here, first), (there, third)):
        await worker.beat()
        await submit(world, node, *(world.spec(max_running=1) for _ in range(3)))
    held: dict[str, list[Job]] = {"w1": [], "w2": []}
    until_s = world.loop.now + 15.0
    while world.loop.now < until_s:
        for worker in (here, there):
            await worker.beat(*held[worker.name])
            held[worker.name] = await _all_given(worker, held[worker.name])
    assert [len(jobs) for jobs in held.values()] == [1, 1]
