"""Waiting for tasks that were submitted, by whomever."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from meshq.client import waiting
from meshq.client.asking import Asking, id_of, path_of
from meshq.client.connection import Connection
from meshq.client.record import Page, Record, settled
from meshq.core.task import OPEN

if TYPE_CHECKING:
    from meshq.client.handle import Handle

POLLS_MAX = 32
# One wait at the daemon while others wait for their turn.
CROWDED_POLL_S = 1.0
EARLY_PAUSE_S = 0.2


class Watching(Asking):
    """What is to be known of tasks, now or when they are finished; `AsyncClient` has it.

    Args:
        connection: To the daemon.
    """

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._polls = asyncio.Semaphore(POLLS_MAX)

    async def results(
        self, tasks: Iterable[Handle | str], *, timeout_s: float | None = None
    ) -> AsyncGenerator[Any, None]:
        """The results of these tasks (handles or whole ids), in their order; errors as for `map`."""
        async with aclosing(self.records(tasks, timeout_s=timeout_s)) as found:
            async for each in found:
                yield each.value()

    async def records(
        self, tasks: Iterable[Handle | str], *, timeout_s: float | None = None
    ) -> AsyncGenerator[Record, None]:
        """These tasks (handles or whole ids), each when it and all before it are finished, failed ones too."""
        async with aclosing(self.found(tasks, timeout_s, in_order=True)) as found:
            async for records in found:
                for record in records:
                    yield record

    async def as_completed(
        self, tasks: Iterable[Handle | str], *, timeout_s: float | None = None
    ) -> AsyncGenerator[Record, None]:
        """These tasks (handles or whole ids), each when it is finished, failed ones too.

        Args:
            tasks: As many as one likes.
            timeout_s: Seconds until all are finished; None: however long it takes.

        Raises:
            WaitTimeout: They are not finished by then.
        """
        async with aclosing(self.found(tasks, timeout_s, in_order=False)) as found:
            async for records in found:
                for record in records:
                    yield record

    def found(
        self, tasks: Iterable[Handle | str], timeout_s: float | None, *, in_order: bool
    ) -> AsyncGenerator[list[Record], None]:
        """The same, some at a time; see `records` and `as_completed`."""
        ids = [id_of(task) for task in tasks]

        async def asked() -> AsyncGenerator[list[str], None]:
            yield ids

        return waiting.found(self.ask, asked(), 0, timeout_s, in_order=in_order)

    async def result(self, task: Handle | str, timeout_s: float | None = None) -> Any:
        """What the task returned; waits until it is finished.

        Args:
            task: A handle, or an id: whole, or a beginning or end that no other task has.
            timeout_s: Seconds to wait; None: however long it takes.

        Raises:
            TaskFailed: It ended without a result; `error` says why.
            WaitTimeout: It is not finished by then.
            NotFound, Ambiguous: No task has this id, or several have.
        """
        return settled(await self.finished(task, timeout_s), timeout_s)

    async def finished(self, task: Handle | str, timeout_s: float | None = None) -> Record:
        """The task, when it is finished or `timeout_s` have passed; see `result`."""
        loop = asyncio.get_running_loop()
        end_s = math.inf if timeout_s is None else loop.time() + timeout_s
        while True:
            asked_s = loop.time()
            view = await self._poll(id_of(task), end_s)
            if view.state not in OPEN or loop.time() >= end_s:
                return view
            if loop.time() - asked_s < EARLY_PAUSE_S:
                # The daemon answered without waiting; ask it no more often than this.
                await asyncio.sleep(min(EARLY_PAUSE_S, max(0.0, end_s - loop.time())))

    async def task(self, task: Handle | str) -> Record:
        """The task as it is now."""
        return await self._view(id_of(task))

    async def ask(self, ids: list[str], wait_s: float, patience_s: float) -> Page:
        """Those of these tasks (whole ids) that are finished.

        Args:
            ids: At most 100,000.
            wait_s: Seconds to wait until at least one is.
            patience_s: For how many seconds an error that may pass is tried again.
        """
        body = {"ids": ids, "wait_s": wait_s}
        async with self._polls:
            return await self._connection.call("POST", "/wait", Page, body=body, wait_s=wait_s, patience_s=patience_s)

    async def _view(self, task_id: str, wait_s: float = 0.0, patience_s: float | None = None) -> Record:
        params = {"wait": f"{wait_s:.3f}"} if wait_s > 0 else None
        path = path_of(task_id)
        return await self._connection.call("GET", path, Record, params=params, wait_s=wait_s, patience_s=patience_s)

    async def _poll(self, task_id: str, end_s: float) -> Record:
        """The task, when it is finished or the daemon has waited long enough, not long after `end_s`."""
        loop = asyncio.get_running_loop()
        crowded = self._polls.locked()
        try:
            async with asyncio.timeout_at(None if end_s == math.inf else max(end_s, loop.time())):
                await self._polls.acquire()
        except TimeoutError:
            return await self._view(task_id)
        try:
            left_s = max(0.0, end_s - loop.time())
            wait_s = min(left_s, CROWDED_POLL_S if crowded else waiting.POLL_S)
            return await self._view(task_id, wait_s, left_s)
        finally:
            self._polls.release()
