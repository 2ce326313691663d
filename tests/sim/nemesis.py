"""One seeded run: clients that submit and look, and a nemesis that breaks things; then all heals and must settle."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from meshq.core.requests import TaskSpec
from tests.sim.checks import Checker
from tests.sim.network import Weather
from tests.sim.world import SimWorld

FOUND_S = 30.0
TROUBLE_S = 45.0
SETTLE_S = 240.0
LOOK_S = 0.1
WEATHERS = (Weather(), Weather(0.02, 0.05, 0.001, 0.02), Weather(0.1, 0.1, 0.001, 0.2), Weather(0.0, 0.0, 0.05, 0.4))


@dataclass(frozen=True, slots=True)
class Report:
    """How a seed went."""

    seed: int
    failures: tuple[str, ...]
    story: tuple[str, ...]
    acknowledged: int
    shown: int
    run_twice: int
    virtual_s: float


def run_seed(seed: int, nodes: int = 3) -> Report:
    """Runs a world from its seed."""
    world = SimWorld(seed, nodes)
    checker = Checker(world)
    world.run(_live(world, checker))
    runs: dict[str, int] = {}
    for task, _, _ in world.runs:
        runs[task] = runs.get(task, 0) + 1
    return Report(
        seed=seed,
        failures=tuple(world.failures),
        story=tuple(world.story),
        acknowledged=len(checker.told.acknowledged),
        shown=len(checker.told.outcomes),
        run_twice=sum(count > 1 for count in runs.values()),
        virtual_s=world.ended_s,
    )


async def _live(world: SimWorld, checker: Checker) -> None:
    for node in world.nodes:
        world.start(node)
        await asyncio.sleep(world.rng.uniform(0, 1.5))
    looking = asyncio.create_task(_look(checker))
    clients = [asyncio.create_task(_client(world, checker, index)) for index in range(3)]
    # Nodes that a cut keeps from each other at their first start found two clusters; that is another story.
    await world.until("one cluster of all", world.is_one_cluster, FOUND_S)
    deadline = world.loop.time() + TROUBLE_S
    while world.loop.time() < deadline and not world.failures:
        await asyncio.sleep(world.rng.expovariate(1 / 2.5))
        _strike(world)
    for client in clients:
        client.cancel()
    await _settle(world, checker)
    looking.cancel()
    checker.look_at_the_end()
    world.ended_s = world.loop.time()


async def _look(checker: Checker) -> None:
    while True:
        checker.look()
        await asyncio.sleep(LOOK_S)


async def _settle(world: SimWorld, checker: Checker) -> None:
    world.tell("all heals")
    world.network.heal()
    for node, machine in world.machines.items():
        world.resume(node)
        if not machine.up:
            world.start(node)
    try:
        await world.until("all is finished and everywhere the same", checker.is_settled, SETTLE_S)
    except AssertionError:
        checker.fail(f"it did not settle within {SETTLE_S} s")


def _strike(world: SimWorld) -> None:
    rng = world.rng
    node = rng.choice(world.nodes)
    leaders = world.leaders()
    if leaders and rng.random() < 0.4:
        node = leaders[0]
    machine = world.machines[node]
    match rng.choice(("crash", "crash", "pause", "isolate", "cut", "weather", "heal", "heal")):
        case "crash" if machine.up:
            world.crash(node)
            world.loop.call_later(rng.uniform(0.1, 12), _restart, world, node)
        case "pause" if machine.awake:
            world.pause(node)
            world.loop.call_later(rng.uniform(0.1, 8), world.resume, node)
        case "isolate":
            world.tell(f"{machine.name} is cut off")
            world.network.isolate(node)
        case "cut":
            other = rng.choice(world.nodes)
            world.tell(f"nothing gets from {machine.name} to {world.machines[other].name}")
            world.network.cuts.add((node, other))
        case "weather":
            world.network.weather = rng.choice(WEATHERS)
            world.tell(f"the weather is {world.network.weather}")
        case "heal":
            world.tell("the network heals")
            world.network.heal()


def _restart(world: SimWorld, node: str) -> None:
    if not world.machines[node].up:
        world.start(node)


async def _client(world: SimWorld, checker: Checker, index: int) -> None:
    """Submits, repeats what it is not sure of, and looks at what it submitted."""
    rng = world.rng
    mine: list[TaskSpec] = []
    while True:
        await asyncio.sleep(rng.expovariate(1 / 0.8))
        up = [node for node in world.nodes if world.machines[node].awake and world.machines[node].running]
        if not up:
            continue
        node = rng.choice(up)
        if rng.random() < 0.5 or not mine:
            names = rng.choices(("work", "fail", "crash"), (8, 1, 1), k=rng.randint(1, 4))
            specs = [world.spec(name, retries=rng.choice((0, 0, 2)), backoff_s=0.5) for name in names]
            mine += specs
        else:
            specs = [rng.choice(mine)]
        # A daemon that dies never answers, and a client gives up on one that sleeps.
        await _within(world, _use(world, checker, node, specs, submit=rng.random() < 0.6))


async def _use(world: SimWorld, checker: Checker, node: str, specs: list[TaskSpec], *, submit: bool) -> None:
    if submit:
        checker.on_submitted(await world.submit(node, *specs))
    for spec in specs:
        checker.on_view(await world.task(node, spec.id, wait_s=world.rng.choice((0.0, 2.0))))


async def _within(world: SimWorld, work: Coroutine[Any, Any, None]) -> None:
    await asyncio.wait([world.loop.create_task(work)], timeout=8.0)
