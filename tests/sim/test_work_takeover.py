"""The work when its leader is lost: runs that go on, runs that nobody has any more, and results that find a new one."""

from __future__ import annotations

import asyncio

from meshq.wire import values
from tests.sim.story import Worker, begin, done, pool, running, story, submit, view, waiting_outcomes
from tests.sim.world import SimWorld


async def new_leader(world: SimWorld) -> str:
    """Waits until another leads and has done its first write."""
    await world.until("another leads", lambda: any(world.reigns(node) for node in world.nodes))
    (leader,) = world.leaders()
    return leader


# -- runs that go on -------------------------------------------------------------------------------------


@story(machines=3)
async def test_a_run_that_its_worker_announces_again_is_adopted_and_not_run_twice(world: SimWorld) -> None:
    first, second, third = world.nodes
    worker, other = Worker(world, third, "w1"), Worker(world, third, "w2")
    await worker.beat()
    await submit(world, first, spec := world.spec())
    job = await worker.one(5.0)
    world.crash(first)
    leader = await new_leader(world)
    await other.beat()
    assert await worker.beat(job) == ()
    waiting = begin(world, third, lambda node: node.gateway.call(other.next_get(20.0)))
    assert await worker.beats(job, for_s=15.0) == set()
    assert not waiting.done(), "the census is over, and the run still counts"
    assert (await worker.hand_in(done(job))).dropped == {}
    shown = await view(world, leader, spec.id)
    assert (shown.state, shown.worker, shown.attempt) == ("done", "w1", 1)
    assert leader in (second, third)


@story(machines=3, slots=1)
async def test_real_workers_announce_their_runs_to_the_next_leader(world: SimWorld) -> None:
    first, *others = world.nodes
    for node in world.nodes:
        pool(world, node).run_s = (20.0, 20.0)
    specs = [world.spec() for _ in world.nodes]
    await submit(world, first, *specs)
    await world.until("all run", lambda: len(world.runs) == 3)
    lost = pool(world, first).held()[0].id
    world.crash(first)
    leader = await new_leader(world)
    for spec in specs:
        assert (await view(world, leader, spec.id, wait_s=60.0)).state == "done"
    runs = [task for task, _, _ in world.runs]
    assert {spec.id: runs.count(spec.id) for spec in specs} == {spec.id: 1 + (spec.id == lost) for spec in specs}
    assert all(running(world, node).counters["outcome_dropped"] == 0 for node in others)


# -- the census ------------------------------------------------------------------------------------------


@story(machines=3)
async def test_before_the_census_is_over_only_tasks_of_the_new_epoch_are_handed_out(world: SimWorld) -> None:
    first, *_ = world.nodes
    before = Worker(world, first, "w0")
    await before.beat()
    await submit(world, first, old := world.spec())
    since = world.loop.time()
    world.crash(first)
    leader = await new_leader(world)
    worker = Worker(world, leader, "w1")
    await worker.beat()
    # The one that crashed may run it, and has not spoken; nor has the worker that spoke to it.
    assert await worker.get(3.0) == ()
    await submit(world, leader, new := world.spec())
    job = await worker.one(1.0)
    assert job.id == new.id
    assert (await worker.hand_in(done(job))).dropped == {}
    assert (await worker.one(20.0)).id == old.id
    assert 9.5 < world.loop.time() - since < 11.5


@story(machines=3)
async def test_the_census_is_over_at_once_when_every_known_worker_has_spoken(world: SimWorld) -> None:
    first, *_ = world.nodes
    await Worker(world, first, "w0").beat()
    await submit(world, first, old := world.spec())
    handing_over = world.at(first, lambda node: node.leadership.hand_over(5.0))
    await world.until("another leads", lambda: any(world.reigns(node) for node in world.nodes[1:]))
    await handing_over
    (leader,) = world.leaders()
    worker = Worker(world, leader, "w1")
    await worker.beat()
    assert (await worker.one(3.0)).id == old.id


@story(machines=3)
async def test_after_the_census_a_run_that_nobody_has_runs_again(world: SimWorld) -> None:
    first, *_ = world.nodes
    gone = Worker(world, first, "w0")
    await gone.beat()
    await submit(world, first, spec := world.spec())
    await gone.one(5.0)
    # Claims wait for no commit, so this one may be known or not to the next leader; here it is.
    await world.until("all know", lambda: all(_is_running(world, node, spec.id) for node in world.nodes))
    world.crash(first)
    leader = await new_leader(world)
    worker = Worker(world, leader, "w1")
    await worker.beat()
    since = world.loop.time()
    job = await worker.one(20.0)
    assert 9.0 < world.loop.time() - since < 11.5
    assert (job.id, job.attempt) == (spec.id, 2)
    # Nobody knows whether its node was lost or is only cut off, so nothing is counted.
    assert (await view(world, leader, spec.id)).losses == 0


def _is_running(world: SimWorld, node: str, task: str) -> bool:
    return (task, "running") in world.machines[node].disk.rows("SELECT id, state FROM tasks")


# -- results without a leader ----------------------------------------------------------------------------


@story(machines=3, slots=1, without_majority="stop")
async def test_a_result_finished_while_nobody_led_reaches_the_next_leader(world: SimWorld) -> None:
    first, second, third = world.nodes
    for node in world.nodes:
        pool(world, node).run_s = (2.0, 2.0)
    specs = [world.spec() for _ in world.nodes]
    await submit(world, first, *specs)
    await world.until("all run", lambda: len(world.runs) == 3)
    lost = pool(world, first).held()[0].id
    # The others are cut off from each other, so that for a while neither can lead.
    world.network.isolate(second)
    world.crash(first)
    await asyncio.sleep(40.0)
    assert [waiting_outcomes(world, node) for node in (second, third)] == [1, 1]
    assert world.leaders() == []
    world.network.heal()
    leader = await new_leader(world)
    since = world.loop.time()
    for spec in specs:
        if spec.id != lost:
            shown = await view(world, leader, spec.id, wait_s=30.0)
            assert (shown.state, shown.attempt) == ("done", 1)
    assert world.loop.time() - since < 1.2, "at once, and not after a pause of up to 20 s"
    await world.until("nothing waits", lambda: not any(waiting_outcomes(world, node) for node in (second, third)))
    assert len(world.runs) == 3


@story(machines=3, slots=1)
async def test_a_result_outlives_its_workers_daemon(world: SimWorld) -> None:
    first, second, third = world.nodes
    for node in world.nodes:
        pool(world, node).run_s = (3.0, 3.0)
    specs = [world.spec() for _ in world.nodes]
    await submit(world, first, *specs)
    await world.until("all run", lambda: len(world.runs) == 3)
    kept = pool(world, third).held()[0].id
    world.crash(first)
    world.crash(second)
    await world.until("its run has ended", lambda: waiting_outcomes(world, third) == 1)
    world.crash(third)
    for node in (third, second, first):
        world.start(node)
    leader = await new_leader(world)
    shown = await view(world, leader, kept, wait_s=30.0)
    assert (shown.state, shown.worker) == ("done", third)
    assert shown.result is not None
    assert f"{kept[-4:]} by n2.1," in values.unpack(shown.result), "the run of its first start"
    await world.until("nothing waits", lambda: not waiting_outcomes(world, third))
