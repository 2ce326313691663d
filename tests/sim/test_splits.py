"""Parts that go on without a majority, and what becomes of their work when they meet again."""

from __future__ import annotations

import asyncio

import pytest

from meshq.core.requests import Forget, Recover
from meshq.errors import Conflict, NoLeader
from tests.sim.story import call, is_whole, status, story, submit, view
from tests.sim.world import SimWorld


@story(2, slots=2)
async def test_of_two_machines_either_may_die(world: SimWorld) -> None:
    a, b = world.nodes
    for gone, left in ((a, b), (b, a)):
        before = world.spec()
        assert (await submit(world, left, before)).majority
        lost_at = world.loop.now
        world.crash(gone)
        spec = world.spec()
        while (kept := await submit(world, left, spec)).queued:
            await asyncio.sleep(0.5)
        assert world.loop.now - lost_at < 15.0
        assert (kept.copies, kept.majority) == (1, False)
        done = await view(world, left, spec.id, wait_s=20.0)
        assert (done.state, done.majority) == ("done", False)
        assert (await view(world, left, before.id, wait_s=20.0)).state == "done"
        seen = await status(world, left)
        assert (seen.leader, seen.majority, seen.split, seen.copies, seen.missing) == (left, False, "warm", 1, (gone,))
        world.start(gone)
        await world.until("one cluster again", lambda: is_whole(world), within_s=120.0)
        assert (await view(world, gone, spec.id, wait_s=20.0)).majority
        merged = (await status(world, a)).merge
        assert merged is None or merged.twice == 0


@story(3, slots=2)
async def test_a_leader_that_is_cut_off_goes_on_and_its_work_comes_home(world: SimWorld) -> None:
    a, b, c = world.nodes
    world.network.isolate(a)
    await world.until("the others have a leader", lambda: world.reigns(b))
    await asyncio.sleep(10.0)
    here, there = world.spec(), world.spec()
    kept = await submit(world, a, here)
    assert (kept.copies, kept.majority) == (1, False)
    assert (await submit(world, c, there)).majority
    done = await view(world, a, here.id, wait_s=20.0)
    assert (done.state, done.majority) == ("done", False)
    world.network.heal()
    await world.until("the lowest id leads again", lambda: is_whole(world), within_s=120.0)
    for node in world.nodes:
        shown = await view(world, node, here.id)
        assert (shown.state, shown.result, shown.majority) == ("done", done.result, True)
    assert len([run for run in world.runs if run[0] == here.id]) == 1


@story(3, slots=2, without_majority="stop")
async def test_who_is_told_to_stop_without_a_majority_keeps_what_comes_in_its_outbox(world: SimWorld) -> None:
    a, b, _ = world.nodes
    world.network.isolate(a)
    await world.until("the others have a leader", lambda: world.reigns(b))
    await asyncio.sleep(60.0)
    spec = world.spec()
    assert (await submit(world, a, spec)).queued
    assert (await status(world, a)).leader is None
    world.network.heal()
    await world.until("all is one again", lambda: is_whole(world), within_s=120.0)
    assert (await view(world, b, spec.id, wait_s=20.0)).state == "done"


@story(3, slots=2)
async def test_a_node_that_starts_alone_runs_only_what_is_new(world: SimWorld) -> None:
    a, b, c = world.nodes
    for node in world.nodes:
        pool = world.machines[node].pool
        assert pool is not None
        pool.run_s = (500.0, 500.0)
    old = [world.spec() for _ in range(20)]
    await submit(world, a, *old)
    for node in world.nodes:
        world.crash(node)
    world.start(b)
    await asyncio.sleep(20.0)
    early = world.spec()
    assert (await submit(world, b, early)).queued, "it may still find the others"
    await asyncio.sleep(15.0)
    new = world.spec()
    assert not (await submit(world, b, new)).majority
    for spec in (early, new):
        assert (await view(world, b, spec.id, wait_s=20.0)).state == "done"
    seen = await status(world, b)
    assert (seen.split, seen.missing) == ("cold", (a, c))
    assert seen.tasks["done"] == 2
    await asyncio.sleep(60.0)
    assert (await status(world, b)).tasks["done"] == 2
    with pytest.raises(NoLeader, match="no majority"):
        await call(world, b, Forget(node=c))
    world.start(a)
    await world.until("a majority", lambda: world.reigns(a) or world.reigns(b), within_s=60.0)
    for spec in old:
        assert (await view(world, b, spec.id, wait_s=60.0)).state == "done"


@story(3, slots=2)
async def test_recover_makes_the_copy_that_is_left_the_cluster(world: SimWorld) -> None:
    a, b, c = world.nodes
    with pytest.raises(Conflict, match="nothing to recover"):
        await call(world, b, Recover())
    old = world.spec()
    await submit(world, a, old)
    for node in world.nodes:
        world.crash(node)
    world.start(b)
    await asyncio.sleep(40.0)
    await call(world, b, Recover())
    await world.until("it leads", lambda: world.reigns(b), within_s=30.0)
    assert (await view(world, b, old.id, wait_s=30.0)).state == "done"
    spec = world.spec()
    assert (await submit(world, b, spec)).majority
    # The two others together are a majority of the old roster, and yield all the same.
    world.network.isolate(b)
    world.start(a)
    world.start(c)
    await world.until("the old roster has a leader", lambda: world.reigns(a) or world.reigns(c), within_s=60.0)
    late = world.spec()
    await submit(world, a, late)
    world.network.heal()
    await world.until("one cluster again", lambda: is_whole(world), within_s=180.0)
    for sought in (old, spec, late):
        assert (await view(world, a, sought.id, wait_s=30.0)).state == "done"
