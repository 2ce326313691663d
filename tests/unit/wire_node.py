"""A node as far as its links go: they, a server and a script that answers, on real loopback sockets."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from meshq.core.ids import cluster_hash
from meshq.wire.handshake import Identity
from meshq.wire.http import build_app
from meshq.wire.link import Links
from meshq.wire.security import Contexts
from meshq.wire.server import Server
from tests.unit.transport_contract import A, Script, until
from tests.unit.wire_service import DictService

Secured = Callable[[], Contexts] | None
BOOT_1, BOOT_2 = "1" * 32, "2" * 32


class LoopClock:
    """Time and chance of a test."""

    def __init__(self) -> None:
        self._random = random.Random(7)

    def boot_s(self) -> float:
        return time.monotonic()

    def run_s(self) -> float:
        return time.monotonic()

    def wall_ms(self) -> int:
        return 0

    def random(self) -> float:
        return self._random.random()

    def random_bits(self, count: int) -> int:
        return self._random.getrandbits(count)


class Node:
    """Links and a server of their own on a loopback port."""

    def __init__(self, node: str, handler: Script | None = None, secured: Secured = None, **identity: Any) -> None:
        self.me = Identity(node=node, boot=BOOT_1, cluster_hash=cluster_hash("test"), port=0)
        self.me = replace(self.me, **identity)
        self.handler = handler or Script()
        self._secured = secured
        self.changes: list[tuple[str, bool]] = []
        self.clones: list[tuple[str, str]] = []
        self.address = ""

    async def __aenter__(self) -> Node:
        self.links = Links(
            self.me,
            self.handler,
            lambda node, up: self.changes.append((node, up)),
            LoopClock(),
            lambda boot, address: self.clones.append((boot, address)),
            self._secured,
        )
        app = build_app(DictService(), self.links, new_id=lambda: A, wall_ms=lambda: 0, body_bytes_max=1000)
        secured = self._secured
        context = None if secured is None else lambda: secured().server
        self.server = Server(app, host="127.0.0.1", port=0, unix_path=None, context=context, grace_s=0.5)
        await self.server.start()
        self.links.listens_at(self.server.port)
        self.address = f"127.0.0.1:{self.server.port}"
        self._group = asyncio.TaskGroup()
        await self._group.__aenter__()
        self._run = self._group.create_task(self.links.run())
        self._door = self._group.create_task(self.server.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._run.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._run
        await self.server.close()
        self._door.cancel()
        await self._group.__aexit__(None, None, None)


async def connect(a: Node, b: Node) -> None:
    a.links.dial(b.me.node, [b.address])
    await until(lambda: b.me.node in a.links.connected() and a.me.node in b.links.connected(), "the two are connected")
