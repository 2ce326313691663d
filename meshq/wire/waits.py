"""Long polls: how many requests may wait at once, and for how many tasks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from meshq.core import limits
from meshq.core.requests import Request, WaitQuery
from meshq.errors import MeshqError
from meshq.wire.shares import Share


class TooManyWaits(MeshqError):
    """Too many requests wait already; ask for many tasks at once instead (POST /wait), or try again."""

    code, status, retryable = "too_many_waits", 429, True


class Waits:
    """The long polls at this node.

    They are fewer than a link carries requests at once, so that those that are forwarded leave room for all else.
    """

    def __init__(self) -> None:
        self._requests = Share(limits.WAITS_MAX, limits.WAITS_PER_CALLER)
        self._ids = Share(limits.WAITED_IDS_MAX, limits.WAITED_IDS_PER_CALLER)

    @contextmanager
    def of(self, caller: str, request: Request) -> Iterator[None]:
        """Around the answer to any request; counts those that may wait.

        Raises:
            TooManyWaits: This caller has too many already, or all together have.
        """
        if not getattr(request, "wait_s", 0.0):
            yield
            return
        ids = len(request.ids) if isinstance(request, WaitQuery) else 1
        if not self._requests.take(caller):
            raise TooManyWaits
        try:
            if not self._ids.take(caller, ids):
                raise TooManyWaits(f"requests that wait already name too many tasks to wait for {ids} more; try again")
            try:
                yield
            finally:
                self._ids.give(caller, ids)
        finally:
            self._requests.give(caller)
