"""Gets that wait for work, and who is given what. One for each leadership."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from meshq.core.claims import Claims
from meshq.core.limits import JOBS_PER_GET_MAX, WAIT_S_MAX
from meshq.core.ports import Clock
from meshq.core.requests import Get, Job
from meshq.core.split import Term
from meshq.errors import NoLeader
from meshq.node.machines import Machines
from meshq.node.pace import Pace
from meshq.node.replicator import Replicator
from meshq.store import queue
from meshq.store.database import Connection
from meshq.store.feed import Pen


@dataclass(slots=True)
class Asking:
    """A Get that waits for work. `over` says that its wait has ended, so that it is answered with what there is."""

    request: Get
    answer: asyncio.Future[tuple[Job, ...]]
    over: bool = False

    def resolve(self, jobs: tuple[Job, ...]) -> None:
        """Answers it, if that was not done."""
        if not self.answer.done():
            self.answer.set_result(jobs)


@dataclass(frozen=True, slots=True)
class Leave:
    """What may be handed out now: only what this node wrote after a seq, if any; and what has a bound, or not."""

    only_after: int | None
    bounded: bool


class Matching:
    """Hands tasks out.

    Args:
        term: The leadership.
        replicator: Writes, and knows what is committed.
        clock: Lease clock and wall clock.
        claims: The workers, and what they hold.
        pace: How much a worker is given.
        machines: Who gets nothing, or not everything.
        claiming: Held from a claim's write until the table knows it.
        leave: Tells what may be handed out.
    """

    def __init__(
        self,
        term: Term,
        replicator: Replicator,
        clock: Clock,
        claims: Claims,
        pace: Pace,
        machines: Machines,
        claiming: asyncio.Lock,
        leave: Callable[[], Leave],
    ) -> None:
        self.work = replicator.commits.signal  # a task can be handed out once it is committed
        self._term = term
        self._replicator = replicator
        self._clock = clock
        self._claims = claims
        self._pace = pace
        self._machines = machines
        self._claiming = claiming
        self._leave = leave
        self._asking: dict[str, Asking] = {}
        self._ended = False

    async def run(self) -> None:
        """Matches until it is cancelled."""
        while True:
            count = self.work.count
            try:
                due_ms = await self._match() if self._asking else None
            except NoLeader:
                due_ms = self._clock.wall_ms() + 100
            wait_s = None if due_ms is None else max(0.01, (due_ms - self._clock.wall_ms()) / 1000)
            await self.work.after(count, wait_s)

    def end(self) -> None:
        """The leadership is over: whoever waits for work is told so."""
        self._ended = True
        for asking in self._asking.values():
            asking.resolve(())
        self._asking.clear()

    async def wait(self, request: Get) -> tuple[Job, ...]:
        """What a worker is given; it takes the place of its earlier Get."""
        asking = Asking(request, asyncio.get_running_loop().create_future())
        earlier = self._asking.pop(request.node, None)
        if earlier is not None:
            earlier.resolve(())
        self._asking[request.node] = asking
        self.work.notify()
        try:
            await asyncio.wait([asking.answer], timeout=min(request.wait_s, WAIT_S_MAX))
            asking.over = True
            if self._asking.get(request.node) is asking:
                asking.resolve(())
            # Else it is being matched at this moment, and gets what comes of that.
            return await asking.answer
        finally:
            asking.over = True
            if self._asking.get(request.node) is asking:
                del self._asking[request.node]

    def spoke(self, node: str, boot: str) -> None:
        """A worker speaks as this boot: a Get of another one is answered with nothing."""
        parked = self._asking.get(node)
        if parked is not None and parked.request.boot != boot:
            self._asking.pop(node).resolve(())

    async def _match(self) -> int | None:
        """Hands out what there is to all who ask, in one transaction; the wall time when more may be due."""
        asking = [entry for entry in self._asking.values() if not entry.answer.done()]
        self._asking.clear()
        try:
            async with self._claiming:
                return await self._match_these(asking)
        finally:
            for entry in asking:
                if entry.over or self._ended:
                    entry.resolve(())
                elif not entry.answer.done() and self._asking.setdefault(entry.request.node, entry) is not entry:
                    entry.resolve(())  # its worker asked anew meanwhile

    async def _match_these(self, asking: list[Asking]) -> int | None:
        for entry in asking:
            # A Get may outlive its boot: what it were given would stand still.
            if self._claims.workers[entry.request.node].boot != entry.request.boot:
                entry.resolve(())
        asking = [
            entry for entry in asking if not entry.answer.done() and not self._machines.paused(entry.request.node)
        ]
        shown = self._replicator.shown()
        now_ms = self._clock.wall_ms()
        budgets = [self._pace.budget(entry.request, self._claims.held_by(entry.request.node)) for entry in asking]
        avoided = [self._machines.avoided(entry.request.node) for entry in asking]
        leave = self._leave()

        def work(conn: Connection, pen: Pen) -> tuple[list[list[queue.Given]], int | None]:
            given = [
                queue.claim(
                    conn, pen, node=entry.request.node, names=entry.request.names, budget=budget, shown=shown,
                    now_ms=now_ms, limit=JOBS_PER_GET_MAX, only_after=leave.only_after, avoid=avoid,
                    bounded=leave.bounded,
                )
                for entry, budget, avoid in zip(asking, budgets, avoided, strict=True)
            ]  # fmt: skip
            return given, queue.next_due_ms(conn, now_ms)

        (given, due_ms), _ = await self._replicator.write(self._term, work)
        now = self._clock.boot_s()
        for entry, tasks in zip(asking, given, strict=True):
            if not tasks:
                continue
            jobs = tuple(self._job(each) for each in tasks)
            for job in jobs:
                request = entry.request
                self._claims.hold(job.claim, request.node, request.boot, job.name, request.number, now)
            entry.resolve(jobs)
        return due_ms

    def _job(self, given: queue.Given) -> Job:
        task = given.task
        return Job(
            id=task.id, name=task.name, epoch=self._term.epoch, attempt=task.attempt, payload=given.payload,
            timeout_s=task.timeout_s, checkpoint=given.checkpoint,
        )  # fmt: skip
