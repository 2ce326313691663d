"""Bodies of HTTP requests and answers: msgpack, or JSON for `curl`.

Both hold the same tree of natural values, so a task's arguments, result and error stand in place and nothing is packed
twice: a msgpack body is one value as `values.pack` writes it, with its extension types; a JSON body is the same value
with the tags of `values.to_json`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from aiohttp import web

from meshq.core import limits
from meshq.errors import Malformed, MeshqError, TooLarge
from meshq.wire import values
from meshq.wire.aside import ASIDE_BYTES, Aside
from meshq.wire.parts import Parts
from meshq.wire.shares import Share

F = TypeVar("F")

MSGPACK: Final = "application/msgpack"
JSON: Final = "application/json"
_MSGPACK_TYPES: Final = frozenset({MSGPACK, "application/x-msgpack", "application/vnd.msgpack"})
# A body holds values, which have their own limit, some levels down.
_DEPTH_MAX: Final = limits.DEPTH_MAX + 8


class TooSlow(MeshqError):
    """The body came too slowly."""

    code, status, retryable = "too_slow", 408, True


class TooManyBodies(MeshqError):
    """This caller, or all together, send more at once than this node takes; try again."""

    code, status, retryable = "too_many_bodies", 429, True


class Bodies:
    """Reads the bodies of requests.

    Args:
        bytes_max: The longest body.
        body_s: How long one may take to arrive.
    """

    def __init__(self, bytes_max: int, body_s: float) -> None:
        self._bytes_max = bytes_max
        self._body_s = body_s
        # A body that is allowed must fit, whatever else the limits are.
        each = max(limits.BODIES_BYTES_PER_CALLER, bytes_max)
        self._share = Share(max(limits.BODIES_BYTES_MAX, each), each)
        self.aside = Aside()

    async def read(
        self,
        request: web.Request,
        caller: str,
        form: Callable[[dict[str, Any]], F],
        means_bytes: Callable[[dict[str, Any]], int] = len,
    ) -> F:
        """What a request's body means.

        Args:
            request: Its body was not read yet.
            caller: Whose share it takes until it is understood.
            form: Makes a request of the map in the body; may run in a thread.
            means_bytes: How large what a map means is, where that is more than its body.

        Raises:
            TooLarge: The body has more than `bytes_max` bytes.
            TooManyBodies: There is no room for it at present.
            TooSlow: It did not come in time.
            Malformed: It is neither msgpack nor JSON, or no map; or what `form` raises.
        """
        data = bytearray()
        try:
            await self._fill(data, request, caller)
            if len(data) >= ASIDE_BYTES:
                # In one turn: what a large body is made into is many times larger, and there is one of it at a time.
                return await self.aside.run(lambda: form(read_map(bytes(data), request.content_type)), len(data))
            body = read_map(bytes(data), request.content_type)
            return await self.aside.run(lambda: form(body), means_bytes(body))
        finally:
            self._share.give(caller, len(data))

    async def _fill(self, data: bytearray, request: web.Request, caller: str) -> None:
        if "Content-Encoding" in request.headers:
            raise Malformed("a body is taken as it is, without a Content-Encoding")
        if (request.content_length or 0) > self._bytes_max:
            raise self._too_large()
        try:
            async with asyncio.timeout(self._body_s):
                async for chunk in request.content.iter_any():
                    if len(data) + len(chunk) > self._bytes_max:
                        raise self._too_large()
                    if not self._share.take(caller, len(chunk)):
                        raise TooManyBodies
                    data += chunk
        except TimeoutError as error:
            raise TooSlow(f"only {len(data)} bytes of the body came within {self._body_s:g} s") from error

    def _too_large(self) -> TooLarge:
        return TooLarge(
            f"the body has more than {self._bytes_max} bytes, the most that this node takes (body_bytes_max)"
        )


def read_map(data: bytes, kind: str) -> dict[str, Any]:
    """The map that a body holds.

    Args:
        data: The body.
        kind: Its Content-Type, without parameters.

    Raises:
        Malformed: It is neither msgpack nor JSON, or no map from names.
    """
    body = _value(data, kind)
    if isinstance(body, dict) and all(type(key) is str for key in body):
        return body
    raise Malformed("the body must be a map from names to values")


def _value(data: bytes, kind: str) -> Any:
    """The value that a body holds.

    It is msgpack unless the Content-Type says JSON. Where it says neither (`curl -d` alone), a body that begins like
    a JSON object is JSON: no msgpack map begins so.
    """
    if kind == JSON or kind.endswith("+json") or (kind not in _MSGPACK_TYPES and data.lstrip()[:1] in (b"{", b"[")):
        plain = values.loads(data, digits_max=limits.BODY_DIGITS_MAX, parts_max=limits.PARTS_MAX)
        return values.from_json(plain)
    try:
        return values.unpack(data, depth_max=_DEPTH_MAX, parts=Parts(limits.PARTS_MAX))
    except Malformed as error:
        raise Malformed(f"the body is no msgpack, and its Content-Type does not say {JSON}: {error}") from error


def wants_msgpack(request: web.Request) -> bool:
    """Whether the answer is to be msgpack: only where Accept names it; `*/*` and no Accept mean JSON."""
    for part in ",".join(request.headers.getall("Accept", [])).split(","):
        kind, *params = (piece.strip().lower() for piece in part.split(";"))
        if kind in _MSGPACK_TYPES and not any(param in ("q=0", "q=0.0") for param in params):
            return True
    return False


def answer(
    request: web.Request, body: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """An answer in the form that the request wants."""
    if wants_msgpack(request):
        data = values.pack(dict(body), name="the answer", depth_max=_DEPTH_MAX)
        return web.Response(body=data, status=status, content_type=MSGPACK, headers=headers)
    text = values.dumps(values.to_json(dict(body)), long_as_hex=True) + "\n"
    return web.Response(text=text, status=status, content_type=JSON, headers=headers)


async def send(request: web.Request, response: web.StreamResponse, answer_s: float) -> None:
    """Sends an answer, unless it is a link's; who does not take it in time is cut off."""
    if isinstance(response, web.WebSocketResponse):
        return
    try:
        async with asyncio.timeout(answer_s):
            await response.prepare(request)
            await response.write_eof()
    except ConnectionError:
        return  # the caller is gone
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
