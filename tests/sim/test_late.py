"""What comes late: a copy, a Get of an earlier boot, an outcome that nobody waits for any more, a slow link's rows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from meshq.core.messages import Rows, Vote
from meshq.core.requests import Submit, SubmitResult
from meshq.errors import NoLeader, Undecided
from meshq.wire import values
from tests.sim.checks import Checker
from tests.sim.story import Worker, begin, call, of, pool, running, states, story, submit
from tests.sim.test_scenarios import result_of, worker_gets, worker_says
from tests.sim.world import SimWorld


@story(machines=7, replicas=7)
async def test_a_copy_that_comes_after_the_first_write_is_stamped_anew(world: SimWorld) -> None:
    checker = Checker(world)
    first, second, *_, last = world.nodes
    middle = world.nodes[2:6]
    await worker_says(world, first, "w1")
    spec = world.spec()
    await world.submit(first, spec)
    run = await worker_gets(world, first, "w1")
    await asyncio.sleep(2.0)
    # One result reaches the last machine alone, and its leader dies.
    for node in (second, *middle):
        world.network.cuts |= {(first, node), (node, first)}
    world.at(first, lambda node: node.gateway.lead(result_of("w1", run)))
    await asyncio.sleep(0.3)
    world.crash(first)
    world.network.isolate(last)
    await world.until("the second leads", lambda: world.reigns(second))
    # Another result, of a later epoch, reaches nobody, and its leader dies.
    world.network.isolate(second)
    world.at(second, lambda node: node.gateway.lead(result_of("w2", run)))
    await asyncio.sleep(0.2)
    world.crash(second)
    world.network.heal()
    # The third gathers a majority without the last machine, whose copy comes when it leads already.
    world.network.tap = lambda sender, to, message: not (sender == last and isinstance(message, Vote))
    slow_down(world, lambda sender, rows: 2.0 if sender == last else 0.0)
    await world.until("another leads", lambda: any(map(world.reigns, middle)), 40.0)
    third = next(filter(world.reigns, middle))
    for _ in range(12):
        await asyncio.sleep(0.5)
        checker.on_view(await world.task(third, spec.id))
    assert checker.told.outcomes, "nobody was shown a result, so nothing was tried"
    world.start(second)
    for _ in range(20):
        await asyncio.sleep(0.5)
        checker.on_view(await world.task(third, spec.id))
    assert world.failures == []


def slow_down(world: SimWorld, delay_s: Callable[[str, Rows], float]) -> None:
    """Parts of pulls take so much longer, by their sender; they share their link, so each waits for the one before."""
    send = world.network.send
    free_at: dict[str, float] = {}

    def slow(end: Any, message: Any, arrive: Any, after_s: float | None = None) -> Any:
        if isinstance(message, Rows) and (longer_s := delay_s(end.node, message)):
            start = max(world.loop.now, free_at.get(end.node, 0.0), after_s or 0.0)
            after_s = free_at[end.node] = start + longer_s
        return send(end, message, arrive, after_s)

    vars(world.network)["send"] = slow


@story(machines=2)
async def test_a_copy_that_takes_long_ends_no_leadership(world: SimWorld) -> None:
    first, _ = world.nodes
    await Worker(world, first, "w1").beat()
    slow_down(world, lambda sender, rows: len(rows.rows) / (1 << 20))
    specs = [world.spec(payload=values.pack([["x" * 900], {}])) for _ in range(10_000)]
    submitted = begin(world, first, lambda node: node.gateway.call(Submit(tasks=tuple(specs))))
    since = world.loop.time()
    await world.until("it is committed", submitted.done)
    assert world.loop.time() - since > 8.0, "the copy was quick, so nothing was tried"
    assert world.leaders() == [first]
    running_first = running(world, first)
    assert running_first.elector.promised_epoch == 1


@story()
async def test_a_get_of_an_earlier_boot_is_given_nothing(world: SimWorld) -> None:
    (node,) = world.nodes
    worker = Worker(world, node, "w1")
    await worker.beat()
    worker.number = 50
    parked = begin(world, node, lambda running_node: running_node.gateway.call(worker.next_get(20.0)))
    await asyncio.sleep(0.5)
    worker.dies()
    await worker.beat()
    await submit(world, node, world.spec())
    await asyncio.sleep(0.5)
    since = world.loop.time()
    assert (await worker.one(5.0)).attempt == 1
    assert world.loop.time() - since < 0.5
    assert getattr(await of(parked), "jobs", None) == ()


@story(slots=1, cache_ttl_s=30.0)
async def test_a_run_whose_outcome_is_gone_is_named_no_more(world: SimWorld) -> None:
    (node,) = world.nodes
    pool(world, node).run_s = (3.0, 3.0)
    await submit(world, node, world.spec())
    await world.until("it runs", lambda: len(world.runs) == 1)
    gateway, outbox = running(world, node).gateway, world.machines[node].disk.outbox
    lead = gateway.lead

    async def refuses(request: Any) -> Any:
        if isinstance(request, SubmitResult):
            raise NoLeader
        return await lead(request)

    vars(gateway)["lead"] = refuses
    await world.until("the outcome waits", lambda: bool(outbox.execute("SELECT 1 FROM entries").fetchall()))
    outbox.execute("DELETE FROM entries")
    del vars(gateway)["lead"]
    await world.until("it ran again", lambda: states(world, node) == {"done": 1}, 200.0)
    assert len(world.runs) == 2


@story(machines=3)
async def test_right_after_a_takeover_an_unknown_name_is_neither_taken_nor_refused(world: SimWorld) -> None:
    first, _, third = world.nodes
    worker = Worker(world, third, "w1")
    await worker.beat()
    world.crash(first)
    await world.until("another leads", lambda: any(map(world.reigns, world.nodes[1:])))
    await worker.beat()
    with pytest.raises(Undecided):
        await submit(world, third, world.spec("nosuch"))
    assert (await submit(world, third, world.spec())).majority
    status = await call(world, third, Submit(tasks=(world.spec(),)))
    assert not status.queued
