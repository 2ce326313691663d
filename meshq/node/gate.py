"""When changes of rows may begin: not while the lease is being handed over, nor once the cluster ends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from meshq.node.signal import Signal


class Gate:
    """Where each write of rows passes.

    Args:
        changed: Wakes those that wait here.
    """

    def __init__(self, changed: Signal) -> None:
        self._changed = changed
        self._shut = False
        self._over = False
        self._taken = False
        self._under_way = 0

    @property
    def over(self) -> bool:
        """Whether nothing of this life of the node will be written any more."""
        return self._over

    def is_shut(self, *, leads: bool) -> bool:
        """Whether a write has to wait; whoever leads no more waits for no hand-over."""
        return self._over or (leads and (self._shut or self._taken))

    async def quiesce(self, *, for_good: bool = False) -> None:
        """Lets no more writes begin, of others' rows neither where it is for good; returns when none is under way."""
        self._shut, self._over = True, self._over or for_good
        await self._drained()

    def resume(self, *, for_good: bool = False) -> None:
        """Lets those writes begin that waited; also where it was to be for good, if `for_good` says so."""
        self._shut, self._over = False, self._over and not for_good
        self._changed.notify()

    @contextmanager
    def passing(self) -> Iterator[None]:
        """A write is under way."""
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1
            self._changed.notify()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Lets nobody else of the leadership pass meanwhile; begins when none is under way."""
        self._taken = True
        try:
            await self._drained()
            yield
        finally:
            self._taken = False
            self._changed.notify()

    async def _drained(self) -> None:
        while self._under_way:
            await self._changed.after(self._changed.count)
