"""Submitted tasks, as the program that submitted them holds them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from meshq.client import notebook
from meshq.client.counts import Counts
from meshq.client.record import Record, settled
from meshq.core.reports import Log

if TYPE_CHECKING:
    from meshq.client.aio import AsyncClient

T = TypeVar("T")


class Seen:
    """A task as it was seen last, for what shows it without asking."""

    __slots__ = ("record",)

    def __init__(self) -> None:
        self.record: Record | None = None


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Held:
    """A submitted task, and how safe it was when the submit was acknowledged.

    Args:
        id: The task.
        copies: On how many disks it is; 0 where nobody said.
        majority: Whether they are a majority of the replicas. Without one it is lost if these disks are, and may run
            elsewhere, too, before the parts of the cluster meet again.
        queued: Whether it still waits on this machine's disk for a leader.
    """

    id: str
    copies: int
    majority: bool
    queued: bool
    _seen: Seen = field(default_factory=Seen, repr=False, compare=False)

    def __repr__(self) -> str:
        return f"<task {notebook.brief(self.id, self._seen.record)}>"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Handle(Held):
    """A submitted task; see `Held`. In a notebook it shows how it was when it was asked last."""

    client: AsyncClient = field(repr=False, compare=False)

    async def result(self, timeout_s: float | None = None) -> Any:
        """What the task returned; see `AsyncClient.result`."""
        self._seen.record = record = await self.client.finished(self.id, timeout_s)
        return settled(record, timeout_s)

    async def record(self) -> Record:
        """The task as it is now."""
        self._seen.record = record = await self.client.task(self.id)
        return record

    async def state(self) -> str:
        """Where it stands: pending, running, done, failed or cancelled."""
        return (await self.record()).state

    async def progress(self) -> tuple[float, float, str] | None:
        """How far its run says that it is: done, total (0: it does not know) and a note; None where it says nothing."""
        return (await self.record()).progress

    async def cancel(self, *, wait_s: float = 0.0) -> Record:
        """Calls it off; see `AsyncClient.cancel`."""
        self._seen.record = record = await self.client.cancel(self.id, wait_s=wait_s)
        return record

    async def retry(self) -> Handle:
        """Submits it anew, once it is finished; see `AsyncClient.retry`."""
        return await self.client.retry(self.id)

    async def logs(self, *, follow: bool = False) -> AsyncGenerator[Log, None]:
        """What it printed; see `AsyncClient.logs`."""
        async with aclosing(self.client.logs(self.id, follow=follow)) as parts:
            async for part in parts:
                yield part

    def _repr_html_(self) -> str:
        return notebook.task_html(self.id, self._seen.record)


H = TypeVar("H", bound=Held)


class Group(Sequence[H]):
    """Tasks that share a batch: a sequence of their handles, in the order in which they were submitted.

    Args:
        name: The batch.
        handles: Its tasks.
    """

    def __init__(self, name: str, handles: Sequence[H]) -> None:
        self.name = name
        self._handles = list(handles)
        self._counts: Counts | None = None

    @overload
    def __getitem__(self, index: int) -> H: ...
    @overload
    def __getitem__(self, index: slice) -> list[H]: ...
    def __getitem__(self, index: int | slice) -> H | list[H]:
        return self._handles[index]

    def __len__(self) -> int:
        return len(self._handles)

    def __iter__(self) -> Iterator[H]:
        return iter(self._handles)

    def __repr__(self) -> str:
        known = str(self._counts) if self._counts is not None else f"{len(self)} tasks"
        return f"<batch {self.name}: {known}>"

    def _counted(self, states: dict[str, str]) -> Counts:
        self._counts = Counts.of(states, (handle.id for handle in self._handles))
        return self._counts


class Batch(Group[Handle]):
    """Tasks that share a batch; see `Group`. In a notebook it shows how they were when they were asked last.

    Args:
        client: Whose they are.
        name: The batch.
        handles: Its tasks.
    """

    def __init__(self, client: AsyncClient, name: str, handles: Sequence[Handle]) -> None:
        super().__init__(name, handles)
        self.client = client

    @classmethod
    def found(cls, client: AsyncClient, name: str, records: Sequence[Record]) -> Self:
        """The batch of tasks that were found in the cluster."""
        handles = [
            Handle(id=each.id, copies=0, majority=each.majority, queued=each.queued, client=client) for each in records
        ]
        return cls(client, name, handles)

    async def counts(self) -> Counts:
        """How many of the tasks stand where; it asks for a list of the batch, a thousand tasks with each request."""
        return self._counted({record.id: record.state async for record in self.client.tasks(batch=self.name)})

    async def state(self) -> str:
        """One word for all of them; see `Counts.state`."""
        return (await self.counts()).state

    async def progress(self) -> tuple[int, int]:
        """How many are finished, and how many there are."""
        counts = await self.counts()
        return counts.finished, counts.total

    async def result(self, timeout_s: float | None = None) -> list[Any]:
        """What the tasks returned, in their order; waits for all; errors as for `AsyncClient.results`."""
        return [value async for value in self.client.results(self, timeout_s=timeout_s)]

    async def as_completed(self, *, timeout_s: float | None = None) -> AsyncGenerator[Record, None]:
        """The tasks as they finish; see `AsyncClient.as_completed`."""
        async with aclosing(self.client.as_completed(self, timeout_s=timeout_s)) as records:
            async for record in records:
                yield record

    async def cancel(self) -> tuple[str, ...]:
        """Calls off all of the batch that are not finished; returns their ids."""
        return await self.client.cancel_batch(self.name)

    async def retry_failed(self) -> list[Handle]:
        """Submits anew those of the batch that failed; see `AsyncClient.retry_failed`."""
        return await self.client.retry_failed(self.name)

    def _repr_html_(self) -> str:
        return notebook.batch_html(self.name, self._counts)
