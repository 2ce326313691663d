"""Handing out: who is given which task and when, and how a claim ends without an outcome."""

from __future__ import annotations

import asyncio

from meshq.core.requests import Submit
from tests.sim.host import WALL_START_MS
from tests.sim.story import Worker, begin, done, message_of, of, story, submit, view
from tests.sim.world import SimWorld


@story(machines=3)
async def test_a_task_is_handed_out_only_once_it_is_committed(world: SimWorld) -> None:
    leader = world.nodes[0]
    worker = Worker(world, leader, "w1")
    await worker.beat()
    world.network.isolate(leader)
    spec = world.spec()
    submitting = begin(world, leader, lambda running: running.gateway.call(Submit(tasks=(spec,))))
    assert await worker.get(1.0) == ()
    assert world.leaders() == [leader]
    assert world.machines[leader].disk.rows("SELECT id, state FROM tasks") == [(spec.id, "pending")]
    world.network.heal()
    assert (await worker.one(5.0)).id == spec.id
    await of(submitting)


@story()
async def test_the_highest_priority_goes_first_then_the_order_of_arrival(world: SimWorld) -> None:
    (node,) = world.nodes
    worker = Worker(world, node, "w1")
    await worker.beat()
    # Ids are the clients' own and say nothing about the order of arrival.
    made = [world.spec(priority=priority) for priority in (0, 5, -1, 5, 0)]
    by_id = sorted(made, key=lambda spec: spec.id, reverse=True)
    await submit(world, node, *by_id[:3])
    await submit(world, node, *by_id[3:])
    expected = sorted(by_id, key=lambda spec: -spec.priority)
    given = []
    for _ in made:
        job = await worker.one()
        given.append(job.id)
        await worker.hand_in(done(job))
    assert given == [spec.id for spec in expected]


@story()
async def test_a_delayed_task_is_handed_out_when_it_is_due(world: SimWorld) -> None:
    (node,) = world.nodes
    worker = Worker(world, node, "w1")
    await worker.beat()
    due_s = world.loop.time() + 7.0
    delayed = world.spec(priority=9, not_before_ms=WALL_START_MS + int(due_s * 1000))
    await submit(world, node, delayed, now := world.spec())
    first = await worker.one()
    assert first.id == now.id
    await worker.hand_in(done(first))
    # The Get waits already when the task becomes due, and nothing else happens that could wake it.
    second = await worker.one(20.0)
    assert second.id == delayed.id
    assert due_s - 0.001 <= world.loop.time() < due_s + 0.2


# -- an answer that was lost -----------------------------------------------------------------------------


@story()
async def test_what_a_lost_answer_gave_is_given_again_with_the_next_get(world: SimWorld) -> None:
    (node,) = world.nodes
    worker = Worker(world, node, "w1")
    await worker.beat()
    await submit(world, node, spec := world.spec())
    lost = await worker.one()
    # Heartbeats alone free nothing: the answer may be on its way.
    assert await worker.beat() == ()
    again = await worker.one(1.0)
    assert (again.id, again.attempt) == (spec.id, lost.attempt + 1)
    assert await worker.beat(again) == ()
    assert await worker.beat(lost) == (spec.id,)


@story()
async def test_a_late_get_changes_nothing(world: SimWorld) -> None:
    (node,) = world.nodes
    worker = Worker(world, node, "w1")
    await worker.beat()
    await submit(world, node, first := world.spec(), second := world.spec())
    job = await worker.one()
    assert job.id == first.id
    since = world.loop.time()
    assert await worker.get(20.0, number=0) == ()
    assert await worker.get(20.0, number=worker.number) == ()
    assert world.loop.time() - since < 1.0, "a late Get waits for nothing"
    assert (await worker.one(holds=[job])).id == second.id
    assert await worker.beat(job) == ()
    assert (await view(world, node, first.id)).attempt == 1


# -- workers that fall silent, are slow, or start anew -----------------------------------------------------


@story()
async def test_a_silent_worker_loses_its_claims_after_dead_after(world: SimWorld) -> None:
    (node,) = world.nodes
    silent, other = Worker(world, node, "w1"), Worker(world, node, "w2")
    await silent.beat()
    await other.beat()
    await submit(world, node, spec := world.spec())
    run = await silent.one()
    since = world.loop.time()
    job = await other.one(20.0)
    assert 10.0 <= world.loop.time() - since < 11.5
    assert (job.id, job.attempt) == (spec.id, 2)
    # Who was only cut off is told to end its run. No boot was lost, so that nothing is counted.
    assert await silent.beat(run) == (spec.id,)
    assert (await view(world, node, spec.id)).losses == 0


@story()
async def test_a_slow_worker_keeps_its_run_for_as_long_as_it_names_it(world: SimWorld) -> None:
    (node,) = world.nodes
    slow, other = Worker(world, node, "w1"), Worker(world, node, "w2")
    await slow.beat()
    await other.beat()
    await submit(world, node, spec := world.spec())
    job = await slow.one()
    beating = asyncio.create_task(slow.beats(job, for_s=200.0))
    # Somebody is there all the time who would take it.
    while not beating.done():
        assert await other.get(20.0) == ()
    assert await beating == set()
    assert (await slow.hand_in(done(job))).dropped == {}
    shown = await view(world, node, spec.id)
    assert (shown.state, shown.attempt, shown.worker) == ("done", 1, "w1")


@story()
async def test_a_claim_that_its_live_worker_does_not_name_runs_out_after_claim_s(world: SimWorld) -> None:
    (node,) = world.nodes
    forgetful, other = Worker(world, node, "w1"), Worker(world, node, "w2")
    await forgetful.beat()
    await submit(world, node, spec := world.spec())
    await forgetful.one()
    since = world.loop.time()
    asleep = asyncio.create_task(forgetful.beats(for_s=130.0))
    await asyncio.sleep(115.0)
    assert await other.get(0.5) == ()
    assert (await other.one(20.0)).id == spec.id
    assert 120.0 <= world.loop.time() - since < 121.5
    await asleep


@story()
async def test_a_worker_back_with_a_new_boot_loses_its_claims_at_once(world: SimWorld) -> None:
    (node,) = world.nodes
    restarted, other = Worker(world, node, "w1"), Worker(world, node, "w2")
    await restarted.beat()
    await other.beat()
    await submit(world, node, spec := world.spec())
    await restarted.one()
    restarted.dies()
    since = world.loop.time()
    await restarted.beat()
    assert (await other.one(5.0)).attempt == 2
    assert world.loop.time() - since < 0.5
    assert (await view(world, node, spec.id)).losses == 1


@story()
async def test_the_fifth_loss_fails_the_task_and_says_so(world: SimWorld) -> None:
    (node,) = world.nodes
    worker = Worker(world, node, "w1")
    await worker.beat()
    await submit(world, node, spec := world.spec())
    for losses in range(5):
        shown = await view(world, node, spec.id)
        assert (shown.state, shown.losses) == ("pending", losses)
        await worker.one()
        worker.dies()
        await worker.beat()
    shown = await view(world, node, spec.id, wait_s=1.0)
    assert (shown.state, shown.losses, shown.attempt) == ("failed", 5, 5)
    assert "lost 5 times" in message_of(shown)
    assert await worker.get(1.0) == ()


@story()
async def test_a_loss_counts_once_the_node_is_back_however_long_it_was_silent(world: SimWorld) -> None:
    (node,) = world.nodes
    worker, other = Worker(world, node, "w1"), Worker(world, node, "w2")
    await worker.beat()
    await submit(world, node, spec := world.spec())
    await worker.one()
    await asyncio.sleep(30.0)
    assert (await view(world, node, spec.id)).losses == 0, "it may just be cut off"
    await other.beat()
    assert (await other.one(5.0)).attempt == 2
    worker.dies()
    await worker.beat()
    shown = await view(world, node, spec.id)
    assert (shown.state, shown.losses) == ("running", 1)
