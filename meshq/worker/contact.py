"""What all loops of an agent share in their talk to a leader that may change: pauses, and the highest epoch seen."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from meshq.errors import MeshqError, Unreachable

Answer = TypeVar("Answer")
OnEvent = Callable[[str, str], object]


class Backoff:
    """Pauses that double, and that end at once when somebody rings.

    Args:
        first_s: The first pause.
        last_s: The longest.
        random: Gives numbers in [0, 1), so that many workers don't come back in step.
    """

    def __init__(self, first_s: float, last_s: float, random: Callable[[], float]) -> None:
        self._first_s, self._last_s, self._random = first_s, last_s, random
        self._next_s = first_s
        self._rung = asyncio.Event()

    async def pause(self) -> None:
        """Waits; returns at once if somebody rang since the last pause."""
        pause_s = self._next_s * (0.75 + 0.5 * self._random())
        self._next_s = min(2 * self._next_s, self._last_s)
        try:
            async with asyncio.timeout(pause_s):
                await self._rung.wait()
        except TimeoutError:
            return
        self._rung.clear()

    def ring(self) -> None:
        """Ends the pause, or the next one; the one after it is a short one again."""
        self._next_s = self._first_s
        self._rung.set()

    def reset(self) -> None:
        """All went well: the next pause is the first again."""
        self._next_s = self._first_s
        self._rung.clear()


class Calls:
    """Requests under way, which can all be given up at once: the one who was asked may lead no more."""

    def __init__(self) -> None:
        self._scopes: dict[asyncio.Timeout, None] = {}

    async def answer(self, waiting: Awaitable[Answer], timeout_s: float) -> Answer:
        """The answer that is waited for.

        Raises:
            Unreachable: There was none within the time, or it was given up.
        """
        scope = asyncio.timeout(timeout_s)
        try:
            async with scope:
                self._scopes[scope] = None
                return await waiting
        except TimeoutError:
            raise Unreachable(f"no answer, or it was given up within {timeout_s:g} s") from None
        finally:
            self._scopes.pop(scope, None)

    def give_up(self) -> None:
        """Ends all waiting, in the order in which it began."""
        now_s = asyncio.get_running_loop().time()
        for scope in self._scopes:
            if not scope.expired():
                scope.reschedule(now_s)


class Epochs:
    """The highest epoch that this worker knows: what comes from a lower one is refused."""

    def __init__(self, on_event: OnEvent) -> None:
        self.highest = 0
        self._on_event = on_event

    def accept(self, epoch: int, what: str) -> bool:
        """Whether this comes from no lower epoch than was seen; `what` is for the log."""
        if epoch < self.highest:
            self._on_event("stale_epoch", f"{what} of epoch {epoch}, but epoch {self.highest} is known")
            return False
        self.highest = epoch
        return True


def is_senders_fault(error: MeshqError) -> bool:
    """Whether the same request would be refused for ever."""
    return error.status in (400, 413, 422) and not error.retryable
