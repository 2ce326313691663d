"""Bodies of HTTP requests and answers: msgpack, or JSON for `curl`.

Both hold the same tree of natural values, so a task's arguments, result and error stand in place and nothing is packed
twice: a msgpack body is one value as `values.pack` writes it, with its extension types; a JSON body is the same value
with the tags of `values.to_json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from aiohttp import web

from meshq.errors import Malformed, TooLarge
from meshq.wire import values

MSGPACK: Final = "application/msgpack"
JSON: Final = "application/json"
_MSGPACK_TYPES: Final = frozenset({MSGPACK, "application/x-msgpack", "application/vnd.msgpack"})
# A body holds values, which have their own limit, some levels down.
_DEPTH_MAX: Final = values.DEPTH_MAX + 8


async def read(request: web.Request, bytes_max: int) -> Any:
    """The value that a request's body holds.

    It is msgpack unless the Content-Type says JSON. Where it says neither (`curl -d` alone), a body that begins like
    a JSON object is JSON: no msgpack map begins so.

    Raises:
        TooLarge: The body has more than `bytes_max` bytes.
        Malformed: It is neither msgpack nor JSON.
    """
    too_large = TooLarge(f"the body has more than {bytes_max} bytes, the most that this node takes (body_bytes_max)")
    if (request.content_length or 0) > bytes_max:
        raise too_large
    try:
        data = await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        raise too_large from error
    kind = request.content_type
    if kind == JSON or kind.endswith("+json") or (kind not in _MSGPACK_TYPES and data.lstrip()[:1] in (b"{", b"[")):
        return values.from_json(values.loads(data))
    try:
        return values.unpack(data, depth_max=_DEPTH_MAX)
    except Malformed as error:
        raise Malformed(f"the body is no msgpack, and its Content-Type does not say {JSON}: {error}") from error


async def read_map(request: web.Request, bytes_max: int) -> dict[str, Any]:
    """The map that a request's body holds.

    Raises:
        TooLarge, Malformed: As for `read`, or it is no map.
    """
    body = await read(request, bytes_max)
    if isinstance(body, dict) and all(type(key) is str for key in body):
        return body
    raise Malformed("the body must be a map from names to values")


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
    text = values.dumps(values.to_json(dict(body))) + "\n"
    return web.Response(text=text, status=status, content_type=JSON, headers=headers)
