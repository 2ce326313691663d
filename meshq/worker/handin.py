"""The way of outcomes from the pool to a leader, over the disk: none is lost on it, whatever stops or fails.

What a run keeps goes the same way, before its outcome; of several that wait, only the newest counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from meshq.config import Config
from meshq.core.limits import OUTCOMES_MAX
from meshq.core.ports import Clock, Results, Work
from meshq.core.requests import ClaimRef, Outcome, SubmitResult
from meshq.errors import MeshqError, NoLeader, StaleEpoch
from meshq.wire import values
from meshq.worker.contact import Backoff, Calls, Epochs, OnEvent, Sleep, is_senders_fault

SEND_FIRST_S, SEND_LAST_S = 1.0, 20.0
DISK_FIRST_S, DISK_LAST_S = 0.2, 5.0
ANSWER_S = 10.0
# With each outcome goes its task's id and its place in the message.
OUTCOME_BYTES = 128
BATCH_BYTES_MAX = 8 << 20
# The kind of an outcome that ends nothing.
KEPT = "kept"


class HandIn:
    """Keeps outcomes on disk and sends them until a leader has them.

    Args:
        node, boot: Who this worker is.
        work: The leader.
        results: The outbox.
        clock: Chance.
        config: For `body_bytes_max`.
        epochs: The highest epoch that the worker knows.
        sleep: Whether it slept; until its claims are renewed nothing is handed in, only kept.
        on_event: Is told what was refused or failed.
        work_is_local: Says whether the leader is this very node. Its outcomes are on disk once it took them, so
            they go to it directly, and to the outbox only if it fails.
        on_fewer: Is called when fewer runs wait for a leader.
    """

    def __init__(
        self,
        node: str,
        boot: str,
        work: Work,
        results: Results,
        clock: Clock,
        config: Config,
        epochs: Epochs,
        sleep: Sleep,
        on_event: OnEvent,
        work_is_local: Callable[[], bool],
        on_fewer: Callable[[], None],
    ) -> None:
        self._node, self._boot = node, boot
        self._work, self._results = work, results
        self._epochs, self._sleep = epochs, sleep
        self._on_event, self._work_is_local, self._on_fewer = on_event, work_is_local, on_fewer
        self._batch_bytes = min(config.body_bytes_max // 2, BATCH_BYTES_MAX)
        self._calls = Calls()
        self._claims: dict[ClaimRef, None] = {}
        self._unkept: list[Outcome] = []
        # So many of them, the first ones, are on their way to the disk or the leader.
        self._leaving = 0
        # Runs of which the outbox may have something that they kept: what they say later may not overtake it.
        self._kept_on_disk: set[ClaimRef] = set()
        self._more_unkept = asyncio.Event()
        self._sendable = asyncio.Event()
        self._send_backoff = Backoff(SEND_FIRST_S, SEND_LAST_S, clock.random)
        self._disk_backoff = Backoff(DISK_FIRST_S, DISK_LAST_S, clock.random)
        self._progress = asyncio.Event()

    def add(self, outcomes: Sequence[Outcome]) -> None:
        """Takes outcomes of this boot in. Until a leader has them, `claims` names their runs."""
        for outcome in outcomes:
            if outcome.kind != KEPT:
                self._claims[outcome.claim] = None
                self._unkept.append(outcome)
            else:
                self._add_kept(outcome)
        self._more_unkept.set()

    def _add_kept(self, outcome: Outcome) -> None:
        for index in range(self._leaving, len(self._unkept)):
            waiting = self._unkept[index]
            if waiting.kind == KEPT and waiting.claim == outcome.claim:
                self._unkept[index] = outcome
                return
        self._unkept.append(outcome)

    def claims(self) -> tuple[ClaimRef, ...]:
        """The runs of this boot that have ended, but which no leader knows to have ended."""
        return tuple(self._claims)

    def forget(self, claim: ClaimRef) -> None:
        """The leader does not want this run named any more; its outcome is sent all the same."""
        self._claims.pop(claim, None)
        self._on_fewer()

    def wake(self) -> None:
        """There is a new leader: ends the pauses, and the waiting for the old one."""
        self._calls.give_up()
        self._send_backoff.ring()
        self._disk_backoff.ring()

    async def delivered(self) -> None:
        """Waits until a leader has all outcomes of this boot."""
        while self._claims or self._unkept:
            self._progress.clear()
            await self._progress.wait()

    async def save(self) -> None:
        """Puts on disk what is in memory only; logs it if even that fails."""
        while self._unkept:
            batch = self._unkept[:OUTCOMES_MAX]
            try:
                await self._results.put_results(batch, self._boot)
            except MeshqError as error:
                self._on_event("outcomes_lost", f"{len(self._unkept)} outcomes; their tasks will run again: {error}")
                return
            del self._unkept[: len(batch)]

    async def keep_loop(self) -> None:
        """Takes outcomes to the disk, or straight to the leader where that is this node."""
        while True:
            await self._more_unkept.wait()
            self._more_unkept.clear()
            disk_failed = False
            while self._unkept:
                batch = next(self._batches(self._unkept))
                at_home = self._work_is_local() and self._sleep.is_over()
                at_home = at_home and self._kept_on_disk.isdisjoint(outcome.claim for outcome in batch)
                self._leaving = len(batch)
                is_kept = await self._kept(batch, direct=disk_failed or at_home)
                self._leaving = 0
                if is_kept:
                    # Forgotten only now: a cancellation in between finds them in `save`.
                    del self._unkept[: len(batch)]
                    self._disk_backoff.reset()
                    self._progress.set()
                    continue
                disk_failed = True
                await self._disk_backoff.pause()

    async def _kept(self, batch: list[Outcome], *, direct: bool) -> bool:
        if direct:
            try:
                await self._hand_in(self._boot, batch)
                return True
            except MeshqError as error:
                self._on_event("direct_result_failed", str(error))
        try:
            await self._results.put_results(batch, self._boot)
        except MeshqError as error:
            self._on_event("outbox_failed", str(error))
            return False
        self._kept_on_disk.update(outcome.claim for outcome in batch if outcome.kind == KEPT)
        self._sendable.set()
        return True

    async def send_loop(self) -> None:
        """Sends what is on disk, the oldest first, also what an earlier boot left there."""
        while True:
            self._sendable.clear()
            try:
                entries = await self._results.results(OUTCOMES_MAX)
                await self._send(entries)
            except MeshqError as error:
                self._on_event("result_failed", str(error))
                await self._send_backoff.pause()
                continue
            self._send_backoff.reset()
            if not entries:
                self._forget_what_is_gone()
                await self._sendable.wait()

    def _forget_what_is_gone(self) -> None:
        """The outbox is empty: a run that is named still, without an outcome to come, would be named for ever.

        Its outcome was too old or could not be read, and left the outbox undelivered.
        """
        if not self._sendable.is_set():
            unkept = {outcome.claim for outcome in self._unkept}
            self._claims = {claim: None for claim in self._claims if claim in unkept}
            self._kept_on_disk.clear()
            self._progress.set()
            self._on_fewer()

    async def _send(self, entries: Sequence[tuple[int, str, Outcome]]) -> None:
        start = 0
        while start < len(entries):
            boot = entries[start][1]
            end = start
            while end < len(entries) and entries[end][1] == boot:
                end += 1
            for batch in self._batches([outcome for _, _, outcome in entries[start:end]]):
                await self._hand_in(boot, batch)
                await self._results.drop([number for number, _, _ in entries[start : start + len(batch)]])
                start += len(batch)

    def _batches(self, outcomes: Sequence[Outcome]) -> Iterator[list[Outcome]]:
        """Cuts outcomes into parts that fit a request, in their order."""
        batch: list[Outcome] = []
        size = 0
        for outcome in outcomes:
            blobs = (outcome.result, outcome.error, outcome.checkpoint)
            more = OUTCOME_BYTES + sum(len(blob) for blob in blobs if blob is not None)
            if batch and (size + more > self._batch_bytes or len(batch) >= OUTCOMES_MAX):
                yield batch
                batch, size = [], 0
            batch.append(outcome)
            size += more
        if batch:
            yield batch

    async def _hand_in(self, boot: str, outcomes: list[Outcome]) -> None:
        """Brings outcomes to the leader; one that it will never take becomes a failure that says so."""
        try:
            await self._submit(boot, outcomes)
        except MeshqError as error:
            if not is_senders_fault(error):
                raise
            if len(outcomes) > 1:
                half = len(outcomes) // 2
                await self._hand_in(boot, outcomes[:half])
                await self._hand_in(boot, outcomes[half:])
            else:
                await self._replace(boot, outcomes[0], error)

    async def _replace(self, boot: str, outcome: Outcome, refusal: MeshqError) -> None:
        if outcome.kind == KEPT:
            # The run may end well without it.
            self._on_event("checkpoint_refused", f"task {outcome.task}: {refusal}")
            self._delivered(boot, [outcome])
            return
        self._on_event("result_refused", f"task {outcome.task}: {refusal}")
        text = f"the task ran, but the leader refused its result: {refusal}"
        packed = values.pack({"type": "ResultRefused", "message": text[:2000], "traceback": ""})
        failure = replace(outcome, kind="failed", result=None, error=packed, final=True)
        try:
            await self._submit(boot, [failure])
        except MeshqError as error:
            if not is_senders_fault(error):
                raise
            # Kept for ever, it would bar the way of all that come after it.
            self._on_event("outcome_set_aside", f"task {outcome.task} attempt {outcome.attempt}: {error}")
            self._delivered(boot, [outcome])

    async def _submit(self, boot: str, outcomes: list[Outcome]) -> None:
        await self._sleep.over()
        request = SubmitResult(node=self._node, boot=boot, outcomes=tuple(outcomes))
        taken = await self._calls.answer(self._work.submit_result(request), ANSWER_S)
        if not self._epochs.accept(taken.epoch, "an answer to outcomes"):
            raise StaleEpoch
        if taken.queued:
            # On some disk, but with no leader: this node's own disk is the one that counts until one has them.
            raise NoLeader
        for task, reason in taken.dropped.items():
            self._on_event("outcome_dropped", f"task {task}: {reason}")
        self._delivered(boot, outcomes)

    def _delivered(self, boot: str, outcomes: Sequence[Outcome]) -> None:
        if boot == self._boot:
            for outcome in outcomes:
                if outcome.kind != KEPT:
                    self._claims.pop(outcome.claim, None)
        self._progress.set()
        self._on_fewer()
