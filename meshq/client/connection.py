"""Requests to the daemon on this machine, over the Unix socket in its data directory."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import msgspec

from meshq.errors import Malformed, MeshqError, NoAnswer, NoDaemon, Stopping, TooLarge, from_wire
from meshq.wire import values
from meshq.wire.server import socket_path

A = TypeVar("A")

MSGPACK = "application/msgpack"
# Values stand some levels down in a body.
BODY_DEPTH_MAX = values.DEPTH_MAX + 8
# Above the daemon's backlog of connections a Unix socket refuses more, so the client keeps its own queue.
REQUESTS_MAX = 64
PAUSE_FIRST_S = 0.1
PAUSE_MAX_S = 1.0


class Connection:
    """The way to one local daemon.

    Args:
        data_dir: The daemon's data directory.
        connect_timeout_s: Seconds without an answer after which there is no daemon.
    """

    def __init__(self, data_dir: Path, connect_timeout_s: float) -> None:
        self.socket = socket_path(data_dir)
        self.connect_timeout_s = connect_timeout_s
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
            NoDaemon: Nobody listens.
            NoAnswer: Nobody answered within the connect timeout; what was asked for may be done all the same.
            MeshqError: What the daemon answered.
        """
        clock = asyncio.get_running_loop()
        data = None if body is None else values.pack(body, depth_max=BODY_DEPTH_MAX)
        lost_s, refused_s, pause_s, arrived = math.inf, math.inf, PAUSE_FIRST_S, False
        while True:
            try:
                status, content = await self._once(method, path, data, params, wait_s)
            except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError) as error:
                lost_s = min(lost_s, clock.time())
                refused = isinstance(error, aiohttp.ClientConnectorError)
                arrived, first = arrived or not refused, refused and not self._met
                if first or not repeatable or clock.time() - lost_s >= self.connect_timeout_s:
                    raise self._nobody(error, arrived) from error
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
        self, method: str, path: str, data: bytes | None, params: Mapping[str, str] | None, wait_s: float
    ) -> tuple[int, bytes]:
        timeout_s = self.connect_timeout_s + wait_s
        async with self._requests:
            request = self._opened().request(
                method, path, data=data, params=params, timeout=aiohttp.ClientTimeout(total=timeout_s)
            )
            try:
                async with request as response:
                    self._met = True
                    return response.status, await response.read()
            except TimeoutError as error:
                raise NoAnswer(
                    f"the daemon at {self.socket} gave no answer within {timeout_s:g} s; "
                    "it hangs or this machine is overloaded"
                ) from error

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                base_url="http://meshq",
                connector=aiohttp.UnixConnector(str(self.socket), limit=REQUESTS_MAX),
                headers={"Content-Type": MSGPACK, "Accept": MSGPACK},
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=True,
            )
        return self._session

    def _nobody(self, error: Exception, arrived: bool) -> NoDaemon:
        if isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, PermissionError):
            return NoDaemon(f"the daemon at {self.socket} belongs to another user")
        if isinstance(error, aiohttp.ClientConnectorError):
            kind = NoAnswer if arrived else NoDaemon
            return kind(f"no daemon listens at {self.socket}; start one with: meshq up")
        return NoAnswer(f"the daemon at {self.socket} broke off; see its log, or start it again with: meshq up")


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
