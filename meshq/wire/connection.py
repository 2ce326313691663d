"""One open WebSocket between two nodes: numbered requests both ways, answers in any order.

A frame is the msgpack array `[kind, number, content]`. Each side numbers its own requests; PART and END answer the
other side's number, CANCEL and MORE speak of one's own. An answer in parts flows by credit: at most `WINDOW_PARTS`
are on their way, and each MORE allows one more, so that a slow reader slows the writer and nobody else.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

import aiohttp
import msgspec
from aiohttp import web

from meshq.core import ids, limits
from meshq.core.limits import BACKLOG_BYTES_MAX, BACKLOG_MAX, IN_FLIGHT_MAX
from meshq.core.messages import Done, Refused
from meshq.core.ports import Handler
from meshq.errors import Malformed, MeshqError, TooLarge, Unreachable, from_wire
from meshq.wire import codec
from meshq.wire.handshake import Greeting

WebSocket = aiohttp.ClientWebSocketResponse | web.WebSocketResponse
Spawn = Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None] | None"]
# Writes a line into the log, if there were not too many: the name of what happened, a text, and what went wrong here.
Tell = Callable[[str, str, Exception | None], None]

WINDOW_PARTS: Final = 4


class Busy(Unreachable):
    """The other node has too many requests of this one already."""

    code = "busy"


class Kind(IntEnum):
    """What a frame is."""

    REQUEST = 1
    STREAM = 2
    PART = 3
    END = 4
    CANCEL = 5
    MORE = 6


@dataclass(frozen=True, slots=True)
class _Serving:
    task: asyncio.Task[None]
    credit: asyncio.Semaphore


_FRAME = msgspec.msgpack.Decoder(tuple[int, int, bytes])


class Connection:
    """One link of one kind to one node, from the greeting to its end.

    Args:
        socket: The open WebSocket, both greetings done.
        peer: The other side's greeting.
        version: The protocol version that the two agreed on.
        address: Where the other side is reached.
        handler: What answers its requests.
        spawn: Starts a background task, which outlives the connection; None where all is being closed.
        count: Counts a refusal or a drop by its name.
        tell: Tells people of what the other side did, which may do it again and again.
    """

    def __init__(
        self,
        socket: WebSocket,
        peer: Greeting,
        version: int,
        address: str,
        handler: Handler,
        spawn: Spawn,
        count: Callable[[str], None],
        tell: Tell,
    ) -> None:
        self.peer = peer
        self.version = version
        self.address = address
        self.open = True
        self._socket = socket
        self._handler = handler
        self._spawn = spawn
        self._count = count
        self._tell = tell
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[bytes | None]] = {}
        self._streams: dict[int, asyncio.Queue[tuple[Kind, bytes] | None]] = {}
        self._serving: dict[int, _Serving] = {}
        self._backlog = 0
        self._backlog_bytes = 0
        self._refusals = 0
        self._slots = asyncio.Semaphore(IN_FLIGHT_MAX)

    # -- asking ------------------------------------------------------------------------------------------

    async def request(self, message: Any, timeout_s: float) -> Any:
        """One message and its answer.

        Raises:
            Unreachable: No answer in time, or the link ended.
            MeshqError: What a `Refused` names.
        """
        number = next(self._numbers)
        future: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            async with asyncio.timeout(timeout_s):
                await self._send(Kind.REQUEST, number, codec.encode(message))
                data = await future
        except TimeoutError as error:
            raise Unreachable(f"{self._who} did not answer {type(message).__name__} in {timeout_s:g} s") from error
        finally:
            self._waiting.pop(number, None)
        if data is None:
            raise Unreachable(f"the link to {self._who} ended")
        return self._answer_of(data)

    async def stream(self, message: Any, idle_s: float) -> AsyncGenerator[Any, None]:
        """One message and the parts of its answer. Whoever stops reading ends it on the other side, too.

        Raises:
            Unreachable: No part for `idle_s`, or the link ended.
            MeshqError: What a `Refused` names.
        """
        number = next(self._numbers)
        parts: asyncio.Queue[tuple[Kind, bytes] | None] = asyncio.Queue()
        self._streams[number] = parts
        ended = False
        try:
            await self._send(Kind.STREAM, number, codec.encode(message))
            while True:
                part = await self._next_part(parts, type(message).__name__, idle_s)
                if part is None:
                    ended = True
                    raise Unreachable(f"the link to {self._who} ended")
                if part[0] is Kind.END:
                    ended = True
                    self._answer_of(part[1])
                    return
                yield self._answer_of(part[1])
                await self._send(Kind.MORE, number, b"")
        finally:
            self._streams.pop(number, None)
            if not ended and self.open:
                self._spawn(self._send_quietly(Kind.CANCEL, number, b""))

    async def _next_part(
        self, parts: asyncio.Queue[tuple[Kind, bytes] | None], name: str, idle_s: float
    ) -> tuple[Kind, bytes] | None:
        try:
            async with asyncio.timeout(idle_s):
                return await parts.get()
        except TimeoutError as error:
            raise Unreachable(f"{self._who} sent no part of its answer to {name} for {idle_s:g} s") from error

    def _answer_of(self, data: bytes) -> Any:
        try:
            answer = codec.decode(data)
        except Malformed as error:
            self._count("answer_malformed")
            raise Unreachable(f"{self._who} answered something else: {error}") from error
        if isinstance(answer, Refused):
            raise from_wire({"code": answer.code, "message": answer.message})
        return answer

    # -- the socket --------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Reads and serves until the link ends, for whatever reason; then everyone who waits is told."""
        try:
            async for frame in self._socket:
                if frame.type is not aiohttp.WSMsgType.BINARY:
                    self._count("frame_malformed" if frame.type is aiohttp.WSMsgType.TEXT else "link_broken")
                    break
                self._on_frame(frame.data)
        except Malformed as error:
            self._count("frame_malformed")
            self._tell("frame_malformed", f"the link to {self._who} is closed: {error}", None)
        except (ConnectionError, aiohttp.ClientError):
            # The other side is gone, and what was found of it is a ping that can't be answered any more.
            self._count("link_broken")
        finally:
            self.lost()
            await self.close()

    def lost(self) -> None:
        """Ends all that waits for this link; it is used no more."""
        self.open = False
        for future in self._waiting.values():
            if not future.done():
                future.set_result(None)
        for parts in self._streams.values():
            parts.put_nowait(None)
        for serving in self._serving.values():
            serving.task.cancel()

    async def close(self) -> None:
        """Closes the socket."""
        self.open = False
        with contextlib.suppress(ConnectionError, aiohttp.ClientError):
            await self._socket.close(code=aiohttp.WSCloseCode.GOING_AWAY)

    @property
    def _who(self) -> str:
        return f"…{ids.short(self.peer.node)} at {self.address}"

    async def _send(self, kind: Kind, number: int, content: bytes) -> None:
        frame = msgspec.msgpack.encode((kind.value, number, content))
        if len(frame) > limits.FRAME_BYTES_MAX:
            raise TooLarge(f"a message of {len(frame)} bytes; at most {limits.FRAME_BYTES_MAX} pass between nodes")
        if not self.open:
            raise Unreachable(f"the link to {self._who} ended")
        try:
            await self._socket.send_bytes(frame)
        except (ConnectionError, aiohttp.ClientError) as error:
            raise Unreachable(f"the link to {self._who} ended: {error}") from error

    async def _send_quietly(self, kind: Kind, number: int, content: bytes) -> None:
        """Sends what nobody waits for."""
        try:
            await self._send(kind, number, content)
        except Unreachable:
            self._count("answer_undeliverable")

    # -- answering ---------------------------------------------------------------------------------------

    def _on_frame(self, data: bytes) -> None:
        try:
            value, number, content = _FRAME.decode(data)
            kind = Kind(value)
        except (msgspec.MsgspecError, ValueError) as error:
            raise Malformed(f"no frame: {error}") from error
        match kind:
            case Kind.REQUEST:
                self._on_request(number, content)
            case Kind.STREAM:
                self._on_stream(number, content)
            case Kind.PART:
                self._on_part(number, content)
            case Kind.END:
                self._on_end(number, content)
            case Kind.CANCEL:
                if number in self._serving:
                    self._serving[number].task.cancel()
            case Kind.MORE:
                if number in self._serving:
                    self._serving[number].credit.release()

    def _on_request(self, number: int, content: bytes) -> None:
        if self._backlog >= BACKLOG_MAX or self._backlog_bytes + len(content) > BACKLOG_BYTES_MAX:
            self._count("request_busy")
            if self._refusals >= IN_FLIGHT_MAX:
                raise Malformed("more and more requests come, and no answer is read")
            self._refusals += 1
            if self._spawn(self._serve_busy(number)) is None:
                self._refusals -= 1
            return
        self._backlog += 1
        self._backlog_bytes += len(content)
        if self._spawn(self._serve(number, content)) is None:
            self._backlog -= 1
            self._backlog_bytes -= len(content)

    def _on_stream(self, number: int, content: bytes) -> None:
        if number in self._serving or len(self._serving) >= IN_FLIGHT_MAX:
            raise Malformed(f"stream {number} is open already, or {IN_FLIGHT_MAX} others are")
        credit = asyncio.Semaphore(WINDOW_PARTS)
        task = self._spawn(self._serve_stream(number, content, credit))
        if task is not None:
            self._serving[number] = _Serving(task, credit)
            task.add_done_callback(lambda _: self._serving.pop(number, None))

    def _on_part(self, number: int, content: bytes) -> None:
        parts = self._streams.get(number)
        if parts is None:
            self._count("late_part")
        elif parts.qsize() > WINDOW_PARTS:
            raise Malformed(f"more than {WINDOW_PARTS} parts of an answer came unasked")
        else:
            parts.put_nowait((Kind.PART, content))

    def _on_end(self, number: int, content: bytes) -> None:
        future = self._waiting.get(number)
        if future is not None and not future.done():
            future.set_result(content)
        elif (parts := self._streams.get(number)) is not None:
            if parts.qsize() > WINDOW_PARTS + 1:
                raise Malformed("an answer in parts ended again and again")
            parts.put_nowait((Kind.END, content))
        else:
            self._count("late_answer")

    async def _serve(self, number: int, content: bytes) -> None:
        # Until the answer is gone: who asks and reads nothing must not make answers pile up.
        try:
            async with self._slots:
                await self._end(number, await self._answered(content))
        finally:
            self._backlog -= 1
            self._backlog_bytes -= len(content)

    async def _serve_busy(self, number: int) -> None:
        try:
            await self._end(number, _refused(Busy()))
        finally:
            self._refusals -= 1

    async def _answered(self, content: bytes) -> Any:
        try:
            return await self._handler.answer(self.peer.node, codec.decode(content))
        except Malformed as error:
            self._count("request_malformed")
            return _refused(error)
        except MeshqError as error:
            return _refused(error)
        except Exception as error:
            return self._failed(error)

    async def _serve_stream(self, number: int, content: bytes, credit: asyncio.Semaphore) -> None:
        answer: Any = Done()
        try:
            parts = self._handler.stream(self.peer.node, codec.decode(content))
            async with _closed_after(parts):
                async for part in parts:
                    await credit.acquire()
                    await self._send(Kind.PART, number, codec.encode(part))
        except Unreachable as error:
            if not self.open:
                self._count("answer_undeliverable")
                return
            answer = _refused(error)
        except MeshqError as error:
            answer = _refused(error)
        except Exception as error:
            answer = self._failed(error)
        await self._end(number, answer)

    def _failed(self, error: Exception) -> Refused:
        # The edge of a request: whatever a handler raises must reach the asker and the log, and end nothing else.
        self._count("request_failed")
        self._tell("request_failed", f"a request of {self._who} failed", error)
        return _refused(MeshqError())

    async def _end(self, number: int, answer: Any) -> None:
        try:
            await self._send_quietly(Kind.END, number, codec.encode(answer))
        except TooLarge as error:
            await self._send_quietly(Kind.END, number, codec.encode(_refused(error)))


def _refused(error: MeshqError) -> Refused:
    return Refused(code=error.code, message=error.message, retryable=error.retryable)


@contextlib.asynccontextmanager
async def _closed_after(parts: AsyncIterator[Any]) -> AsyncIterator[None]:
    try:
        yield
    finally:
        close = getattr(parts, "aclose", None)
        if close is not None:
            await close()
