"""What stories of daily use are told with: who leads, what is on whose disk, what a worker is given next."""

from __future__ import annotations

from meshq.core.requests import Job, Outcome
from tests.sim.host import WALL_START_MS
from tests.sim.story import Worker
from tests.sim.world import SimWorld


async def new_leader(world: SimWorld) -> str:
    """Waits until another leads and has done its first write."""
    await world.until("another leads", lambda: any(world.reigns(node) for node in world.nodes))
    (leader,) = world.leaders()
    return leader


async def all_have(world: SimWorld, *tasks: str) -> None:
    """Waits until every machine that runs has these tasks in the versions of the leader."""
    (leader,) = world.leaders()

    def same() -> bool:
        here = [world.machines[node] for node in world.nodes if world.machines[node].running is not None]
        versions = world.machines[leader].disk.versions("tasks", tasks)
        return all(machine.disk.versions("tasks", tasks) == versions for machine in here)

    await world.until("all have them", same)


def kept(job: Job, checkpoint: bytes) -> Outcome:
    """The run kept something, and goes on."""
    return Outcome(task=job.id, epoch=job.epoch, attempt=job.attempt, kind="kept", checkpoint=checkpoint)


def values_of(world: SimWorld, node: str, task: str) -> list[str]:
    """The names of a task's values on this machine's disk, without the task's id."""
    rows = world.machines[node].disk.rows("SELECT ref FROM payloads WHERE ref LIKE ? ORDER BY ref", (f"{task}/%",))
    return [str(ref).partition("/")[2] for (ref,) in rows]


def in_seconds(world: SimWorld, delay_s: float) -> int:
    """The wall clock in so many seconds."""
    return WALL_START_MS + int((world.loop.now + delay_s) * 1000)


async def next_run(worker: Worker, within_s: float) -> Job:
    """The next run of a worker that lives all the time."""
    deadline = worker.world.loop.now + within_s
    while worker.world.loop.now < deadline:
        await worker.beat()
        if jobs := await worker.get(1.0):
            return jobs[0]
    raise AssertionError(f"{worker.name} was given nothing within {within_s} s")


def is_there(world: SimWorld, node: str, task: str) -> bool:
    """Whether this machine's disk has the task."""
    return bool(world.machines[node].disk.rows("SELECT 1 FROM tasks WHERE id = ?", (task,)))


def state_of(world: SimWorld, node: str, task: str) -> str:
    """The task's state on this machine's disk; empty where it is not there."""
    rows = world.machines[node].disk.rows("SELECT state FROM tasks WHERE id = ?", (task,))
    return str(rows[0][0]) if rows else ""


async def done_here(world: SimWorld, task: str) -> None:
    """Waits until every machine that runs has this task, done."""
    here = [node for node in world.nodes if world.machines[node].running is not None]
    await world.until("it is done everywhere", lambda: all(state_of(world, node, task) == "done" for node in here))
