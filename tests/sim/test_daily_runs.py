"""What a run keeps for the next one, and how many of a name run at once, across changes of the leader."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial

import pytest

from meshq.core.messages import Rows
from meshq.core.requests import Get, Got, Job, TasksQuery, TaskStoryQuery
from meshq.errors import Malformed
from meshq.node.node import Node
from tests.sim.daily import all_have, done_here, kept, new_leader, next_run, state_of, values_of
from tests.sim.host import STEPS
from tests.sim.story import (
    Worker,
    all_done,
    begin,
    call,
    done,
    is_whole,
    of,
    pool,
    raised,
    running,
    story,
    submit,
    view,
)
from tests.sim.world import SimWorld

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
    again = await next_run(worker, 30.0)
    assert (again.id, again.attempt, again.checkpoint) == (spec.id, 2, b"two thirds")
    # The earlier run speaks late: it is not the present one.
    assert (await worker.hand_in(kept(job, b"nothing"))).dropped == {spec.id: "not the present claim"}
    assert values_of(world, leader, spec.id) == ["checkpoint"]
    await worker.hand_in(done(again))
    await done_here(world, spec.id)
    assert [values_of(world, node, spec.id) for node in world.nodes[1:]] == [[], []], "nobody needs it any more"


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
    again = await next_run(here, 60.0)
    assert (again.id, again.checkpoint) == (spec.id, b"in the split")
    await here.hand_in(raised(again, final=True))
    await world.until(
        "it is purged", lambda: all(state_of(world, node, spec.id) == "purged" for node in world.nodes), within_s=90.0
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


async def _asks(request: Get, daemon: Node) -> Got:
    answer = await daemon.gateway.call(request)
    assert isinstance(answer, Got)
    return answer


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
        asked = b.next_get(20.0, free=9, holds=theirs)
        waiting = begin(world, node, partial(_asks, asked))
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
    before = [world.spec("slow", priority=1), *(world.spec(max_running=2) for _ in range(6))]
    await submit(world, first, *before)
    theirs = list(await b.get(5.0, free=1))
    await all_have(world, *(spec.id for spec in before))
    # Claims wait for no commit: that the second runs something is known, but nobody learns of these two.
    world.network.tap = lambda sender, to, message: not (sender == first and isinstance(message, Rows))
    mine = list(await a.get(5.0, free=1))
    theirs += await b.get(5.0, free=1, holds=theirs)
    assert [job.name for job in (*mine, *theirs)] == ["work", "slow", "work"]
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
    await b.hand_in(done(theirs.pop(1)))
    theirs = await _all_given(b, theirs)
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
