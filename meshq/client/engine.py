"""What drives an executor: it hands calls to the cluster, many with one request, and settles their futures.

Everything about calls happens on the event loop of one thread. Another thread settles futures and runs what was hung on
them, so that this may block, submit and cancel as it likes.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import logging
import math
import queue
import threading
from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Any, Final

from meshq.client.aio import AsyncClient
from meshq.client.future import Call, Entry, Future
from meshq.client.options import new_ids
from meshq.client.record import Record
from meshq.client.thread import Loop
from meshq.core.limits import BATCH_TASKS_MAX
from meshq.core.task import State
from meshq.errors import BadArguments, Malformed, MeshqError, TooLarge

log = logging.getLogger(__name__)

POLLS: Final = 4
IDS_PER_POLL: Final = 10_000
# A wait is as long as it has been quiet, so that few waits stand when much is submitted.
POLL_S_MIN: Final = 0.2
POLL_S_MAX: Final = 20.0
# One wait while others are asked for next.
TURN_S: Final = 1.0
# After an answer many results are let gather, few are not.
PAUSE_PER_ID_S: Final = 0.0002
PAUSE_S_MAX: Final = 0.25
CANCELS_AT_ONCE: Final = 64
# What is wrong with one of many calls; the others are no worse for it.
_OF_ONE: Final = (TooLarge, Malformed, BadArguments)


class Engine:
    """All calls of one executor.

    Args:
        client: To the daemon, with the options of all calls; nobody else has it.
        in_cluster_max: At most so many calls are in the cluster at a time; None: all.
    """

    def __init__(self, client: AsyncClient, in_cluster_max: int | None) -> None:
        self._client = client
        self._max = math.inf if in_cluster_max is None else in_cluster_max
        self._loop = Loop()
        # The lock guards these. A generator that is thrown away may come by at any time, on the thread that has it.
        self._lock = threading.RLock()
        self._closed = ""
        self._open: dict[Entry, None] = {}
        # All below belongs to the loop's thread: what waits here, what is in the cluster, and of that what no poll has.
        self._waiting: deque[Entry] = deque()
        self._kept: dict[str, Entry] = {}
        self._unasked: dict[str, None] = {}
        self._added_s = 0.0
        self._wake = asyncio.Event()
        self._ask = asyncio.Event()
        self._handed_over = asyncio.Event()
        self._ends: queue.SimpleQueue[tuple[Entry, Record | MeshqError | None] | None] = queue.SimpleQueue()
        self._work = asyncio.run_coroutine_threadsafe(self._run(), self._loop.loop)
        self._work.add_done_callback(self._on_stopped)
        self._thread = threading.Thread(target=self._settle, name="meshq-executor", daemon=True)
        self._thread.start()
        atexit.register(self._at_exit)

    def now_s(self) -> float:
        """A clock, in seconds."""
        return self._loop.loop.time()

    def submit(self, calls: Sequence[Call]) -> list[Future[Any]]:
        """Takes calls; returns their futures at once.

        Raises:
            RuntimeError: It is closed.
        """
        entries = [Entry(call) for call in calls]
        for entry in entries:
            entry.future = Future(self, entry)
        with self._lock:
            if self._closed:
                raise RuntimeError(f"cannot schedule new futures after {self._closed}")
            self._open.update(dict.fromkeys(entries))
            self._loop.loop.call_soon_threadsafe(self._add, entries)
        return [entry.future for entry in entries]

    def take(self, entry: Entry) -> bool:
        """Calls a call off; returns whether it is, and the caller's to settle."""
        return self._loop.run(self._take(entry))

    def drop(self, futures: Sequence[Future[Any]], batch: str | None) -> None:
        """Calls off what is left of these, soon.

        Args:
            futures: Some of this engine.
            batch: A batch that has no other tasks; None where there is none.
        """
        entries = [future.entry for future in futures if not future.done()]
        with self._lock:
            if entries and self._open:
                asyncio.run_coroutine_threadsafe(self._drop(entries, batch), self._loop.loop)

    def runs(self, entry: Entry) -> bool:
        """Whether a call runs now; not where that can't be said."""
        if not entry.kept:
            return False
        try:
            return self._loop.run(self._client.task(entry.id)).state == State.RUNNING
        except (MeshqError, RuntimeError):
            return False

    def on_cancelled(self, entry: Entry) -> None:
        """The future of a call that was taken is cancelled; those that wait for it have to be told."""
        self._ends.put((entry, None))

    def close(self, why: str = "shutdown", *, cancel: bool = False) -> None:
        """Takes no more calls; ends when the last future is done.

        Args:
            why: After what there are no more.
            cancel: Whether calls that have not begun are called off.
        """
        with self._lock:
            first, self._closed = not self._closed, self._closed or why
            if first and not self._open:
                self._ends.put(None)
            cancel = cancel and bool(self._open)
        if cancel:
            self._loop.run(self._drop_pending())

    def join(self) -> None:
        """Waits until it has ended; not from what is hung on a future, which it would wait for itself."""
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _at_exit(self) -> None:
        self.close("interpreter shutdown")
        self.join()

    # -- the thread that settles futures ---------------------------------------------------------------

    def _settle(self) -> None:
        while (ended := self._ends.get()) is not None:
            entry, end = ended
            entry.future.settle(end)
            with self._lock:
                self._open.pop(entry, None)
                if self._closed and not self._open:
                    self._ends.put(None)
            del entry, ended, end
        self._work.cancel()
        self._loop.close(self._client)
        atexit.unregister(self._at_exit)

    def _on_stopped(self, work: concurrent.futures.Future[None]) -> None:
        if work.cancelled() or (error := work.exception()) is None:
            return
        log.error("the executor stopped", exc_info=error)
        with self._lock:
            self._closed = self._closed or "it stopped"
            for entry in self._open:
                self._ends.put((entry, MeshqError(f"the executor stopped: {error!r}")))

    # -- the loop's thread -----------------------------------------------------------------------------

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._hand_over())
            for _ in range(POLLS):
                tasks.create_task(self._collect())

    def _add(self, entries: list[Entry]) -> None:
        self._waiting.extend(entries)
        self._wake.set()

    async def _hand_over(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while entries := self._next():
                await self._send(entries)
                handed_over, self._handed_over = self._handed_over, asyncio.Event()
                handed_over.set()

    def _next(self) -> list[Entry]:
        """The calls that go out with the next request: of one task, as many as there is room for."""
        room = min(self._max - len(self._kept), BATCH_TASKS_MAX)
        found: list[Entry] = []
        while self._waiting and len(found) < room:
            entry = self._waiting[0]
            if found and (entry.call.task, entry.call.batch) != (found[0].call.task, found[0].call.batch):
                break
            self._waiting.popleft()
            if not entry.over:
                found.append(entry)
        for entry, task_id in zip(found, new_ids(len(found)), strict=True):
            entry.id = task_id
        return found

    async def _send(self, entries: list[Entry]) -> None:
        call, ids = entries[0].call, [entry.id for entry in entries]
        try:
            await self._client.submit_packed(call.task, [each.call.payload for each in entries], ids, call.batch)
        except MeshqError as error:
            if isinstance(error, _OF_ONE) and len(entries) > 1:
                # Those that were kept already are so once more: their ids are the same.
                half = len(entries) // 2
                await self._send(entries[:half])
                await self._send(entries[half:])
                return
            for entry in entries:
                self._end(entry, error)
            return
        for entry in entries:
            entry.kept = True
            self._kept[entry.id] = entry
        self._added_s = self.now_s()
        self._unasked.update(dict.fromkeys(ids))
        self._ask.set()

    async def _collect(self) -> None:
        while True:
            await self._ask.wait()
            ids = list(islice(self._unasked, IDS_PER_POLL))
            for task_id in ids:
                del self._unasked[task_id]
            if not self._unasked:
                self._ask.clear()
            if not ids:
                continue
            wait_s = min(POLL_S_MAX, max(POLL_S_MIN, self.now_s() - self._added_s))
            try:
                page = await self._client.ask(ids, min(wait_s, TURN_S) if self._unasked else wait_s, math.inf)
            except MeshqError as error:
                for task_id in ids:
                    if task_id in self._kept:
                        self._end(self._kept[task_id], error)
                continue
            for record in page.tasks:
                # Of one that is being cancelled the answer to that says how it ended.
                if record.id in self._kept and not self._kept[record.id].taken:
                    self._end(self._kept[record.id], record)
            left = [task_id for task_id in ids if task_id in self._kept]
            if left:
                await asyncio.sleep(min(PAUSE_S_MAX, len(left) * PAUSE_PER_ID_S))
                self._unasked.update(dict.fromkeys(task_id for task_id in left if task_id in self._kept))
                self._ask.set()

    def _end(self, entry: Entry, end: Record | MeshqError | None) -> None:
        if self._claim(entry):
            self._ends.put((entry, end))

    def _claim(self, entry: Entry) -> bool:
        """Whether this one is the first who settles it."""
        first, entry.over = not entry.over, True
        if self._kept.pop(entry.id, None) is not None:
            self._wake.set()
        return first

    async def _take(self, entry: Entry) -> bool:
        await self._handed([entry])
        if not entry.kept or entry.over:
            return self._claim(entry)
        entry.taken = True
        try:
            record = await self._client.cancel(entry.id)
        finally:
            entry.taken = False
        if record.state == State.CANCELLED:
            return self._claim(entry)
        self._end(entry, record)
        return False

    async def _drop(self, entries: Sequence[Entry], batch: str | None) -> None:
        """Calls off some; their records say that they are, once it is done."""
        try:
            await self._not_sent(entries)
            left = [entry.id for entry in entries if not entry.over]
            if left and batch is not None:
                await self._client.cancel_batch(batch)
            elif left:
                await self._cancel(left)
        except MeshqError as error:
            log.warning("calls could not be cancelled, and go on: %s", error)

    async def _drop_pending(self) -> None:
        with self._lock:
            entries = [entry for entry in self._open if not entry.over]
        if self._max < math.inf:
            # For so many there is a place in the cluster, so that they count as begun.
            await self._drop(entries[int(self._max) :], None)
            return
        try:
            await self._not_sent(entries)
            tasks = {entry.call.task for entry in entries if not entry.over}
            running = {
                record.id for task in tasks async for record in self._client.tasks(state=State.RUNNING, name=task)
            }
            await self._cancel([entry.id for entry in entries if not entry.over and entry.id not in running])
        except MeshqError as error:
            log.warning("calls could not be cancelled, and go on: %s", error)

    async def _not_sent(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            if not entry.id:
                self._end(entry, None)
        await self._handed(entries)

    async def _handed(self, entries: Sequence[Entry]) -> None:
        """Returns when none of these is on its way into the cluster."""
        while any(entry.id and not entry.kept and not entry.over for entry in entries):
            await self._handed_over.wait()

    async def _cancel(self, ids: Sequence[str]) -> None:
        for begin in range(0, len(ids), CANCELS_AT_ONCE):
            await asyncio.gather(*(self._client.cancel(task_id) for task_id in ids[begin : begin + CANCELS_AT_ONCE]))
