"""The worker of a node: asks the leader for runs, says every second which it has, and hands in how they ended.

A claim stays named, in Gets and heartbeats alike, from the moment its run arrives until a leader has its outcome:
what a Get does not name never arrived, and is given to somebody else.

A worker that slept renews first: until the leader has said which of its claims still count, it asks for nothing and
hands nothing in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from meshq.config import Config
from meshq.core.infos import TaskInfo
from meshq.core.limits import CLAIMS_MAX
from meshq.core.ports import Clock, Pool, Results, Work
from meshq.core.requests import ClaimRef, Get, Got, Heartbeat, HeartbeatAnswer, Job, Outcome
from meshq.errors import MeshqError
from meshq.worker.backlog import Durations
from meshq.worker.contact import Backoff, Calls, Epochs, OnEvent, Sleep
from meshq.worker.handin import KEPT, HandIn

GET_FIRST_S, GET_LAST_S = 0.1, 1.0
# What an answer may take beyond the wait that was asked for.
ANSWER_S = 5.0
# How long a stop waits for a leader to take the last outcomes; the others stay on disk for the next start.
LAST_OUTCOMES_S = 5.0


@dataclass(frozen=True, slots=True)
class _Held:
    """A run that the pool has; `work_s` is its part of the estimate of work that waits here."""

    job: Job
    work_s: float


class Agent:
    """The worker's side of Get, heartbeat and result.

    Args:
        node, boot, name: Who this worker is.
        pool: What runs the tasks; started.
        work: The leader, wherever it is.
        results: The part of the outbox for outcomes.
        clock: Chance, and the two clocks by which a sleep is noticed.
        config: Durations and sizes.
        tasks: The tasks that the pool knows.
        on_event: Is told each refusal and failure: its name, which is its counter too, and a line about it.
        work_is_local: Says whether the leader is this very node.
    """

    def __init__(
        self,
        node: str,
        boot: str,
        name: str,
        pool: Pool,
        work: Work,
        results: Results,
        clock: Clock,
        config: Config,
        tasks: tuple[TaskInfo, ...],
        on_event: OnEvent,
        work_is_local: Callable[[], bool] = lambda: False,
    ) -> None:
        self._node, self._boot, self._name = node, boot, name
        self._pool, self._work, self._config = pool, work, config
        self._tasks = tasks
        self._names = tuple(task.name for task in tasks)
        self._on_event = on_event
        self._epochs = Epochs(on_event)
        self._sleep = Sleep(clock, config.dead_after_s, self._on_slept)
        self._room = asyncio.Event()
        self._handin = HandIn(
            node, boot, work, results, clock, config, self._epochs, self._sleep, on_event, work_is_local,
            self._room.set,
        )  # fmt: skip
        self._held: dict[str, _Held] = {}
        self._work_s = 0.0
        self._durations = Durations()
        self._number = 0
        self._gets, self._heartbeats = Calls(), Calls()
        # A heartbeat that hangs must not look like a sleep: the clocks are looked at before and after it.
        self._beat_answer_s = min(ANSWER_S, config.dead_after_s / 2)
        self._get_backoff = Backoff(GET_FIRST_S, GET_LAST_S, clock.random)
        self._beat = asyncio.Event()
        self._tell = True
        self._draining = False
        self.drained = False
        self._running = False
        self._stopped = asyncio.Event()

    async def run(self) -> None:
        """Works until `stop`. What it has not handed in when it is cancelled is on disk afterwards."""
        self._running = True
        try:
            async with asyncio.TaskGroup() as group:
                loops = [self._heartbeat_loop(), self._outcomes_loop(), self._handin.keep_loop()]
                loops.append(self._handin.send_loop())
                if self._pool.slots:
                    loops.append(self._get_loop())
                tasks = [group.create_task(loop) for loop in loops]
                await self._stopped.wait()
                for task in tasks:
                    task.cancel()
        finally:
            self._running = False
            await self._save()

    async def stop(self, drain_s: float) -> None:
        """Takes no new runs, lets the pool drain, and hands in what came of it, `released` runs included.

        Args:
            drain_s: How long running tasks may go on.
        """
        self._draining = True
        # What its answer might have brought is named nowhere, and so is free again.
        self._gets.give_up()
        self._get_backoff.ring()
        self._room.set()
        self._beat.set()
        await self._pool.close(drain_s)
        if self._running:
            self._handin.wake()
            try:
                async with asyncio.timeout(LAST_OUTCOMES_S):
                    while self._held:
                        self._room.clear()
                        await self._room.wait()
                    await self._handin.delivered()
            except TimeoutError:
                count = len(self._handin.claims())
                self._on_event("outcomes_left", f"{count} outcomes wait on disk for the next start")
        else:
            await self._save()
        await self._heartbeat()
        self._stopped.set()

    def drain(self, on: bool) -> None:
        """Asks for no work from now on, and gives back what is not begun; what runs goes on. Or works again.

        A Get that waits is left to end by itself: what it still brings is given back by its name.
        """
        self.drained = on
        self._pool.drain(on)
        self._get_backoff.ring()
        self._room.set()
        self._beat.set()

    def wake(self) -> None:
        """The leader may be another one now: asks, tells and hands in at once."""
        self._tell = True
        self._beat.set()
        self._heartbeats.give_up()
        self._gets.give_up()
        self._get_backoff.ring()
        self._handin.wake()

    def follow_epoch(self, epoch: int, *, split: bool) -> None:
        """The node knows this epoch, and works with a majority or in a split.

        What comes from a lower epoch than the highest known is refused, but nothing in a split: its leader may be a
        node that promised less.
        """
        self._epochs.follow(epoch, split=split)

    def _on_slept(self, missed_s: float) -> None:
        held = len(self.claims())
        self._on_event("slept", f"{missed_s:.0f} s were missed: {held} claims are renewed before anything else")
        self._gets.give_up()
        self._heartbeats.give_up()
        self._beat.set()

    def load(self) -> tuple[int, int]:
        """How many slots run something, and how many runs wait for one."""
        running = self._pool.running()
        return running, max(0, len(self._held) - running)

    def claims(self) -> tuple[ClaimRef, ...]:
        """All runs that this worker answers for: those that are held, and those whose outcome no leader has."""
        return (*(held.job.claim for held in self._held.values()), *self._handin.claims())[:CLAIMS_MAX]

    # -- get -----------------------------------------------------------------------------------------------

    async def _get_loop(self) -> None:
        while not self._draining:
            if self.drained or not self._has_room():
                self._room.clear()
                await self._room.wait()
                continue
            if not self._sleep.is_over():
                await self._sleep.over()
                continue
            free = self._pool.free()
            # With no slot free it asks for short tasks ahead, and asks again when a slot may have become free.
            wait_s = self._config.get_wait_s if free else self._config.claim_ahead_s
            loop = asyncio.get_running_loop()
            asked_s, naps = loop.time(), self._sleep.naps()
            try:
                got = await self._ask(free, wait_s)
            except MeshqError as error:
                self._on_event("get_failed", str(error))
                await self._get_backoff.pause()
                continue
            if self._is_out_of_date(naps, f"an answer with {len(got.jobs)} runs"):
                continue
            if self._take(got) or loop.time() - asked_s > wait_s / 2:
                self._get_backoff.reset()
            else:
                # An answer that is empty too early, or stale: asking again at once would go round in circles.
                await self._get_backoff.pause()

    def _is_out_of_date(self, naps: int, what: str) -> bool:
        """Whether this was asked for before a sleep: by now the leader may have decided otherwise."""
        if self._sleep.naps() == naps:
            return False
        self._on_event("answer_overslept", what)
        return True

    def _has_room(self) -> bool:
        if len(self._held) + len(self._handin.claims()) > CLAIMS_MAX // 2:
            return False
        return self._pool.free() > 0 or self._work_s < self._config.claim_ahead_s * self._pool.slots

    async def _ask(self, free: int, wait_s: float) -> Got:
        self._number += 1
        request = Get(
            node=self._node, boot=self._boot, number=self._number, slots=self._pool.slots, free=free,
            names=self._names, holds=self.claims(), wait_s=wait_s,
        )  # fmt: skip
        return await self._gets.answer(self._work.get(request), wait_s + ANSWER_S)

    def _take(self, got: Got) -> bool:
        """Puts the runs into the pool; False if there were none, or if they count for nothing."""
        if not self._epochs.accept(got.epoch, f"an answer with {len(got.jobs)} runs"):
            return False
        jobs: dict[str, Job] = {}
        for job in got.jobs:
            held = self._held.get(job.id)
            if held is not None:
                if held.job.claim == job.claim:
                    continue
                self._on_event("claim_replaced", f"task {job.id}: {held.job.claim} by {job.claim}")
                self._end_runs([job.id])
            self._hold(job)
            jobs[job.id] = job
        self._pool.put(list(jobs.values()))
        return bool(jobs)

    def _hold(self, job: Job) -> None:
        # Of a name that is not known to be short, one run fills a slot's share of work ahead.
        most_s = self._config.claim_ahead_s
        known_s = self._durations.get(job.name)
        work_s = most_s if known_s is None else min(known_s, most_s)
        self._held[job.id] = _Held(job, work_s)
        self._work_s += work_s

    def _release(self, task: str) -> None:
        held = self._held.pop(task, None)
        if held is not None:
            self._work_s = self._work_s - held.work_s if self._held else 0.0
            self._room.set()

    def _end_runs(self, tasks: Sequence[str]) -> None:
        self._pool.kill(tasks)
        for task in tasks:
            self._release(task)

    # -- heartbeat -----------------------------------------------------------------------------------------

    async def _heartbeat_loop(self) -> None:
        while True:
            self._sleep.naps()
            self._beat.clear()
            await self._heartbeat()
            try:
                async with asyncio.timeout(self._config.worker_heartbeat_s):
                    await self._beat.wait()
            except TimeoutError:
                pass

    async def _heartbeat(self) -> None:
        told, self._tell = self._tell, False
        naps = self._sleep.naps()
        request = Heartbeat(
            node=self._node, boot=self._boot, name=self._name, slots=self._pool.slots,
            running=self.claims(), tasks=self._tasks if told else None, draining=self._draining,
            drained=self.drained, progress=self._pool.progress(),
        )  # fmt: skip
        try:
            answer = await self._heartbeats.answer(self._work.heartbeat(request), self._beat_answer_s)
        except MeshqError as error:
            self._tell = self._tell or told
            self._on_event("heartbeat_failed", str(error))
            return
        what = "an answer to a heartbeat"
        if self._is_out_of_date(naps, what) or not self._epochs.accept(answer.epoch, what):
            self._tell = self._tell or told
            return
        self._on_answer(request, answer)
        self._sleep.end()

    def _on_answer(self, request: Heartbeat, answer: HeartbeatAnswer) -> None:
        self._tell = self._tell or answer.tell
        named = {claim.task: claim for claim in request.running}
        ended = []
        for task in answer.invalid:
            claim, held = named.get(task), self._held.get(task)
            if claim is None:
                continue
            # A run that came after the heartbeat left is not the one that the answer means.
            if held is not None and held.job.claim == claim:
                ended.append(task)
            self._handin.forget(claim)
            self._on_event("run_invalid", f"task {task} attempt {claim.attempt}")
        self._end_runs(ended)

    # -- outcomes ------------------------------------------------------------------------------------------

    async def _outcomes_loop(self) -> None:
        while True:
            self._on_outcomes(await self._pool.outcomes())

    def _on_outcomes(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            held = self._held.get(outcome.task) if outcome.kind != KEPT else None
            if held is not None and (held.job.epoch, held.job.attempt) == (outcome.epoch, outcome.attempt):
                self._durations.add(held.job.name, outcome.run_s)
                self._release(outcome.task)
        self._handin.add(outcomes)

    async def _save(self) -> None:
        """Puts all outcomes there are on disk, those included that the pool still has."""
        try:
            async with asyncio.timeout(0):
                self._on_outcomes(await self._pool.outcomes())
        except TimeoutError:
            pass  # it has none
        await self._handin.save()
