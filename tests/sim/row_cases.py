"""Rules of copies and of the work, each with a story that breaks when the rule is taken away."""

from __future__ import annotations

import asyncio
from typing import Any

from meshq.core.messages import Call, Rows
from meshq.core.requests import TaskSpec
from tests.sim import faults
from tests.sim.broken import Case
from tests.sim.checks import ANSWER_S, Checker
from tests.sim.story import Worker, begin, done, pool, states
from tests.sim.world import SimWorld


async def show(world: SimWorld, checker: Checker, node: str, task: str) -> None:
    """A client looks."""
    checker.on_view(await world.task(node, task), cluster=world.roster_of(node).genesis)


async def with_a_task(world: SimWorld, checker: Checker) -> tuple[Worker, TaskSpec]:
    """A worker at the first machine, and a task that all of them know."""
    first = world.nodes[0]
    worker = Worker(world, first, "w1")
    await worker.beat()
    spec = world.spec()
    checker.on_submitted(await world.submit(first, spec))
    await world.until("all know the task", lambda: all(states(world, node) for node in world.nodes))
    await asyncio.sleep(2.0)
    return worker, spec


async def a_winner_that_lacks_a_result(world: SimWorld, checker: Checker) -> None:
    """The second was not told a result that was shown, and gives the task away again should it lead before it is."""
    first, second, third = world.nodes
    worker, spec = await with_a_task(world, checker)
    world.network.tap = lambda sender, to, message: not (to == second and isinstance(message, Rows))
    await worker.hand_in(done(await worker.one(20.0), "first"))
    await show(world, checker, first, spec.id)
    assert checker.told.outcomes, "nobody was shown the result, so nothing was tried"
    world.crash(first)
    other = Worker(world, second, "w2")
    for _ in range(40):
        if world.reigns(second):
            await other.beat()
            for job in await other.get():
                await other.hand_in(done(job, "second"))
        await asyncio.sleep(0.5)
    world.network.tap = lambda sender, to, message: True
    await world.until("somebody leads", lambda: world.reigns(second) or world.reigns(third))
    await asyncio.sleep(5.0)
    for node in (second, third):
        await show(world, checker, node, spec.id)


async def a_result_that_reached_nobody(world: SimWorld, checker: Checker) -> None:
    """A leader that is cut off is handed a result, and is asked for it while it still leads."""
    first, _, _ = world.nodes
    await asyncio.sleep(ANSWER_S)
    worker = Worker(world, first, "w1")
    await worker.beat()
    spec = world.spec()
    checker.on_submitted(await world.submit(first, spec))
    job = await worker.one(20.0)
    world.network.isolate(first)
    begin(world, first, lambda running: running.gateway.lead(worker.result(done(job))))
    for _ in range(5):
        await asyncio.sleep(0.2)
        await show(world, checker, first, spec.id)


async def a_worker_that_speaks_late(world: SimWorld, checker: Checker) -> None:
    """The leader dies while the third runs a task, and what the third says to the next one takes its time."""
    first, second, third = world.nodes
    for node in world.nodes:
        pool(world, node).run_s = (20.0, 20.0)
    for _ in range(3):
        checker.on_submitted(await world.submit(first, world.spec()))
    await world.until("each runs one", lambda: {name for _, name, _ in world.runs} == {"n0", "n1", "n2"})
    (task,) = [task for task, name, _ in world.runs if name == "n2"]
    until = world.loop.now + 8.0

    def silent(sender: str, to: str, message: Any) -> bool:
        return world.loop.now > until or not (sender == third and isinstance(message, Call))

    world.network.tap = silent
    await asyncio.sleep(1.0)
    world.crash(first)
    world.crash(second)
    world.start(second)
    await world.until("another leads", lambda: world.reigns(second) or world.reigns(third))
    await asyncio.sleep(30.0)
    runs = [name for ran, name, _ in world.runs if ran == task]
    assert runs == ["n2"], f"the task ran on {runs}, though its worker lived all the time"


async def asleep_for_five_weeks(world: SimWorld, checker: Checker) -> None:
    """A replica comes back with a task that the others have finished, purged and forgotten."""
    first, second, third = world.nodes
    worker, _ = await with_a_task(world, checker)
    world.sleep(third)
    await worker.hand_in(done(await worker.one(20.0)))
    await world.until("it is forgotten", lambda: not states(world, first) and not states(world, second), within_s=600.0)
    world.wake(third)
    await asyncio.sleep(30.0)
    assert states(world, third) == {}, f"it brought back what is over: {states(world, third)}"
    await world.until("one cluster of all", world.is_one_cluster)


async def a_leader_that_starts_again(world: SimWorld, checker: Checker) -> None:
    """A leader dies, and writes again."""
    first = world.nodes[0]
    for _ in range(5):
        checker.on_submitted(await world.submit(first, world.spec()))
    world.crash(first)
    world.start(first)
    await world.until("it leads again", lambda: world.reigns(first), within_s=120.0)
    checker.on_submitted(await world.submit(first, world.spec()))


FORGETFUL = {"keep_finished_s": 20.0, "keep_tombstones_s": 60.0}
CASES = (
    Case(a_winner_that_lacks_a_result, faults.no_gather, "was shown as"),
    Case(a_result_that_reached_nobody, faults.acknowledged_before_the_commit, "disks have it"),
    Case(a_worker_that_speaks_late, faults.no_census, "though its worker lived", slots=1),
    Case(asleep_for_five_weeks, faults.no_full_copy, "what is over", settings=FORGETFUL),
    Case(a_leader_that_starts_again, faults.a_reused_seq, "but that stamp is", settings={"handover_after_s": 4.0}),
)
