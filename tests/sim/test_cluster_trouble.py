"""A cluster in trouble: parts that are cut off, leaders that can't commit, disks that fail."""

from __future__ import annotations

import asyncio

import pytest

from meshq.core.messages import Pull
from meshq.core.requests import TasksQuery, WaitQuery
from meshq.errors import StoreError
from tests.sim.disk import Failing
from tests.sim.story import (
    Worker,
    call,
    done,
    gives_up,
    leader_known_to,
    members,
    pool,
    states,
    status,
    story,
    submit,
    view,
)
from tests.sim.world import SimWorld


def fill(world: SimWorld, node: str, *, full: bool = True) -> None:
    """From now on this machine's disk takes no writes; or takes them again."""
    world.machines[node].disk.fail(Failing.FULL if full else Failing.NOT)


# -- without a majority ----------------------------------------------------------------------------------


@story(machines=3, slots=1, without_majority="stop")
async def test_a_lone_minority_leads_no_more_but_answers_and_keeps_what_it_is_given(world: SimWorld) -> None:
    first, second, _ = world.nodes
    old = [world.spec() for _ in range(5)]
    await submit(world, first, *old)
    await world.until("all are done", lambda: all(states(world, node) == {"done": 5} for node in world.nodes))
    await asyncio.sleep(1.0)
    world.network.isolate(first)
    await world.until("the others have a leader", lambda: world.leaders() == [second])
    assert leader_known_to(world, first) is None
    assert (await view(world, first, old[0].id)).state == "done"
    assert len((await call(world, first, WaitQuery(ids=tuple(spec.id for spec in old)))).tasks) == 5
    assert len((await call(world, first, TasksQuery())).tasks) == 5
    new = [world.spec() for _ in range(3)]
    answer = await submit(world, first, *new)
    assert (answer.copies, answer.majority, answer.queued) == (1, False, True)
    shown = await status(world, first)
    assert (shown.leader, shown.majority, shown.queued) == (None, False, 3)
    await asyncio.sleep(60.0)
    assert world.leaders() == [second]
    assert len(world.runs) == 5
    world.network.heal()
    await world.until("all are done", lambda: all(states(world, node) == {"done": 8} for node in world.nodes))
    assert sorted(task for task, _, _ in world.runs) == sorted(spec.id for spec in (*old, *new))
    assert (await status(world, first)).queued == 0


@story(machines=3)
async def test_a_leader_that_can_commit_nothing_resigns_after_two_leases(world: SimWorld) -> None:
    first = world.nodes[0]
    # Its renewals are answered as ever; only the pulls that would acknowledge what it writes never come.
    world.network.tap = lambda sender, to, message: not (isinstance(message, Pull) and to == first)
    await gives_up(world)
    # What the first had written comes home as soon as somebody hears of it.
    await world.until("the task is there", lambda: all(states(world, node) == {"pending": 1} for node in world.nodes))


# -- disks that fail -------------------------------------------------------------------------------------


@story(machines=3)
async def test_a_leader_whose_disk_fails_leads_no_longer_than_its_lease(world: SimWorld) -> None:
    first, second, third = world.nodes
    await submit(world, first, old := world.spec())
    fill(world, first)
    since = world.loop.time()
    with pytest.raises(StoreError):
        await submit(world, first, world.spec())
    await world.until("another leads", lambda: world.reigns(second) or world.reigns(third))
    assert world.loop.time() - since < 6.0
    assert (await submit(world, third, new := world.spec())).majority
    # It works on as a follower of those that can write, and never leads for as long as it can't.
    worker = Worker(world, first, "w1")
    await worker.beat()
    for _ in range(2):
        job = await worker.one(20.0)
        assert (await worker.hand_in(done(job))).dropped == {}
    for _ in range(60):
        assert first not in world.leaders()
        await asyncio.sleep(0.5)
    assert (await view(world, first, old.id)).state == "done"
    assert states(world, first) == {"pending": 1}
    fill(world, first, full=False)
    await world.until("it has caught up", lambda: states(world, first) == {"done": 2})
    assert (await view(world, first, new.id)).state == "done"


@story(machines=3, slots=2)
async def test_a_leader_whose_disk_fails_amid_the_work_loses_none_of_it(world: SimWorld) -> None:
    first, second, third = world.nodes
    specs = [world.spec() for _ in range(60)]
    await submit(world, second, *specs)
    await world.until("some have run", lambda: len(world.runs) > 15)
    fill(world, first)
    await world.until("another leads", lambda: world.reigns(second) or world.reigns(third))
    await world.until("all is done", lambda: states(world, second) == {"done": 60})
    fill(world, first, full=False)
    await world.until("it has caught up", lambda: states(world, first) == {"done": 60})
    await world.until("it works", lambda: pool(world, first).free() == 2)


@story(machines=3)
async def test_a_follower_whose_disk_fails_holds_nobody_up(world: SimWorld) -> None:
    first, second, third = world.nodes
    fill(world, third)
    answer = await submit(world, third, *(world.spec() for _ in range(10)))
    assert (answer.copies, answer.majority) == (2, True)
    await asyncio.sleep(100.0)
    assert world.leaders() == [first]
    assert members(world, first) == (first, second, third)
    assert states(world, third) == {}
    # With no leader it can't keep a submit, and says so.
    world.crash(first)
    world.crash(second)
    await world.until("nobody leads", lambda: leader_known_to(world, third) is None)
    with pytest.raises(StoreError):
        await submit(world, third, world.spec())
    fill(world, third, full=False)
    world.start(first)
    await world.until("it has caught up", lambda: states(world, third) == {"pending": 10})
