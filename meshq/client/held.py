"""Submitted tasks, as a program without asyncio holds them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from meshq.client import notebook
from meshq.client.counts import Counts
from meshq.client.handle import Group, Held
from meshq.client.record import Record, settled
from meshq.core.reports import Log
from meshq.errors import MeshqError

if TYPE_CHECKING:
    from meshq.client.sync import Client


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Handle(Held):
    """A submitted task; see `client.handle.Handle`, whose methods wait here. In a notebook it shows how it is."""

    client: Client = field(repr=False, compare=False)

    def result(self, timeout_s: float | None = None) -> Any:
        """What the task returned; see `AsyncClient.result`."""
        self._seen.record = record = self.client.finished(self.id, timeout_s)
        return settled(record, timeout_s)

    def record(self) -> Record:
        """The task as it is now."""
        self._seen.record = record = self.client.task(self.id)
        return record

    def state(self) -> str:
        """Where it stands: pending, running, done, failed or cancelled."""
        return self.record().state

    def progress(self) -> tuple[float, float, str] | None:
        """How far its run says that it is: done, total (0: it does not know) and a note; None where it says nothing."""
        return self.record().progress

    def cancel(self, *, wait_s: float = 0.0) -> Record:
        """Calls it off; see `AsyncClient.cancel`."""
        self._seen.record = record = self.client.cancel(self.id, wait_s=wait_s)
        return record

    def retry(self) -> Handle:
        """Submits it anew, once it is finished; see `AsyncClient.retry`."""
        return self.client.retry(self.id)

    def logs(self, *, follow: bool = False) -> Iterator[Log]:
        """What it printed; see `AsyncClient.logs`."""
        return self.client.logs(self.id, follow=follow)

    def _repr_html_(self) -> str:
        try:
            return notebook.task_html(self.id, self.record())
        except (MeshqError, RuntimeError) as error:  # the client may be closed
            return notebook.task_html(self.id, self._seen.record, str(error))


class Batch(Group[Handle]):
    """Tasks that share a batch; see `client.handle.Batch`. In a notebook it shows how they are.

    Args:
        client: Whose they are.
        name: The batch.
        handles: Its tasks.
    """

    def __init__(self, client: Client, name: str, handles: Sequence[Handle]) -> None:
        super().__init__(name, handles)
        self.client = client

    def counts(self) -> Counts:
        """How many of the tasks stand where; it asks for a list of the batch, a thousand tasks with each request."""
        return self._counted({record.id: record.state for record in self.client.tasks(batch=self.name)})

    def state(self) -> str:
        """One word for all of them; see `Counts.state`."""
        return self.counts().state

    def progress(self) -> tuple[int, int]:
        """How many are finished, and how many there are."""
        counts = self.counts()
        return counts.finished, counts.total

    def result(self, timeout_s: float | None = None) -> list[Any]:
        """What the tasks returned, in their order; waits for all; errors as for `AsyncClient.results`."""
        return list(self.client.results(self, timeout_s=timeout_s))

    def as_completed(self, *, timeout_s: float | None = None) -> Iterator[Record]:
        """The tasks as they finish; see `AsyncClient.as_completed`."""
        return self.client.as_completed(self, timeout_s=timeout_s)

    def cancel(self) -> tuple[str, ...]:
        """Calls off all of the batch that are not finished; returns their ids."""
        return self.client.cancel_batch(self.name)

    def retry_failed(self) -> list[Handle]:
        """Submits anew those of the batch that failed; see `AsyncClient.retry_failed`."""
        return self.client.retry_failed(self.name)

    def _repr_html_(self) -> str:
        try:
            return notebook.batch_html(self.name, self.counts())
        except (MeshqError, RuntimeError) as error:  # the client may be closed
            return notebook.batch_html(self.name, self._counts, str(error))
