"""The troubles of copies that are named, each as a story: databases on another machine, several copies, clusters."""

from __future__ import annotations

import asyncio
from functools import partial

from meshq.core.requests import Recover
from tests.sim.story import (
    all_done,
    begin,
    call,
    is_whole,
    members,
    of,
    promised,
    stop,
    story,
    submit,
    view,
)
from tests.sim.world import SimWorld


def genesis(world: SimWorld, node: str) -> str:
    """The cluster that this machine belongs to."""
    return world.roster_of(node).genesis


def cut(world: SimWorld, *parts: list[str]) -> None:
    """Nothing gets from one of these parts to another."""
    world.network.cuts |= {
        (one, other) for part in parts for one in part for rest in parts if rest is not part for other in rest
    }


# -- copies that are not the node ------------------------------------------------------------------------


@story(3, slots=1, handover_after_s=4.0)
async def test_a_database_that_is_copied_to_a_second_machine_is_another_node(world: SimWorld) -> None:
    first, second, third = world.nodes
    before = [world.spec() for _ in range(10)]
    await submit(world, first, *before)
    await all_done(world, *(spec.id for spec in before))
    copy = world.heir(third, world.machines[third].disk.copy())
    world.start(copy)
    await world.until("four replicas", lambda: members(world, first) == (first, second, third, copy), within_s=60.0)
    after = [world.spec() for _ in range(10)]
    await submit(world, copy, *after)
    await all_done(world, *(spec.id for spec in (*before, *after)))
    # It leads in its turn, and so does the one that it is a copy of: each writes under its own name.
    for node in (first, second, third):
        await stop(world, node)
    await world.until("the copy leads", lambda: world.reigns(copy))
    of_copy = world.spec()
    assert (await submit(world, copy, of_copy)).majority
    world.start(third)
    await world.until("the third leads", lambda: world.reigns(third), within_s=60.0)
    of_third = world.spec()
    assert (await submit(world, copy, of_third)).majority
    for node in (first, second):
        world.start(node)
    await world.until("one cluster again", partial(is_whole, world), within_s=120.0)
    await all_done(world, *(spec.id for spec in (*before, *after, of_copy, of_third)))


@story(3, slots=1, handover_after_s=4.0)
async def test_a_database_that_is_set_back_gives_its_id_up(world: SimWorld) -> None:
    first, second, third = world.nodes
    old = world.machines[first].disk.copy()
    specs = [world.spec() for _ in range(10)]
    await submit(world, first, *specs)
    await all_done(world, *(spec.id for spec in specs))
    world.crash(first)
    await world.until("the second leads", lambda: world.reigns(second))
    world.machines[first].disk = old
    world.start(first)
    await world.until("it is another node", lambda: len(world.nodes) == 4)
    heir = world.nodes[3]
    await world.until("it is a replica", lambda: members(world, second) == (second, third, heir), within_s=60.0)
    await all_done(world, *(spec.id for spec in specs))
    assert (await submit(world, heir, world.spec())).majority


# -- copies that a person made the cluster ---------------------------------------------------------------


async def both_recover(world: SimWorld, left: list[str], right: list[str]) -> None:
    """On both sides of a cut somebody makes the copy there the cluster, and then the sides meet."""
    await submit(world, left[0], before := world.spec())
    await all_done(world, before.id)
    cut(world, left, right)
    for node in left[1:]:
        world.crash(node)
    await asyncio.sleep(60.0)
    for node in (left[0], right[0]):
        if not world.reigns(node):
            await call(world, node, Recover())
            await world.until("it leads", partial(world.reigns, node), within_s=30.0)
    specs = {node: world.spec() for node in (left[0], right[0])}
    for node, spec in specs.items():
        assert (await submit(world, node, spec)).majority
        assert (await view(world, node, spec.id, wait_s=20.0)).state == "done"
    assert sorted(world.leaders()) == [left[0], right[0]]
    world.network.heal()
    await world.until("one leads all", lambda: len(world.leaders()) == 1, within_s=30.0)
    for node in left[1:]:
        world.start(node)
    await world.until("one cluster", partial(is_whole, world), within_s=120.0)
    await all_done(world, before.id, *(spec.id for spec in specs.values()))
    assert len(world.runs) == 3, "something ran twice"


@story(2, slots=1, handover_after_s=4.0)
async def test_two_copies_that_were_both_made_the_cluster_become_one(world: SimWorld) -> None:
    first, second = world.nodes
    await both_recover(world, [first], [second])


@story(2, slots=1, handover_after_s=4.0, without_majority="stop")
async def test_so_do_those_that_do_nothing_without_a_majority(world: SimWorld) -> None:
    first, second = world.nodes
    await both_recover(world, [first], [second])


@story(4, slots=1, handover_after_s=4.0)
async def test_so_do_those_that_others_followed_meanwhile(world: SimWorld) -> None:
    first, second, third, fourth = world.nodes
    cut(world, [first, second], [third, fourth])
    await asyncio.sleep(60.0)
    for node in (first, third):
        await call(world, node, Recover())
    await world.until("each has its follower", partial(are_members, world, [first, second], [third, fourth]), 60.0)
    specs = [world.spec() for _ in world.nodes]
    for node, spec in zip(world.nodes, specs, strict=True):
        assert (await submit(world, node, spec)).majority
    await asyncio.sleep(5.0)
    world.network.heal()
    await world.until("one cluster", partial(is_whole, world), within_s=120.0)
    await all_done(world, *(spec.id for spec in specs))
    assert len(world.runs) == 4, "something ran twice"


def are_members(world: SimWorld, *parts: list[str]) -> bool:
    """Whether each part has a roster that names just it."""
    return all(world.roster_of(node).members == tuple(part) for part in parts for node in part)


@story(3, slots=1, handover_after_s=3.0)
async def test_the_copy_that_was_made_the_cluster_leads_those_too_who_promised_more(world: SimWorld) -> None:
    first, second, third = world.nodes
    await submit(world, first, before := world.spec())
    await all_done(world, before.id)
    world.crash(third)
    for _ in range(3):
        await of(begin(world, first, lambda running: running.leadership.hand_over(5.0)))
        await world.until("the second leads", lambda: world.reigns(second))
        await world.until("the first leads again", lambda: world.reigns(first))
    for node in (first, second):
        world.crash(node)
    world.start(third)
    await asyncio.sleep(40.0)
    await call(world, third, Recover())
    await world.until("it leads", lambda: world.reigns(third), within_s=30.0)
    late = world.spec()
    assert (await submit(world, third, late)).majority
    assert promised(world, third) < promised(world, first), "nobody promised more, so nothing was tried"
    # Alone it is no majority of the old roster, which would have gone on under a later epoch.
    world.start(first)
    await world.until("it joins", partial(are_members, world, [first, third]), within_s=60.0)
    world.start(second)
    await world.until("one cluster", partial(is_whole, world), within_s=120.0)
    await all_done(world, before.id, late.id)


@story(3, slots=1)
async def test_one_that_left_after_it_had_promised_more_joins_again(world: SimWorld) -> None:
    first, second, third = world.nodes
    await stop(world, third)
    await world.until("it is off the roster", lambda: members(world, first) == (first, second))
    await asyncio.sleep(5.0)
    # It gave its vote to a candidate that nobody else heard of, before it left.
    world.machines[third].disk.promise.execute("UPDATE promise SET epoch = 9, holder = ?", (second,))
    world.start(third)
    await world.until("it is back", partial(is_whole, world), within_s=60.0)
    epoch = promised(world, first)
    assert epoch > 9
    spec = world.spec()
    assert (await submit(world, third, spec)).majority
    await all_done(world, spec.id)
    await asyncio.sleep(60.0)
    assert {promised(world, node) for node in world.nodes} == {epoch}, "the leader stands again and again"


# -- three clusters in a chain ---------------------------------------------------------------------------


async def three_clusters(world: SimWorld) -> list[str]:
    """The first is the oldest cluster, the second the next one; the others are the youngest, and the last sleeps."""
    first, second, third, fourth, sleeper = world.nodes
    cut(world, [first], [second], [third, fourth, sleeper])
    for node in (first, second):
        world.start(node)
        await world.until("it leads", partial(world.reigns, node))
    for node in (third, fourth, sleeper):
        world.start(node)
    await world.until("three replicas", partial(are_members, world, [third, fourth, sleeper]))
    found = [genesis(world, node) for node in (first, second, third)]
    assert found == sorted(set(found)), "they are not three clusters, one older than the other"
    tasks = [world.spec() for _ in world.nodes]
    for node, spec in zip(world.nodes, tasks, strict=True):
        assert (await submit(world, node, spec)).majority
    await world.until("all has run", lambda: len(world.runs) == 5)
    await asyncio.sleep(2.0)
    world.sleep(sleeper)
    world.network.cuts -= {(one, other) for one in world.nodes[1:] for other in world.nodes[1:]}
    await world.until("the second's has two more", lambda: genesis(world, third) == found[1], within_s=60.0)
    return [spec.id for spec in tasks]


async def all_meet(world: SimWorld, tasks: list[str]) -> None:
    """The oldest takes all of them in, and the last one wakes."""
    first, *others, sleeper = world.nodes
    world.network.heal()
    await world.until(
        "the first's cluster is that of all who are awake",
        lambda: members(world, first) == (first, *others),
        within_s=120.0,
    )
    assert genesis(world, sleeper) not in {genesis(world, node) for node in others}
    await asyncio.sleep(60.0)
    world.wake(sleeper)
    await world.until("one cluster", partial(is_whole, world), within_s=120.0)
    await all_done(world, *tasks)
    assert len(world.runs) == 5, "something ran twice"


@story(5, slots=1, form=False)
async def test_one_that_sleeps_through_the_unions_of_its_cluster_finds_the_last(world: SimWorld) -> None:
    second, third, fourth = world.nodes[1:4]
    tasks = await three_clusters(world)
    await world.until("three replicas", partial(are_members, world, [second, third, fourth]), within_s=60.0)
    await asyncio.sleep(10.0)
    await all_meet(world, tasks)


@story(5, slots=1, form=False)
async def test_so_does_one_whose_cluster_was_dissolved_twice_at_once(world: SimWorld) -> None:
    tasks = await three_clusters(world)
    await all_meet(world, tasks)
