"""A daemon with a port, for tests of those who come from elsewhere; and what else may stand at a port."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from meshq import AsyncClient
from meshq.config import Config
from meshq.core.keys import Key
from meshq.node.daemon import Daemon
from meshq.wire import security
from meshq.wire.security import Credential, Role, Subject

KEY, OTHER_KEY = Key(bytes(20)), Key(bytes([1] * 20))
ALONE = Config(key=KEY.text, host="127.0.0.1", port=0, mdns=False, slots=0, found_wait_s=0.01, drain_s=0.1)


@asynccontextmanager
async def daemon(data_dir: Path, **settings: Any) -> AsyncIterator[str]:
    """A daemon that leads; yields `HOST:PORT`."""
    it = Daemon(msgspec.structs.replace(ALONE, **settings), data_dir)
    async with asyncio.TaskGroup() as group:
        group.create_task(it.run())
        try:
            await it.ready.wait()
            await it.wait_for_leader(10.0)
            async with AsyncClient(data_dir) as client:
                yield (await client.status()).nodes[0].address
        finally:
            it.stop_asked.set()


class Stranger:
    """Somebody else at a port: says `greets`, keeps what it hears, and hangs up unless it is `silent`."""

    def __init__(self, greets: bytes = b"", context: ssl.SSLContext | None = None, *, silent: bool = False) -> None:
        self.heard: list[bytes] = []
        self.to = ""
        self._greets = greets
        self._context = context
        self._silent = silent
        self._over = asyncio.Event()

    async def __aenter__(self) -> Stranger:
        self._server = await asyncio.start_server(self._meet, "127.0.0.1", 0, ssl=self._context)
        self.to = "127.0.0.1:{1}".format(*self._server.sockets[0].getsockname())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._over.set()
        self._server.close()
        await self._server.wait_closed()

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(self._greets)
            self.heard.append(await reader.read(1000))
            if self._silent:
                await self._over.wait()
        finally:
            writer.close()


def credential(*keys: Key, name: str = "ci") -> str:
    """The text of a credential that the first key issued."""
    return Credential(name, security.passport(keys or [KEY], Subject(Role.SUBMIT, name))).text
