"""The client for programs without asyncio: it runs the other one on an event loop of its own, in a thread."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import AsyncGenerator, Coroutine, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Self, TypeVar

from meshq.client import handle
from meshq.client.aio import AsyncClient
from meshq.client.record import Record, Story
from meshq.client.sending import TASKS_PER_REQUEST
from meshq.core.reports import ClusterStory, Health, Stats, Status

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Handle:
    """A submitted task; see `client.handle.Handle`, whose methods wait here."""

    id: str
    copies: int
    majority: bool
    queued: bool
    client: Client = field(repr=False, compare=False)

    def result(self, timeout_s: float | None = None) -> Any:
        """What the task returned; see `AsyncClient.result`."""
        return self.client.result(self.id, timeout_s)

    def record(self) -> Record:
        """The task as it is now."""
        return self.client.task(self.id)

    def state(self) -> str:
        """Where it stands: pending, running, done, failed or cancelled."""
        return self.record().state


class _Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._run, name="meshq-client", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs it there and waits for it here; what ends the wait here ends the work there."""
        if threading.current_thread() is self.thread:
            work.close()
            raise RuntimeError("a Client was called from its own event loop; use AsyncClient there")
        if self.loop.is_closed():
            work.close()
            raise RuntimeError("the Client is closed")
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        try:
            return future.result()
        finally:
            future.cancel()

    def close(self, client: AsyncClient) -> None:
        """Closes the client, then the loop."""
        if threading.current_thread() is self.thread:
            # The garbage collector came by here; the loop can't wait for itself.
            self.loop.stop()
            return
        asyncio.run_coroutine_threadsafe(_closed(client), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


async def _closed(client: AsyncClient) -> None:
    me = asyncio.current_task()
    others = [task for task in asyncio.all_tasks() if task is not me]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await client.close()
    await asyncio.get_running_loop().shutdown_asyncgens()
    await asyncio.get_running_loop().shutdown_default_executor()


class Client:
    """Talks to a daemon; usable from any thread. Open it with `with`, or call `close()` at the end.

    Each method does what that of the same name in `AsyncClient` does, and waits until it is done.

    Args:
        data_dir, connect_timeout_s, to, key, credential: Which daemon, and how it is reached; see `AsyncClient`.
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
        self._client = AsyncClient(data_dir, connect_timeout_s=connect_timeout_s, to=to, key=key, credential=credential)
        self._loop = _Loop()
        self._parent: Client | None = None
        self._closing = weakref.finalize(self, self._loop.close, self._client)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections and ends the thread; calls that still wait are cancelled."""
        self._closing()

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
    ) -> Client:
        """This client, on the same connections, with these options for what it submits; see `Options`."""
        other = copy(self)
        other._client = self._client.options(
            priority=priority, delay_s=delay_s, timeout_s=timeout_s, retries=retries, backoff_s=backoff_s,
            key=key, batch=batch,
        )  # fmt: skip
        # The thread ends with the first one, which must live as long as this one.
        other._parent = self
        return other

    def submit(self, name: str, /, *args: Any, **kwargs: Any) -> Handle:
        """Submits a task; returns when the cluster keeps it."""
        return self._handle(self._loop.run(self._client.submit(name, *args, **kwargs)))

    def submit_many(self, name: str, arguments: Iterable[Sequence[Any]], /, **kwargs: Any) -> list[Handle]:
        """Submits one task for each sequence of arguments, with few requests."""
        calls = [tuple(args) for args in arguments]
        return [self._handle(each) for each in self._loop.run(self._client.submit_many(name, calls, **kwargs))]

    def map(self, name: str, /, *iterables: Iterable[Any], timeout_s: float | None = None) -> Iterator[Any]:
        """The results of one task for each item, in the items' order; tasks are submitted as it goes on."""
        calls = zip(*iterables, strict=False)

        async def batches() -> AsyncGenerator[list[tuple[Any, ...]], None]:
            # In another thread, since the iterables may themselves wait for this client.
            while batch := await asyncio.to_thread(lambda: list(islice(calls, TASKS_PER_REQUEST))):
                yield batch

        return (each.value() for each in self._iterate(self._client.map_batches(name, batches(), timeout_s)))

    def results(self, tasks: Iterable[Handle | str], *, timeout_s: float | None = None) -> Iterator[Any]:
        """The results of these tasks (handles or whole ids), in their order."""
        return self._iterate(self._client.results(_ids(tasks), timeout_s=timeout_s))

    def records(self, tasks: Iterable[Handle | str], *, timeout_s: float | None = None) -> Iterator[Record]:
        """These tasks (handles or whole ids), each when it and all before it are finished, failed ones too."""
        return self._iterate(self._client.records(_ids(tasks), timeout_s=timeout_s))

    def result(self, task: Handle | str, timeout_s: float | None = None) -> Any:
        """What the task returned; waits until it is finished."""
        return self._loop.run(self._client.result(_id(task), timeout_s))

    def finished(self, task: Handle | str, timeout_s: float | None = None) -> Record:
        """The task, when it is finished or `timeout_s` have passed."""
        return self._loop.run(self._client.finished(_id(task), timeout_s))

    def task(self, task: Handle | str) -> Record:
        """The task as it is now."""
        return self._loop.run(self._client.task(_id(task)))

    def tasks(self, *, state: str | None = None, name: str | None = None, limit: int | None = None) -> Iterator[Record]:
        """Tasks, newest first."""
        return self._iterate(self._client.tasks(state=state, name=name, limit=limit))

    def cancel(self, task: Handle | str) -> Record:
        """Calls a task off; one that is finished stays as it is."""
        return self._loop.run(self._client.cancel(_id(task)))

    def retry(self, task: Handle | str) -> Handle:
        """Submits a finished task anew."""
        return self._handle(self._loop.run(self._client.retry(_id(task))))

    def story(self, task: Handle | str) -> Story:
        """What happened to a task, why it does not run, and outcomes of other runs that do not stand."""
        return self._loop.run(self._client.story(_id(task)))

    def cluster_story(self) -> ClusterStory:
        """Who leads and by whose votes, why each other node does not, and what this daemon noted lately."""
        return self._loop.run(self._client.cluster_story())

    def status(self) -> Status:
        """The cluster: nodes, leader, tasks by state; see `AsyncClient.status`."""
        return self._loop.run(self._client.status())

    def stats(self) -> Stats:
        """The daemon's own counters."""
        return self._loop.run(self._client.stats())

    def health(self) -> Health:
        """The daemon: its pid, its role, and whether work can be done now."""
        return self._loop.run(self._client.health())

    def stop(self) -> None:
        """Stops the local daemon in stages; returns at once."""
        self._loop.run(self._client.stop())

    def leave(self) -> None:
        """Takes the local daemon out of its cluster for good and stops it; returns at once."""
        self._loop.run(self._client.leave())

    def recover(self) -> None:
        """Makes the local daemon's copy of the queue the cluster; see `AsyncClient.recover`."""
        self._loop.run(self._client.recover())

    def forget(self, node: str) -> None:
        """Takes a node that never comes back off the roster; see `AsyncClient.forget`."""
        self._loop.run(self._client.forget(node))

    def _iterate(self, items: AsyncGenerator[T, None]) -> Iterator[T]:
        async def step() -> tuple[T, ...]:
            async for item in items:
                return (item,)
            return ()

        try:
            while got := self._loop.run(step()):
                yield got[0]
        finally:
            if not self._loop.loop.is_closed():
                self._loop.run(_ended(items))

    def _handle(self, of: handle.Handle) -> Handle:
        return Handle(id=of.id, copies=of.copies, majority=of.majority, queued=of.queued, client=self)


async def _ended(items: AsyncGenerator[Any, None]) -> None:
    await items.aclose()


def _id(task: Handle | str) -> str:
    return task if isinstance(task, str) else task.id


def _ids(tasks: Iterable[Handle | str]) -> list[str]:
    return [_id(task) for task in tasks]
