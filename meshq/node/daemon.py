"""The daemon: a node on a real machine, from the lock on its data directory to its last goodbye."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from meshq.config import Config
from meshq.core.ids import cluster_hash, short, uuid7
from meshq.core.infos import TaskInfo
from meshq.core.messages import PROTOCOL_OLDEST, PROTOCOL_VERSION
from meshq.core.ports import Clock, Pool, TaskLogs
from meshq.discovery import seeds
from meshq.errors import CorruptDatabase, MeshqError, Stopping, StoreError
from meshq.node import house, journal, keyring, logs
from meshq.node.clock import SystemClock
from meshq.node.counters import Counters
from meshq.node.house import House, Trouble
from meshq.node.keyring import Keyring
from meshq.node.node import Node
from meshq.node.surroundings import Surroundings
from meshq.node.world import World
from meshq.store import lock
from meshq.store.files import disk_error
from meshq.store.keyfile import Held
from meshq.store.logs import Logs
from meshq.wire.handshake import Identity
from meshq.wire.http import build_app
from meshq.wire.link import Links
from meshq.wire.server import Server
from meshq.wire.unix import socket_path
from meshq.worker.bounds import Bounds
from meshq.worker.pool import ChildPool

STOPPED_AT_ONCE = 130
EVENTS_KEPT = 30
LOGS_FOLDER = "logs"
# The news of a roster without this node comes with the leader's next hello.
LEFT_S, LOOK_S = 5.0, 0.2
# Lives that end in trouble one after the other: a disk that spoils what is written to it is of no use.
TROUBLES_MAX = 3
TROUBLES_S = 600.0


class Daemon:
    """One daemon's parts on this machine.

    A daemon outlives its node: one whose database is damaged, or whose id shows to be in use elsewhere, begins another
    life in the same process.

    Args:
        config: Its settings.
        data_dir: Everything that it keeps; made if it is not there.
        alone: True for a node that nobody else can reach: no port, no discovery, no peers.
        speaks: The oldest and the newest protocol version that it speaks.
    """

    def __init__(
        self,
        config: Config,
        data_dir: Path,
        *,
        alone: bool = False,
        speaks: tuple[int, int] = (PROTOCOL_OLDEST, PROTOCOL_VERSION),
    ) -> None:
        self.config = config
        self.data_dir = data_dir
        self.alone = alone
        self.speaks = speaks
        self.clock: Clock = SystemClock()
        self.stop_asked = asyncio.Event()
        self.ready = asyncio.Event()
        self._leaving = False
        self._trouble = Trouble()
        self._troubled = asyncio.Event()
        self._troubles: list[float] = []
        self._recent = journal.Recent(EVENTS_KEPT)
        self._boot = ""
        self._counters = Counters()
        self._keyring = Keyring(data_dir, Held())
        self._announced = asyncio.Event()
        self._node: Node | None = None

    def _new_id(self) -> str:
        return uuid7(self.clock.wall_ms(), self.clock.random_bits(74))

    async def run(self) -> None:
        """Runs until `stop_asked`, then stops in stages.

        Raises:
            MeshqError: It can't start here, or can't go on; the text says why and what to do.
        """
        _make_dir(self.data_dir)
        with ExitStack() as stack:
            stack.callback(lock.acquire(self.data_dir).release)
            journal.events.addHandler(self._recent)
            stack.callback(journal.events.removeHandler, self._recent)
            if not self.alone:
                self._keyring = keyring.take(self.config, self.data_dir, self.clock.random_bits)
            waiting = await self._life(Trouble())
            while self._trouble and not self.stop_asked.is_set():
                self._count_trouble()
                waiting = await self._life(self._trouble)
            if self._leaving:
                self._move_out(waiting)

    async def _life(self, before: Trouble) -> int:
        """One life of a node; `_trouble` tells how it ended. Returns how many entries its outbox is left with."""
        self._trouble, self._troubled = Trouble(), asyncio.Event()
        self._announced = asyncio.Event()
        waiting = 0
        try:
            async with house.move_in(self.data_dir, before, self.clock, self._new_id, self._on_corrupt) as here:
                await self._work(here)
                if self._leaving:
                    waiting = await here.outbox.count()
        except CorruptDatabase as error:
            if not self._trouble:
                raise
            journal.warn("damaged", str(error))
        except BaseExceptionGroup as group:
            # Whatever else failed at the same time would have failed without the damage, too.
            damage, others = group.split(CorruptDatabase)
            if not self._trouble or others is not None:
                raise _cause(group) from None
            journal.warn("damaged", str(_cause(damage) if damage is not None else group))
        return waiting

    def _count_trouble(self) -> None:
        if not (self._trouble.copied or self._trouble.damaged):
            return
        now = self.clock.boot_s()
        self._troubles = [*(at for at in self._troubles if at > now - TROUBLES_S), now]
        if len(self._troubles) > TROUBLES_MAX:
            raise StoreError(
                f"{self.data_dir}: the node here had to begin anew {len(self._troubles)} times in a few minutes; see "
                "the warnings above, and if its disk fails, choose another with --data-dir"
            )

    def _move_out(self, waiting: int) -> None:
        folder = house.move_out(self.data_dir, self.clock, waiting=waiting)
        text = f"left for good: what this node was is kept in {folder}, and meshq up begins as a new node"
        if waiting:
            text += f"; {waiting} entries wait in the outbox, and the next node here delivers them"
        journal.tell("moved_out", text, kept=str(folder), waiting=waiting)

    async def _work(self, here: House) -> None:
        self._boot = here.boot
        name = self.config.name or socket.gethostname().split(".")[0]
        task_logs = Logs(self.data_dir / LOGS_FOLDER, self.config.logs_bytes_max, self._counters.add)
        pool = ChildPool(
            self.config.slots_used, self.config.tasks, result_bytes_max=self.config.result_bytes_max,
            primes_max_limit=self.config.primes_max_limit, bounds=_bounds(self.config), on_event=self._counters.add,
            on_printed=None if self.alone else task_logs.add,
        )  # fmt: skip
        async with asyncio.TaskGroup() as tasks:
            background = [tasks.create_task(task_logs.run()), tasks.create_task(pool.run())]
            if self.config.tasks:
                journal.tell("loading", f"loading tasks from {', '.join(self.config.tasks)}")
            infos = await pool.start()
            await self._live(here, name, pool, infos, task_logs)
            for task in background:
                task.cancel()

    async def wait_for_leader(self, wait_s: float) -> None:
        """Returns when the node knows a leader, or after `wait_s`; to be asked once it is `ready`."""
        if self._node is not None:
            elector, deadline = self._node.elector, self.clock.boot_s() + wait_s
            while elector.leader() is None and (left_s := deadline - self.clock.boot_s()) > 0:
                await elector.changed.after(elector.changed.count, left_s)

    async def _live(self, here: House, name: str, pool: Pool, infos: tuple[TaskInfo, ...], task_logs: TaskLogs) -> None:
        config, me, boot = self.config, here.node, here.boot
        handler = _Handler()
        oldest, newest = self.speaks
        who = Identity(
            node=me, boot=boot, cluster_hash=cluster_hash(config.cluster), port=config.port,
            version=newest, oldest=oldest,
        )  # fmt: skip
        ring = self._keyring
        secured = (lambda: ring.contexts(me)) if ring.secured else None
        links = Links(who, handler, self._on_link, self.clock, self._on_clone, secured, self._counters.add)
        around = Surroundings(links, ring, self.clock, config, self._announced)
        world = World(
            clock=self.clock, transport=links, database=here.database, promises=here.promises, outbox=here.outbox,
            pool=pool, tasks=infos, announced=self._announced, told=around.told, addresses=around.addresses,
            address_of=links.address_of, pid=os.getpid(),
            counters=self._counters, version=newest, oldest=oldest, copied=self._on_copied, reborn=self._on_reborn,
            recent=self._recent.all, keyring=ring, logs=task_logs,
        )  # fmt: skip

        def on_drop() -> None:
            links.renew()
            around.announce()

        ring.on_drop = on_drop
        node = self._node = handler.node = Node(me, boot, name, config, world, self._on_stop)
        await node.load()
        app = build_app(
            node.gateway, links, new_id=self._new_id, wall_ms=self.clock.wall_ms,
            body_bytes_max=config.body_bytes_max, trusted=ring.names if ring.secured else None,
        )  # fmt: skip
        server = Server(
            app, host=config.host, port=None if self.alone else config.port, unix_path=socket_path(self.data_dir),
            context=(lambda: ring.contexts(me).server) if ring.secured else None, count=self._counters.add,
        )  # fmt: skip
        await server.start()
        try:
            self._greet(me, name, server.port)
            async with asyncio.TaskGroup() as tasks:
                background = [tasks.create_task(work) for work in (server.run(), node.run(), links.run())]
                if self.alone:
                    self._announced.set()
                else:
                    links.listens_at(server.port)
                    background += [tasks.create_task(around.run(node, server.port))]
                self.ready.set()
                ends = [tasks.create_task(event.wait()) for event in (self.stop_asked, self._troubled)]
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                server.refuse()
                # In trouble there is nothing to hand over: this id is not to be used for one more word.
                if not self._trouble:
                    await node.stop()
                    self._leaving = self._leaving and await self._has_left(node)
                for task in [*background, *ends]:
                    task.cancel()
        finally:
            await server.close()
        if not self._trouble:
            journal.tell("stopped", "stopped")

    async def _has_left(self, node: Node) -> bool:
        """Whether the others have taken this node off the roster; what it holds may be the last copy until then."""
        copy, deadline = node.replicator, self.clock.boot_s() + LEFT_S
        while node.me in copy.roster.members and (left_s := deadline - self.clock.boot_s()) > 0:
            await copy.changed.after(copy.changed.count, min(left_s, LOOK_S))
        if node.me not in copy.roster.members:
            return True
        journal.warn("not_left", "this node is on the roster still, so its data stays; meshq up brings it back")
        return False

    def _on_stop(self, leave: bool = False) -> None:
        self._leaving |= leave
        self.stop_asked.set()

    def _on_reborn(self, reason: str) -> None:
        self._trouble = replace(self._trouble, reborn=reason)
        self._troubled.set()

    def _on_copied(self, reason: str) -> None:
        self._trouble = replace(self._trouble, copied=reason)
        self._troubled.set()

    def _on_corrupt(self, name: str) -> None:
        self._trouble = replace(self._trouble, damaged=self._trouble.damaged | {name})
        self._troubled.set()

    def _greet(self, me: str, name: str, port: int) -> None:
        if self.alone:
            return
        where = f"port {port}, data in {self.data_dir}"
        journal.tell("started", f"{name} ({short(me)}) is up: {where}", node=me, port=port, pid=os.getpid())
        if not self._keyring.secured:
            journal.warn("insecure", "insecure: there is no key, and anyone on this network can run tasks here")
        elif self._keyring.made:
            # The key itself is shown to a person only, once, and is in no file but its own.
            text = "made a key for this cluster; on each other machine type: meshq up --key"
            kept = f"{text} KEY (`meshq key show` tells it)"
            shown = f"{text} {self._keyring.held.keys[0].text}" if sys.stderr.isatty() else kept
            journal.tell("key_made", shown, kept=kept)
        elif self._keyring.warning:
            journal.warn("key_given", self._keyring.warning)

    # -- the others --------------------------------------------------------------------------------------

    def _on_link(self, node: str, connected: bool) -> None:
        if not connected and self._node is not None:
            self._node.peers.on_lost(node)

    def _on_clone(self, boot: str, address: str) -> None:
        # Of two boots the greater is the younger: that one gives way.
        text = f"{address} runs a copy of this data directory, with the same node id"
        if boot > self._boot:
            journal.warn("cloned", f"{text}; it has to take a new one", address=address)
        else:
            self._on_copied(text)


class _Handler:
    """Passes messages to the node, which is made after the links that it needs."""

    def __init__(self) -> None:
        self.node: Node | None = None

    def _there(self) -> Node:
        if self.node is None:
            raise Stopping("this node is starting")
        return self.node

    async def answer(self, sender: str, message: Any) -> Any:
        """The answer to one message."""
        return await self._there().answer(sender, message)

    def stream(self, sender: str, message: Any) -> AsyncIterator[Any]:
        """The parts of the answer to a pull."""
        return self._there().stream(sender, message)


def _bounds(config: Config) -> Bounds:
    return Bounds(
        env=config.child_env, memory_bytes_max=config.child_memory_bytes_max,
        output_bytes_max=config.child_output_bytes_max, allow=config.allow,
    )  # fmt: skip


def _make_dir(data_dir: Path) -> None:
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=data_dir):
            pass
    except OSError as error:
        failed = disk_error(data_dir, error)
        failed.append("; choose another with --data-dir")
        raise failed from error


async def serve(daemon: Daemon) -> None:
    """Runs a daemon until a signal asks it to stop; a second one ends the process at once."""
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if daemon.stop_asked.is_set():
            os._exit(STOPPED_AT_ONCE)
        daemon.stop_asked.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    await daemon.run()


def run_daemon(config: Config, data_dir: Path) -> int:
    """Runs a daemon in the foreground.

    Returns:
        The exit code.

    Raises:
        MeshqError: It could not start, or had to stop; the text says why and what to do.
    """
    logs.set_up(config.log_format)
    seeds.parse_all(config.seeds)
    asyncio.run(serve(Daemon(config, data_dir.expanduser())))
    return 0


def _cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one error of meshq's own that ended all tasks; the group itself where it is anything else."""
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup) and len(found.exceptions) == 1:
        found = found.exceptions[0]
    return found if isinstance(found, MeshqError) else group
