"""Virtual time: an event loop that never waits, and on which a process can be paused or killed between two steps.

Whatever a node starts inherits its process from the context, so each callback is known to belong to one. A killed
process's callbacks are not run any more, not even its `finally` blocks: that is what kill -9 does.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import selectors
from collections.abc import Callable, Coroutine, Generator, Mapping
from typing import Any


class Process:
    """What the loop knows of one start of a node. `rate` is how fast its clock runs."""

    def __init__(self, name: str, rate: float = 1.0) -> None:
        self.name = name
        self.rate = rate
        self.paused = False
        self.dead = False
        self.held: list[_Gated] = []
        self.context = contextvars.copy_context()
        self.context.run(PROCESS.set, self)


PROCESS: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)


class _Gated:
    """A callback of a process, which runs only if the process does."""

    __slots__ = ("args", "callback", "context", "handle", "process")

    def __init__(
        self, process: Process, callback: Callable[..., object], args: tuple[Any, ...], context: contextvars.Context
    ) -> None:
        self.process, self.callback, self.args, self.context = process, callback, args, context
        self.handle: asyncio.Handle | None = None

    def __call__(self) -> None:
        if self.process.dead or self.process.paused:
            self.process.held.append(self)
        else:
            self.callback(*self.args)


class _NoSelector(selectors.BaseSelector):
    """Nothing to wait for: the time that the loop would wait just passes."""

    def __init__(self) -> None:
        self.now = 0.0
        self._keys: dict[Any, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        key = selectors.SelectorKey(fileobj, fileobj if isinstance(fileobj, int) else fileobj.fileno(), events, data)
        self._keys[fileobj] = key
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(fileobj)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("nothing will ever happen again on this loop")
        self.now += max(timeout, 0.0)
        return []

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._keys


_numbers = itertools.count()


class CountedTask(asyncio.Task[Any]):
    """A task whose place in a set does not depend on where it lies in memory: TaskGroup cancels in set order."""

    def __init__(self, coro: Generator[Any, Any, Any] | Coroutine[Any, Any, Any], **options: Any) -> None:
        self._number = next(_numbers)
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        return self._number


class VirtualLoop(asyncio.SelectorEventLoop):
    """The loop of a simulated world."""

    def __init__(self) -> None:
        self._virtual = _NoSelector()
        super().__init__(self._virtual)
        self.tasks: list[asyncio.Task[Any]] = []
        self._afterlife = False
        self.set_task_factory(self._make_task)

    def _make_task(self, loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
        task = CountedTask(coro, loop=loop, **options)
        self.tasks.append(task)
        return task

    @property
    def now(self) -> float:
        """Seconds on no process's clock."""
        return self._virtual.now

    def time(self) -> float:
        """Seconds on the clock of the process that asks."""
        process = PROCESS.get()
        return self._virtual.now * process.rate if process else self._virtual.now

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        context = context or contextvars.copy_context()
        process = context.get(PROCESS, None)
        if process is None or self._afterlife:
            return super().call_soon(callback, *args, context=context)
        gated = _Gated(process, callback, args, context)
        gated.handle = super().call_soon(gated, context=context)
        return gated.handle

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        context = context or contextvars.copy_context()
        process = context.get(PROCESS, None)
        if process is None:
            return super().call_at(when, callback, *args, context=context)
        gated = _Gated(process, callback, args, context)
        here = PROCESS.get()
        when_true = when / (here.rate if here else 1.0)
        handle = super().call_at(when_true, gated, context=context)
        gated.handle = handle
        return handle

    def revive(self, processes: list[Process]) -> None:
        """The world is over: what was held back runs after all, so that every task can be ended in order."""
        self._afterlife = True
        for process in processes:
            process.dead = False
            self.let_go(process)

    def let_go(self, process: Process) -> None:
        """The process runs on: what came meanwhile runs now."""
        process.paused = False
        held, process.held = process.held, []
        for gated in held:
            if gated.handle is None or not gated.handle.cancelled():
                gated.handle = super().call_soon(gated, context=gated.context)
