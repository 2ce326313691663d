"""What a person sees of a daemon: one line for each event that matters."""

from __future__ import annotations

import logging
from collections import deque
from typing import Any

from meshq.core.reports import Event

# The event of a line that is not to stay.
PASSING = "passing"

events = logging.getLogger("meshq.events")


def tell(name: str, text: str, *, kept: str | None = None, **fields: Any) -> None:
    """Tells an event.

    Args:
        name: One word for scripts: found, joined, leading, following, lost …
        text: The line for people.
        kept: What whoever asks later is told, where the line holds what is shown once.
        fields: What scripts may want to know, as in the text.
    """
    events.info(text, extra={"event": name, "fields": fields, "kept": text if kept is None else kept})


def warn(name: str, text: str, **fields: Any) -> None:
    """Tells an event that somebody should look at."""
    events.warning(text, extra={"event": name, "fields": fields})


def passing(text: str) -> None:
    """Tells what is so for a moment: a terminal shows it until the next line; empty takes it away."""
    events.debug(text, extra={"event": PASSING, "fields": {}})


class Recent(logging.Handler):
    """Keeps the newest events, for whoever asks what happened.

    Args:
        count: How many.
    """

    def __init__(self, count: int) -> None:
        super().__init__(logging.INFO)
        self._events: deque[Event] = deque(maxlen=count)

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps one."""
        self._events.append(Event(at_ms=int(record.created * 1000), text=getattr(record, "kept", record.getMessage())))

    def all(self) -> tuple[Event, ...]:
        """All that are kept, oldest first."""
        return tuple(self._events)
