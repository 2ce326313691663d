"""The system's time and chance: the only module that reads them."""

from __future__ import annotations

import os
import random
import sys
import time

# The clock that counts on in suspend. macOS has no CLOCK_BOOTTIME; its CLOCK_MONOTONIC counts on there.
_BOOT_CLOCK = time.CLOCK_MONOTONIC if sys.platform == "darwin" else time.CLOCK_BOOTTIME


class SystemClock:
    """The real `core.ports.Clock`."""

    def __init__(self) -> None:
        self._random = random.SystemRandom()

    def boot_s(self) -> float:
        """Seconds on a clock that counts on in suspend."""
        return time.clock_gettime(_BOOT_CLOCK)

    def run_s(self) -> float:
        """Seconds on a clock that stands still in suspend."""
        return time.monotonic()

    def wall_ms(self) -> int:
        """Milliseconds since the Unix epoch."""
        return time.time_ns() // 1_000_000

    def random(self) -> float:
        """A random number in [0, 1)."""
        return self._random.random()

    def random_bits(self, count: int) -> int:
        """That many random bits, from the operating system."""
        return int.from_bytes(os.urandom((count + 7) // 8)) >> (-count % 8)
