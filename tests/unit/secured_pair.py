"""Two real daemons in this process that share a key, and callers of every kind at their ports, over TLS."""

from __future__ import annotations

import asyncio
import json
import socket
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from meshq.config import Config
from meshq.core.keys import Key
from meshq.node.daemon import Daemon
from meshq.store.files import QUEUE_FILE
from meshq.wire import security
from meshq.wire.security import HOLDER, Role, Subject
from meshq.wire.unix import socket_path

KEY = Key(bytes(range(20)))
START_S = 30.0
LOOK_S = 0.05
Answer = tuple[int, Any]


class Machine:
    """One of the daemons."""

    def __init__(self, name: str, data_dir: Path, port: int, seeds: Sequence[str], slots: int) -> None:
        self.data_dir = data_dir
        self.url = f"https://127.0.0.1:{port}"
        config = Config(
            name=name, cluster="pair", key=KEY.text, host="127.0.0.1", port=port, seeds=tuple(seeds), slots=slots,
            mdns=False, found_wait_s=0.05, drain_s=0.1, handover_after_s=3600.0,
        )  # fmt: skip
        self.daemon = Daemon(config, data_dir)

    async def ask(self, caller: Caller, method: str, path: str, body: Any = None) -> Answer:
        """What a caller is answered: status and body."""
        data = None if body is None else json.dumps(body)
        headers = {"Content-Type": "application/json"}
        async with caller.session.request(method, self.url + path, data=data, headers=headers) as answer:
            return answer.status, json.loads(await answer.read() or b"null")

    async def local(self, method: str, path: str) -> Answer:
        """What this machine's own user is answered."""
        connector = aiohttp.UnixConnector(str(socket_path(self.data_dir)))
        async with (
            aiohttp.ClientSession("http://meshq", connector=connector) as session,
            session.request(method, path) as answer,
        ):
            return answer.status, await answer.json()

    def rows(self, *tables: str) -> dict[str, list[tuple[Any, ...]]]:
        """What stands on its disk in these tables."""
        conn = sqlite3.connect(f"file:{self.data_dir / QUEUE_FILE}?mode=ro", uri=True)
        try:
            return {table: conn.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall() for table in tables}
        finally:
            conn.close()


class Caller:
    """Somebody with a certificate of this subject, of the cluster's authority or another's."""

    def __init__(self, subject: Subject, key: Key = KEY) -> None:
        context = security.client_context(security.passport([key], subject))
        self.session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context))


class Pair:
    """The daemons, of which the first leads, and whoever calls them."""

    def __init__(self, leader: Machine, follower: Machine, stack: AsyncExitStack) -> None:
        self.leader, self.follower = leader, follower
        self.machines = {"leader": leader, "follower": follower}
        self._stack = stack
        self.holder = self.caller(HOLDER)

    def caller(self, subject: Subject, key: Key = KEY) -> Caller:
        """A new one."""
        made = Caller(subject, key)
        self._stack.push_async_callback(made.session.close)
        return made

    async def issue(self, name: str) -> Caller:
        """Who brings a credential that is on the list."""
        assert await self.leader.ask(self.holder, "POST", f"/credential/{name}") == (200, {})
        return self.caller(Subject(Role.SUBMIT, name))

    async def submit(self, caller: Caller, **options: Any) -> str:
        """The id of a task that it submits, and that does not begin for an hour unless the options say otherwise."""
        task = {"name": "primes", "args": [10], "delay_s": 3600.0, **options}
        status, answer = await self.leader.ask(caller, "POST", "/submit-task", task)
        assert status == 200, answer
        return str(answer["ids"][0])

    async def finished(self, caller: Caller) -> str:
        """The id of a task that it submitted, and that is done."""
        task = await self.submit(caller, delay_s=None)
        _, answer = await self.leader.ask(caller, "GET", f"/task/{task}?wait=20")
        assert answer["state"] == "done", answer
        return task


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _until_up(machine: Machine, replicas: int) -> None:
    async with asyncio.timeout(START_S):
        await machine.daemon.ready.wait()
        while True:
            _, status = await machine.local("GET", "/status")
            if (
                status["majority"]
                and sum(node["role"] in ("leader", "replica") for node in status["nodes"]) == replicas
            ):
                return
            await asyncio.sleep(LOOK_S)


@asynccontextmanager
async def secured_pair(folder: Path) -> AsyncIterator[Pair]:
    """Two daemons that are one cluster; all of it is gone afterwards."""
    first = Machine("first", folder / "first", _free_port(), (), slots=1)
    seed = first.url.removeprefix("https://")
    second = Machine("second", folder / "second", _free_port(), (seed,), slots=0)
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        try:
            tasks.create_task(first.daemon.run())
            await _until_up(first, 1)
            tasks.create_task(second.daemon.run())
            await _until_up(first, 2)
            await _until_up(second, 2)
            yield Pair(first, second, stack)
        finally:
            second.daemon.stop_asked.set()
            first.daemon.stop_asked.set()
