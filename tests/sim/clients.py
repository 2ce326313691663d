"""A seeded client: submits, repeats what it is not sure of, cancels, retries, waits and looks, on any machine."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from meshq.core import requests as ask
from meshq.core.limits import PULL_FRAME_BYTES
from meshq.core.reports import TaskView, TaskViews
from meshq.core.requests import Submitted, TaskSpec
from meshq.core.task import Backoff
from meshq.wire import values
from tests.sim.checks import Checker
from tests.sim.host import WALL_START_MS
from tests.sim.world import SimWorld

THINK_S = 0.8
PATIENCE_S = 8.0
NAMES = {"work": 8, "slow": 2, "fail": 1, "crash": 1, "hang": 1, "steps": 1}
# Some tasks have a key, a batch, a bound or a delay, and some are forgotten as soon as they are finished.
KEYS, BATCHES, BOUNDS, KEPT_S, DELAYS_MS = (
    (*(None,) * 8, "nightly", "hourly"), (None, None, "b1", "b2"), (0, 0, 0, 1, 2), (*(None,) * 6, 0.0),
    (*(0,) * 6, 500, 9_000),
)  # fmt: skip
BACKOFFS = tuple(backoff.value for backoff in Backoff)
LARGE_SHARE = 0.05  # of the tasks have large arguments
SMALL, LARGE = (values.pack([[b"x" * size], {}]) for size in (1, PULL_FRAME_BYTES * 2 // 3))
ACTS = {
    "submit": 10, "repeat": 4, "look": 10, "wait": 6, "cancel": 2, "retry": 2, "list": 2, "cancel batch": 1,
    "retry failed": 1,
}  # fmt: skip


class Client:
    """One client, on whatever side of a split it happens to ask."""

    def __init__(self, world: SimWorld, checker: Checker) -> None:
        self._world = world
        self._checker = checker
        self._mine: list[TaskSpec] = []

    async def run(self) -> None:
        """Asks until it is cancelled."""
        rng = self._world.rng
        while True:
            await asyncio.sleep(rng.expovariate(1 / THINK_S))
            here = [node for node in self._world.nodes if self._world.machines[node].serves]
            if here:
                # A daemon that dies never answers, and a client gives up on one that sleeps.
                await self._patiently(self._act(rng.choice(here)))

    async def _patiently(self, work: Coroutine[Any, Any, None]) -> None:
        await asyncio.wait([self._world.loop.create_task(work)], timeout=PATIENCE_S)

    async def _act(self, node: str) -> None:
        rng = self._world.rng
        act = rng.choices(list(ACTS), list(ACTS.values()))[0]
        if act == "submit" or not self._mine:
            specs = tuple(self._new() for _ in range(rng.randint(1, 4)))
            self._mine += specs
            return await self._ask(node, ask.Submit(tasks=specs))
        spec = rng.choice(self._mine)
        match act:
            case "repeat":
                await self._ask(node, ask.Submit(tasks=(spec,)))
            case "look":
                await self._ask(node, ask.TaskQuery(id=spec.id, wait_s=rng.choice((0.0, 2.0))))
            case "wait":
                ids = tuple(spec.id for spec in self._mine[-5:])
                await self._ask(node, ask.WaitQuery(ids=ids, wait_s=2.0))
            case "cancel":
                await self._ask(node, ask.Cancel(id=spec.id))
            case "retry":
                await self._ask(node, ask.Retry(id=spec.id))
            case "list":
                await self._ask(node, ask.TasksQuery(batch=rng.choice(BATCHES)))
            case "cancel batch":
                await self._ask(node, ask.CancelBatch(batch=rng.choice(BATCHES[-2:])))
            case "retry failed":
                await self._ask(node, ask.RetryFailed(batch=rng.choice(BATCHES)))
        return None

    def _new(self) -> TaskSpec:
        rng = self._world.rng
        name = rng.choices(list(NAMES), list(NAMES.values()))[0]
        timeout_s = 2.0 if name == "hang" and rng.random() < 0.7 else None
        # A large value is a row of its own, and a pull with two of them comes in parts.
        payload = LARGE if rng.random() < LARGE_SHARE else SMALL
        delay_ms = rng.choice(DELAYS_MS)
        return self._world.spec(
            name, retries=rng.choice((0, 0, 2)), backoff_s=0.5, timeout_s=timeout_s, priority=rng.choice((0, 0, 5)),
            payload=payload, key=rng.choice(KEYS), batch=rng.choice(BATCHES), max_running=rng.choice(BOUNDS),
            keep_s=rng.choice(KEPT_S), backoff=rng.choice(BACKOFFS),
            not_before_ms=WALL_START_MS + int(self._world.loop.now * 1000) + delay_ms if delay_ms else 0,
        )  # fmt: skip

    async def _ask(self, node: str, request: ask.Request) -> None:
        answer = await self._world.at(node, lambda running: running.gateway.call(request))
        cluster = self._world.roster_of(node).genesis
        match answer:
            case Submitted():
                self._checker.on_submitted(answer)
            case TaskView():
                self._checker.on_view(answer, has_result=not isinstance(request, ask.Cancel), cluster=cluster)
            case TaskViews() if not isinstance(request, ask.TasksQuery):
                for view in answer.tasks:
                    self._checker.on_view(view, cluster=cluster)
