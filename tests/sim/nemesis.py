"""One seeded run: clients that use the queue, and a nemesis that breaks things; then all heals and must settle."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass

from tests.sim.checks import Checker
from tests.sim.clients import Client
from tests.sim.strikes import Strikes
from tests.sim.swarm import Swarm, draw
from tests.sim.world import SimWorld

FOUND_S = 60.0
TROUBLE_S = 45.0
SETTLE_S = 400.0
LOOK_S = 0.5


@dataclass(frozen=True, slots=True)
class Report:
    """How a seed went; `run_twice` counts tasks that neither failed, nor crashed, nor were ended by a time limit."""

    seed: int
    swarm: Swarm
    failures: tuple[str, ...]
    story: tuple[str, ...]
    acknowledged: int
    shown: int
    run_twice: int
    lost: int
    changed: int
    strikes: Counter[str]
    virtual_s: float


def run_seed(seed: int, nodes: int | None = None, policy: str | None = None) -> Report:
    """Runs a world from its seed.

    Args:
        seed: Everything follows from it.
        nodes: How many machines; None for as many as the seed draws.
        policy: What they do without a majority; None for what the seed draws.
    """
    swarm = draw(seed, nodes, policy)
    world = SimWorld(seed, swarm.nodes, swarm.config, swarm.slots, swarm.drift)
    world.tell(str(swarm))
    checker = Checker(world)
    strikes = Strikes(world, checker, swarm)
    world.run(_live(world, checker, strikes, swarm))
    return Report(
        seed=seed,
        swarm=swarm,
        failures=tuple(world.failures),
        story=tuple(world.story),
        acknowledged=len(checker.told.acknowledged),
        shown=len(checker.told.shown),
        run_twice=sum(count > 1 for count in checker.runs.values()),
        lost=checker.lost,
        changed=checker.changed,
        strikes=strikes.count,
        virtual_s=world.ended_s,
    )


async def _live(world: SimWorld, checker: Checker, strikes: Strikes, swarm: Swarm) -> None:
    for node in list(world.nodes):
        world.start(node)
        await asyncio.sleep(world.rng.uniform(0, 1.5))
    looking = asyncio.create_task(_look(checker))
    clients = [asyncio.create_task(Client(world, checker).run()) for _ in range(swarm.clients)]
    await world.until("one cluster of all", world.is_one_cluster, FOUND_S)
    deadline = world.loop.now + TROUBLE_S
    while world.loop.now < deadline and not world.failures:
        await asyncio.sleep(world.rng.expovariate(1 / swarm.pace_s))
        strikes.strike()
    for client in clients:
        client.cancel()
    await _settle(world, checker, strikes)
    looking.cancel()
    checker.look_at_the_end()
    world.ended_s = world.loop.now


async def _look(checker: Checker) -> None:
    while True:
        checker.look()
        await asyncio.sleep(LOOK_S)


async def _settle(world: SimWorld, checker: Checker, strikes: Strikes) -> None:
    await strikes.end()
    deadline = world.loop.now + SETTLE_S
    while not world.failures and not checker.is_settled():
        if world.loop.now > deadline:
            checker.fail(f"it did not settle within {SETTLE_S:g} s: {checker.unsettled()}")
            return
        await asyncio.sleep(0.25)
