"""Virtual time: an event loop that never waits, and on which a process can be paused or killed between two steps.

Whatever a node starts inherits its process from the context, so each callback is known to belong to one. A killed
process's callbacks are not run any more, not even its `finally` blocks: that is what kill -9 does.
"""

from __future__ import annotations

import asyncio
import contextvars
import selectors
from collections.abc import Callable, Coroutine, Generator, Mapping
from concurrent.futures import Executor
from typing import Any, TypeVar

T = TypeVar("T")

EARLY_S = 1e-9  # what a timer may be early by, for the rounding of one clock into another


# A timer that came too early by rounding would find that it has to wait for nothing, again and again.
LATE_S = 1e-9


class Timeline:
    """A machine's clocks, as they follow from the true time.

    Args:
        rate: How fast they run.
        ahead_s: By how much the clock that counts on in suspend is ahead: it was suspended before.
    """

    def __init__(self, rate: float = 1.0, ahead_s: float = 0.0) -> None:
        self.rate = rate
        self._ahead_s = ahead_s
        self._slept_s = 0.0
        self._asleep_since: float | None = None

    @property
    def asleep(self) -> bool:
        """Whether the machine is suspended."""
        return self._asleep_since is not None

    def boot_s(self, now: float) -> float:
        """The clock that counts on in suspend."""
        return now * self.rate + self._ahead_s

    def run_s(self, now: float) -> float:
        """The clock that stands still in suspend, as all timers do."""
        awake_until = now if self._asleep_since is None else self._asleep_since
        return (awake_until - self._slept_s) * self.rate

    def true_s(self, run_s: float) -> float:
        """The true instant at which `run_s` shows this, if nobody suspends the machine before."""
        return run_s / self.rate + self._slept_s + LATE_S

    def sleep(self, now: float) -> None:
        """The lid is closed."""
        self._asleep_since = now

    def wake(self, now: float) -> None:
        """The lid is opened."""
        if self._asleep_since is not None:
            self._slept_s += now - self._asleep_since
            self._asleep_since = None


class Process:
    """What the loop knows of one start of a node, on a machine with these clocks."""

    def __init__(self, name: str, timeline: Timeline | None = None) -> None:
        self.name = name
        self.timeline = timeline or Timeline()
        self.paused = False
        self.dead = False
        self.held: list[_Gated] = []
        self.context = contextvars.copy_context()
        self.context.run(PROCESS.set, self)

    @property
    def still(self) -> bool:
        """Whether nothing of it runs at the moment, though it lives."""
        return not self.dead and (self.paused or self.timeline.asleep)

    @property
    def halted(self) -> bool:
        """Whether nothing of it runs."""
        return self.dead or self.paused or self.timeline.asleep


PROCESS: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)


class _Gated:
    """A callback of a process, which runs only if the process does.

    `when` is the instant on the process's own clock before which a timer must not run, however long it slept.
    """

    __slots__ = ("args", "callback", "context", "handle", "loop", "process", "when")

    def __init__(
        self,
        loop: VirtualLoop,
        process: Process,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: contextvars.Context,
    ) -> None:
        self.loop, self.process, self.callback, self.args, self.context = loop, process, callback, args, context
        self.when: float | None = None
        self.handle: asyncio.Handle | None = None  # what whoever asked for it was given, and may cancel

    def __call__(self) -> None:
        process = self.process
        if self.handle is not None and self.handle.cancelled():
            return
        if process.halted:
            process.held.append(self)
        elif self.when is not None and process.timeline.run_s(self.loop.now) < self.when - EARLY_S:
            self.loop.put_off(self, process.timeline.true_s(self.when))
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


class CountedTask(asyncio.Task[Any]):
    """A task whose place in a set does not depend on where it lies in memory: TaskGroup cancels in set order.

    Its number counts on its own loop, so that a seed is the same run whatever ran before it in this process.
    """

    def __init__(self, number: int, coro: Generator[Any, Any, Any] | Coroutine[Any, Any, Any], **options: Any) -> None:
        self._number = number
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
        task = CountedTask(len(self.tasks), coro, loop=loop, **options)
        self.tasks.append(task)
        return task

    @property
    def now(self) -> float:
        """Seconds on no process's clock."""
        return self._virtual.now

    def time(self) -> float:
        """Seconds on the clock of the process that asks, which stands still in suspend."""
        process = PROCESS.get()
        return process.timeline.run_s(self._virtual.now) if process else self._virtual.now

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        # An empty context is false, and is one all the same.
        context = contextvars.copy_context() if context is None else context
        process = context.get(PROCESS, None)
        if process is None or self._afterlife:
            return super().call_soon(callback, *args, context=context)
        gated = _Gated(self, process, callback, args, context)
        gated.handle = super().call_soon(gated, context=context)
        return gated.handle

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        # An empty context is false, and is one all the same.
        context = contextvars.copy_context() if context is None else context
        process = context.get(PROCESS, None)
        if process is None:
            return super().call_at(when, callback, *args, context=context)
        gated = _Gated(self, process, callback, args, context)
        if PROCESS.get() is process:
            gated.when = when
            when = process.timeline.true_s(when)
        handle = super().call_at(when, gated, context=context)
        gated.handle = handle
        return handle

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        # A thread has no place in virtual time: what goes on beside the loop is over at once.
        done = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:
            done.set_exception(error)
        return done

    def call_in(self, process: Process, delay_s: float, callback: Callable[[], object]) -> None:
        """Runs something in a process after a true delay, whatever its clocks say: what reaches it from outside."""
        context = process.context.copy()
        super().call_at(self.now + delay_s, _Gated(self, process, callback, (), context), context=context)

    def put_off(self, gated: _Gated, when: float) -> None:
        """A timer whose process slept meanwhile comes later."""
        super().call_at(when, gated, context=gated.context)

    def revive(self, processes: list[Process]) -> None:
        """The world is over: what was held back runs after all, so that every task can be ended in order."""
        self._afterlife = True
        for process in processes:
            process.dead = False
            process.timeline.wake(self.now)
            self.let_go(process)

    def let_go(self, process: Process) -> None:
        """The process is not paused any more: what came meanwhile runs now, if nothing else holds it."""
        process.paused = False
        if process.halted:
            return
        held, process.held = process.held, []
        for gated in held:
            super().call_soon(gated, context=gated.context)
