"""A simulated world: machines with the real node code on a simulated network, in virtual time."""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, Protocol, TypeVar

from meshq.config import Config
from meshq.core.ids import uuid7
from meshq.core.membership import NOBODY, Roster
from meshq.core.reports import TaskView
from meshq.core.requests import Job, Submit, Submitted, TaskQuery, TaskSpec
from meshq.errors import MeshqError, NotFound
from meshq.node.house import TIME_DIGITS
from meshq.node.node import Node
from meshq.node.world import World
from meshq.store.outbox import Outbox
from meshq.store.promise import PromiseStore
from meshq.wire import values
from tests.sim.disk import Disk
from tests.sim.host import TASKS, WALL_START_MS, SimClock, SimLogs, SimPool
from tests.sim.loop import Process, Timeline, VirtualLoop
from tests.sim.machine import Machine
from tests.sim.network import Network, SimTransport

T = TypeVar("T")
RESTART_S = 2.0  # what watches over a daemon starts it again


class Watcher(Protocol):
    """Who looks on from outside."""

    def after_write(self, machine: Machine, database: str) -> None:
        """A transaction of one of its databases is done; nobody was told yet."""

    def on_run(self, machine: Machine, job: Job) -> None:
        """A run begins there."""


class Blind:
    """Sees nothing."""

    def after_write(self, machine: Machine, database: str) -> None:
        """Forgets what the disk noted."""
        machine.disk.touched.clear()

    def on_run(self, machine: Machine, job: Job) -> None:
        """Nothing."""


class SimWorld:
    """The world of one seed.

    Args:
        seed: Everything that is left to chance follows from it.
        count: How many machines.
        config: Their settings.
        slots: How many tasks run on each at once.
        drift: How much faster or slower their clocks may run.
    """

    def __init__(
        self, seed: int, count: int = 3, config: Config | None = None, slots: int = 2, drift: float = 0.0
    ) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.loop = VirtualLoop()
        self.network = Network(self.loop, random.Random(self.rng.random()))
        self.story: list[str] = []
        self.slots = slots
        self.drift = drift
        self.runs: list[tuple[str, str, int]] = []
        self.failures: list[str] = []
        self.ended_s = 0.0
        self.watcher: Watcher = Blind()
        self.machines: dict[str, Machine] = {}
        self.nodes: list[str] = []
        self._over = False
        self._outside = contextvars.copy_context()
        self._processes: list[Process] = []
        self._config = config or Config()
        for _ in range(count):
            self.add()

    def tell(self, text: str) -> None:
        """Adds a line to the story."""
        self.story.append(f"{self.loop.now:9.3f} {text}")

    def name(self, node: str | None) -> str:
        """What people call a machine."""
        return self.machines[node].name if node in self.machines else str(node)

    def outside(self, work: Callable[[], T]) -> T:
        """Does something in no process, wherever it is called: what a nemesis does at the very moment of a write."""
        return self._outside.copy().run(work)

    # -- machines ----------------------------------------------------------------------------------------

    def add(self, config: Config | None = None, disk: Disk | None = None) -> str:
        """A new machine, which was never started; its id is higher than all before."""
        index = len(self.nodes)
        node = uuid7(WALL_START_MS + index, self.rng.getrandbits(74))
        timeline = Timeline()
        if self.drift:
            rate = self.rng.uniform(1 - self.drift, 1 + self.drift)
            timeline = Timeline(rate, self.rng.choice((0.0, 3.0, 86_400.0)))
        self.machines[node] = Machine(node, f"n{index}", config or self._config, timeline, disk or Disk())
        self.nodes.append(node)
        return node

    def start(self, node: str) -> None:
        """Starts a machine's daemon."""
        machine = self.machines[node]
        machine.starts += 1
        machine.stopping = False
        process = machine.process = Process(machine.name, machine.timeline)
        self._processes.append(process)
        self.tell(f"{machine.name} starts ({machine.starts})")
        process.context.run(self.loop.create_task, self._live(machine, process))

    async def _live(self, machine: Machine, process: Process) -> None:
        try:
            await self._serve(machine, process)
        except Exception as error:
            first: BaseException = error
            while isinstance(first, BaseExceptionGroup):
                first = first.exceptions[0]
            if self._over:
                return
            if isinstance(first, MeshqError):
                self.outside(partial(self._ended, machine, process, first))
            else:
                self.failures.append(f"{machine.name}: the daemon died of {first!r}")
                self.tell(self.failures[-1])

    def _reborn(self, machine: Machine, process: Process, reason: str) -> None:
        """The daemon begins another life in the same process."""
        if not process.dead:
            self.tell(f"{machine.name} is born again: {reason}")
            self.outside(partial(self._again, machine))

    def _again(self, machine: Machine) -> None:
        self._kill(machine)
        self.start(machine.node)

    def _copied(self, machine: Machine, process: Process, reason: str) -> None:
        """The daemon found that its id is not its own any more."""
        if not process.dead:
            self.tell(f"{machine.name} ends: {reason}")
            self.outside(partial(self._renamed, machine))

    def _renamed(self, machine: Machine) -> None:
        self._kill(machine)
        machine.gone = True
        self.start(self.heir(machine.node, machine.disk))

    def heir(self, node: str, disk: Disk) -> str:
        """A machine with a database of another node, which its house has found out: it has an id of its own."""
        disk.note("formerly", node)
        found = self.add(self.machines[node].config, disk)
        self.tell(f"{self.name(found)} has what {self.name(node)} had")
        self._after_write(self.machines[found], "queue")
        return found

    def _ended(self, machine: Machine, process: Process, error: BaseException) -> None:
        """The daemon ended with an error of meshq's own, as it may when its disk fails at the start."""
        if process.dead:
            return
        self.tell(f"{machine.name} ends: {error}")
        self._kill(machine)
        self.loop.call_later(RESTART_S, self._start_again, machine, process)

    def _start_again(self, machine: Machine, process: Process) -> None:
        if machine.process is process and not machine.gone:
            self.start(machine.node)

    async def _serve(self, machine: Machine, process: Process) -> None:
        rng = random.Random(f"{self.seed} {machine.node} {machine.starts}")
        after_write = partial(self._after_write, machine)
        queue, promise, outbox = machine.disk.open(rng, asyncio.sleep, after_write)
        clock = SimClock(self.loop, rng, machine.timeline, lambda: machine.wall_ahead_ms)
        # As the real house does: later lives have higher boots, however the wall clock was set.
        after_ms = int(machine.boot[:TIME_DIGITS], 16) + 1 if machine.boot else 0
        boot = machine.boot = uuid7(max(clock.wall_ms(), after_ms), rng.getrandbits(74))
        who = f"{machine.name}.{machine.starts}"
        logs = SimLogs(machine.printed)
        pool = machine.pool = SimPool(self.loop, rng, self.slots, who, partial(self._ran, machine), logs.add)
        announced = asyncio.Event()
        announced.set()
        transport = SimTransport(self.network, machine.node, process)
        world = World(
            clock=clock, transport=transport, database=queue,
            promises=PromiseStore(promise), outbox=Outbox(outbox, clock.wall_ms), pool=pool, tasks=TASKS,
            announced=announced, told=lambda node, addresses: None, addresses=lambda: (f"{machine.name}:7373",),
            address_of=lambda node: None,
            pid=machine.starts, reborn=partial(self._reborn, machine, process),
            copied=partial(self._copied, machine, process), logs=logs,
        )  # fmt: skip
        node = Node(machine.node, boot, machine.name, machine.config, world, on_stop=lambda leave: None)
        await node.load()
        machine.running = node
        transport.listen(node)
        await node.run()

    def _after_write(self, machine: Machine, database: str) -> None:
        self.watcher.after_write(machine, database)

    def _ran(self, machine: Machine, job: Job) -> None:
        self.runs.append((job.id, machine.name, job.attempt))
        self.watcher.on_run(machine, job)

    def _kill(self, machine: Machine) -> None:
        if machine.process is not None:
            machine.process.dead = True
            machine.running = None
            self.network.look()

    def crash(self, node: str) -> None:
        """Kill -9: nothing of the process runs any more, and only its disk is left."""
        machine = self.machines[node]
        if machine.process is not None:
            self.tell(f"{machine.name} crashes")
            self._kill(machine)

    def pause(self, node: str) -> None:
        """SIGSTOP."""
        machine = self.machines[node]
        if machine.process is not None:
            self.tell(f"{machine.name} pauses")
            machine.process.paused = True

    def resume(self, node: str) -> None:
        """SIGCONT."""
        machine = self.machines[node]
        if machine.process is not None and machine.process.paused:
            self.tell(f"{machine.name} resumes")
            self.loop.let_go(machine.process)

    def sleep(self, node: str) -> None:
        """The lid is closed: nothing runs, timers stand still, and one clock counts on."""
        machine = self.machines[node]
        if not machine.timeline.asleep:
            self.tell(f"{machine.name} falls asleep")
            machine.timeline.sleep(self.loop.now)

    def wake(self, node: str) -> None:
        """The lid is opened."""
        machine = self.machines[node]
        if machine.timeline.asleep:
            self.tell(f"{machine.name} wakes")
            machine.timeline.wake(self.loop.now)
            if machine.process is not None and not machine.process.paused:
                self.loop.let_go(machine.process)

    async def stop(self, node: str) -> None:
        """SIGTERM: the daemon stops in order, then its process ends."""
        machine, process = self.machines[node], self.machines[node].process
        self.tell(f"{machine.name} is told to stop")
        machine.stopping = True
        await self.at(node, lambda running: running.stop())
        if machine.process is process and process is not None and not process.dead:
            self.tell(f"{machine.name} has stopped")
            self._kill(machine)

    # -- what can be seen --------------------------------------------------------------------------------

    def leaders(self) -> list[str]:
        """The machines that lead a majority at this instant, each by its own clock."""
        return [
            node
            for node, machine in self.machines.items()
            if machine.running is not None and machine.running.elector.leads()
        ]

    def roster_of(self, node: str) -> Roster:
        """The roster as a machine knows it; an empty one where no daemon runs."""
        running = self.machines[node].running
        return running.replicator.roster if running is not None else NOBODY

    def is_one_cluster(self) -> bool:
        """Whether every machine that is left follows one roster, which names as many of them as there may be."""
        here = [machine for machine in self.machines.values() if not machine.gone]
        running = [machine.running for machine in here if machine.running is not None]
        rosters = {(node.replicator.roster.genesis, node.replicator.roster.members) for node in running}
        if len(running) < len(here) or len(rosters) != 1:
            return False
        _, members = rosters.pop()
        fit = [machine.node for machine in here if machine.config.replica != "never"]
        replicas = min(len(fit), here[0].config.replicas)
        return set(members) <= set(fit) and len(members) == replicas

    def reigns(self, node: str) -> bool:
        """Whether this machine leads and its first write is committed."""
        running = self.machines[node].running
        return running is not None and running.leadership.reign is not None and node in self.leaders()

    async def form(self) -> None:
        """Starts all machines and waits until they are one cluster that works; the lowest id leads."""
        for node in self.nodes:
            self.start(node)
        await self.until("one cluster of all", self.is_one_cluster)
        await self.until("the lowest id leads", lambda: self.reigns(self.nodes[0]))

    # -- clients -----------------------------------------------------------------------------------------

    def at(self, node: str, work: Callable[[Node], Awaitable[T]]) -> asyncio.Task[T | None]:
        """A client on this machine: its request dies with the daemon. Errors of meshq's own are no result."""
        machine = self.machines[node]

        async def run() -> T | None:
            if machine.running is None:
                return None
            try:
                return await work(machine.running)
            except NotFound:
                return None
            except MeshqError as error:
                self.tell(f"{machine.name} answers {error.code}: {error}")
                return None

        process = machine.process
        if process is None:
            raise RuntimeError(f"{machine.name} was never started")
        task: asyncio.Task[T | None] = process.context.copy().run(self.loop.create_task, run())
        return task

    def spec(self, name: str = "work", **options: Any) -> TaskSpec:
        """A new task."""
        wall_ms = WALL_START_MS + int(self.loop.now * 1000)
        options.setdefault("payload", values.pack([[], {}]))
        return TaskSpec(id=uuid7(wall_ms, self.rng.getrandbits(74)), name=name, **options)

    async def submit(self, node: str, *specs: TaskSpec) -> Submitted | None:
        """What a client on this machine is told; None if it is told an error."""
        answer = await self.at(node, lambda running: running.gateway.call(Submit(tasks=specs)))
        return answer if isinstance(answer, Submitted) else None

    async def task(self, node: str, task: str, wait_s: float = 0.0) -> TaskView | None:
        """What a client on this machine sees of a task."""
        answer = await self.at(node, lambda running: running.gateway.call(TaskQuery(id=task, wait_s=wait_s)))
        return answer if isinstance(answer, TaskView) else None

    # -- running -----------------------------------------------------------------------------------------

    def run(self, story: Coroutine[Any, Any, None]) -> None:
        """Runs a story to its end, then takes the world down."""
        try:
            self.loop.run_until_complete(story)
        finally:
            self._close()

    async def until(self, what: str, holds: Callable[[], bool], within_s: float = 60.0) -> None:
        """Waits until something holds.

        Raises:
            AssertionError: It did not in that time; the story so far is shown.
        """
        deadline = self.loop.now + within_s
        while not holds():
            if self.loop.now > deadline:
                story = "\n".join(self.story[-60:])
                raise AssertionError(f"seed {self.seed}: not within {within_s} s: {what}\n{story}")
            await asyncio.sleep(0.05)

    def _close(self) -> None:
        """Ends every task in order, those of dead processes too: what was held back runs now, and is cancelled."""
        self._over = True
        self.network.close()
        self.network.watch = lambda sender, to, message: None
        self.network.after = lambda: None
        self.watcher = Blind()
        self.loop.set_exception_handler(lambda loop, context: None)
        for task in self.loop.tasks:
            task.cancel()
        self.loop.revive(self._processes)
        pending = [task for task in self.loop.tasks if not task.done()]
        if pending:
            self.loop.run_until_complete(asyncio.wait(pending, timeout=60.0))
        for task in self.loop.tasks:
            if task.done() and not task.cancelled():
                task.exception()
        for machine in self.machines.values():
            machine.disk.close()
        self.loop.close()
