"""What a person sees of a copy that takes long: how much of it has come, and at its end that it is here."""

from __future__ import annotations

from types import TracebackType
from typing import Final, Self

from meshq.core.ids import short
from meshq.core.ports import Clock
from meshq.node import journal

# What is here sooner is told to nobody.
LONG_S: Final = 1.0


class Copying:
    """One answer to a pull, as it comes.

    Args:
        peer: The node that answers.
        clock: The lease clock.
    """

    def __init__(self, peer: str, clock: Clock) -> None:
        self._peer = short(peer)
        self._clock = clock
        self._began_s: float | None = None
        self._bytes = self._parts = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if (took_s := self._took_s()) >= LONG_S and self._parts > 1:
            journal.passing("")
            if error is None:
                journal.tell("caught_up", f"caught up with {self._peer}: {self._size()} in {took_s:.1f} s")

    def add(self, size_bytes: int) -> None:
        """A part is here; the wait for the first one does not count."""
        if self._began_s is None:
            self._began_s = self._clock.boot_s()
        self._bytes += size_bytes
        self._parts += 1
        if (took_s := self._took_s()) >= LONG_S:
            journal.passing(f"catching up with {self._peer}: {self._size()} so far, {took_s:.0f} s")

    def _took_s(self) -> float:
        return 0.0 if self._began_s is None else self._clock.boot_s() - self._began_s

    def _size(self) -> str:
        return f"{self._bytes / (1 << 20):.1f} MiB"
