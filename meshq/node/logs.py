"""How events are written: a line for people, or a JSON object for scripts."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from contextlib import suppress
from typing import TextIO

from meshq.core.texts import printable
from meshq.node import journal

ERASE = "\r\x1b[2K"


class TextFormat(logging.Formatter):
    """`12:03:04 found alpha (c0ffee42)`; warnings say so in a word."""

    def format(self, record: logging.LogRecord) -> str:
        """The line; a traceback follows on its own lines."""
        stamp = time.strftime("%H:%M:%S", time.localtime(record.created))
        level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        # Other machines' words stand in some: they make no line and no colour of their own.
        line = f"{stamp} {level}{printable(record.getMessage())}"
        trace = self.formatException(record.exc_info).split("\n") if record.exc_info else []
        return "\n".join([line, *map(printable, trace)])


class JsonFormat(logging.Formatter):
    """One object a line: `at_s` (Unix time), `level`, `event`, `text`, and the event's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The object."""
        entry = {
            "at_s": round(record.created, 3),
            "level": record.levelname.lower(),
            "event": getattr(record, "event", record.name),
            "text": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False, default=str)


class Terminal(logging.StreamHandler[TextIO]):
    """A person's terminal, where the last line may be one that does not stay."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._drawn = False

    def emit(self, record: logging.LogRecord) -> None:
        """Writes it, in the place of what was there for a moment."""
        if self._drawn:
            self.stream.write(ERASE)
            self._drawn = False
        if getattr(record, "event", "") != journal.PASSING:
            super().emit(record)
        elif text := record.getMessage():
            with suppress(OSError):
                # A line that wraps could not be erased.
                text = text[: os.get_terminal_size(self.stream.fileno()).columns - 1]
            self.stream.write(printable(text))
            self._drawn = True
        self.flush()


def set_up(log_format: str) -> None:
    """Writes events to standard error, from now on.

    Args:
        log_format: `text` or `json`.
    """
    terminal = log_format == "text" and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    handler = Terminal(sys.stderr) if terminal else logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormat() if log_format == "json" else TextFormat())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("meshq").setLevel(logging.INFO)
    journal.events.setLevel(logging.DEBUG if terminal else logging.INFO)
