"""The troubles of a network that are named, each as a story: firewalls, bridges, splits, a lowest id that can't lead.

Those of copies and clusters are in `test_named_copies.py`; the replica that slept for five weeks, over which the
others dropped tombstones, is in `row_cases.py`, with the fault that breaks it.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from meshq.core.messages import Rows
from meshq.core.requests import TaskStoryQuery
from tests.sim.disk import Failing
from tests.sim.story import (
    Worker,
    all_done,
    call,
    done,
    is_whole,
    leader_known_to,
    promised,
    states,
    status,
    story,
    submit,
    view,
)
from tests.sim.world import SimWorld

# -- who can call whom -----------------------------------------------------------------------------------


async def walled(world: SimWorld, *closed: str) -> None:
    """Nobody can call these machines; they can call the others."""
    world.network.walls |= {(other, node) for node in closed for other in world.nodes if other != node}
    for node in world.nodes:
        world.start(node)
    await world.until("one cluster of all", partial(is_whole, world))
    specs = [world.spec() for _ in range(10)]
    for node in world.nodes:
        assert (await submit(world, node, *specs)).majority
    await all_done(world, *(spec.id for spec in specs))
    # And back again after a cut, whoever leads.
    world.network.isolate(world.nodes[0])
    await world.until("the others have a leader", lambda: world.reigns(world.nodes[1]))
    world.network.heal()
    await world.until("one cluster again", partial(is_whole, world), within_s=120.0)


@story(3, slots=1, form=False)
async def test_a_laptop_whose_firewall_lets_nobody_in_leads_like_any_other(world: SimWorld) -> None:
    await walled(world, world.nodes[0])


@story(3, slots=1, form=False)
async def test_a_laptop_whose_firewall_lets_nobody_in_follows_like_any_other(world: SimWorld) -> None:
    await walled(world, world.nodes[2])


@story(4, slots=1, form=False, replicas=3)
async def test_two_walled_machines_that_never_reach_each_other_both_work(world: SimWorld) -> None:
    first, second, third, fourth = world.nodes
    world.network.walls |= {(other, node) for node in (third, fourth) for other in world.nodes if other != node}
    for node in world.nodes:
        world.start(node)
    await world.until("one cluster of all", world.is_one_cluster)
    specs = [world.spec() for _ in range(40)]
    await submit(world, first, *specs)
    await world.until("all is done", lambda: states(world, second) == {"done": 40})
    assert {name for _, name, _ in world.runs} == {"n0", "n1", "n2", "n3"}


# -- a lowest id that can't or should not lead -----------------------------------------------------------


@story(3, slots=1, handover_after_s=5.0)
async def test_the_lowest_id_with_a_full_disk_keeps_nobody_leaderless(world: SimWorld) -> None:
    first, second, third = world.nodes
    world.machines[first].disk.fail(Failing.FULL)
    await submit_until_kept(world, third)
    await world.until("another leads", lambda: world.reigns(second) or world.reigns(third))
    begun = promised(world, third)
    leaderless_s = 0.0
    for _ in range(600):
        await asyncio.sleep(0.1)
        leaderless_s += 0.0 if world.leaders() else 0.1
        assert first not in world.leaders(), "it can write nothing"
    assert leaderless_s < 1.0
    assert promised(world, third) == begun, "the lowest id stands again and again"
    world.machines[first].disk.fail(Failing.NOT)
    await world.until("the lowest id leads again", partial(is_whole, world), within_s=120.0)


async def submit_until_kept(world: SimWorld, node: str) -> None:
    """A task is kept under a majority, however long that takes."""
    spec = world.spec()
    async with asyncio.timeout(60.0):
        while not (kept := await world.submit(node, spec)) or not kept.majority:
            await asyncio.sleep(0.5)


@story(3, handover_after_s=5.0)
async def test_the_lowest_id_far_behind_leads_only_once_it_has_everything(world: SimWorld) -> None:
    first, second, third = world.nodes
    world.crash(first)
    await world.until("the second leads", lambda: world.reigns(second))
    await Worker(world, second, "w1").beat()
    await submit(world, second, *(world.spec() for _ in range(5_000)))
    # Its disk is so slow that catching up takes longer than a hand-over would wait.
    world.machines[first].disk.slow = 3_000.0
    world.start(first)
    await asyncio.sleep(15.0)
    assert world.leaders() == [second], "one that is far behind deposed the leader"
    assert (await submit(world, third, world.spec())).majority
    world.machines[first].disk.slow = 1.0
    await world.until("the lowest id leads", partial(is_whole, world), within_s=120.0)
    assert states(world, first) == {"pending": 5_001}


@story(5, slots=1, handover_after_s=3.0)
async def test_a_lowest_id_that_reaches_only_the_leader_deposes_nobody(world: SimWorld) -> None:
    first, second, *others = world.nodes
    world.network.cuts |= {pair for other in others for pair in ((first, other), (other, first))}
    await world.until("the second leads", lambda: world.reigns(second))
    await asyncio.sleep(5.0)
    begun = promised(world, second)
    spec = world.spec()
    assert (await submit(world, first, spec)).majority
    for _ in range(200):
        await asyncio.sleep(0.5)
        assert world.leaders() == [second]
    assert promised(world, second) == begun
    assert (await view(world, first, spec.id)).state == "done"
    world.network.heal()
    await world.until("the lowest id leads", partial(is_whole, world), within_s=300.0)


@story(3, slots=1, handover_after_s=3.0)
async def test_of_three_the_lowest_that_reaches_only_the_leader_leaves_nobody_out(world: SimWorld) -> None:
    first, second, third = world.nodes
    world.crash(first)
    await world.until("the second leads", lambda: world.reigns(second))
    world.network.cuts |= {(first, third), (third, first)}
    world.start(first)
    await world.until("it follows", lambda: leader_known_to(world, first) == second)
    begun = promised(world, second)
    for _ in range(200):
        await asyncio.sleep(0.5)
        assert leader_known_to(world, third) == second, "the third was left out for the sake of the first"
        assert world.leaders() == [second]
    assert promised(world, second) == begun
    world.network.heal()
    await world.until("the lowest id leads", partial(is_whole, world), within_s=60.0)


# -- parts -----------------------------------------------------------------------------------------------


@story(5, slots=1, split_after_s=4.0, cold_after_s=8.0)
async def test_a_bridge_between_a_majority_and_a_split_keeps_the_leader_and_brings_all_home(world: SimWorld) -> None:
    first, second, bridge, fourth, fifth = world.nodes
    sides = [(one, other) for one in (first, second) for other in (fourth, fifth)]
    world.network.cuts |= {pair for one, other in sides for pair in ((one, other), (other, one))}
    begun = promised(world, first)
    await asyncio.sleep(20.0)
    here, there = world.spec(), world.spec()
    assert (await submit(world, second, here)).majority
    kept = await submit(world, fifth, there)
    assert kept.queued or not kept.majority
    for _ in range(60):
        await asyncio.sleep(1.0)
        assert world.leaders() == [first]
    assert promised(world, bridge) == begun, "the bridge was asked for its vote again and again"
    world.network.heal()
    await all_done(world, here.id, there.id, within_s=120.0)
    await world.until("one cluster", partial(is_whole, world), within_s=120.0)


@story(5, slots=1, split_after_s=4.0, cold_after_s=8.0)
async def test_two_splits_that_meet_become_one_and_their_work_adds_up(world: SimWorld) -> None:
    first, second, third, fourth, gone = world.nodes
    here = (first, second, third, fourth)
    world.crash(gone)
    sides = [(one, other) for one in (first, second) for other in (third, fourth)]
    world.network.cuts |= {pair for one, other in sides for pair in ((one, other), (other, one))}
    await world.until(
        "each part goes on",
        lambda: leader_known_to(world, second) == first and leader_known_to(world, fourth) == third,
        within_s=60.0,
    )
    assert world.leaders() == []
    left, right = world.spec(), world.spec()
    for node, spec in ((second, left), (fourth, right)):
        kept = await submit(world, node, spec)
        assert (kept.copies, kept.majority, kept.queued) == (2, False, False)
        assert (await view(world, node, spec.id, wait_s=20.0)).state == "done"
    world.network.heal()
    await world.until("they are a majority", lambda: any(world.reigns(node) for node in here))
    await world.until("each has both", lambda: all(states(world, node) == {"done": 2} for node in here))
    for node in here:
        for spec in (left, right):
            shown = await view(world, node, spec.id, wait_s=20.0)
            assert (shown.state, shown.majority) == ("done", True)
    assert sorted(task for task, _, _ in world.runs) == sorted((left.id, right.id)), "something ran twice"
    world.start(gone)
    await world.until("one cluster", partial(is_whole, world), within_s=120.0)


@story(5, slots=1, split_after_s=4.0, cold_after_s=8.0)
async def test_two_splits_that_meet_and_are_no_majority_go_on_as_one(world: SimWorld) -> None:
    first, second, *gone = world.nodes
    world.network.cuts |= {(first, second), (second, first)}
    for node in gone:
        world.crash(node)
    await world.until(
        "each goes on", lambda: (leader_known_to(world, first), leader_known_to(world, second)) == (first, second)
    )
    specs = {node: world.spec() for node in (first, second)}
    for node, spec in specs.items():
        assert not (await submit(world, node, spec)).majority
        assert (await view(world, node, spec.id, wait_s=20.0)).state == "done"
    world.network.heal()
    await world.until("the lower leads both", lambda: leader_known_to(world, second) == first, within_s=60.0)
    await world.until("each has both", lambda: all(states(world, node) == {"done": 2} for node in (first, second)))
    for node in (first, second):
        for spec in specs.values():
            shown = await view(world, node, spec.id, wait_s=20.0)
            assert (shown.state, shown.majority) == ("done", False)
    assert (await submit(world, second, world.spec())).copies == 2
    for node in gone:
        world.start(node)
    await world.until("one cluster", partial(is_whole, world), within_s=120.0)
    await all_done(world, *(spec.id for spec in specs.values()))


async def two_results(world: SimWorld, *, leader_first: bool) -> None:
    """The first, cut off, finishes a task that the others finish as well; then both sides merge, one of them first."""
    first, second, third = world.nodes
    spec = world.spec()
    await Worker(world, first, "w0").beat()
    await submit(world, first, spec)
    await world.until("all know the task", lambda: all(states(world, node) == {"pending": 1} for node in world.nodes))
    await asyncio.sleep(2.0)
    world.network.isolate(first)
    await world.until("the others have a leader", lambda: world.reigns(second))
    await world.until("the first goes on", lambda: leader_known_to(world, first) == first, within_s=30.0)
    lonely, loyal = Worker(world, first, "w1"), Worker(world, second, "w2")
    await lonely.beat()
    await loyal.beat()
    await lonely.hand_in(done(await lonely.one(30.0), "of the split"))
    alone = await view(world, first, spec.id)
    assert (alone.state, alone.majority) == ("done", False)
    await loyal.hand_in(done(await loyal.one(30.0), "of the majority"))
    stands = await view(world, third, spec.id)
    assert (stands.state, stands.majority) == ("done", True)
    assert stands.result != alone.result
    merges, later = (second, first) if leader_first else (first, second)

    def tap(sender: str, to: str, message: Any) -> bool:
        """What the one is sent that is to merge later is lost until the other one keeps the outcome that lost."""
        kept = world.machines[merges].disk.rows("SELECT 1 FROM payloads WHERE ref LIKE '%/clash/%'")
        return bool(kept) or not ((sender, to) == (merges, later) and isinstance(message, Rows))

    world.network.tap = tap
    world.network.heal()
    await world.until("one cluster", partial(is_whole, world), within_s=120.0)
    await asyncio.sleep(5.0)
    for node in world.nodes:
        shown = await view(world, node, spec.id)
        assert (shown.result, shown.majority) == (stands.result, True)
        told = await call(world, node, TaskStoryQuery(id=spec.id))
        assert [(clash.result, clash.differs) for clash in told.clashes] == [(alone.result, True)]
    merge = (await status(world, third)).merge
    assert merge is not None, "nobody reported it"
    assert (merge.twice, merge.differed) == (1, 1)


@story(3, split_after_s=4.0)
async def test_of_two_results_the_majoritys_stands_and_both_are_shown(world: SimWorld) -> None:
    await two_results(world, leader_first=True)


@story(3, split_after_s=4.0)
async def test_of_two_results_both_are_shown_though_the_split_merges_first(world: SimWorld) -> None:
    await two_results(world, leader_first=False)
