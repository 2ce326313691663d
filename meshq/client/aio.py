"""The client for asyncio: submits tasks through one daemon, and waits for them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing
from copy import copy
from itertools import islice
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from meshq.client import waiting, ways
from meshq.client.connection import Connection
from meshq.client.handle import Handle
from meshq.client.options import Options, new_ids
from meshq.client.record import Page, Record, Story
from meshq.client.sending import TASKS_PER_REQUEST, Form, batches, may_take
from meshq.core.limits import PAGE_TASKS_MAX
from meshq.core.messages import Done
from meshq.core.reports import ClusterStory, Health, Stats, Status
from meshq.core.requests import Submitted
from meshq.core.task import OPEN
from meshq.errors import Malformed, MeshqError, NoAnswer, TooLarge, WaitTimeout
from meshq.wire import forms, values

# `map` submits the next tasks when no more than this many are unfinished.
AHEAD = 5_000
POLLS_MAX = 32
# One wait at the daemon while others wait for their turn.
CROWDED_POLL_S = 1.0
EARLY_PAUSE_S = 0.2

Call = tuple[Sequence[Any], Mapping[str, Any]]


class AsyncClient:
    """Talks to the daemon on this machine, or to one elsewhere. Open it with `async with`, or `close()` it at the end.

    Args:
        data_dir: The local daemon's data directory; None for the default.
        connect_timeout_s: Seconds without an answer after which there is no daemon.
        to: `HOST:PORT` of a daemon elsewhere; None for the local one.
        key: The key of its cluster; None for that in `MESHQ_KEY`, or in the data directory.
        credential: A credential's text, in place of the key.

    Raises:
        ConfigError: `to` is no address, or there is nothing to prove oneself with. BadKey: That is of no use.
    """

    def __init__(
        self,
        data_dir: Path | str | None = None,
        *,
        connect_timeout_s: float = 10.0,
        to: str | None = None,
        key: str | None = None,
        credential: str | None = None,
    ) -> None:
        self._options = Options()
        self._connection = Connection(ways.find(data_dir, to=to, key=key, credential=credential), connect_timeout_s)
        self._polls = asyncio.Semaphore(POLLS_MAX)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections."""
        await self._connection.close()

    def options(
        self,
        *,
        priority: int = 0,
        delay_s: float = 0.0,
        timeout_s: float | None = None,
        retries: int = 0,
        backoff_s: float = 1.0,
        key: str | None = None,
        batch: str | None = None,
    ) -> AsyncClient:
        """This client, on the same connections, with these options for what it submits; see `Options`."""
        return self.with_options(
            Options(
                priority=priority, delay_s=delay_s, timeout_s=timeout_s, retries=retries, backoff_s=backoff_s,
                key=key, batch=batch,
            )
        )  # fmt: skip

    def with_options(self, options: Options) -> AsyncClient:
        """The same, with options that are there already."""
        other = copy(self)
        other._options = options
        return other

    async def submit(self, name: str, /, *args: Any, **kwargs: Any) -> Handle:
        """Submits a task; returns when the cluster keeps it.

        Args:
            name: The task's name.
            args, kwargs: Its arguments: JSON's values, bytes, tuples, sets, datetimes, integers of any size.

        Raises:
            UnknownTask, BadArguments: The cluster knows no such task, or it takes other arguments.
            NoDaemon: No daemon answers.
            NoAnswer: It gave none, and may take the task all the same.
        """
        return (await self._submit(name, [(args, kwargs)]))[0]

    async def submit_many(self, name: str, arguments: Iterable[Sequence[Any]], /, **kwargs: Any) -> list[Handle]:
        """Submits one task for each sequence of arguments, with few requests.

        Args:
            name: The tasks' name.
            arguments: The positional arguments of each.
            kwargs: The keyword arguments of all.
        """
        return await self._submit(name, [(tuple(args), kwargs) for args in arguments])

    async def map(
        self, name: str, /, *iterables: Iterable[Any], timeout_s: float | None = None
    ) -> AsyncGenerator[Any, None]:
        """The results of one task for each item, in the items' order; tasks are submitted as it goes on.

        Args:
            name: The tasks' name.
            iterables: As for the built-in `map`: their items side by side are the arguments.
            timeout_s: Seconds until all are finished; None: however long it takes.

        Raises:
            TaskFailed: The next one has no result; the later ones go on in the cluster.
            WaitTimeout: They are not finished by then.
        """
        calls = zip(*iterables, strict=False)

        async def called() -> AsyncGenerator[list[tuple[Any, ...]], None]:
            while batch := list(islice(calls, TASKS_PER_REQUEST)):
                yield batch

        async with aclosing(self.map_batches(name, called(), timeout_s)) as found:
            async for each in found:
                yield each.value()

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
        ids = [_id(task) for task in tasks]

        async def asked() -> AsyncGenerator[list[str], None]:
            yield ids

        async with aclosing(waiting.in_order(self._ask, asked(), 0, timeout_s)) as found:
            async for record in found:
                yield record

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
        found = await self.finished(task, timeout_s)
        if not found.finished:
            raise WaitTimeout(f"task {found.id} is {found.state} after {timeout_s:g} s")
        return found.value()

    async def finished(self, task: Handle | str, timeout_s: float | None = None) -> Record:
        """The task, when it is finished or `timeout_s` have passed; see `result`."""
        loop = asyncio.get_running_loop()
        end_s = math.inf if timeout_s is None else loop.time() + timeout_s
        while True:
            asked_s = loop.time()
            view = await self._poll(_id(task), end_s)
            if view.state not in OPEN or loop.time() >= end_s:
                return view
            if loop.time() - asked_s < EARLY_PAUSE_S:
                # The daemon answered without waiting; ask it no more often than this.
                await asyncio.sleep(min(EARLY_PAUSE_S, max(0.0, end_s - loop.time())))

    async def task(self, task: Handle | str) -> Record:
        """The task as it is now."""
        return await self._view(_id(task))

    async def tasks(
        self, *, state: str | None = None, name: str | None = None, limit: int | None = None
    ) -> AsyncGenerator[Record, None]:
        """Tasks, newest first.

        Args:
            state: Only those that are pending, running, done, failed or cancelled.
            name: Only those of this name.
            limit: At most that many; None for all.
        """
        left, after = limit, None
        while left is None or left > 0:
            page = PAGE_TASKS_MAX if left is None else min(left, PAGE_TASKS_MAX)
            asked = {"limit": str(page), "state": state, "name": name, "after": after}
            params = {key: value for key, value in asked.items() if value is not None}
            answer = await self._connection.call("GET", "/tasks", Page, params=params)
            for record in answer.tasks:
                yield record
            left, after = None if left is None else left - len(answer.tasks), answer.next
            if after is None:
                return

    async def cancel(self, task: Handle | str) -> Record:
        """Calls a task off; one that is finished stays as it is. Returns the task as it is then."""
        return await self._connection.call("POST", f"{_path(task)}/cancel", Record)

    async def retry(self, task: Handle | str) -> Handle:
        """Submits a finished task anew; the new one names the old one as `retry_of`."""
        # A second request would make a second task.
        answer = await self._connection.call("POST", f"{_path(task)}/retry", Submitted, repeatable=False, new_work=True)
        return self._handles(answer)[0]

    async def story(self, task: Handle | str) -> Story:
        """What happened to a task, why it does not run, and outcomes of other runs that do not stand."""
        return await self._connection.call("GET", f"{_path(task)}/explain", Story)

    async def cluster_story(self) -> ClusterStory:
        """Who leads and by whose votes, why each other node does not, and what this daemon noted lately."""
        return await self._connection.call("GET", "/explain", ClusterStory)

    async def status(self) -> Status:
        """The cluster: nodes, leader, tasks by state.

        Where it goes on without a majority, `copies` says on how many machines and `missing` for whom it waits.
        """
        return await self._connection.call("GET", "/status", Status)

    async def stats(self) -> Stats:
        """The daemon's own counters."""
        return await self._connection.call("GET", "/stats", Stats)

    async def health(self) -> Health:
        """The daemon: its pid, its role, and whether work can be done now."""
        return await self._connection.call("GET", "/health", Health)

    async def stop(self) -> None:
        """Stops the local daemon in stages; returns at once."""
        # A second request would be taken as a demand to stop without the stages.
        await self._connection.call("POST", "/stop", Done, repeatable=False)

    async def leave(self) -> None:
        """Takes the local daemon out of its cluster for good and stops it; returns at once.

        Raises:
            Conflict: It can't; the text says why. (The same for `recover` and `forget`.)
        """
        await self._connection.call("POST", "/leave", Done, repeatable=False)

    async def recover(self) -> None:
        """Makes the local daemon's copy of the queue the cluster; refused where a majority is there."""
        await self._connection.call("POST", "/recover", Done, repeatable=False)

    async def forget(self, node: str) -> None:
        """Takes a node that never comes back off the roster.

        Args:
            node: Its id, an end of the id that no other node has, or its name.

        Raises:
            NotFound, Ambiguous: No node is called so, or several are.
        """
        await self._connection.call("POST", f"/forget/{quote(forms.node(node), safe='')}", Done, repeatable=False)

    async def map_batches(
        self, name: str, calls: AsyncIterator[list[tuple[Any, ...]]], timeout_s: float | None
    ) -> AsyncGenerator[Record, None]:
        """Submits the batches of arguments one after the other; yields the tasks in their order, failed ones too."""

        async def submitted() -> AsyncGenerator[list[str], None]:
            async for batch in calls:
                yield [handle.id for handle in await self._submit(name, [(args, {}) for args in batch])]

        async with aclosing(waiting.in_order(self._ask, submitted(), AHEAD, timeout_s)) as found:
            async for record in found:
                yield record

    async def _submit(self, name: str, calls: Sequence[Call]) -> list[Handle]:
        # All are packed before the first is sent: a value that can't travel stops everything.
        payloads = [values.pack_arguments(args, kwargs) for args, kwargs in calls]
        given = self._options.given()
        tasks: list[Form] = [
            {"id": task_id, "name": name, "payload": payload, **given}
            for task_id, payload in zip(new_ids(len(payloads)), payloads, strict=True)
        ]
        kept: list[Handle] = []
        try:
            for batch in batches(tasks):
                await self._send(batch, kept)
        except MeshqError as error:
            if kept:
                error.append(f"; before that, the first {len(kept)} of {len(tasks)} tasks were kept")
            raise
        return kept

    async def _send(self, tasks: Sequence[Form], kept: list[Handle]) -> None:
        body = {"tasks": list(tasks)}
        try:
            answer = await self._connection.call("POST", "/submit-task", Submitted, body=body, new_work=True)
        except TooLarge:
            if len(tasks) == 1:
                raise
            half = len(tasks) // 2
            await self._send(tasks[:half], kept)
            await self._send(tasks[half:], kept)
            return
        except NoAnswer as error:
            error.append(f"; {may_take([task['id'] for task in tasks])}")
            raise
        except Malformed as error:
            if len(tasks) == 1:
                raise Malformed(error.message.removeprefix("tasks[0].")) from error
            raise
        kept += self._handles(answer)

    async def _ask(self, ids: list[str], wait_s: float, patience_s: float) -> Page:
        body = {"ids": ids, "wait_s": wait_s}
        async with self._polls:
            return await self._connection.call("POST", "/wait", Page, body=body, wait_s=wait_s, patience_s=patience_s)

    async def _view(self, task_id: str, wait_s: float = 0.0, patience_s: float | None = None) -> Record:
        params = {"wait": f"{wait_s:.3f}"} if wait_s > 0 else None
        path = _path(task_id)
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

    def _handles(self, answer: Submitted) -> list[Handle]:
        return [
            Handle(id=task, copies=answer.copies, majority=answer.majority, queued=answer.queued, client=self)
            for task in answer.ids
        ]


def _id(task: Handle | str) -> str:
    return task if isinstance(task, str) else task.id


def _path(task: Handle | str) -> str:
    """Where the daemon answers for a task; raises Malformed if that can't be an id."""
    return f"/task/{forms.task_id(_id(task))}"
