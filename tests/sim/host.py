"""What a simulated machine has besides its disk: clocks, a pool that only pretends to run, and what that printed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection, Sequence

from meshq.core.infos import Param, TaskInfo
from meshq.core.requests import Job, Outcome, RunProgress
from meshq.wire import values
from tests.sim.loop import Timeline, VirtualLoop

WALL_START_MS = 1_790_000_000_000
ANYTHING = (Param(name="args", kind="VAR_POSITIONAL", required=False),)
# What the simulated pool knows: how long a run takes, in seconds, and how it ends.
KINDS = {
    "work": ((0.01, 0.6), "done"),
    "slow": ((1.0, 14.0), "done"),
    "fail": ((0.01, 0.6), "failed"),
    "crash": ((0.01, 0.6), "crashed"),
    "hang": ((40.0, 40.0), "done"),
    "steps": ((2.0, 9.0), "done"),
}
# Runs of this kind go through so many steps, each told as progress and kept as a checkpoint: its number in a byte. The
# next attempt goes on from there.
STEPS_KIND, STEPS = "steps", 5
TASKS = tuple(TaskInfo(name=name, params=ANYTHING) for name in KINDS)


class SimClock:
    """`core.ports.Clock` on a machine's own clocks; its wall clock may be set by anybody."""

    def __init__(
        self, loop: VirtualLoop, rng: random.Random, timeline: Timeline, wall_ahead_ms: Callable[[], int]
    ) -> None:
        self._loop = loop
        self._rng = rng
        self._timeline = timeline
        self._wall_ahead_ms = wall_ahead_ms

    def boot_s(self) -> float:
        return self._timeline.boot_s(self._loop.now)

    def run_s(self) -> float:
        return self._timeline.run_s(self._loop.now)

    def wall_ms(self) -> int:
        return WALL_START_MS + int(self._loop.now * 1000) + self._wall_ahead_ms()

    def random(self) -> float:
        return self._rng.random()

    def random_bits(self, count: int) -> int:
        return self._rng.getrandbits(count)


class SimLogs:
    """`core.ports.TaskLogs` that keeps everything.

    Args:
        kept: By task; outlives the process.
    """

    def __init__(self, kept: dict[str, bytes]) -> None:
        self._kept = kept
        self._readers: dict[str, list[asyncio.Event]] = {}

    def add(self, task: str, data: bytes) -> None:
        self._kept[task] = self._kept.get(task, b"") + data
        for event in self._readers.get(task, ()):
            event.set()

    async def read(self, task: str, after: int, wait_s: float) -> tuple[bytes, int, int]:
        more = asyncio.Event()
        self._readers.setdefault(task, []).append(more)
        try:
            if len(self._kept.get(task, b"")) <= after:
                async with asyncio.timeout(wait_s):
                    await more.wait()
        except TimeoutError:
            pass
        finally:
            self._readers[task].remove(more)
        text = self._kept.get(task, b"")
        return text[after:], len(text), 0


class SimPool:
    """`core.ports.Pool`: runs take virtual time. Each run's result names the run, so that two can be told apart; it
    prints when it begins and when it ends, and each of its steps."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        rng: random.Random,
        slots: int,
        who: str,
        ran: Callable[[Job], None],
        printed: Callable[[str, bytes], None],
    ) -> None:
        self._loop = loop
        self._rng = rng
        self._slots = slots
        self._who = who
        self._ran = ran
        self._printed = printed
        self._queue: list[Job] = []
        self._running: dict[str, tuple[Job, asyncio.TimerHandle]] = {}
        self._outcomes: list[Outcome] = []
        self._some = asyncio.Event()
        self._closed = self._drained = False
        self._steps: dict[str, int] = {}
        self.run_s: tuple[float, float] | None = None  # how long each run takes; None for as long as its name says

    @property
    def slots(self) -> int:
        return self._slots

    async def start(self) -> tuple[TaskInfo, ...]:
        return TASKS

    def put(self, jobs: Sequence[Job]) -> None:
        self._queue.extend(jobs)
        self._release_unbegun()
        self._fill()

    def _fill(self) -> None:
        while self._queue and len(self._running) < self._slots and not self._closed:
            job = self._queue.pop(0)
            self._ran(job)
            self._printed(job.id, f"attempt {job.attempt} by {self._who}\n".encode())
            run_s, kind = KINDS.get(job.name, KINDS["work"])
            after_s = self._rng.uniform(*(self.run_s or run_s))
            if job.timeout_s is not None and job.timeout_s < after_s:
                after_s, kind = job.timeout_s, "timed out"
            if job.name == STEPS_KIND:
                self._steps[job.id] = begun = (job.checkpoint or b"\0")[0]
                step_s = after_s / STEPS
                after_s -= begun * step_s
                self._loop.call_later(step_s, self._step, job, step_s)
            self._running[job.id] = (job, self._loop.call_later(after_s, self._finish, job, kind))

    def _step(self, job: Job, step_s: float) -> None:
        if self._running.get(job.id, (None,))[0] is not job or self._steps[job.id] + 1 >= STEPS:
            return
        self._steps[job.id] += 1
        self._printed(job.id, f"step {self._steps[job.id]}\n".encode())
        checkpoint = bytes([self._steps[job.id]])
        self._outcomes.append(
            Outcome(task=job.id, epoch=job.epoch, attempt=job.attempt, kind="kept", checkpoint=checkpoint)
        )
        self._some.set()
        self._loop.call_later(step_s, self._step, job, step_s)

    def _finish(self, job: Job, kind: str) -> None:
        del self._running[job.id]
        self._steps.pop(job.id, None)
        self._printed(job.id, f"{kind}\n".encode())
        result = error = None
        if kind == "done":
            result = values.pack(f"{job.id[-4:]} by {self._who}, epoch {job.epoch}, attempt {job.attempt}")
        else:
            error = values.pack({"type": "ValueError", "message": kind, "traceback": ""})
        self._outcomes.append(
            Outcome(
                task=job.id, epoch=job.epoch, attempt=job.attempt, kind="failed" if kind == "timed out" else kind,
                result=result, error=error, run_s=0.1,
            )
        )  # fmt: skip
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
                self._steps.pop(task, None)
        self._fill()

    def progress(self) -> tuple[RunProgress, ...]:
        return tuple(RunProgress(task=task, done=float(step), total=float(STEPS)) for task, step in self._steps.items())

    def drain(self, on: bool) -> None:
        self._drained = on
        self._release_unbegun()

    def _release_unbegun(self) -> None:
        if self._closed or self._drained:
            self._outcomes += [
                Outcome(task=job.id, epoch=job.epoch, attempt=job.attempt, kind="released") for job in self._queue
            ]
            self._queue = []
            self._some.set()

    async def outcomes(self) -> list[Outcome]:
        while not self._outcomes:
            self._some.clear()
            await self._some.wait()
        taken, self._outcomes = self._outcomes, []
        return taken

    async def close(self, drain_s: float) -> None:
        self._closed = True
        self._release_unbegun()
        deadline = self._loop.time() + drain_s
        while self._running and self._loop.time() < deadline:
            await asyncio.sleep(0.05)
        left = [job for job, _ in self._running.values()]
        self.kill([job.id for job in left])
        self._outcomes += [Outcome(task=job.id, epoch=job.epoch, attempt=job.attempt, kind="released") for job in left]
        self._some.set()
