"""Clients that wait for tasks to finish."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class Waiters:
    """Events by task."""

    def __init__(self) -> None:
        self._by_task: dict[str, list[asyncio.Event]] = {}

    @contextmanager
    def on(self, tasks: Iterable[str]) -> Iterator[asyncio.Event]:
        """An event that is set when one of these tasks is finished, or when it is time to look again."""
        event = asyncio.Event()
        tasks = list(tasks)
        for task in tasks:
            self._by_task.setdefault(task, []).append(event)
        try:
            yield event
        finally:
            for task in tasks:
                events = self._by_task.get(task, [])
                if event in events:
                    events.remove(event)
                if not events:
                    self._by_task.pop(task, None)

    def wake(self, tasks: Iterable[str]) -> None:
        """These tasks are finished."""
        for task in tasks:
            for event in self._by_task.get(task, ()):
                event.set()

    def wake_all(self) -> None:
        """Everybody looks again."""
        for events in self._by_task.values():
            for event in events:
                event.set()
