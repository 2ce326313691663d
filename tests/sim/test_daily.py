"""Options and acts of daily use across changes of the leader: delays, retries, keys, batches, what is forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from meshq.core.infos import TaskInfo
from meshq.core.requests import (
    Cancel,
    CancelBatch,
    Retry,
    RetryFailed,
    Submit,
    Submitted,
    TaskQuery,
    TaskSpec,
    TasksQuery,
)
from meshq.errors import Malformed, NotFound, UnknownTask
from tests.sim.daily import all_have, in_seconds, is_there, new_leader, next_run, state_of
from tests.sim.host import ANYTHING, TASKS
from tests.sim.story import (
    Worker,
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
        world.spec("own", unset=left_open, owner="bob"),
    ]  # fmt: skip
    await submit(world, node, *made)
    columns = "priority, timeout_s, retries, max_running"
    rows = [world.machines[node].disk.rows(f"SELECT {columns} FROM tasks WHERE id = ?", (spec.id,)) for spec in made]
    assert rows[:4] == [[(7, 30.0, 2, 4)], [(1, None, 2, 0)], [(0, None, 1, 0)], [(0, None, 0, 0)]]
    assert rows[4] == [(0, 30.0, 2, 4)], "a credential's go before no others"


@story()
async def test_an_option_out_of_range_is_refused_by_its_name_and_nothing_is_kept(world: SimWorld) -> None:
    (node,) = world.nodes
    await Worker(world, node, "w1").beat()
    wrong: Sequence[tuple[dict[str, Any], str]] = (
        ({"backoff": "quadratic"}, "backoff: must be one of constant, linear, exponential, not 'quadratic'"),
        ({"max_running": -1}, "max_running: must be from 0"),
        ({"keep_s": float("inf")}, "keep_s: must be from 0 to 315360000 seconds, not inf"),
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


@story()
async def test_of_many_tasks_the_one_that_nobody_could_run_is_named_by_its_place(world: SimWorld) -> None:
    (node,) = world.nodes
    await Worker(world, node, "w1").beat()
    good, unknown = world.spec(), world.spec("nothing")
    with pytest.raises(UnknownTask, match=r"^tasks\[2\]: no live node knows a task named nothing"):
        await submit(world, node, good, world.spec(), unknown)
    # Where it is that of all, there is nothing to be told apart.
    with pytest.raises(UnknownTask, match=r"^no live node"):
        await submit(world, node, unknown, world.spec("nothing"))
    assert world.machines[node].disk.rows("SELECT id FROM tasks") == []


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
        job = await next_run(worker, 200.0)
        assert job.id == spec.id
        assert least_s - 0.1 <= world.loop.now <= most_s + 1.5
        await worker.hand_in(done(job))
    assert (await view(world, third, failing.id)).attempt == 2


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
        given.append(await next_run(worker, 5.0))
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
    await world.until("it is delivered", lambda: is_there(world, first, again.id))
    shown = await view(world, second, again.id)
    assert shown.state == "cancelled", "what was acknowledged never disappears"
    assert f"is that of task {spec.id}" in str(shown.error)
    assert (await submit(world, second, world.spec(key="nightly"))).ids == (spec.id,)


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
    await world.until("both are there", lambda: is_there(world, first, there.id) and is_there(world, first, here.id))
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
    assert (await next_run(worker, 30.0)).id == other.id


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
        "it is purged everywhere", lambda: all(state_of(world, node, spec.id) == "purged" for node in world.nodes)
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


@story(machines=3, slots=1)
async def test_a_new_leader_whose_clock_is_ahead_gives_clients_their_time_too(world: SimWorld) -> None:
    first, second, third = world.nodes
    world.machines[second].wall_ahead_ms = 3_600_000
    await submit(world, first, spec := world.spec(keep_s=0.0))
    await world.until("it is done", lambda: all(state_of(world, node, spec.id) == "done" for node in world.nodes))
    world.crash(first)
    assert await new_leader(world) == second
    await asyncio.sleep(5.0)
    assert (await view(world, third, spec.id)).state == "done"
    await world.until("it is purged", lambda: state_of(world, second, spec.id) == "purged")


def _waits_for(spec: TaskSpec) -> Any:
    return lambda daemon: daemon.gateway.call(TaskQuery(id=spec.id, wait_s=60.0))
