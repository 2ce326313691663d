"""The leader's side of the work: hands tasks out and takes their outcomes. One for each leadership."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping

from meshq.config import Config
from meshq.core.claims import Claim, Claims, Spoken
from meshq.core.ids import short
from meshq.core.ports import Clock
from meshq.core.requests import ClaimRef, Get, Got, Heartbeat, HeartbeatAnswer, Outcome, ResultsTaken, SubmitResult
from meshq.core.split import Kind, Term
from meshq.core.task import Task
from meshq.errors import NoLeader
from meshq.node.counters import Counters
from meshq.node.machines import Machines
from meshq.node.matching import Leave, Matching
from meshq.node.pace import Pace
from meshq.node.replicator import Replicator
from meshq.node.signal import Signal
from meshq.node.waiters import Waiters
from meshq.store import queue
from meshq.store.database import Connection
from meshq.store.feed import Pen

REAP_S = 1.0


class Dispatcher:
    """Claims and outcomes under one leadership.

    Args:
        term: The leadership; nothing of this outlives it.
        replicator: Writes and commits.
        clock: Lease clock and wall clock.
        config: Durations and limits.
        counters: Where refusals are counted.
        waiters: Who waits for tasks to finish.
        expected: Workers that may run something and have to speak before older tasks are handed out, each with the
            instant at which it is waited for no longer.
        after: What this node wrote after this seq may be handed out in any case.
    """

    def __init__(
        self,
        term: Term,
        replicator: Replicator,
        clock: Clock,
        config: Config,
        counters: Counters,
        waiters: Waiters,
        expected: Mapping[str, float],
        after: int,
    ) -> None:
        self.term = term
        self.epoch = term.epoch
        self.claims = Claims(config.claim_s, config.dead_after_s)
        self._replicator = replicator
        self._clock = clock
        self._config = config
        self._counters = counters
        self._waiters = waiters
        self._expected = dict(expected)
        # Only what is written from now on is handed out at first; a cold split hands out nothing else at all.
        self._after = after
        self._only_new = term.kind is Kind.COLD
        self.census_over = False
        self.census = Signal()
        self.heard = Signal()  # a worker has said what it runs
        self._strays: dict[str, None] = {}
        self._strays_at = clock.boot_s() + config.dead_after_s
        # Held from a claim's write until the table knows it: in between, a row that runs looks like an orphan.
        self._claiming = asyncio.Lock()
        self._pace = Pace(config.claim_ahead_s)
        self._machines = Machines(self.claims, clock, config, counters)
        self._matching = Matching(
            term, replicator, clock, self.claims, self._pace, self._machines, self._claiming, self._leave
        )

    # -- life --------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Works until it is cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._matching.run())
            tasks.create_task(self._reap_for_ever())

    def end(self) -> None:
        """The leadership is over: whoever waits for work is told so."""
        self._matching.end()

    def _leave(self) -> Leave:
        """What may be handed out: before the census is over it is not known what runs."""
        only_after = None if self.census_over and not self._only_new else self._after
        return Leave(only_after=only_after, bounded=self.census_over)

    def all_told(self) -> bool:
        """Whether every live worker has said which tasks it knows, and those that were expected have spoken."""
        told = (worker.tasks is not None for worker in self.claims.alive(self._clock.boot_s()))
        return self.census_over and all(told)

    def per_minute(self) -> int:
        """How many tasks finished within the last minute."""
        return self._pace.per_minute(self._clock.boot_s())

    def paused(self, node: str) -> str:
        """Why this worker gets nothing, for people; empty if it does."""
        return self._machines.paused(node)

    def why_waiting(self, task: Task) -> str:
        """Why nobody runs a task that could be handed out."""
        workers = [each for each in self.claims.alive(self._clock.boot_s()) if each.slots and not each.draining]
        able = [worker for worker in workers if task.name in (worker.tasks or {})]
        if self._only_new and not (task.writer == self._replicator.me and task.seq > self._after):
            return (
                "it is from before this split, and may have run elsewhere: it waits for the others, or `meshq recover`"
            )
        if not self.census_over:
            return "after a takeover, all workers that may still run it have to speak first"
        if not able:
            return f"no live worker knows {task.name}"
        drained = [worker.name or short(worker.node) for worker in able if worker.drained]
        able = [worker for worker in able if not worker.drained]
        if not able:
            return f"every worker that knows {task.name} is drained: {', '.join(drained)}; see `meshq resume`"
        running = self.claims.count(task.name)
        if 0 < task.max_running <= running:
            return f"{running} tasks named {task.name} run, and with it at most {task.max_running} may"
        if all(self.paused(worker.node) for worker in able):
            why = self.paused(able[0].node)
            return f"every worker that knows {task.name} is paused; {able[0].name or short(able[0].node)}: {why}"
        able = [worker for worker in able if not self.paused(worker.node)]
        elsewhere = [worker for worker in able if task.id not in self._machines.avoided(worker.node)]
        if all(worker.running >= worker.slots for worker in elsewhere):
            crashed = ", but not those on which it crashed," if len(elsewhere) < len(able) else ""
            slots = sum(worker.slots for worker in elsewhere)
            return f"all {slots} slots of the workers that know {task.name}{crashed} are busy"
        return "it is next in line"

    # -- the workers' three ------------------------------------------------------------------------------

    async def get(self, request: Get) -> Got:
        """Work for a worker; waits for it up to `wait_s`."""
        known = self.claims.workers.get(request.node)
        if known is not None and known.boot == request.boot and request.number <= known.number:
            self._counters.add("get_late", request.node)
            return Got(epoch=self.epoch)
        await self._spoken(request.node, request.boot, request.holds, request.number)
        worker = self.claims.workers[request.node]
        if worker.boot != request.boot or request.number <= worker.number:
            self._counters.add("get_late", request.node)
            return Got(epoch=self.epoch)
        self._replicator.check(self.term)
        worker.number, worker.slots, worker.running = request.number, request.slots, request.slots - request.free
        jobs = await self._matching.wait(request)
        self._replicator.check(self.term)
        return Got(epoch=self.epoch, jobs=jobs)

    async def heartbeat(self, request: Heartbeat) -> HeartbeatAnswer:
        """A worker names all its runs; it learns which of them count no longer."""
        invalid = await self._spoken(request.node, request.boot, request.running, None)
        worker = self.claims.workers[request.node]
        if worker.boot != request.boot:
            return HeartbeatAnswer(epoch=self.epoch, invalid=invalid)
        worker.name, worker.slots, worker.draining = request.name, request.slots, request.draining
        worker.drained = request.drained
        self.claims.tell(request.node, request.boot, request.progress)
        worker.running = min(len(request.running), request.slots)
        if request.tasks is not None:
            worker.tasks = {info.name: info for info in request.tasks}
            self.census.notify()
        self._replicator.check(self.term)
        return HeartbeatAnswer(epoch=self.epoch, invalid=invalid, tell=worker.tasks is None)

    async def submit_result(self, request: SubmitResult) -> ResultsTaken:
        """Takes outcomes; answers once they are committed."""
        claims = {outcome.task: self.claims.of(outcome.task) for outcome in request.outcomes}
        now_ms = self._clock.wall_ms()

        def present(task: Task, outcome: Outcome) -> bool:
            return _is_present(claims[task.id], task, outcome, request.node, request.boot)

        def work(conn: Connection, pen: Pen) -> queue.FinishDone:
            return queue.finish(
                conn, pen, request.outcomes, present, worker=request.node, crashes_max=self._config.crashes_max,
                now_ms=now_ms, inline_bytes_max=self._config.inline_bytes_max, chance=self._clock.random,
            )  # fmt: skip

        done, seq = await self._replicator.write(self.term, work)
        # A run that only kept something goes on.
        ended = (outcome for outcome in request.outcomes if outcome.kind != "kept")
        taken = [outcome for outcome in ended if outcome.task not in done.dropped]
        for outcome in taken:
            claim = claims[outcome.task]
            if claim is not None and outcome.kind == "done":
                self._pace.learn(claim.name, outcome.run_s)
        self.claims.end((outcome.claim for outcome in taken), self._clock.boot_s())
        for reason in done.dropped.values():
            self._counters.add("outcome_dropped_" + reason.replace(" ", "_"), request.node)
        names = {task: claim.name for task, claim in claims.items() if claim is not None}
        self._machines.on_outcomes(request.node, request.boot, taken, names, done.finished)
        await self._replicator.commit(seq, self.term)
        if done.finished:
            self._pace.finished(len(done.finished), self._clock.boot_s())
        self._waiters.wake(done.finished)
        return ResultsTaken(epoch=self.epoch, dropped=done.dropped)

    def merged(self, tasks: Collection[str]) -> None:
        """Rows of these came home: who runs one says so again, and whoever waits for one looks again."""
        self.claims.drop(tasks)
        self._waiters.wake(tasks)
        self._matching.work.notify()

    # -- who runs what -----------------------------------------------------------------------------------

    async def _spoken(self, node: str, boot: str, runs: Collection[ClaimRef], number: int | None) -> tuple[str, ...]:
        """Notes which runs a worker has; adopts those that nobody holds. The runs that count no longer."""
        spoken = self.claims.speak(node, boot, runs, self._clock.boot_s(), number)
        invalid = spoken.foreign
        self._matching.spoke(node, self.claims.workers[node].boot)
        if spoken.unknown or spoken.freed or spoken.lost:
            invalid += await self._settle(spoken, node, boot)
        self._expected.pop(node, None)
        self.heard.notify()
        await self._look_at_census()
        return invalid

    async def _settle(self, spoken: Spoken, node: str, boot: str) -> tuple[str, ...]:
        now_ms = self._clock.wall_ms()

        def work(conn: Connection, pen: Pen) -> tuple[tuple[str, ...], dict[str, str], tuple[str, ...]]:
            queue.release(conn, pen, spoken.freed, now_ms, "its worker does not have it")
            failed = queue.count_losses(conn, pen, spoken.lost, self._config.losses_max, now_ms)
            adopted, refused = queue.adopt(conn, pen, spoken.unknown, node, now_ms)
            return failed, {task.id: task.name for task in queue.get_many(conn, adopted).values()}, refused

        async with self._claiming:
            (failed, adopted, refused), _ = await self._replicator.write(self.term, work)
            self.claims.drop(failed)
            refs = {ref.task: ref for ref in spoken.unknown}
            for task, name in adopted.items():
                self.claims.hold(refs[task], node, boot, name, 0, self._clock.boot_s())
                self._counters.add("run_adopted", task)
        if spoken.freed:
            self._counters.add("claims_freed", node, len(spoken.freed))
        return refused

    async def _release(self, tasks: Collection[str], cause: str) -> None:
        now_ms = self._clock.wall_ms()
        if tasks:
            await self._replicator.write(self.term, lambda conn, pen: queue.release(conn, pen, tasks, now_ms, cause))

    async def _look_at_census(self) -> None:
        """When every known worker has spoken, or had its time, what nobody runs waits again."""
        now = self._clock.boot_s()
        if self.census_over or any(now < until for until in self._expected.values()):
            return
        self.census_over = True
        self.census.notify()
        await self._free_orphans(at_once=True)
        self._matching.work.notify()

    async def _look_for_strays(self) -> None:
        """Rows that came home after the census may say that somebody runs them: a worker has its time to name them."""
        now = self._clock.boot_s()
        if self.census_over and now >= self._strays_at:
            self._strays_at = now + self._config.dead_after_s
            await self._free_orphans(at_once=False)

    async def _free_orphans(self, *, at_once: bool) -> None:
        """Frees the runs that nobody holds: all, or those that nobody held at the last look either."""
        if self._only_new:
            return
        async with self._claiming:
            running = await self._replicator.database.read(queue.running_ids)
            unclaimed = dict.fromkeys(task for task in running if self.claims.of(task) is None)
            orphans = [task for task in unclaimed if at_once or task in self._strays]
            self._strays = unclaimed
            if orphans:
                self._counters.add("runs_orphaned", count=len(orphans))
            await self._release(orphans, "nobody said that it runs it")

    async def _reap_for_ever(self) -> None:
        while True:
            await asyncio.sleep(REAP_S)
            now = self._clock.boot_s()
            freed = self.claims.expire(now)
            if freed:
                self._counters.add("claims_expired", count=len(freed))
            try:
                await self._release(freed, "its worker fell silent")
                await self._look_at_census()
                await self._look_for_strays()
                if self._machines.look():
                    self._matching.work.notify()  # a pause may be over, or the only other machine gone
            except NoLeader:
                return


def _is_present(claim: Claim | None, task: Task, outcome: Outcome, node: str, boot: str) -> bool:
    """Whether this outcome belongs to the run that counts now."""
    if claim is not None:
        return claim.node == node and claim.boot == boot and claim.ref == outcome.claim
    # This leader has no claim of it, as after a takeover: the row, which is running, says whose run it is.
    return task.worker == node and task.attempt == outcome.attempt
