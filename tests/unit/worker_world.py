"""An agent between its twins, and ways to run a test with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from meshq.config import Config
from meshq.core.infos import TaskInfo
from meshq.core.ports import Clock, Pool, Results, Work
from meshq.core.requests import Get, Got, Job
from meshq.wire.values import pack_arguments
from meshq.worker.agent import Agent
from tests.unit.virtual import now_s, virtually
from tests.unit.worker_twins import Ledger, TwinClock, TwinLeader, TwinPool, TwinResults, TwinWork


@dataclass
class World:
    """An agent between its twins."""

    ledger: Ledger = field(default_factory=Ledger)
    slots: int = 2
    seed: int = 0
    config: Config = field(default_factory=Config)
    local: bool = False

    def __post_init__(self) -> None:
        self.leader = TwinLeader(self.ledger)
        self.work = TwinWork(self.leader)
        self.results = TwinResults()
        self.events: list[tuple[str, str]] = []
        self.boot = "boot-1"
        self.new_agent()

    def new_agent(self) -> None:
        """The agent of the present boot."""
        self.pool = TwinPool(self.slots)
        pool: Pool = self.pool
        work: Work = self.work
        results: Results = self.results
        self.clock = TwinClock(self.seed)
        clock: Clock = self.clock
        self.agent = Agent(
            "node", self.boot, "name", pool, work, results, clock, self.config, (TaskInfo(name="work"),),
            lambda name, text: self.events.append((name, text)), lambda: self.local,
        )  # fmt: skip

    def submit(self, count: int, run_s: float = 0.0, kind: str = "done", name: str = "work") -> list[str]:
        ids = self.ledger.submit(count, run_s, kind, name)
        self.leader.changed()
        return ids

    def takeover(self, epoch: int) -> None:
        """Another leader, which knows the rows; the agent is told."""
        self.leader = TwinLeader(self.ledger, epoch)
        self.work.leader = self.leader
        self.agent.wake()

    def count(self, event: str) -> int:
        return sum(name == event for name, _ in self.events)

    async def until(self, condition: Any, wait_s: float = 600.0) -> float:
        """Waits, in virtual time, and returns how long it took."""
        began_s = now_s()
        async with asyncio.timeout(wait_s):
            while True:
                if condition():
                    return now_s() - began_s
                await asyncio.sleep(0.0005)


@asynccontextmanager
async def working(world: World) -> AsyncIterator[World]:
    async with asyncio.TaskGroup() as group:
        running = group.create_task(world.agent.run())
        yield world
        running.cancel()


def in_world(test: Callable[[World], Any], **settings: Any) -> None:
    """Runs a test with a working agent."""

    async def main() -> None:
        async with working(World(**settings)) as world:
            await test(world)

    virtually(main())


class Replay(TwinWork):
    """A leader that gives exactly these, one after the other."""

    def __init__(self, leader: TwinLeader, answers: list[Got]) -> None:
        super().__init__(leader)
        self.answers: asyncio.Queue[Got] = asyncio.Queue()
        for answer in answers:
            self.answers.put_nowait(answer)
        self.asked: list[Get] = []

    async def get(self, request: Get) -> Got:
        self.asked.append(request)
        await asyncio.sleep(0.1)
        return await self.answers.get()


def job(task: int, epoch: int, attempt: int = 1, run_s: float = 100.0) -> Job:
    payload = pack_arguments([run_s, "done"], {})
    return Job(id=f"{task:032x}", name="work", epoch=epoch, attempt=attempt, payload=payload)


def replaying(answers: list[Got], test: Callable[[World, Replay], Any], slots: int = 4) -> None:
    async def main() -> None:
        world = World(slots=slots)
        world.work = replay = Replay(world.leader, answers)
        world.leader.epoch = 0
        world.new_agent()
        async with working(world):
            await test(world, replay)

    virtually(main())
