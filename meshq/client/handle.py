"""A submitted task, as the program that submitted it holds it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meshq.client.aio import AsyncClient
    from meshq.client.record import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Handle:
    """A submitted task, and how safe it was when the submit was acknowledged.

    Args:
        id: The task.
        copies: On how many disks it is.
        majority: Whether they are a majority of the replicas. Without one it is lost if these disks are, and may run
            elsewhere, too, before the parts of the cluster meet again.
        queued: Whether it still waits on this machine's disk for a leader.
    """

    id: str
    copies: int
    majority: bool
    queued: bool
    client: AsyncClient = field(repr=False, compare=False)

    async def result(self, timeout_s: float | None = None) -> Any:
        """What the task returned; see `AsyncClient.result`."""
        return await self.client.result(self.id, timeout_s)

    async def record(self) -> Record:
        """The task as it is now."""
        return await self.client.task(self.id)

    async def state(self) -> str:
        """Where it stands: pending, running, done, failed or cancelled."""
        return (await self.record()).state
