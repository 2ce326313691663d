"""The agent between twins of its ports: what runs keep and tell on their way, and a node that is taken out of work."""

from __future__ import annotations

import asyncio

from meshq.core.requests import Outcome, ResultsTaken, RunProgress, SubmitResult
from meshq.errors import Malformed, StoreError
from tests.unit.virtual import virtually
from tests.unit.worker_twins import TwinLeader, TwinWork
from tests.unit.worker_world import World, in_world, working


def kept_by(world: World, task: str) -> list[bytes | None]:
    """The checkpoints of this task that leaders took, in their order."""
    return [outcome.checkpoint for _, outcome in world.ledger.taken if (outcome.task, outcome.kind) == (task, "kept")]


def kinds_of(world: World, task: str) -> list[str]:
    return [outcome.kind for _, outcome in world.ledger.taken if outcome.task == task]


async def begun(world: World, run_s: float = 10.0, count: int = 1) -> list[str]:
    tasks = world.submit(count, run_s)
    await world.until(lambda: all(world.pool.begun[task] for task in tasks))
    return tasks


# -- checkpoints -------------------------------------------------------------------------------------------------


def test_what_a_run_keeps_is_handed_in_and_the_run_goes_on() -> None:
    async def test(world: World) -> None:
        (task,) = await begun(world)
        claim = world.agent.claims()
        world.pool.keep(task, b"half")
        await world.until(lambda: kept_by(world, task))
        assert world.agent.claims() == claim
        assert (world.ledger.rows[task].claim, world.ledger.rows[task].checkpoint) == (claim[0], b"half")
        await world.until(lambda: not world.ledger.unfinished())
        await world.until(lambda: not world.agent.claims())
        assert kinds_of(world, task) == ["kept", "done"]
        assert world.pool.begun[task] == 1
        assert world.events == []

    in_world(test)
    in_world(test, local=True)


class OneByOne(TwinWork):
    """A leader that takes outcomes only when it is let to."""

    def __init__(self, leader: TwinLeader) -> None:
        super().__init__(leader)
        self.lets = asyncio.Semaphore(0)

    async def submit_result(self, request: SubmitResult) -> ResultsTaken:
        await self.lets.acquire()
        return await super().submit_result(request)


def test_a_claim_is_named_until_its_own_outcome_is_there_and_not_what_it_kept() -> None:
    async def main() -> None:
        world = World()
        world.work = work = OneByOne(world.leader)
        world.new_agent()
        async with working(world):
            (task,) = await begun(world, 1.0)
            claim = world.agent.claims()
            world.pool.keep(task, b"half")
            await world.until(lambda: world.pool.ended)
            await world.until(lambda: len(world.results.entries) == 2)
            work.lets.release()
            await world.until(lambda: kept_by(world, task))
            await world.until(lambda: len(world.results.entries) == 1)
            assert world.agent.claims() == claim
            work.lets.release()
            await world.until(lambda: not world.agent.claims())
            assert kinds_of(world, task) == ["kept", "done"]

    virtually(main())


def test_while_the_disk_takes_nothing_only_the_newest_checkpoint_of_each_run_waits() -> None:
    async def test(world: World) -> None:
        tasks = await begun(world, 20.0, 2)
        world.results.failure = StoreError()
        world.leader.refusals["submit_result"] = StoreError()
        for number in range(200):
            for task in tasks:
                world.pool.keep(task, b"%d" % number)
            await asyncio.sleep(0.01)
        world.results.failure = None
        del world.leader.refusals["submit_result"]
        await world.until(lambda: all(b"199" in kept_by(world, task) for task in tasks))
        for task in tasks:
            assert len(kept_by(world, task)) <= 3
            assert kept_by(world, task)[-1] == b"199"
        await world.until(lambda: not world.ledger.unfinished())

    in_world(test)


def test_what_is_on_disk_is_not_overtaken_when_this_node_begins_to_lead() -> None:
    async def test(world: World) -> None:
        (task,) = await begun(world, 5.0)
        world.leader.refusals["submit_result"] = StoreError()
        world.pool.keep(task, b"old")
        await world.until(lambda: world.count("result_failed"))
        del world.leader.refusals["submit_result"]
        world.local = True
        world.pool.keep(task, b"new")
        await world.until(lambda: not world.agent.claims())
        assert kept_by(world, task) == [b"old", b"new"]
        assert kinds_of(world, task)[-1] == "done"
        # With nothing of it on the disk any more, the straight way is open again.
        (task,) = await begun(world, 1.0)
        written = world.results.written
        world.pool.keep(task, b"straight")
        await world.until(lambda: not world.agent.claims())
        assert (kinds_of(world, task), world.results.written) == (["kept", "done"], written)

    in_world(test)


def test_a_checkpoint_that_the_leader_will_never_take_costs_the_run_nothing() -> None:
    async def test(world: World) -> None:
        (task,) = await begun(world, 2.0)
        world.leader.refusals["submit_result"] = Malformed("kind: must be one of done, failed")
        world.pool.keep(task, b"half")
        await world.until(lambda: world.count("checkpoint_refused"))
        del world.leader.refusals["submit_result"]
        await world.until(lambda: not world.agent.claims())
        assert kinds_of(world, task) == ["done"]
        await world.until(lambda: not world.results.entries)

    in_world(test)


def test_large_checkpoints_are_handed_in_apart() -> None:
    async def test(world: World) -> None:
        tasks = await begun(world, 10.0, 16)
        for task in tasks:
            world.pool.keep(task, bytes(1 << 20))
        await world.until(lambda: all(kept_by(world, task) for task in tasks))
        sizes = [sum(len(each.checkpoint or b"") for each in request.outcomes) for _, request in world.leader.submits]
        assert max(sizes) <= world.config.body_bytes_max // 2
        assert sum(sizes) == 16 << 20

    in_world(test, slots=16)


# -- progress ----------------------------------------------------------------------------------------------------


def test_heartbeats_tell_how_far_runs_are() -> None:
    async def test(world: World) -> None:
        (task,) = await begun(world)
        assert all(beat.progress == () for _, beat in world.leader.heartbeats)
        world.pool.told[task] = progress = RunProgress(task=task, done=1.0, total=2.0, note="on it")
        await world.until(lambda: world.leader.heartbeats[-1][1].progress == (progress,), 2.0)
        world.takeover(2)
        await world.until(lambda: world.leader.heartbeats, 2.0)
        assert world.leader.heartbeats[0][1].progress == (progress,)

    in_world(test)


# -- a node that is taken out of work ----------------------------------------------------------------------------


def test_a_drained_worker_asks_for_nothing_gives_back_what_is_unbegun_and_ends_what_runs() -> None:
    async def test(world: World) -> None:
        running = await begun(world, 5.0, 2)
        held = world.submit(4, 0.01)
        world.agent.drain(True)
        await world.until(lambda: world.leader.heartbeats[-1][1].drained, 0.5)
        await world.until(lambda: not any(world.ledger.rows[task].claim for task in held))
        gets = len(world.leader.gets)
        await world.until(lambda: all(world.ledger.rows[task].outcome for task in running))
        await asyncio.sleep(60.0)
        assert len(world.leader.gets) == gets
        assert not any(world.pool.begun[task] for task in held)
        assert (world.agent.claims(), world.agent.drained) == ((), True)
        world.agent.drain(False)
        assert await world.until(lambda: not world.ledger.unfinished()) < 2.0
        assert not world.leader.heartbeats[-1][1].drained

    in_world(test)


def test_what_a_get_brings_that_waited_when_the_drain_began_is_given_back() -> None:
    async def test(world: World) -> None:
        await asyncio.sleep(5.0)
        world.agent.drain(True)
        (task,) = world.submit(1, 0.01)
        await world.until(lambda: world.ledger.rows[task].given)
        await world.until(lambda: world.ledger.rows[task].claim is None, 2.0)
        assert not world.pool.begun[task]
        released: list[Outcome] = [outcome for _, outcome in world.ledger.taken]
        assert [outcome.kind for outcome in released] == ["released"]
        await asyncio.sleep(60.0)
        assert world.ledger.rows[task].given == 1

    in_world(test)


def test_a_drained_worker_can_be_stopped() -> None:
    async def test(world: World) -> None:
        (task,) = await begun(world, 5.0)
        world.agent.drain(True)
        await world.agent.stop(10.0)
        assert world.ledger.rows[task].outcome is not None
        assert world.leader.heartbeats[-1][1].draining

    in_world(test)
