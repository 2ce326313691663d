"""What all loops of an agent share in their talk to a leader that may change: pauses, sleep, and the highest epoch."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from meshq.core.ports import Clock
from meshq.errors import MeshqError, Unreachable

Answer = TypeVar("Answer")
OnEvent = Callable[[str, str], object]
# Two readings of clocks are never of one instant: the boot clock is ahead of the other by more only after a suspend.
SUSPENDED_S = 1.0


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


class Sleep:
    """Whether this machine slept, or this process stood still, and has not renewed its claims since.

    It notices by the clocks, whenever somebody looks; the agent looks at least every few seconds.

    Args:
        clock: Both of its clocks.
        dead_after_s: After so long a silence the claims of a worker are somebody else's.
        on_slept: Is told how many seconds were missed, once for each time.
    """

    def __init__(self, clock: Clock, dead_after_s: float, on_slept: Callable[[float], object]) -> None:
        self._clock, self._dead_after_s, self._on_slept = clock, dead_after_s, on_slept
        self._seen: tuple[float, float] | None = None
        self._naps = 0
        self._renewed = asyncio.Event()
        self._renewed.set()

    def naps(self) -> int:
        """How often it slept so far: what was asked before and is answered after one of these is out of date."""
        now = self._clock.boot_s(), self._clock.run_s()
        seen, self._seen = self._seen or now, now
        missed_s = now[0] - seen[0]
        if missed_s > self._dead_after_s or missed_s - (now[1] - seen[1]) > SUSPENDED_S:
            self._naps += 1
            self._renewed.clear()
            self._on_slept(missed_s)
        return self._naps

    def is_over(self) -> bool:
        """Whether its claims were renewed since it slept last."""
        self.naps()
        return self._renewed.is_set()

    def end(self) -> None:
        """The leader has said which claims still count."""
        self._renewed.set()

    async def over(self) -> None:
        """Waits until its claims were renewed; returns at once if it did not sleep."""
        while not self.is_over():
            await self._renewed.wait()


class Epochs:
    """The highest epoch that this worker knows: what comes from a lower one is refused, but not in a split."""

    def __init__(self, on_event: OnEvent) -> None:
        self.highest = 0
        self._split = False
        self._on_event = on_event

    def follow(self, epoch: int, *, split: bool) -> None:
        """The node follows a leader of this epoch now, of a majority or in a split."""
        self.highest = max(self.highest, epoch)
        self._split = split

    def accept(self, epoch: int, what: str) -> bool:
        """Whether this comes from no lower epoch than was seen; `what` is for the log."""
        if epoch < self.highest and not self._split:
            self._on_event("stale_epoch", f"{what} of epoch {epoch}, but epoch {self.highest} is known")
            return False
        self.highest = max(self.highest, epoch)
        return True


def is_senders_fault(error: MeshqError) -> bool:
    """Whether the same request would be refused for ever."""
    return error.status in (400, 413, 422) and not error.retryable
