"""Submitting: what is one task, what is refused, and what waits on this machine until somebody leads."""

from __future__ import annotations

import asyncio

import pytest

from meshq.core.infos import TaskInfo
from meshq.core.messages import Call
from meshq.core.requests import TasksQuery, WaitQuery
from meshq.errors import Malformed, QueueFull, UnknownTask
from meshq.wire import values
from tests.sim.host import ANYTHING
from tests.sim.story import Worker, call, done, leader_known_to, message_of, packed, status, story, submit, view
from tests.sim.unions import part
from tests.sim.world import SimWorld

# -- what is one task ------------------------------------------------------------------------------------


@story(machines=3)
async def test_a_key_is_one_task(world: SimWorld) -> None:
    leader, follower, _ = world.nodes
    worker = Worker(world, leader, "w1")
    await worker.beat()
    first, same, other = (world.spec(key=key, payload=packed(key)) for key in ("a", "a", "b"))
    assert (await submit(world, leader, first, same, other)).ids == (first.id, first.id, other.id)
    assert (await submit(world, follower, world.spec(key="b"))).ids == (other.id,)
    for spec in (first, other):
        job = await worker.one(5.0)
        assert job.id == spec.id
        await worker.hand_in(done(job))
    # The key's task answers for it when it is finished, too.
    assert (await submit(world, follower, world.spec(key="a"))).ids == (first.id,)
    assert await worker.get(2.0) == ()
    assert (await status(world, leader)).tasks["done"] == 2


@story(machines=3)
async def test_a_submit_that_is_repeated_is_the_same_task(world: SimWorld) -> None:
    leader, follower, _ = world.nodes
    worker = Worker(world, leader, "w1")
    await worker.beat()
    specs = [world.spec(), world.spec()]
    first = await submit(world, leader, *specs)
    assert (await submit(world, follower, *specs)).ids == first.ids == tuple(spec.id for spec in specs)
    job = await worker.one(5.0)
    await worker.hand_in(done(job))
    again = await submit(world, follower, *specs)
    assert (again.ids, again.majority, again.queued) == (first.ids, True, False)
    shown = await view(world, leader, job.id)
    assert (shown.state, shown.attempt) == ("done", 1)
    assert sum((await status(world, leader)).tasks.values()) == 2


# -- what is refused -------------------------------------------------------------------------------------


@story()
async def test_a_name_that_nobody_knows_is_refused_with_those_that_are_known(world: SimWorld) -> None:
    (node,) = world.nodes
    with pytest.raises(UnknownTask, match="named wrok; known are: crash, fail, hang, slow, steps, work"):
        await submit(world, node, world.spec(), world.spec("wrok"))
    assert sum((await status(world, node)).tasks.values()) == 0, "none of the request is kept"


@story()
async def test_a_name_that_only_a_silent_worker_knows_is_refused(world: SimWorld) -> None:
    (node,) = world.nodes
    worker = Worker(world, node, "w1", tasks=(TaskInfo(name="rare", params=ANYTHING),))
    await worker.beats(for_s=5.0)
    await submit(world, node, world.spec("rare"))
    await asyncio.sleep(11.0)
    with pytest.raises(UnknownTask, match="rare"):
        await submit(world, node, world.spec("rare"))


@story(queue_tasks_max=3)
async def test_a_full_queue_takes_nothing_until_something_is_finished(world: SimWorld) -> None:
    (node,) = world.nodes
    worker = Worker(world, node, "w1")
    await worker.beat()
    await submit(world, node, world.spec(), world.spec())
    late = [world.spec(), world.spec()]
    with pytest.raises(QueueFull):
        await submit(world, node, *late)
    assert sum((await status(world, node)).tasks.values()) == 2
    await worker.hand_in(done(await worker.one()))
    await submit(world, node, *late)
    assert (await status(world, node)).tasks["pending"] == 3
    # They are there: to say so again takes no room.
    assert (await submit(world, node, *late)).ids == tuple(spec.id for spec in late)


# -- without a leader ------------------------------------------------------------------------------------


@story(machines=3)
async def test_a_submit_without_a_leader_waits_here_and_is_delivered(world: SimWorld) -> None:
    first, second, third = world.nodes
    world.crash(first)
    world.crash(second)
    await world.until("nobody leads", lambda: not world.leaders())
    spec = world.spec()
    answer = await submit(world, third, spec)
    assert (answer.ids, answer.copies, answer.majority, answer.queued) == ((spec.id,), 1, False, True)
    assert (await submit(world, third, spec)).ids == (spec.id,)
    shown = await view(world, third, spec.id)
    assert (shown.state, shown.queued) == ("pending", True)
    assert (await status(world, third)).queued == 1
    # The disk keeps it, whatever becomes of the daemon.
    world.crash(third)
    for node in world.nodes:
        world.start(node)
    await world.until("somebody leads", lambda: any(world.reigns(node) for node in world.nodes))
    worker = Worker(world, third, "w1")
    await worker.beat()
    job = await worker.one(20.0)
    assert job.id == spec.id
    await worker.hand_in(done(job))
    assert (await view(world, first, spec.id)).state == "done"
    cluster = await status(world, third)
    assert (cluster.queued, sum(cluster.tasks.values())) == (0, 1)


@story(machines=3)
async def test_an_invalid_submit_that_waited_becomes_a_failed_task(world: SimWorld) -> None:
    first, second, third = world.nodes
    world.network.isolate(third)
    await world.until("it knows no leader", lambda: leader_known_to(world, third) is None)
    good, unknown = world.spec(), world.spec("wrok")
    garbled = world.spec(payload=values.pack("no list of arguments"))
    assert (await submit(world, third, good, unknown, garbled)).queued
    world.network.heal()
    await world.until("all are there", lambda: len(world.machines[first].disk.rows("SELECT id FROM tasks")) == 3)
    found = await call(world, second, WaitQuery(ids=(good.id, unknown.id, garbled.id), wait_s=5.0))
    assert sorted(shown.id for shown in found.tasks) == sorted((unknown.id, garbled.id))
    shown = await view(world, second, unknown.id)
    assert (shown.state, shown.attempt) == ("failed", 0)
    assert "known are: crash, fail, hang, slow, steps, work" in message_of(shown)
    assert shown.error is not None
    assert values.unpack(shown.error)["type"] == UnknownTask.__name__
    shown = await view(world, second, garbled.id)
    assert shown.error is not None
    assert (shown.state, values.unpack(shown.error)["type"]) == ("failed", Malformed.__name__)
    assert (await call(world, second, TasksQuery(state="pending"))).tasks[0].id == good.id


@story(machines=3, without_majority="stop")
async def test_what_waited_is_delivered_in_batches_of_some_bytes(world: SimWorld) -> None:
    first, second, third = world.nodes
    part(world, [third], [first, second])
    await world.until("it knows no leader", lambda: leader_known_to(world, third) is None)
    large = [world.spec(payload=values.pack([[bytes(400_000)], {}])) for _ in range(7)]
    for spec in large:
        assert (await submit(world, third, spec)).queued
    batches: list[int] = []

    def watch(sender: str, to: str, message: object) -> bool:
        if isinstance(message, Call) and message.request == "Submit":
            batches.append(len(message.body) // 400_000)
        return True

    world.network.tap = watch
    world.network.heal()
    await world.until("all are delivered", lambda: sum(batches) == len(large))
    assert batches == [3, 3, 1], "of 1.2 MB, since the leader looks at all of it before it answers"
    for spec in large:
        assert (await view(world, first, spec.id)).state == "pending"
