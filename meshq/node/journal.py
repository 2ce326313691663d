"""What a person sees of a daemon: one line for each event that matters."""

from __future__ import annotations

import logging
from typing import Any

events = logging.getLogger("meshq.events")


def tell(name: str, text: str, **fields: Any) -> None:
    """Tells an event.

    Args:
        name: One word for scripts: found, joined, leading, following, lost …
        text: The line for people.
        fields: What scripts may want to know, as in the text.
    """
    events.info(text, extra={"event": name, "fields": fields})


def warn(name: str, text: str, **fields: Any) -> None:
    """Tells an event that somebody should look at."""
    events.warning(text, extra={"event": name, "fields": fields})
