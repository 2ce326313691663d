"""The client for programs without asyncio: it runs the other one on an event loop of its own, in a thread."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncGenerator, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from copy import copy
from pathlib import Path
from typing import Any, Self, Unpack

from meshq.client import handle
from meshq.client.aio import AsyncClient
from meshq.client.held import Batch, Handle
from meshq.client.options import Options, Words
from meshq.client.record import Record, Story
from meshq.client.sending import pulled
from meshq.client.thread import Loop
from meshq.core.infos import Names
from meshq.core.reports import ClusterStory, Health, Log, Stats, Status


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
        self._loop = Loop()
        self._parent: Client | None = None
        self._closing = weakref.finalize(self, self._loop.close, self._client)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections and ends the thread; calls that still wait are cancelled."""
        self._closing()

    def options(self, **words: Unpack[Words]) -> Client:
        """This client, on the same connections, with these options for what it submits; see `Options`."""
        return self.with_options(Options(**words))

    def with_options(self, options: Options) -> Client:
        """The same, with options that are there already."""
        other = copy(self)
        other._client = self._client.with_options(options)
        # The thread ends with the first one, which must live as long as this one.
        other._parent = self
        return other

    def submit(self, name: str, /, *args: Any, **kwargs: Any) -> Handle:
        """Submits a task; returns when the cluster keeps it."""
        return self._handle(self._loop.run(self._client.submit(name, *args, **kwargs)))

    def submit_many(self, name: str, arguments: Iterable[Sequence[Any]], /, **kwargs: Any) -> Batch:
        """Submits one task for each sequence of arguments, with few requests; returns their handles."""
        calls = [tuple(args) for args in arguments]
        return self._batch(self._loop.run(self._client.submit_many(name, calls, **kwargs)))

    def batch(self, name: str) -> Batch:
        """The tasks of a batch, in the order in which they were submitted."""
        return self._batch(self._loop.run(self._client.batch(name)))

    def map(
        self,
        name: str,
        /,
        *iterables: Iterable[Any],
        timeout_s: float | None = None,
        in_order: bool = True,
        cancel_rest: bool = False,
    ) -> Iterator[Any]:
        """The results of one task for each item; tasks are submitted as it goes on; see `AsyncClient.map`."""
        found = self.map_records(name, *iterables, timeout_s=timeout_s, in_order=in_order, cancel_rest=cancel_rest)
        return _values(found)

    def map_records(
        self,
        name: str,
        /,
        *iterables: Iterable[Any],
        timeout_s: float | None = None,
        in_order: bool = True,
        cancel_rest: bool = False,
    ) -> Generator[Record, None, None]:
        """The same, as records, with the tasks that failed among them."""
        calls, clock = zip(*iterables, strict=False), self._loop.loop.time

        async def called() -> AsyncGenerator[list[tuple[Any, ...]], None]:
            # In another thread, since the iterables may themselves wait for this client.
            while batch := await asyncio.to_thread(pulled, calls, clock):
                yield batch

        found = self._client.map_parts(name, called(), timeout_s, in_order=in_order, cancel_rest=cancel_rest)
        return self._records(found)

    def results(self, tasks: Iterable[Handle | str], *, timeout_s: float | None = None) -> Iterator[Any]:
        """The results of these tasks (handles or whole ids), in their order."""
        return _values(self.records(tasks, timeout_s=timeout_s))

    def records(
        self, tasks: Iterable[Handle | str], *, timeout_s: float | None = None
    ) -> Generator[Record, None, None]:
        """These tasks (handles or whole ids), each when it and all before it are finished, failed ones too."""
        return self._records(self._client.found(_ids(tasks), timeout_s, in_order=True))

    def as_completed(
        self, tasks: Iterable[Handle | str], *, timeout_s: float | None = None
    ) -> Generator[Record, None, None]:
        """These tasks (handles or whole ids), each when it is finished, failed ones too."""
        return self._records(self._client.found(_ids(tasks), timeout_s, in_order=False))

    def result(self, task: Handle | str, timeout_s: float | None = None) -> Any:
        """What the task returned; waits until it is finished."""
        return self._loop.run(self._client.result(_id(task), timeout_s))

    def finished(self, task: Handle | str, timeout_s: float | None = None) -> Record:
        """The task, when it is finished or `timeout_s` have passed."""
        return self._loop.run(self._client.finished(_id(task), timeout_s))

    def task(self, task: Handle | str) -> Record:
        """The task as it is now."""
        return self._loop.run(self._client.task(_id(task)))

    def tasks(
        self,
        *,
        state: str | None = None,
        name: str | None = None,
        batch: str | None = None,
        limit: int | None = None,
    ) -> Iterator[Record]:
        """Tasks, newest first."""
        return self._loop.iterate(self._client.tasks(state=state, name=name, batch=batch, limit=limit))

    def cancel(self, task: Handle | str, *, wait_s: float = 0.0) -> Record:
        """Calls a task off; one that is finished stays as it is."""
        return self._loop.run(self._client.cancel(_id(task), wait_s=wait_s))

    def cancel_batch(self, batch: str) -> tuple[str, ...]:
        """Calls off all tasks of a batch that are not finished; returns their ids."""
        return self._loop.run(self._client.cancel_batch(batch))

    def retry(self, task: Handle | str) -> Handle:
        """Submits a finished task anew."""
        return self._handle(self._loop.run(self._client.retry(_id(task))))

    def retry_failed(self, batch: str | None = None) -> list[Handle]:
        """Submits anew the tasks, of this batch or all, that failed and were not tried again since."""
        return [self._handle(each) for each in self._loop.run(self._client.retry_failed(batch))]

    def logs(self, task: Handle | str, *, follow: bool = False) -> Iterator[Log]:
        """What a task printed, part by part; see `AsyncClient.logs`."""
        return self._loop.iterate(self._client.logs(_id(task), follow=follow))

    def names(self) -> Names:
        """The tasks that can be submitted, and the nodes that run them."""
        return self._loop.run(self._client.names())

    def drain(self, node: str = "-") -> None:
        """Takes a node out of the work; the daemon's own by default; see `AsyncClient.drain`."""
        self._loop.run(self._client.drain(node))

    def resume(self, node: str = "-") -> None:
        """Gives a drained node work again."""
        self._loop.run(self._client.resume(node))

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

    def _records(self, found: AsyncGenerator[list[Record], None]) -> Generator[Record, None, None]:
        # One step in the other thread for many of them.
        with closing(self._loop.iterate(found)) as parts:
            for records in parts:
                yield from records

    def _batch(self, of: handle.Batch) -> Batch:
        return Batch(self, of.name, [self._handle(each) for each in of])

    def _handle(self, of: handle.Handle) -> Handle:
        return Handle(id=of.id, copies=of.copies, majority=of.majority, queued=of.queued, client=self)


def _values(found: Generator[Record, None, None]) -> Iterator[Any]:
    with closing(found) as records:
        for record in records:
            yield record.value()


def _id(task: Handle | str) -> str:
    return task if isinstance(task, str) else task.id


def _ids(tasks: Iterable[Handle | str]) -> list[str]:
    return [_id(task) for task in tasks]
