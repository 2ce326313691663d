"""What comes out of a pool: the outcomes of its runs, one for each, and before it what they kept on their way."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from meshq.core.requests import Job, Outcome
from meshq.errors import InvariantBroken
from meshq.worker.backlog import Run


class Tray:
    """The runs that a pool has, and the outcomes that nobody has fetched yet."""

    def __init__(self) -> None:
        self._runs: dict[str, Run] = {}
        self._kept: dict[Run, bytes] = {}
        self._outcomes: list[Outcome] = []
        self._some = asyncio.Event()

    def add(self, job: Job) -> Run:
        """Takes a run in.

        Raises:
            InvariantBroken: There is one of this task.
        """
        if job.id in self._runs:
            raise InvariantBroken(f"the pool has a run of task {job.id} already")
        self._runs[job.id] = run = Run(job)
        return run

    def has(self, run: Run) -> bool:
        """Whether it is here: it has no outcome yet, and was not dropped."""
        return self._runs.get(run.job.id) is run

    def runs(self) -> tuple[Run, ...]:
        """All of them, in the order in which they came."""
        return tuple(self._runs.values())

    def drop(self, tasks: Collection[str]) -> set[Run]:
        """Forgets the runs of these tasks, and returns them. They get no outcome."""
        dropped = {run for task in tasks if (run := self._runs.pop(task, None)) is not None}
        for run in dropped:
            self._kept.pop(run, None)
        return dropped

    def keep(self, run: Run, checkpoint: bytes) -> None:
        """What a run kept, in place of what it kept before."""
        run.saved = checkpoint
        if self.has(run):
            self._kept[run] = checkpoint
            self._some.set()

    def end(
        self,
        run: Run,
        kind: str,
        *,
        result: bytes | None = None,
        error: bytes | None = None,
        run_s: float = 0.0,
        final: bool = False,
    ) -> None:
        """How a run ended; of one that was dropped it is dropped, too."""
        job = run.job
        if not self.has(run):
            return
        del self._runs[job.id]
        if kind == "done":
            self._kept.pop(run, None)  # there is no next attempt
        self._outcomes.append(
            Outcome(
                task=job.id, epoch=job.epoch, attempt=job.attempt, kind=kind,
                result=result, error=error, final=final, run_s=run_s,
            )
        )  # fmt: skip
        self._some.set()

    async def take(self) -> list[Outcome]:
        """The outcomes since the last call; waits until there is at least one. Nothing is lost by a cancellation."""
        while not self._kept and not self._outcomes:
            self._some.clear()
            await self._some.wait()
        kept = [
            Outcome(task=job.id, epoch=job.epoch, attempt=job.attempt, kind="kept", checkpoint=checkpoint)
            for run, checkpoint in self._kept.items()
            for job in (run.job,)
        ]
        outcomes, self._outcomes, self._kept = self._outcomes, [], {}
        return kept + outcomes
