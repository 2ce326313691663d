"""What a simulated machine has: a clock, disks that outlive its processes, and a pool that only pretends to run."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection, Sequence

from meshq.core.requests import Job, Outcome, Param, TaskInfo
from meshq.store.database import Connection
from meshq.store.inline import InlineDatabase, memory_connection
from meshq.store.schema import OUTBOX, PROMISE, QUEUE
from meshq.wire import values

WALL_START_MS = 1_790_000_000_000
ANYTHING = (Param(name="args", kind="VAR_POSITIONAL", required=False),)
TASKS = tuple(TaskInfo(name=name, params=ANYTHING) for name in ("work", "fail", "crash"))


class SimClock:
    """`core.ports.Clock` on virtual time; the loop's time is already the process's own."""

    def __init__(self, loop: asyncio.AbstractEventLoop, rng: random.Random) -> None:
        self._loop = loop
        self._rng = rng

    def boot_s(self) -> float:
        return self._loop.time()

    def run_s(self) -> float:
        return self._loop.time()

    def wall_ms(self) -> int:
        return WALL_START_MS + int(self._loop.time() * 1000)

    def random(self) -> float:
        return self._rng.random()

    def random_bits(self, count: int) -> int:
        return self._rng.getrandbits(count)


class Disk:
    """The three databases of a machine. A crash loses nothing that was committed."""

    def __init__(self) -> None:
        self.queue = memory_connection(QUEUE)
        self.promise = memory_connection(PROMISE)
        self.outbox = memory_connection(OUTBOX)

    def open(self, delay: Callable[[], Awaitable[None]]) -> tuple[InlineDatabase, InlineDatabase, InlineDatabase]:
        """The databases, for one start."""
        return (
            InlineDatabase(self.queue, delay),
            InlineDatabase(self.promise, delay),
            InlineDatabase(self.outbox, delay),
        )

    def close(self) -> None:
        """The end of the world."""
        for conn in (self.queue, self.promise, self.outbox):
            conn.close()

    def rows(self, sql: str) -> list[tuple[object, ...]]:
        """What a checker reads from outside."""
        return reading(self.queue, sql)


def reading(conn: Connection, sql: str) -> list[tuple[object, ...]]:
    """The rows of a query."""
    return conn.execute(sql).fetchall()


class SimPool:
    """`core.ports.Pool`: runs take virtual time. Each run's result names the run, so that two can be told apart."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, rng: random.Random, slots: int, who: str, ran: Callable[[Job], None]
    ) -> None:
        self._loop = loop
        self._rng = rng
        self._slots = slots
        self._who = who
        self._ran = ran
        self._queue: list[Job] = []
        self._running: dict[str, tuple[Job, asyncio.TimerHandle]] = {}
        self._outcomes: list[Outcome] = []
        self._some = asyncio.Event()
        self._closed = False
        self.run_s = (0.01, 0.6)

    @property
    def slots(self) -> int:
        return self._slots

    async def start(self) -> tuple[TaskInfo, ...]:
        return TASKS

    def put(self, jobs: Sequence[Job]) -> None:
        self._queue.extend(jobs)
        self._fill()

    def _fill(self) -> None:
        while self._queue and len(self._running) < self._slots and not self._closed:
            job = self._queue.pop(0)
            self._ran(job)
            after_s = self._rng.uniform(*self.run_s)
            self._running[job.id] = (job, self._loop.call_later(after_s, self._finish, job))

    def _finish(self, job: Job) -> None:
        del self._running[job.id]
        error = values.pack({"type": "ValueError", "message": "as asked", "traceback": ""})
        outcome = Outcome(task=job.id, epoch=job.epoch, attempt=job.attempt, kind="done", run_s=0.1)
        if job.name == "work":
            result = values.pack(f"{job.id[-4:]} by {self._who}, epoch {job.epoch}, attempt {job.attempt}")
            outcome = Outcome(task=job.id, epoch=job.epoch, attempt=job.attempt, kind="done", result=result, run_s=0.1)
        else:
            kind = "failed" if job.name == "fail" else "crashed"
            outcome = Outcome(task=job.id, epoch=job.epoch, attempt=job.attempt, kind=kind, error=error)
        self._outcomes.append(outcome)
        self._some.set()
        self._fill()

    def held(self) -> tuple[Job, ...]:
        return (*(job for job, _ in self._running.values()), *self._queue)

    def free(self) -> int:
        return 0 if self._closed else max(0, self._slots - len(self._running) - len(self._queue))

    def running(self) -> int:
        return len(self._running)

    def kill(self, tasks: Collection[str]) -> None:
        self._queue = [job for job in self._queue if job.id not in tasks]
        for task in tasks:
            if task in self._running:
                self._running.pop(task)[1].cancel()
        self._fill()

    async def outcomes(self) -> list[Outcome]:
        while not self._outcomes:
            self._some.clear()
            await self._some.wait()
        taken, self._outcomes = self._outcomes, []
        return taken

    async def close(self, drain_s: float) -> None:
        self._closed = True
        released, self._queue = self._queue, []
        self._outcomes += [
            Outcome(task=job.id, epoch=job.epoch, attempt=job.attempt, kind="released") for job in released
        ]
        self._some.set()
        deadline = self._loop.time() + drain_s
        while self._running and self._loop.time() < deadline:
            await asyncio.sleep(0.05)
        left = [job for job, _ in self._running.values()]
        self.kill([job.id for job in left])
        self._outcomes += [Outcome(task=job.id, epoch=job.epoch, attempt=job.attempt, kind="released") for job in left]
        self._some.set()
