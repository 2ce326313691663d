"""What others can make this node write into its log: each thing once, a few lines a minute, a word of more."""

from __future__ import annotations

import logging
from typing import Final

from aiohttp.http_exceptions import HttpProcessingError

from meshq.core.limits import LINES_PER_MINUTE

MINUTE_S: Final = 60.0
# What was told is told again after so long, to whoever reads the end of a log only.
AGAIN_S: Final = 3600.0
_TOLD_MAX: Final = 1000


class Lines:
    """Counts lines."""

    def __init__(self) -> None:
        self._count = 0
        self._until = float("-inf")
        self._told: dict[tuple[str, str], float] = {}

    def next(self, now_s: float, about: tuple[str, str] | None = None) -> str | None:
        """What to add to the next line; None where it is not to be written.

        Args:
            now_s: By any clock, always the same one.
            about: Who it is about, and the name of what happened; the same is told once an hour. None for a line
                that is always news.
        """
        if about is not None and now_s < self._told.get(about, float("-inf")):
            return None
        more = self._more(now_s)
        if about is not None and more is not None:
            self._told.pop(about, None)
            if len(self._told) >= _TOLD_MAX:
                del self._told[next(iter(self._told))]
            self._told[about] = now_s + AGAIN_S
        return more

    def _more(self, now_s: float) -> str | None:
        if now_s >= self._until:
            self._count, self._until = 0, now_s + MINUTE_S
        self._count += 1
        if self._count > LINES_PER_MINUTE:
            return None
        return "; more are not told for a minute" if self._count == LINES_PER_MINUTE else ""


class FewLines(logging.Filter):
    """Lets a logger write as many lines as `Lines` allows, without tracebacks for what callers did wrong."""

    def __init__(self) -> None:
        super().__init__()
        self._lines = Lines()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is written."""
        more = self._lines.next(record.created)
        if more is None:
            return False
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, HttpProcessingError):
            reason = (error.message or type(error).__name__).partition("\n")[0][:100]
            record.levelno, record.levelname = logging.WARNING, "WARNING"
            record.msg, record.args = f"{record.getMessage()}: {reason!r}{more}", ()
            record.exc_info = None
        return True
