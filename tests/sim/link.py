"""One end of a simulated link, the twin of `wire.connection`: requests both ways, answers in parts by credit."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from meshq.core.messages import Done, Refused
from meshq.core.ports import Handler
from meshq.errors import InvariantBroken, MeshqError, Unreachable, from_wire
from meshq.wire import codec
from meshq.wire.connection import WINDOW_PARTS
from tests.sim.loop import Process, VirtualLoop

log = logging.getLogger(__name__)

Arrive = Callable[[], None]


class Medium(Protocol):
    """What carries between the two ends of a link; `arrive` runs at the other end, if it is open there."""

    loop: VirtualLoop
    bugs: list[str]

    def send(self, end: End, message: Any, arrive: Arrive, after_s: float | None = None) -> float:
        """Carries a message, if chance and the cuts let it; the instant at which it is there."""

    def tell(self, end: End, arrive: Arrive) -> None:
        """Carries what is never lost: a cut only delays it, unless the link ends meanwhile."""


class Place(Protocol):
    """The process at an end."""

    node: str
    process: Process
    handler: Handler
    counters: Counter[str]


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of an answer: how many came before it, and whether it is what ends the answer."""

    place: int
    is_end: bool
    data: bytes


@dataclass(frozen=True, slots=True)
class _Serving:
    task: asyncio.Task[None]
    credit: asyncio.Semaphore


class End:
    """What one process has of a link to another.

    Args:
        medium: Carries to the other end.
        here: The process at this end.

    Both ends are made, then each is told the `other`. `open` is what this process believes; `silent_since` is kept
    by the network, which knows what the process hears.
    """

    other: End

    def __init__(self, medium: Medium, here: Place) -> None:
        self.open = True
        self.silent_since: float | None = None
        self.node = here.node
        self.process = here.process
        self._here = here
        self._medium = medium
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[bytes | None]] = {}
        self._streams: dict[int, asyncio.Queue[_Part | None]] = {}
        self._serving: dict[int, _Serving] = {}

    @property
    def in_use(self) -> bool:
        """Whether a living process takes it for open."""
        return self.open and not self.process.dead

    def lost(self) -> None:
        """This process learns that the link has ended: so does everyone who waits for it."""
        self.open = False
        for future in self._waiting.values():
            if not future.done():
                future.set_result(None)
        for parts in self._streams.values():
            parts.put_nowait(None)
        for serving in self._serving.values():
            serving.task.cancel()

    # -- asking ------------------------------------------------------------------------------------------

    async def request(self, message: Any, timeout_s: float) -> Any:
        """One message and its answer; see `core.ports.Transport`."""
        number = next(self._numbers)
        future: asyncio.Future[bytes | None] = self._medium.loop.create_future()
        self._waiting[number] = future
        self._medium.send(self, message, partial(self.other.on_request, number, codec.encode(message)))
        try:
            async with asyncio.timeout(timeout_s):
                data = await future
        except TimeoutError:
            raise Unreachable(f"{self._who} did not answer {type(message).__name__} in {timeout_s:g} s") from None
        finally:
            del self._waiting[number]
        if data is None:
            raise Unreachable(f"the link to {self._who} ended")
        return _unless_refused(codec.decode(data))

    async def stream(self, message: Any, idle_s: float) -> AsyncGenerator[Any, None]:
        """One message and the parts of its answer; see `core.ports.Transport`."""
        number = next(self._numbers)
        parts: asyncio.Queue[_Part | None] = asyncio.Queue()
        self._streams[number] = parts
        ended = False
        self._medium.send(self, message, partial(self.other.on_stream, number, codec.encode(message)), 0.0)
        try:
            for place in itertools.count():
                part = await self._next_part(parts, type(message).__name__, idle_s)
                if part.place != place:
                    raise Unreachable(f"part {place} of the answer of {self._who} was lost")
                ended = part.is_end
                answer = _unless_refused(codec.decode(part.data))
                if ended:
                    return
                yield answer
                self._medium.tell(self, partial(self.other.on_more, number))
        finally:
            del self._streams[number]
            if self.open and not ended:
                self._medium.tell(self, partial(self.other.on_cancel, number))

    async def _next_part(self, parts: asyncio.Queue[_Part | None], name: str, idle_s: float) -> _Part:
        try:
            async with asyncio.timeout(idle_s):
                part = await parts.get()
        except TimeoutError:
            raise Unreachable(f"{self._who} sent no part of its answer to {name} for {idle_s:g} s") from None
        if part is None:
            raise Unreachable(f"the link to {self._who} ended")
        return part

    def on_answer(self, number: int, data: bytes) -> None:
        """An answer arrives."""
        future = self._waiting.get(number)
        if future is None or future.done():
            self._here.counters["late_answer"] += 1
        else:
            future.set_result(data)

    def on_part(self, number: int, part: _Part) -> None:
        """A part of an answer arrives."""
        parts = self._streams.get(number)
        if parts is None:
            self._here.counters["late_part"] += 1
        else:
            parts.put_nowait(part)

    @property
    def _who(self) -> str:
        return f"…{self.other.node[-8:]}"

    # -- answering ---------------------------------------------------------------------------------------

    def on_request(self, number: int, data: bytes) -> None:
        """A request arrives."""
        self._medium.loop.create_task(self._serve(number, data))

    def on_stream(self, number: int, data: bytes) -> None:
        """A request arrives that has an answer in parts."""
        credit = asyncio.Semaphore(WINDOW_PARTS)
        task = self._medium.loop.create_task(self._serve_stream(number, data, credit))
        self._serving[number] = _Serving(task, credit)
        task.add_done_callback(lambda _: self._serving.pop(number))

    def on_more(self, number: int) -> None:
        """The reader has taken a part."""
        if number in self._serving:
            self._serving[number].credit.release()

    def on_cancel(self, number: int) -> None:
        """The reader wants no more."""
        if number in self._serving:
            self._serving[number].task.cancel()

    async def _serve(self, number: int, data: bytes) -> None:
        try:
            answer = await self._here.handler.answer(self.other.node, codec.decode(data))
        except Exception as error:
            answer = self._refused(error)
        self._medium.send(self, answer, partial(self.other.on_answer, number, codec.encode(answer)))

    async def _serve_stream(self, number: int, data: bytes, credit: asyncio.Semaphore) -> None:
        end: Any = Done()
        place, after_s = 0, 0.0
        parts = self._here.handler.stream(self.other.node, codec.decode(data))
        try:
            async for part in parts:
                await credit.acquire()
                after_s = self._send_part(number, part, _Part(place, False, codec.encode(part)), after_s)
                place += 1
        except Exception as error:
            end = self._refused(error)
        finally:
            if isinstance(parts, AsyncGenerator):
                await parts.aclose()
        self._send_part(number, end, _Part(place, True, codec.encode(end)), after_s)

    def _send_part(self, number: int, message: Any, part: _Part, after_s: float) -> float:
        return self._medium.send(self, message, partial(self.other.on_part, number, part), after_s)

    def _refused(self, error: Exception) -> Refused:
        """What the asker is told. A bug in the handler reaches the log and the world, and ends nothing else."""
        if not isinstance(error, MeshqError):
            log.exception("a request of %s failed", self._who)
            self._here.counters["request_failed"] += 1
            self._medium.bugs.append(repr(error))
            error = MeshqError()
        elif isinstance(error, InvariantBroken):
            self._medium.bugs.append(repr(error))
        return Refused(code=error.code, message=error.message, retryable=error.retryable)


def _unless_refused(answer: Any) -> Any:
    if isinstance(answer, Refused):
        raise from_wire({"code": answer.code, "message": answer.message})
    return answer
