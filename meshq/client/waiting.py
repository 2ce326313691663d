"""Waiting for many tasks with few requests."""

from __future__ import annotations

import asyncio
import math
from collections import Counter, deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from itertools import islice

from meshq.client.record import Page, Record
from meshq.errors import WaitTimeout

Ask = Callable[[list[str], float, float], Awaitable[Page]]

IDS_PER_REQUEST = 1000
POLL_S = 20.0
# One wait for some tasks while others, that are asked for next, may be finished already.
TURN_S = 1.0
# The pause between two requests is this part of the time waited so far, so that waiting costs no more than that.
PAUSE_SHARE = 0.02
PAUSE_MAX_S = 0.25


async def found(
    ask: Ask, batches: AsyncGenerator[list[str], None], ahead: int, timeout_s: float | None, *, in_order: bool
) -> AsyncGenerator[list[Record], None]:
    """Finished tasks, some at a time, in the order of their ids in `batches`, or as they finish.

    Args:
        ask: Asks the daemon which of these tasks are finished, waits up to so many seconds for
            one, and bears errors that pass for so many.
        batches: Ids; the next batch is fetched when no more than `ahead` are unfinished.
        timeout_s: Seconds until all are finished; None: however long it takes.
        in_order: Whether each waits for those before it.

    Raises:
        WaitTimeout: They are not, by then.
    """
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    backlog: _Backlog | _Crowd = _Backlog() if in_order else _Crowd()
    more = True
    while True:
        while more and len(backlog.unfinished) <= ahead:
            batch = await anext(batches, None)
            more = batch is not None
            backlog.add(batch or ())
        if not backlog.unfinished:
            return
        left_s = math.inf if timeout_s is None else max(0.0, timeout_s - (loop.time() - began_s))
        ids, wait_s = backlog.window()
        answer = await ask(ids, min(wait_s, left_s), left_s)
        backlog.finish(answer.tasks)
        if records := backlog.next():
            yield records
        if backlog.unfinished:
            if left_s <= 0:
                raise WaitTimeout(f"{len(backlog.unfinished)} tasks are not finished after {timeout_s:g} s")
            await asyncio.sleep(min(PAUSE_MAX_S, (loop.time() - began_s) * PAUSE_SHARE))


class _Backlog:
    """What was asked for and not yet handed out. An id may stand in it twice: a key makes two submits one task."""

    def __init__(self) -> None:
        self.unfinished: dict[str, None] = {}
        self._order: deque[str] = deque()
        self._uses: Counter[str] = Counter()
        self._found: dict[str, Record] = {}

    def add(self, ids: Sequence[str]) -> None:
        self._order.extend(ids)
        self._uses.update(ids)
        self.unfinished.update(dict.fromkeys(task for task in ids if task not in self._found))

    def window(self) -> tuple[list[str], float]:
        """Those to ask for now, and how long to wait for one of them: whoever comes first is needed first."""
        return list(islice(self.unfinished, IDS_PER_REQUEST)), POLL_S

    def finish(self, records: Iterable[Record]) -> None:
        for record in records:
            if record.id in self.unfinished:
                del self.unfinished[record.id]
                self._found[record.id] = record

    def next(self) -> list[Record]:
        """Those that can be handed out now."""
        records = []
        while self._order and self._order[0] in self._found:
            task = self._order.popleft()
            record = self._found[task]
            self._uses[task] -= 1
            if not self._uses[task]:
                del self._uses[task], self._found[task]
            records.append(record)
        return records


class _Crowd:
    """The same, handed out in the order in which they finish.

    The oldest are asked for first, since they began first; where none of them is finished within a moment, the others
    are looked through.
    """

    def __init__(self) -> None:
        self.unfinished: dict[str, None] = {}
        self._uses: Counter[str] = Counter()
        self._found: list[Record] = []
        self._asked: list[str] = []
        self._passed = 0

    def add(self, ids: Sequence[str]) -> None:
        self._uses.update(ids)
        self.unfinished.update(dict.fromkeys(ids))

    def window(self) -> tuple[list[str], float]:
        """Those to ask for now, and how long to wait for one of them."""
        self._asked = list(islice(self.unfinished, IDS_PER_REQUEST))
        if len(self._asked) == len(self.unfinished):
            return self._asked, POLL_S
        return self._asked, 0.0 if self._passed else TURN_S

    def finish(self, records: Iterable[Record]) -> None:
        left = len(self.unfinished)
        for record in records:
            if record.id in self.unfinished:
                del self.unfinished[record.id]
                self._found.extend([record] * self._uses.pop(record.id))
        if len(self.unfinished) < left:
            self._passed = 0
            return
        for task in self._asked:
            del self.unfinished[task]
            self.unfinished[task] = None
        self._passed += len(self._asked)
        if self._passed >= left:
            self._passed = 0

    def next(self) -> list[Record]:
        """Those that can be handed out now."""
        records, self._found = self._found, []
        return records
