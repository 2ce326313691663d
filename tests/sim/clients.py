"""A seeded client: submits, repeats what it is not sure of, cancels, retries, waits and looks, on any machine."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from meshq.core import requests as ask
from meshq.core.limits import PULL_FRAME_BYTES
from meshq.core.reports import TaskView, TaskViews
from meshq.core.requests import Submitted, TaskSpec
from meshq.wire import values
from tests.sim.checks import Checker
from tests.sim.world import SimWorld

THINK_S = 0.8
PATIENCE_S = 8.0
NAMES = {"work": 8, "slow": 2, "fail": 1, "crash": 1, "hang": 1}
LARGE_SHARE = 0.05  # of the tasks have large arguments
SMALL, LARGE = (values.pack([[b"x" * size], {}]) for size in (1, PULL_FRAME_BYTES * 2 // 3))
ACTS = {"submit": 5, "repeat": 2, "look": 5, "wait": 3, "cancel": 1, "retry": 1, "list": 1}


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
                await self._ask(node, ask.TasksQuery())
        return None

    def _new(self) -> TaskSpec:
        rng = self._world.rng
        name = rng.choices(list(NAMES), list(NAMES.values()))[0]
        timeout_s = 2.0 if name == "hang" and rng.random() < 0.7 else None
        # A large value is a row of its own, and a pull with two of them comes in parts.
        payload = LARGE if rng.random() < LARGE_SHARE else SMALL
        return self._world.spec(
            name, retries=rng.choice((0, 0, 2)), backoff_s=0.5, timeout_s=timeout_s, priority=rng.choice((0, 0, 5)),
            payload=payload,
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
