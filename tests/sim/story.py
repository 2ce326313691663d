"""What named stories are told with: the frame of a test on virtual time, clients that see errors, scripted workers."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from meshq.config import Config
from meshq.core import reports
from meshq.core import requests as ask
from meshq.core.infos import TaskInfo
from meshq.core.reports import TaskView
from meshq.core.requests import ClaimRef, Job, Outcome, TaskSpec
from meshq.errors import MeshqError
from meshq.node.node import Node
from meshq.wire import values
from tests.sim.checks import Checker
from tests.sim.host import TASKS, SimPool
from tests.sim.world import SimWorld

T = TypeVar("T")
Story = Callable[[SimWorld], Coroutine[Any, Any, None]]
LOOK_S = 0.05
# Nobody waits longer for an answer; a daemon that died never gives one.
ANSWER_S = 120.0


def story(machines: int = 1, *, slots: int = 0, form: bool = True, **settings: Any) -> Callable[[Story], Any]:
    """Makes a test out of a story about a world, which the checkers look at all the time.

    Args:
        machines: How many; with `form` they are one cluster when the story begins, and the first leads.
        slots: How many tasks run on each at once; with 0 only the story's own workers work.
        form: Whether the machines are started.
        settings: Of `Config`, where they differ from the defaults.
    """

    def make(told: Story) -> Callable[[], None]:
        def test() -> None:
            world = SimWorld(11, machines, Config(**settings), slots=slots)
            world.run(_told(world, told, form=form))
            assert world.failures == [], "\n".join([*world.failures, *world.story[-60:]])
            assert world.network.bugs == []

        test.__name__, test.__doc__ = told.__name__, told.__doc__
        return test

    return make


async def _told(world: SimWorld, told: Story, *, form: bool) -> None:
    checker = Checker(world)

    async def look() -> None:
        while True:
            checker.look()
            await asyncio.sleep(LOOK_S)

    if form:
        await world.form()
    looking = asyncio.create_task(look())
    await told(world)
    looking.cancel()
    checker.look()
    checker.look_at_vectors()


# -- clients ---------------------------------------------------------------------------------------------


def begin(world: SimWorld, node: str, work: Callable[[Node], Awaitable[T]]) -> asyncio.Task[T | MeshqError | None]:
    """Begins something at a machine's daemon; an error of meshq's own is what comes of it."""

    async def caught(running: Node) -> T | MeshqError:
        try:
            return await work(running)
        except MeshqError as error:
            return error

    return world.at(node, caught)


async def of(begun: asyncio.Task[T | MeshqError | None]) -> T:
    """What comes of it; raises the error that the daemon answered with."""
    async with asyncio.timeout(ANSWER_S):
        answer = await begun
    if isinstance(answer, MeshqError):
        raise answer
    assert answer is not None, "there is no daemon"
    return answer


async def call(world: SimWorld, node: str, request: ask.Request) -> Any:
    """A machine's answer to a request; raises the error that it answers with."""
    return await of(begin(world, node, lambda running: running.gateway.call(request)))


async def submit(world: SimWorld, node: str, *specs: TaskSpec) -> ask.Submitted:
    """Submits; raises the error that the machine answers with."""
    answer: ask.Submitted = await call(world, node, ask.Submit(tasks=specs))
    return answer


async def view(world: SimWorld, node: str, task: str, wait_s: float = 0.0) -> TaskView:
    """A task as this machine shows it."""
    answer: TaskView = await call(world, node, ask.TaskQuery(id=task, wait_s=wait_s))
    return answer


async def status(world: SimWorld, node: str) -> reports.Status:
    """The cluster as this machine shows it."""
    answer: reports.Status = await call(world, node, ask.StatusQuery())
    return answer


async def stop(world: SimWorld, node: str) -> None:
    """SIGTERM: the daemon stops in order, then its process ends."""
    await world.stop(node)


def running(world: SimWorld, node: str) -> Node:
    """The daemon on this machine."""
    found = world.machines[node].running
    assert found is not None, "there is no daemon"
    return found


def pool(world: SimWorld, node: str) -> SimPool:
    """What runs tasks on this machine."""
    found = world.machines[node].pool
    assert found is not None, "there is no daemon"
    return found


def leader_known_to(world: SimWorld, node: str) -> str | None:
    """Whom this machine's daemon takes for the leader, when it last noticed a change; None too where there is none."""
    found = world.machines[node].running
    return found.elector.leader() if found is not None else None


def members(world: SimWorld, node: str) -> tuple[str, ...]:
    """The roster as this machine knows it."""
    return running(world, node).replicator.roster.members


def promised(world: SimWorld, node: str) -> int:
    """The highest epoch that this machine promised, as its disk has it."""
    return world.machines[node].disk.promised()[0]


def is_whole(world: SimWorld) -> bool:
    """Whether all machines are one cluster, led by the lowest id."""
    return world.is_one_cluster() and world.reigns(world.nodes[0])


async def gives_up(world: SimWorld) -> None:
    """The first of three leads and can commit nothing: once there is something to commit it resigns; another leads."""
    first, second, third = world.nodes
    await asyncio.sleep(10.0)
    assert world.leaders() == [first], "with nothing to commit there is nothing to resign for"
    since = world.loop.time()
    spec = world.spec()
    submitting = begin(world, first, lambda node: node.gateway.call(ask.Submit(tasks=(spec,))))
    await world.until("it gives up", lambda: world.leaders() == [])
    assert 4.99 <= world.loop.time() - since < 6.5
    await submitting
    await world.until("another leads", lambda: world.reigns(second) or world.reigns(third))


async def all_done(world: SimWorld, *tasks: str, within_s: float = 60.0) -> None:
    """Waits until every machine has these tasks, done."""
    here = [machine for machine in world.machines.values() if not machine.gone]

    def holds() -> bool:
        tables = [dict(machine.disk.rows("SELECT id, state FROM tasks")) for machine in here]
        return all(table.get(task) == "done" for table in tables for task in tasks)

    await world.until("all is done everywhere", holds, within_s)


def waiting_outcomes(world: SimWorld, node: str) -> int:
    """How many outcomes wait on this machine's disk for a leader."""
    sql = "SELECT count(*) FROM entries WHERE kind = 'result'"
    return int(world.machines[node].disk.outbox.execute(sql).fetchone()[0])


def packed(*args: Any) -> bytes:
    """Arguments as a client packs them."""
    return values.pack([list(args), {}])


def states(world: SimWorld, node: str) -> dict[str, int]:
    """How many tasks there are on this machine's disk, by state."""
    return Counter(str(state) for (state,) in world.machines[node].disk.rows("SELECT state FROM tasks"))


def message_of(shown: TaskView) -> str:
    """What a failed task's error says."""
    assert shown.error is not None, f"the task is {shown.state}"
    return str(values.unpack(shown.error)["message"])


# -- workers ---------------------------------------------------------------------------------------------


class Worker:
    """A worker that speaks to one machine, as anybody may, and does just what the story says.

    Args:
        world: Where.
        node: The machine that it speaks to.
        name: Its node id.
        tasks: Those that it knows.
    """

    def __init__(self, world: SimWorld, node: str, name: str, tasks: tuple[TaskInfo, ...] = TASKS) -> None:
        self.world, self.node, self.name, self.tasks = world, node, name, tasks
        self.boot, self.number = "1", 0

    async def beat(self, *runs: Job) -> tuple[str, ...]:
        """Names all its runs; the tasks whose runs count no longer."""
        beat = ask.Heartbeat(
            node=self.name, boot=self.boot, name=self.name, slots=1, running=_claims(runs), tasks=self.tasks
        )
        answer: ask.HeartbeatAnswer = await call(self.world, self.node, beat)
        return answer.invalid

    def next_get(
        self, wait_s: float = 0.0, *, free: int = 1, holds: Sequence[Job] = (), number: int | None = None
    ) -> ask.Get:
        """Its next Get, or one of another number."""
        if number is None:
            self.number += 1
        return ask.Get(
            node=self.name, boot=self.boot, number=self.number if number is None else number, slots=1, free=free,
            names=tuple(task.name for task in self.tasks), holds=_claims(holds), wait_s=wait_s,
        )  # fmt: skip

    async def get(self, wait_s: float = 0.0, **options: Any) -> tuple[Job, ...]:
        """What it is given."""
        answer: ask.Got = await call(self.world, self.node, self.next_get(wait_s, **options))
        return answer.jobs

    async def one(self, wait_s: float = 1.0, **options: Any) -> Job:
        """The one run that it is given."""
        jobs = await self.get(wait_s, **options)
        assert len(jobs) == 1, f"{self.name} was given {len(jobs)} runs"
        return jobs[0]

    def result(self, *outcomes: Outcome) -> ask.SubmitResult:
        """What it says of how runs ended."""
        return ask.SubmitResult(node=self.name, boot=self.boot, outcomes=outcomes)

    async def hand_in(self, *outcomes: Outcome) -> ask.ResultsTaken:
        """Hands in how runs ended."""
        answer: ask.ResultsTaken = await call(self.world, self.node, self.result(*outcomes))
        return answer

    def dies(self) -> None:
        """The next it says is of a new boot."""
        self.boot, self.number = str(int(self.boot) + 1), 0

    async def beats(self, *runs: Job, for_s: float) -> set[str]:
        """Names these runs every second; all that it was told to end."""
        ended: set[str] = set()
        until = self.world.loop.time() + for_s
        while self.world.loop.time() < until:
            ended.update(await self.beat(*runs))
            await asyncio.sleep(1.0)
        return ended


def _claims(runs: Sequence[Job]) -> tuple[ClaimRef, ...]:
    return tuple(job.claim for job in runs)


def done(job: Job, result: Any = "42") -> Outcome:
    """The run ended well, after a second."""
    return Outcome(
        task=job.id, epoch=job.epoch, attempt=job.attempt, kind="done", result=values.pack(result), run_s=1.0
    )


def raised(job: Job, message: str = "no", *, final: bool = False) -> Outcome:
    """The run raised an error."""
    error = values.pack({"type": "ValueError", "message": message, "traceback": ""})
    return replace(done(job), kind="failed", result=None, error=error, final=final)
