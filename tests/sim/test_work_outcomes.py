"""How runs end: what is shown when, what is tried again, and which late or doubled words count."""

from __future__ import annotations

from typing import Any

import pytest

from meshq.core.requests import Cancel, Retry, SubmitResult
from meshq.errors import Conflict
from meshq.wire import values
from tests.sim.story import Worker, begin, call, done, message_of, of, packed, pool, raised, story, submit, view
from tests.sim.world import SimWorld

LARGE = "x" * 5_000  # more than inline_bytes_max

# -- shown once committed --------------------------------------------------------------------------------


@story(machines=3)
async def test_a_finished_task_is_shown_as_finished_only_once_that_is_committed(world: SimWorld) -> None:
    leader = world.nodes[0]
    worker = Worker(world, leader, "w1")
    await worker.beat()
    await submit(world, leader, spec := world.spec())
    job = await worker.one(5.0)
    world.network.isolate(leader)
    result = SubmitResult(node="w1", boot="1", outcomes=(done(job),))
    handing_in = begin(world, leader, lambda running: running.gateway.call(result))
    shown = await view(world, leader, spec.id, wait_s=1.0)
    assert world.leaders() == [leader]
    assert world.machines[leader].disk.rows("SELECT state FROM tasks") == [("done",)]
    assert (shown.state, shown.result) == ("running", None)
    assert not handing_in.done()
    world.network.heal()
    await of(handing_in)
    shown = await view(world, leader, spec.id)
    assert (shown.state, shown.result) == ("done", values.pack("42"))


# -- tried again, or not ---------------------------------------------------------------------------------


@story(slots=1)
async def test_three_crashes_fail_a_task(world: SimWorld) -> None:
    (node,) = world.nodes
    await submit(world, node, spec := world.spec("crash", backoff_s=0.1))
    shown = await view(world, node, spec.id, wait_s=30.0)
    assert (shown.state, shown.crashes, shown.failures, shown.attempt) == ("failed", 3, 0, 3)
    assert "died 3 times" in message_of(shown)
    assert len(world.runs) == 3


@story()
async def test_a_raise_is_tried_again_with_a_backoff_that_doubles(world: SimWorld) -> None:
    (node,) = world.nodes
    worker = Worker(world, node, "w1")
    await worker.beat()
    await submit(world, node, spec := world.spec(retries=3, backoff_s=2.0))
    waits = []
    for number in range(4):
        since = world.loop.time()
        job = await worker.one(20.0)
        waits.append(world.loop.time() - since)
        await worker.hand_in(raised(job, f"the {number}th"))
    # Each is less up to half of it, by chance.
    assert all(most / 2 - 0.1 < wait < most + 0.2 for wait, most in zip(waits[1:], (2.0, 4.0, 8.0), strict=True))
    shown = await view(world, node, spec.id)
    assert (shown.state, shown.failures, shown.attempt) == ("failed", 4, 4)
    assert message_of(shown) == "the 3th"
    assert await worker.get(20.0) == ()


@story()
async def test_a_final_failure_is_not_tried_again(world: SimWorld) -> None:
    (node,) = world.nodes
    worker = Worker(world, node, "w1")
    await worker.beat()
    await submit(world, node, spec := world.spec(retries=3, backoff_s=0.0))
    await worker.hand_in(raised(await worker.one(), "for good", final=True))
    shown = await view(world, node, spec.id)
    assert (shown.state, shown.failures, message_of(shown)) == ("failed", 1, "for good")
    assert await worker.get(5.0) == ()


# -- late and doubled words ------------------------------------------------------------------------------


@story()
async def test_of_a_run_that_counts_no_longer_a_failure_is_dropped_and_a_success_is_taken(world: SimWorld) -> None:
    (node,) = world.nodes
    late, present = Worker(world, node, "w1"), Worker(world, node, "w2")
    await late.beat()
    await present.beat()
    await submit(world, node, spec := world.spec())
    old = await late.one()
    new = await present.one(20.0)
    assert (await late.hand_in(raised(old))).dropped == {spec.id: "not the present claim"}
    shown = await view(world, node, spec.id)
    assert (shown.state, shown.worker, shown.failures) == ("running", "w2", 0)
    assert (await late.hand_in(done(old, "first"))).dropped == {}
    shown = await view(world, node, spec.id)
    assert (shown.state, shown.worker, shown.result) == ("done", "w1", values.pack("first"))
    # The run that counted until then is to end, and what it says counts for nothing.
    assert await present.beat(new) == (spec.id,)
    assert (await present.hand_in(done(new, "second"))).dropped == {spec.id: "finished"}
    assert (await view(world, node, spec.id)).result == values.pack("first")


@story(machines=3)
async def test_a_result_that_comes_twice_is_acknowledged_and_dropped(world: SimWorld) -> None:
    leader, follower, _ = world.nodes
    worker = Worker(world, follower, "w1")
    await worker.beat()
    await submit(world, leader, spec := world.spec())
    job = await worker.one(5.0)
    first = await worker.hand_in(done(job))
    second = await worker.hand_in(done(job, "another"))
    assert (first.dropped, second.dropped) == ({}, {spec.id: "finished"})
    assert not second.queued
    assert (await view(world, leader, spec.id)).result == values.pack("42")


@story(machines=3)
async def test_a_doubled_result_is_acknowledged_only_together_with_the_first(world: SimWorld) -> None:
    leader = world.nodes[0]
    worker = Worker(world, leader, "w1")
    await worker.beat()
    await submit(world, leader, world.spec())
    job = await worker.one(5.0)
    world.network.isolate(leader)
    result = SubmitResult(node="w1", boot="1", outcomes=(done(job),))
    both = [begin(world, leader, lambda running: running.gateway.lead(result)) for _ in range(2)]
    assert (await view(world, leader, job.id, wait_s=1.0)).state == "running"
    assert not any(answer.done() for answer in both)
    world.network.heal()
    for answer in both:
        await of(answer)


# -- by hand ---------------------------------------------------------------------------------------------


@story(machines=3)
async def test_a_pending_task_that_is_called_off_never_runs(world: SimWorld) -> None:
    leader, follower, _ = world.nodes
    worker = Worker(world, leader, "w1")
    await worker.beat()
    await submit(world, follower, spec := world.spec())
    assert (await call(world, follower, Cancel(id=spec.id))).state == "cancelled"
    assert await worker.get(2.0) == ()
    assert (await view(world, leader, spec.id)).state == "cancelled"


@story(machines=3, slots=1)
async def test_the_run_of_a_task_that_is_called_off_is_killed(world: SimWorld) -> None:
    for node in world.nodes:
        pool(world, node).run_s = (50.0, 50.0)
    await submit(world, world.nodes[0], spec := world.spec())
    await world.until("it runs", lambda: any(pool(world, node).running() for node in world.nodes))
    since = world.loop.time()
    assert (await call(world, world.nodes[2], Cancel(id=spec.id))).state == "cancelled"
    await world.until("the run ends", lambda: not any(pool(world, node).running() for node in world.nodes))
    assert world.loop.time() - since < 2.5
    # Its slot is free for others, and a second cancel changes nothing.
    await submit(world, world.nodes[0], *(world.spec() for _ in world.nodes))
    await world.until("all slots work", lambda: all(pool(world, node).running() for node in world.nodes))
    assert (await call(world, world.nodes[2], Cancel(id=spec.id))).state == "cancelled"


@story()
async def test_a_retry_is_a_new_task_that_names_the_old(world: SimWorld) -> None:
    (node,) = world.nodes
    worker = Worker(world, node, "w1")
    await worker.beat()
    await submit(world, node, spec := world.spec(payload=packed(7), priority=3, key="k"))
    with pytest.raises(Conflict):
        await call(world, node, Retry(id=spec.id))
    await worker.hand_in(raised(await worker.one()))
    (new,) = (await call(world, node, Retry(id=spec.id))).ids
    assert new != spec.id
    job = await worker.one()
    assert (job.id, job.payload, job.attempt) == (new, packed(7), 1)
    await worker.hand_in(done(job))
    old, again = await view(world, node, spec.id), await view(world, node, new)
    assert (old.state, old.retry_of) == ("failed", None)
    assert (again.state, again.retry_of, again.priority) == ("done", spec.id, 3)


# -- large values ----------------------------------------------------------------------------------------


@story(machines=3)
async def test_large_values_are_rows_of_their_own_and_outlive_their_leader(world: SimWorld) -> None:
    first, second, third = world.nodes
    worker = Worker(world, first, "w1")
    await worker.beat()
    await submit(world, first, ran := world.spec(payload=packed(LARGE)), waits := world.spec(payload=packed(LARGE)))
    sizes: list[int] = []
    world.network.tap = lambda sender, to, message: _note_size(message, sizes)
    job = await worker.one(5.0)
    assert job.payload == packed(LARGE)
    await worker.hand_in(done(job, LARGE * 2))
    # What did not change is not sent again: the claim moved neither's arguments, the result came once to each.
    assert sum(sizes) < 2 * (len(LARGE) * 2 + 4_000)
    for node in world.nodes:
        rows = world.machines[node].disk.rows("SELECT payload, result, payload_ref FROM tasks")
        assert [row[:2] for row in rows] == [(None, None)] * 2
    world.crash(first)
    await world.until("another leads", lambda: world.reigns(second) or world.reigns(third))
    (leader,) = world.leaders()
    assert (await view(world, leader, ran.id)).result == values.pack(LARGE * 2)
    other = Worker(world, leader, "w2")
    await other.beat()
    job = await other.one(20.0)
    assert (job.id, job.payload) == (waits.id, packed(LARGE))


def _note_size(message: Any, sizes: list[int]) -> bool:
    sizes.append(len(getattr(message, "rows", b"")))
    return True
