"""The life of a cluster in order: it grows, machines leave and come back, all stop and start again."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from meshq.config import Config
from meshq.core.messages import Hello, Pull, Renew, Rows, Vote, VoteAnswer
from meshq.core.requests import ClusterStoryQuery, Submit, Submitted
from meshq.errors import Stopping
from tests.sim.story import (
    Worker,
    begin,
    call,
    leader_known_to,
    members,
    of,
    pool,
    running,
    states,
    status,
    stop,
    story,
    submit,
    view,
)
from tests.sim.world import SimWorld

# -- growing ---------------------------------------------------------------------------------------------


@story(machines=7, slots=1, form=False)
async def test_seven_machines_become_five_replicas_and_two_workers_and_all_work(world: SimWorld) -> None:
    for node in world.nodes:
        world.start(node)
    first = world.nodes[0]
    await world.until("five replicas", lambda: world.reigns(first) and len(members(world, first)) == 5)
    specs = [world.spec() for _ in range(70)]
    await submit(world, world.nodes[6], *specs)
    await world.until("all is done", lambda: states(world, first) == {"done": 70})
    assert {name for _, name, _ in world.runs} == {machine.name for machine in world.machines.values()}
    roles = Counter(shown.role for shown in (await status(world, world.nodes[6])).nodes)
    assert roles == {"leader": 1, "replica": 4, "worker": 2}
    await asyncio.sleep(20.0)
    assert len(members(world, first)) == 5
    # Those who only work hold no copies.
    assert [states(world, node) for node in world.nodes if node not in members(world, first)] == [{}, {}]


@story(machines=3, slots=1, replace_after_s=30.0)
async def test_a_machine_that_left_is_shown_for_a_while(world: SimWorld) -> None:
    first, second, third = world.nodes
    await stop(world, third)
    assert members(world, first) == (first, second)
    for node in (first, second):
        assert third in {shown.id for shown in (await status(world, node)).nodes}
    await asyncio.sleep(31.0)
    for node in (first, second):
        assert {shown.id for shown in (await status(world, node)).nodes} == {first, second}
        assert {point.node for point in (await call(world, node, ClusterStoryQuery())).nodes} == {first, second}
    world.start(third)
    await world.until("it is back", lambda: third in members(world, second))
    assert third in {shown.id for shown in (await status(world, second)).nodes}


@story(machines=3, slots=1, form=False)
async def test_a_machine_that_is_to_be_no_replica_only_works(world: SimWorld) -> None:
    never, second, third = world.nodes
    world.machines[never].config = Config(replica="never")
    said: list[Any] = []

    def listen(sender: str, to: str, message: Any) -> bool:
        if sender == never and isinstance(message, Vote | VoteAnswer | Renew):
            said.append(message)
        return True

    world.network.tap = listen
    world.start(never)
    await asyncio.sleep(30.0)
    assert running(world, never).replicator.roster.genesis == "", "it founds no cluster"
    world.start(second)
    world.start(third)
    await world.until("the others are one", lambda: world.reigns(second) and len(members(world, second)) == 2)
    specs = [world.spec() for _ in range(30)]
    await submit(world, never, *specs)
    await world.until("all is done", lambda: states(world, second) == {"done": 30})
    assert {name for _, name, _ in world.runs} == {"n0", "n1", "n2"}
    assert {shown.id: shown.role for shown in (await status(world, never)).nodes} == {
        never: "worker", second: "leader", third: "replica",
    }  # fmt: skip
    # Not even when the others lead no more.
    world.crash(second)
    await asyncio.sleep(20.0)
    assert members(world, third) == (second, third)
    assert world.leaders() == []
    assert said == []


@story(machines=5, form=False)
async def test_the_roster_changes_by_one_at_a_time_each_committed_before_the_next(world: SimWorld) -> None:
    first, second, third, fourth, fifth = world.nodes
    for node in (first, second, third):
        world.start(node)
    await world.until("three replicas", lambda: world.reigns(first) and len(members(world, first)) == 3)
    # The leader hears no more how far its followers are, so that nothing more can be committed.
    world.network.tap = lambda sender, to, message: not (isinstance(message, Pull) and sender in (second, third))
    world.start(fourth)
    world.start(fifth)
    await world.until("one joins", lambda: len(members(world, first)) == 4, 10.0)
    await asyncio.sleep(3.0)
    assert len(members(world, first)) == 4
    assert all(running(world, first).replicator.in_sync(node) for node in (fourth, fifth))
    world.network.tap = lambda sender, to, message: True
    await world.until("all have joined", world.is_one_cluster)


# -- leaving and coming back -----------------------------------------------------------------------------


@story(machines=3)
async def test_a_node_that_stops_in_order_leaves_and_comes_back_as_a_learner_then_a_replica(world: SimWorld) -> None:
    first, second, third = world.nodes
    await stop(world, third)
    assert members(world, first) == (first, second)
    specs = [world.spec() for _ in range(200)]
    await submit(world, first, *specs)
    await asyncio.sleep(15.0)
    # It has all before it counts: for as long as nothing reaches it, it is not on the roster.
    world.network.tap = lambda sender, to, message: not (to == third and isinstance(message, Rows))
    world.start(third)
    await world.until("it follows", lambda: leader_known_to(world, third) == first)
    await asyncio.sleep(5.0)
    assert members(world, first) == (first, second)
    assert _role(await status(world, first), third) == "learner"
    world.network.tap = lambda sender, to, message: True
    await world.until("it is a replica", lambda: third in members(world, first))
    assert states(world, third) == {"pending": 200}
    assert _role(await status(world, first), third) == "replica"


@story(machines=3, slots=2)
async def test_a_leader_that_stops_hands_over_and_no_task_runs_twice(world: SimWorld) -> None:
    first, second, third = world.nodes
    specs = [world.spec() for _ in range(60)]
    await submit(world, second, *specs)
    await world.until("some have run", lambda: len(world.runs) > 15)
    without_leader_s = 0.0
    stopping = asyncio.create_task(stop(world, first))
    while not stopping.done() or not world.leaders():
        without_leader_s += 0.01 * (not world.leaders())
        await asyncio.sleep(0.01)
    assert len(world.runs) < 60, "there was work left when it handed over"
    assert world.leaders() == [second]
    assert without_leader_s < 0.5, "nobody waited for a lease to run out"
    await world.until("all is done", lambda: states(world, second) == {"done": 60})
    assert Counter(task for task, _, _ in world.runs) == {spec.id: 1 for spec in specs}
    assert members(world, second) == (second, third)
    shown = [await view(world, third, spec.id) for spec in specs]
    assert {task.losses + task.failures + task.crashes for task in shown} == {0}


@story(machines=3)
async def test_after_a_hand_over_that_failed_the_leader_goes_on_with_everything(world: SimWorld) -> None:
    first, second, third = world.nodes
    world.network.tap = lambda sender, to, message: not isinstance(message, Pull)
    # Something that the target lacks and can't pull.
    submitted = begin(
        world, first, lambda node: node.gateway.call(Submit(tasks=(world.spec("nobody knows"),), late=True))
    )
    handing = begin(world, first, lambda node: node.leadership.hand_over(1.0))
    await world.until("it was tried", lambda: running(world, first).counters["handover_failed"] > 0)
    assert await of(handing) is False
    world.network.tap = lambda sender, to, message: True
    answer = await of(submitted)
    assert isinstance(answer, Submitted)
    assert answer.majority
    assert world.leaders() == [first]
    # Its roster changes still, and silent workers still lose their claims.
    await stop(world, third)
    assert members(world, first) == (first, second)
    worker, other = Worker(world, first, "w1"), Worker(world, first, "w2")
    await worker.beat()
    await submit(world, first, world.spec())
    await worker.one()
    await asyncio.sleep(12.0)
    await other.beat()
    assert (await other.one(5.0)).attempt == 2


@story(machines=3, slots=1)
async def test_nobody_hands_over_to_one_that_stops_itself(world: SimWorld) -> None:
    first, second, third = world.nodes
    pool(world, second).run_s = (9.0, 9.0)
    await submit(world, first, *(world.spec() for _ in world.nodes))
    await world.until("only the second runs", lambda: states(world, first) == {"done": 2, "running": 1})
    assert pool(world, second).running() == 1
    stopping = [asyncio.create_task(stop(world, second))]
    await asyncio.sleep(2.0)
    stopping.append(asyncio.create_task(stop(world, first)))
    led = set()
    while not all(task.done() for task in stopping):
        led.update(world.leaders())
        await asyncio.sleep(0.01)
    assert led == {first, third}
    assert members(world, third) == (third,)


@story(machines=3, slots=1)
async def test_a_run_that_outlasts_the_drain_goes_to_another_and_counts_for_nothing(world: SimWorld) -> None:
    first, _, third = world.nodes
    for node in world.nodes:
        pool(world, node).run_s = (30.0, 30.0)
    specs = [world.spec() for _ in world.nodes]
    await submit(world, first, *specs)
    await world.until("all run", lambda: len(world.runs) == 3)
    broken_off = pool(world, third).held()[0].id
    stopping = asyncio.create_task(stop(world, third))
    await asyncio.sleep(1.0)
    with pytest.raises(Stopping):
        await submit(world, third, world.spec())
    since = world.loop.time()
    await stopping
    assert 8.5 < world.loop.time() - since < 12.0
    assert (await view(world, first, broken_off)).state == "pending"
    for spec in specs:
        shown = await view(world, first, spec.id, wait_s=60.0)
        assert (shown.state, shown.attempt) == ("done", 1 + (spec.id == broken_off))
        assert shown.losses + shown.failures + shown.crashes == 0


@story(machines=2, slots=1)
async def test_of_two_machines_either_may_stop_in_order_and_the_other_goes_on(world: SimWorld) -> None:
    first, second = world.nodes
    await _goes_on_alone(world, leaves=first, stays=second)
    await _goes_on_alone(world, leaves=second, stays=first)


async def _goes_on_alone(world: SimWorld, *, leaves: str, stays: str) -> None:
    await stop(world, leaves)
    await world.until("the other leads alone", lambda: world.reigns(stays))
    assert members(world, stays) == (stays,)
    answer = await submit(world, stays, spec := world.spec())
    assert answer.majority
    assert (await view(world, stays, spec.id, wait_s=10.0)).state == "done"
    world.start(leaves)
    await world.until("both are replicas", world.is_one_cluster)


@story(machines=3, slots=1)
async def test_all_stop_at_once_and_start_again(world: SimWorld) -> None:
    specs = [world.spec() for _ in range(60)]
    await submit(world, world.nodes[1], *specs)
    await world.until("some have run", lambda: len(world.runs) > 10)
    since = world.loop.time()
    await asyncio.gather(*(stop(world, node) for node in world.nodes))
    assert world.loop.time() - since < 25.0
    assert len(world.runs) < 60, "there was work left when they stopped"
    for node in reversed(world.nodes):
        world.start(node)
    await world.until("one cluster of all", world.is_one_cluster)
    await world.until("all is done", lambda: states(world, world.nodes[0]) == {"done": 60})
    assert Counter(task for task, _, _ in world.runs) == {spec.id: 1 for spec in specs}


@story(machines=3)
async def test_all_stop_one_after_the_other_and_start_again_in_another_order(world: SimWorld) -> None:
    first, second, third = world.nodes
    specs = [world.spec() for _ in range(20)]
    await submit(world, first, *specs)
    for node in (first, second, third):
        await stop(world, node)
    world.slots = 1
    # Those who left can't lead without the last one, which alone has everything.
    world.start(second)
    world.start(first)
    await asyncio.sleep(15.0)
    assert world.leaders() == []
    world.start(third)
    await world.until("one cluster of all", world.is_one_cluster)
    more = [world.spec() for _ in range(5)]
    await submit(world, second, *more)
    await world.until("all is done", lambda: states(world, third) == {"done": 25})
    assert Counter(task for task, _, _ in world.runs) == {spec.id: 1 for spec in (*specs, *more)}


@story(machines=1, slots=2)
async def test_a_single_machine_leads_again_after_a_start_and_a_whole_lease(world: SimWorld) -> None:
    (node,) = world.nodes
    specs = [world.spec() for _ in range(10)]
    answer = await submit(world, node, *specs)
    assert (answer.copies, answer.majority) == (1, True)
    await world.until("some are done", lambda: states(world, node).get("done", 0) > 3)
    world.crash(node)
    since = world.loop.time()
    world.start(node)
    await world.until("it leads", lambda: world.leaders() == [node])
    assert 2.5 <= world.loop.time() - since < 3.5
    await world.until("all is done", lambda: states(world, node) == {"done": 10})


# -- learning of it --------------------------------------------------------------------------------------


@story(machines=3)
async def test_one_that_was_removed_learns_it_from_hello(world: SimWorld) -> None:
    await _removed(world, unheard=Pull)


@story(machines=3)
async def test_one_that_was_removed_learns_it_from_its_pulls(world: SimWorld) -> None:
    await _removed(world, unheard=Hello)


async def _removed(world: SimWorld, unheard: type) -> None:
    first, second, third = world.nodes
    world.network.isolate(third)
    await of(begin(world, first, lambda node: _and_true(node.leadership.leave(third))))
    assert members(world, first) == (first, second)
    assert members(world, third) == (first, second, third)
    votes: list[str] = []

    def tap(sender: str, to: str, message: Any) -> bool:
        if isinstance(message, Vote) and not message.pre:
            votes.append(sender)
        return not (isinstance(message, unheard) and third in (sender, to))

    world.network.tap = tap
    world.network.cuts.clear()
    await world.until("it knows", lambda: members(world, third) == (first, second), 20.0)
    await asyncio.sleep(5.0)
    assert members(world, first) == (first, second), "nor does it come back by itself"
    # It stands no more, even when nobody else is left.
    votes.clear()
    world.crash(first)
    world.crash(second)
    await asyncio.sleep(15.0)
    assert votes == []


async def _and_true(work: Any) -> bool:
    await work
    return True


def _role(shown: Any, node: str) -> str:
    return next(str(one.role) for one in shown.nodes if one.id == node)
