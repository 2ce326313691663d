"""Waking all who wait for something to change, with nothing missed between looking and waiting."""

from __future__ import annotations

import asyncio


class Signal:
    """A counter of changes that can be waited on.

    Take `count` first, then look at what it guards, then wait with `after(count)`: a change in between ends the
    wait at once.
    """

    def __init__(self) -> None:
        self.count = 0
        self._waiting: list[asyncio.Future[None]] = []

    def notify(self) -> None:
        """Wakes everybody."""
        self.count += 1
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def after(self, count: int, timeout_s: float | None = None) -> bool:
        """Waits until there was a change after `count`; False if `timeout_s` passed first."""
        if self.count != count:
            return True
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        try:
            async with asyncio.timeout(timeout_s):
                await future
        except TimeoutError:
            return False
        finally:
            if future in self._waiting:
                self._waiting.remove(future)
        return True
