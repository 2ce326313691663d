"""How a cluster ends that becomes part of another: its last row, and who goes because of it."""

from __future__ import annotations

from tests.sim.story import leader_known_to, running, story, submit, view
from tests.sim.unions import genesis, join, part, two_clusters
from tests.sim.world import SimWorld


@story(3, form=False)
async def test_who_holds_the_last_row_follows_those_who_knew_that_a_majority_does(world: SimWorld) -> None:
    elder, first, second = world.nodes
    await two_clusters(world)
    await submit(world, first, world.spec())
    join(world, [elder], [first])
    await world.until("the last row is with both", lambda: running(world, second).replicator.roster.into != "")
    # It acknowledges that row with its next pull, and hears nothing more.
    world.network.cuts.add((first, second))
    await world.until("the leader goes", lambda: genesis(world, first) == genesis(world, elder))
    part(world, [first], [second])
    await world.until("the other goes on alone", lambda: leader_known_to(world, second) == second)
    kept = await submit(world, second, spec := world.spec())
    assert (kept.copies, kept.majority, kept.queued) == (1, False, False)
    assert world.roster_of(elder).absorbed == (), "one of two is no majority"
    world.network.heal()
    await world.until("all are one", world.is_one_cluster, within_s=60.0)
    assert (await view(world, elder, spec.id, wait_s=10.0)).state == "pending"


@story(3, form=False)
async def test_a_cluster_that_ends_acknowledges_nothing_after_its_last_row(world: SimWorld) -> None:
    elder, first, _second = world.nodes
    await two_clusters(world)
    await submit(world, first, before := world.spec())
    join(world, [elder], [first])
    await world.until("the last row is written", lambda: running(world, first).replicator.roster.into != "")
    # What it acknowledged now might be unknown to those who go at once.
    kept = await submit(world, first, after := world.spec())
    assert (kept.queued, kept.majority) == (True, False)
    world.network.heal()
    await world.until("all are one", world.is_one_cluster, within_s=60.0)
    for spec in (before, after):
        assert (await view(world, elder, spec.id, wait_s=10.0)).state == "pending"
