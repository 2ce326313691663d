"""What others can make this node write into its log: a few lines a minute, and then a word that there were more."""

from __future__ import annotations

import logging
from typing import Final

from aiohttp.http_exceptions import HttpProcessingError

from meshq.core.limits import LINES_PER_MINUTE

MINUTE_S: Final = 60.0


class Lines:
    """Counts lines."""

    def __init__(self) -> None:
        self._count = 0
        self._until = float("-inf")

    def next(self, now_s: float) -> str | None:
        """What to add to the next line; None where none is to be written any more in this minute.

        Args:
            now_s: By any clock, always the same one.
        """
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
