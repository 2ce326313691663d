"""A simulated world: machines with the real node code on a simulated network, in virtual time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from meshq.config import Config
from meshq.core.ids import uuid7
from meshq.core.requests import Job, Submit, Submitted, TaskQuery, TaskSpec, TaskView
from meshq.errors import MeshqError, NotFound
from meshq.node.node import Node, World
from meshq.store.outbox import Outbox
from meshq.store.promise import PromiseStore
from meshq.wire import values
from tests.sim.host import TASKS, WALL_START_MS, Disk, SimClock, SimPool
from tests.sim.loop import Process, VirtualLoop
from tests.sim.network import Network, SimTransport

T = TypeVar("T")
DISK_S = (0.0002, 0.002)


class Machine:
    """A machine: its disk outlives its processes."""

    def __init__(self, node: str, name: str, config: Config) -> None:
        self.node = node
        self.name = name
        self.config = config
        self.disk = Disk()
        self.process: Process | None = None
        self.running: Node | None = None
        self.pool: SimPool | None = None
        self.starts = 0

    @property
    def up(self) -> bool:
        """Whether a process runs, be it paused."""
        return self.process is not None and not self.process.dead

    @property
    def awake(self) -> bool:
        """Whether a process runs and is not paused."""
        return self.process is not None and not self.process.dead and not self.process.paused


class SimWorld:
    """The world of one seed.

    Args:
        seed: Everything that is left to chance follows from it.
        count: How many machines.
        config: Their settings.
        slots: How many tasks run on each at once.
    """

    def __init__(self, seed: int, count: int = 3, config: Config | None = None, slots: int = 2) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.loop = VirtualLoop()
        self.network = Network(self.loop, random.Random(self.rng.random()))
        self.story: list[str] = []
        self.slots = slots
        self.runs: list[tuple[str, str, int]] = []
        self.failures: list[str] = []
        self.ended_s = 0.0
        self.machines: dict[str, Machine] = {}
        self._processes: list[Process] = []
        config = config or Config()
        for index in range(count):
            node = uuid7(WALL_START_MS + index, self.rng.getrandbits(74))
            self.machines[node] = Machine(node, f"n{index}", config)
        self.nodes = list(self.machines)

    def tell(self, text: str) -> None:
        """Adds a line to the story."""
        self.story.append(f"{self.loop.time():9.3f} {text}")

    # -- machines ----------------------------------------------------------------------------------------

    def start(self, node: str) -> None:
        """Starts a machine's daemon."""
        machine = self.machines[node]
        machine.starts += 1
        process = machine.process = Process(machine.name)
        self._processes.append(process)
        self.tell(f"{machine.name} starts ({machine.starts})")
        process.context.run(self.loop.create_task, self._live(machine, process))

    async def _live(self, machine: Machine, process: Process) -> None:
        rng = random.Random(f"{self.seed} {machine.node} {machine.starts}")

        async def delay() -> None:
            await asyncio.sleep(rng.uniform(*DISK_S))

        queue, promise, outbox = machine.disk.open(delay)
        clock = SimClock(self.loop, rng)
        boot = uuid7(clock.wall_ms(), rng.getrandbits(74))
        who = f"{machine.name}.{machine.starts}"
        pool = machine.pool = SimPool(self.loop, rng, self.slots, who, self._ran(machine))
        announced = asyncio.Event()
        announced.set()
        transport = SimTransport(self.network, machine.node, process)
        world = World(
            clock=clock, transport=transport, database=queue,
            promises=PromiseStore(promise), outbox=Outbox(outbox, clock.wall_ms), pool=pool, tasks=TASKS,
            announced=announced, told=lambda node, addresses: None, addresses=lambda: (f"{machine.name}:7373",),
            address_of=lambda node: None,
            pid=machine.starts,
        )  # fmt: skip
        node = Node(machine.node, boot, machine.name, machine.config, world, on_stop=lambda: None)
        await node.load()
        machine.running = node
        transport.listen(node)
        await node.run()

    def _ran(self, machine: Machine) -> Callable[[Job], None]:
        def ran(job: Job) -> None:
            self.runs.append((job.id, machine.name, job.attempt))

        return ran

    def crash(self, node: str) -> None:
        """Kill -9: nothing of the process runs any more, and only its disk is left."""
        machine = self.machines[node]
        if machine.process is not None:
            self.tell(f"{machine.name} crashes")
            machine.process.dead = True
            machine.running = None
            self.network.look()

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

    def leaders(self) -> list[str]:
        """The machines that lead at this instant, each by its own clock."""
        found = []
        for node, machine in self.machines.items():
            process, running = machine.process, machine.running
            if process is not None and running is not None and process.context.copy().run(running.elector.leads):
                found.append(node)
        return found

    def is_one_cluster(self) -> bool:
        """Whether every machine is a replica of one cluster, and knows it."""
        nodes = [machine.running for machine in self.machines.values()]
        rosters = {node.replicator.roster.members for node in nodes if node is not None}
        return None not in nodes and rosters == {tuple(sorted(self.nodes))}

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
        wall_ms = WALL_START_MS + int(self.loop.time() * 1000)
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
        deadline = self.loop.time() + within_s
        while not holds():
            if self.loop.time() > deadline:
                story = "\n".join(self.story[-60:])
                raise AssertionError(f"seed {self.seed}: not within {within_s} s: {what}\n{story}")
            await asyncio.sleep(0.05)

    def _close(self) -> None:
        """Ends every task in order, those of dead processes too: what was held back runs now, and is cancelled."""
        self.network.close()
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
