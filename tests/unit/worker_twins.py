"""Twins of an agent's ports, in memory and on virtual time: a leader, a pool, an outbox, a clock."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TypeVar

from meshq.core.infos import TaskInfo
from meshq.core.limits import OUTCOMES_MAX
from meshq.core.requests import (
    ClaimRef,
    Get,
    Got,
    Heartbeat,
    HeartbeatAnswer,
    Job,
    Outcome,
    ResultsTaken,
    RunProgress,
    SubmitResult,
)
from meshq.errors import MeshqError, NoLeader
from meshq.wire.values import pack_arguments, unpack_arguments
from tests.unit.virtual import now_s

Result = TypeVar("Result")


class TwinClock:
    """Virtual time, and what the loop did not see of it: a suspend of the machine, a stop of the process."""

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)
        self.suspended_s = 0.0
        self.stopped_s = 0.0

    def boot_s(self) -> float:
        return now_s() + self.stopped_s + self.suspended_s

    def run_s(self) -> float:
        return now_s() + self.stopped_s

    def wall_ms(self) -> int:
        return int(now_s() * 1000)

    def random(self) -> float:
        return self._random.random()

    def random_bits(self, count: int) -> int:
        return self._random.getrandbits(count)


@dataclass
class Row:
    """A task as the ledger has it; `given` counts the claims that a leader made for it."""

    id: str
    name: str
    run_s: float
    kind: str
    claim: ClaimRef | None = None
    boot: str = ""
    number: int = 0
    attempt: int = 0
    given: int = 0
    checkpoint: bytes | None = None
    outcome: Outcome | None = None


class Ledger:
    """What all leaders share, as if it were replicated."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.taken: list[tuple[str, Outcome]] = []

    def submit(self, count: int, run_s: float = 0.0, kind: str = "done", name: str = "work") -> list[str]:
        ids = [f"{len(self.rows) + number:032x}" for number in range(count)]
        self.rows |= {task: Row(task, name, run_s, kind) for task in ids}
        return ids

    def unfinished(self) -> list[str]:
        return [task for task, row in self.rows.items() if row.outcome is None]


class TwinLeader:
    """Gives runs out, takes claims back by the rules, accepts outcomes; it can be made to refuse or to say nothing.

    Args:
        ledger: The rows.
        epoch: Its epoch.
        per_get: How many runs it gives at most.
    """

    def __init__(self, ledger: Ledger, epoch: int = 1, per_get: int = 4096) -> None:
        self.ledger, self.epoch, self.per_get = ledger, epoch, per_get
        self.refusals: dict[str, MeshqError] = {}
        self.silent: set[str] = set()
        self.outcome_bytes_max = 1 << 30
        self.invalid: set[str] = set()
        self.heartbeats_pass = asyncio.Event()
        self.heartbeats_pass.set()
        self.gets: list[tuple[float, Get]] = []
        self.heartbeats: list[tuple[float, Heartbeat]] = []
        self.submits: list[tuple[float, SubmitResult]] = []
        self._changed = asyncio.Event()

    def changed(self) -> None:
        self._changed.set()

    async def _answers(self, what: str) -> None:
        await asyncio.sleep(0.001)
        if what in self.silent:
            await asyncio.Event().wait()
        if what in self.refusals:
            raise self.refusals[what]

    async def get(self, request: Get) -> Got:
        self.gets.append((now_s(), request))
        await self._answers("get")
        self._speak(request.holds, request.boot, request.number)
        try:
            async with asyncio.timeout(request.wait_s):
                while not (rows := [row for row in self.ledger.rows.values() if row.claim is None and not row.outcome]):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return Got(epoch=self.epoch)
        jobs = []
        for row in rows[: self.per_get]:
            row.attempt += 1
            row.given += 1
            row.claim = ClaimRef(task=row.id, epoch=self.epoch, attempt=row.attempt)
            row.boot, row.number = request.boot, request.number
            payload = pack_arguments([row.run_s, row.kind], {})
            jobs.append(Job(id=row.id, name=row.name, epoch=self.epoch, attempt=row.attempt, payload=payload))
        await asyncio.sleep(0.001)
        return Got(epoch=self.epoch, jobs=tuple(jobs))

    def _speak(self, named: Collection[ClaimRef], boot: str, number: int | None) -> None:
        claims = {claim.task: claim for claim in named}
        for row in self.ledger.rows.values():
            claim = claims.get(row.id)
            if claim is not None and row.claim is None and row.outcome is None:
                row.claim, row.boot, row.attempt = claim, boot, max(row.attempt, claim.attempt)
            elif claim is None and row.claim is not None:
                never_arrived = row.boot == boot and number is not None and row.number < number
                if never_arrived or row.boot != boot:
                    row.claim = None

    async def heartbeat(self, request: Heartbeat) -> HeartbeatAnswer:
        self.heartbeats.append((now_s(), request))
        await self._answers("heartbeat")
        await self.heartbeats_pass.wait()
        self._speak(request.running, request.boot, None)
        named = [claim.task for claim in request.running]
        return HeartbeatAnswer(epoch=self.epoch, invalid=tuple(task for task in named if task in self.invalid))

    async def submit_result(self, request: SubmitResult) -> ResultsTaken:
        self.submits.append((now_s(), request))
        await self._answers("submit_result")
        size = sum(len(outcome.result or b"") for outcome in request.outcomes)
        if size > self.outcome_bytes_max:
            raise self.refusals.get("size", MeshqError())
        dropped = {}
        for outcome in request.outcomes:
            row = self.ledger.rows[outcome.task]
            claim = ClaimRef(task=outcome.task, epoch=outcome.epoch, attempt=outcome.attempt)
            if outcome.kind == "kept":
                row.checkpoint = outcome.checkpoint if row.claim == claim else row.checkpoint
            elif row.outcome is not None or (outcome.kind != "done" and row.claim not in (claim, None)):
                dropped[outcome.task] = "counts no longer"
            elif outcome.kind == "released":
                row.claim = None
            else:
                row.outcome, row.claim = outcome, None
            self.ledger.taken.append((request.boot, outcome))
        self.changed()
        return ResultsTaken(epoch=self.epoch, dropped=dropped)


class TwinWork:
    """The port: whoever leads now, or nobody."""

    def __init__(self, leader: TwinLeader | None) -> None:
        self.leader = leader

    def _leader(self) -> TwinLeader:
        if self.leader is None:
            raise NoLeader
        return self.leader

    async def get(self, request: Get) -> Got:
        return await self._leader().get(request)

    async def heartbeat(self, request: Heartbeat) -> HeartbeatAnswer:
        return await self._leader().heartbeat(request)

    async def submit_result(self, request: SubmitResult) -> ResultsTaken:
        return await self._leader().submit_result(request)


class TwinPool:
    """Runs take the time that their payload says; the payload says how they end, too."""

    def __init__(self, slots: int = 2) -> None:
        self._slots = slots
        self._waiting: dict[str, Job] = {}
        self._running: dict[str, tuple[Job, asyncio.TimerHandle]] = {}
        self._outcomes: list[Outcome] = []
        self._some = asyncio.Event()
        self._quiet = asyncio.Event()
        self._draining = self._drained = False
        self.begun: Counter[str] = Counter()
        self.told: dict[str, RunProgress] = {}
        self.ended: list[Outcome] = []

    @property
    def slots(self) -> int:
        return self._slots

    async def start(self) -> tuple[TaskInfo, ...]:
        return (TaskInfo(name="work"),)

    def put(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            assert job.id not in self._waiting
            assert job.id not in self._running
            self._waiting[job.id] = job
        self._release_unbegun()
        self._begin()

    def _begin(self) -> None:
        while self._waiting and len(self._running) < self._slots and not (self._draining or self._drained):
            job = self._waiting.pop(next(iter(self._waiting)))
            (run_s, kind), _ = unpack_arguments(job.payload)
            self.begun[job.id] += 1
            timer = asyncio.get_running_loop().call_later(run_s, self._end, job, kind, run_s)
            self._running[job.id] = (job, timer)

    def _end(self, job: Job, kind: str, run_s: float) -> None:
        self._waiting.pop(job.id, None)
        self._running.pop(job.id, None)
        result = b"\xc0" if kind == "done" else (b"\xc4\xff" + bytes(100_000) if kind == "large" else None)
        outcome = Outcome(
            task=job.id, epoch=job.epoch, attempt=job.attempt, kind="done" if kind == "large" else kind,
            result=result, run_s=run_s,
        )  # fmt: skip
        self.ended.append(outcome)
        self._outcomes.append(outcome)
        self._some.set()
        if not self._running:
            self._quiet.set()
        self._begin()

    def _release_unbegun(self) -> None:
        if self._draining or self._drained:
            for job in list(self._waiting.values()):
                self._end(job, "released", 0.0)

    def drain(self, on: bool) -> None:
        self._drained = on
        self._release_unbegun()

    def progress(self) -> tuple[RunProgress, ...]:
        return tuple(self.told[task] for task in self._running if task in self.told)

    def keep(self, task: str, checkpoint: bytes) -> None:
        """As if the run of this task had called `checkpoint`."""
        job, _ = self._running[task]
        self._outcomes.append(
            Outcome(task=task, epoch=job.epoch, attempt=job.attempt, kind="kept", checkpoint=checkpoint)
        )
        self._some.set()

    def held(self) -> tuple[Job, ...]:
        return (*(job for job, _ in self._running.values()), *self._waiting.values())

    def free(self) -> int:
        return max(0, self._slots - len(self._running) - len(self._waiting))

    def running(self) -> int:
        return len(self._running)

    def kill(self, tasks: Collection[str]) -> None:
        for task in tasks:
            self._waiting.pop(task, None)
            if task in self._running:
                self._running.pop(task)[1].cancel()
        self._begin()

    async def outcomes(self) -> list[Outcome]:
        await self._some.wait()
        self._some.clear()
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    async def close(self, drain_s: float) -> None:
        self._draining = True
        self._release_unbegun()
        if self._running:
            self._quiet.clear()
            try:
                async with asyncio.timeout(drain_s):
                    await self._quiet.wait()
            except TimeoutError:
                for job, timer in list(self._running.values()):
                    timer.cancel()
                    self._end(job, "released", 0.0)


class TwinResults:
    """A disk that takes a moment, and may be full."""

    def __init__(self) -> None:
        self.entries: dict[int, tuple[str, Outcome]] = {}
        self.failure: MeshqError | None = None
        self.written = 0

    async def put_results(self, outcomes: Sequence[Outcome], boot: str) -> None:
        await asyncio.sleep(0.002)
        if self.failure is not None:
            raise self.failure
        for outcome in outcomes:
            self.written += 1
            self.entries[self.written] = (boot, outcome)
        await asyncio.sleep(0.002)

    async def results(self, limit: int) -> list[tuple[int, str, Outcome]]:
        await asyncio.sleep(0.001)
        assert limit <= OUTCOMES_MAX
        return [(number, *self.entries[number]) for number in sorted(self.entries)[:limit]]

    async def drop(self, entries: Sequence[int]) -> None:
        await asyncio.sleep(0.001)
        for number in entries:
            del self.entries[number]
