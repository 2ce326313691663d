"""The HTTP interface on real sockets, with a service behind it and clients before it."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from meshq.core import limits
from meshq.wire import values
from meshq.wire.http import build_app
from meshq.wire.server import Server
from tests.unit.serving import serving
from tests.unit.wire_service import DictService

BODY_BYTES_MAX = 100_000
NOW_MS = 1_700_000_000_000
MSGPACK = {"Content-Type": "application/msgpack", "Accept": "application/msgpack"}
JSON = {"Content-Type": "application/json"}


class Desk:
    """A server on both sockets, a service behind it, and clients of both before it."""

    def __init__(self, service: DictService, server: Server, tcp: aiohttp.ClientSession, unix: aiohttp.ClientSession):
        self.service = service
        self.server = server
        self.tcp = tcp
        self.unix = unix

    async def json(self, method: str, path: str, body: Any = None, *, unix: bool = False) -> tuple[int, Any]:
        """As curl does it."""
        data = None if body is None else io.BytesIO(json.dumps(body).encode())
        async with (self.unix if unix else self.tcp).request(method, path, data=data, headers=JSON) as answer:
            assert answer.content_type == "application/json"
            return answer.status, json.loads(await answer.read())

    async def packed(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """As our own client does it."""
        data = None if body is None else io.BytesIO(values.pack(body))
        async with self.unix.request(method, path, data=data, headers=MSGPACK) as answer:
            assert answer.content_type == "application/msgpack"
            return answer.status, values.unpack(await answer.read())


@asynccontextmanager
async def opened(
    tmp_path: Path,
    service: DictService | None = None,
    *,
    body_bytes_max: int = BODY_BYTES_MAX,
    header_s: float = limits.HEADER_S,
    body_s: float = limits.BODY_S,
    answer_s: float = limits.ANSWER_S,
) -> AsyncIterator[Desk]:
    """A desk; its bounds are those of `build_app` and `Server`."""
    service = service or DictService()
    numbers = itertools.count(1)
    app = build_app(
        service, None, new_id=lambda: f"{next(numbers):032x}", wall_ms=lambda: NOW_MS, body_bytes_max=body_bytes_max,
        body_s=body_s, answer_s=answer_s,
    )  # fmt: skip
    path = tmp_path / "meshq.sock"
    server = Server(app, host="127.0.0.1", port=0, unix_path=path, grace_s=0.5, header_s=header_s)
    async with (
        serving(server),
        aiohttp.ClientSession(f"http://127.0.0.1:{server.port}") as tcp,
        aiohttp.ClientSession("http://meshq", connector=aiohttp.UnixConnector(str(path))) as unix,
    ):
        yield Desk(service, server, tcp, unix)
