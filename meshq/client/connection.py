"""Requests to one daemon, and what is tried again when one is lost."""

from __future__ import annotations

import asyncio
import io
import math
import ssl
from collections.abc import Mapping
from typing import Any, TypeVar

import aiohttp
import msgspec

from meshq.client.ways import REQUESTS_MAX, Way
from meshq.errors import Malformed, MeshqError, NoAnswer, Stopping, TooLarge, from_wire
from meshq.wire import values

A = TypeVar("A")

MSGPACK = "application/msgpack"
# Values stand some levels down in a body.
BODY_DEPTH_MAX = values.DEPTH_MAX + 8
# For how long one that hangs up is tried that never answered.
UNMET_S = 2.0
PAUSE_FIRST_S = 0.1
PIECE_BYTES = 1 << 18
PAUSE_MAX_S = 1.0


class Connection:
    """All requests to one daemon.

    Args:
        way: How they get there.
        connect_timeout_s: Seconds without an answer after which there is no daemon.
    """

    def __init__(self, way: Way, connect_timeout_s: float) -> None:
        self.connect_timeout_s = connect_timeout_s
        self._way = way
        self._session: aiohttp.ClientSession | None = None
        self._requests = asyncio.Semaphore(REQUESTS_MAX)
        self._met = False

    async def call(
        self,
        method: str,
        path: str,
        answer: type[A],
        *,
        body: Mapping[str, Any] | None = None,
        params: Mapping[str, str] | None = None,
        wait_s: float = 0.0,
        patience_s: float | None = None,
        repeatable: bool = True,
        new_work: bool = False,
    ) -> A:
        """One request and its answer.

        Args:
            answer: The dataclass of the answer.
            body: The request's fields; None for no body.
            params: What stands behind the question mark.
            wait_s: Seconds for which the daemon may hold the answer back.
            patience_s: For how many seconds an error that may pass is tried again; None: the connect timeout.
            repeatable: False where a second request would do more than the first.
            new_work: Whether a daemon that stops refuses this for good.

        Raises:
            NoDaemon: Nobody listens, or is to be reached.
            BadKey: The other side has another key.
            NoAnswer: Nobody answered within the connect timeout; what was asked for may be done all the same.
            MeshqError: What the daemon answered.
        """
        clock = asyncio.get_running_loop()
        data = None if body is None else values.pack(body, depth_max=BODY_DEPTH_MAX)
        lost_s, refused_s, pause_s, arrived = math.inf, math.inf, PAUSE_FIRST_S, False
        while True:
            context = self._way.context()
            try:
                status, content = await self._once(method, path, data, params, wait_s, context)
            except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError) as error:
                lost_s = min(lost_s, clock.time())
                refused = isinstance(error, (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError))
                self._way.turn(context, error)
                arrived, first = arrived or not refused, refused and not self._met
                patience = self.connect_timeout_s if self._met else min(self.connect_timeout_s, UNMET_S)
                if first or not repeatable or clock.time() - lost_s >= patience:
                    raise await self._way.nobody(error, arrived=arrived) from error
            else:
                lost_s, failure = math.inf, _failure(status, content)
                if failure is None:
                    return _decoded(answer, content)
                if new_work and isinstance(failure, Stopping):
                    raise _stopping(arrived)
                refused_s = min(refused_s, clock.time())
                patience = self.connect_timeout_s if patience_s is None else patience_s
                if not failure.retryable or clock.time() - refused_s >= patience:
                    raise failure
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, PAUSE_MAX_S)

    async def close(self) -> None:
        """Closes what is open; a later call opens it again."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _once(
        self,
        method: str,
        path: str,
        data: bytes | None,
        params: Mapping[str, str] | None,
        wait_s: float,
        context: ssl.SSLContext | bool,
    ) -> tuple[int, bytes]:
        timeout = self._way.timeout(self.connect_timeout_s, wait_s)
        async with self._requests:
            # A large body goes out piece by piece, between other things.
            sent = data if data is None or len(data) < PIECE_BYTES else io.BytesIO(data)
            request = self._opened().request(
                method, path, data=sent, params=params, timeout=timeout, ssl=context, allow_redirects=False
            )
            try:
                async with request as response:
                    self._met = True
                    self._way.met()
                    return response.status, await response.read()
            except aiohttp.ConnectionTimeoutError:
                raise
            except TimeoutError as error:
                raise self._way.silent(timeout.total or 0.0) from error

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                base_url=self._way.url,
                connector=self._way.connector(),
                headers={"Content-Type": MSGPACK, "Accept": MSGPACK},
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=True,
            )
        return self._session


def _stopping(arrived: bool) -> MeshqError:
    text = "this daemon is stopping and takes no new work"
    return NoAnswer(text) if arrived else Stopping(f"{text}; nothing was kept")


def _decoded(answer: type[A], content: bytes) -> A:
    fields = values.unpack(content, depth_max=BODY_DEPTH_MAX)
    try:
        return msgspec.convert(fields, answer)
    except msgspec.ValidationError as error:
        raise Malformed(f"the daemon's answer is of another form: {error}; is it another version?") from error


def _failure(status: int, content: bytes) -> MeshqError | None:
    if status < 400:
        return None
    try:
        body = values.unpack(content)
    except Malformed:
        body = None
    if isinstance(body, dict):
        return from_wire(body)
    if status == TooLarge.status:
        return TooLarge()
    return MeshqError(f"the daemon answered with HTTP status {status} and no reason; is it another program's socket?")
