"""A call in the cluster, and its future."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from meshq.client import raised
from meshq.client.record import Record
from meshq.core.task import State
from meshq.errors import MeshqError
from meshq.tasks.call import Address

if TYPE_CHECKING:
    from meshq.client.engine import Engine

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call:
    """A call to be made.

    Args:
        task: The task that makes it.
        payload: Its packed arguments.
        result: What its result means for the future.
        where: The function, where the task calls any of a module.
        batch: The batch that it belongs to; None for that of the options.
    """

    task: str
    payload: bytes
    result: Callable[[Any], Any]
    where: Address | None = None
    batch: str | None = None


class Future(concurrent.futures.Future[T]):
    """The future of a call in the cluster. Only an `Executor` makes one."""

    def __init__(self, engine: Engine, entry: Entry) -> None:
        super().__init__()
        self._engine = engine
        self.entry = entry

    def cancel(self) -> bool:
        """Calls it off, and ends it where it runs; returns whether it is. It asks the cluster.

        Raises:
            MeshqError: The cluster can't be asked.
        """
        if self.done() or not self._engine.take(self.entry):
            return self.cancelled()
        done = super().cancel()
        self._engine.on_cancelled(self.entry)
        return done

    def running(self) -> bool:
        """Whether it runs now. It asks the cluster, and says no where that does not answer."""
        return not self.done() and self._engine.runs(self.entry)

    def settle(self, end: Record | MeshqError | None) -> None:
        """Ends it.

        Args:
            end: The task as it finished, or why it could not be submitted or seen; None for one that was called off.
        """
        if end is None or (isinstance(end, Record) and end.state == State.CANCELLED):
            super().cancel()
        if not self.set_running_or_notify_cancel():
            return
        call = self.entry.call
        if isinstance(end, MeshqError):
            self.set_exception(raised.refusal(end, call.where))
        elif isinstance(end, Record):
            if end.state == State.DONE:
                self.set_result(call.result(end.result))
            else:
                self.set_exception(raised.exception_of(end))


@dataclass(slots=True, eq=False)
class Entry:
    """A call, from its submit until its future is done.

    `id` is its task's, once it is handed over; it is `kept` where the cluster has it, `taken` while it is being
    cancelled, and `over` where it is clear how its future ends.
    """

    call: Call
    id: str = ""
    kept: bool = False
    taken: bool = False
    over: bool = False
    future: Future[Any] = field(init=False)
