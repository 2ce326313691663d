"""What takes long, beside the event loop: leases are renewed while somebody's megabytes are read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, TypeVar

R = TypeVar("R")

# To read so much takes milliseconds; less is done at once, since a thread costs a tenth of one.
ASIDE_BYTES: Final = 128 << 10


class Aside:
    """Runs large work in a thread, one piece after the other, so that the loop has every other turn."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def run(self, work: Callable[[], R], size_bytes: int) -> R:
        """What the work returns or raises.

        Args:
            work: Touches nothing that others change.
            size_bytes: How large what it works on is.
        """
        if size_bytes < ASIDE_BYTES:
            return work()
        async with self._turn:
            return await asyncio.to_thread(work)
