"""The agent between twins of its ports, on virtual time: the straight road, and whose claims count."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from meshq.config import Config
from meshq.core.requests import Got, Outcome
from meshq.errors import StoreError
from meshq.worker.agent import Agent
from meshq.worker.pool import ChildPool
from tests.unit.virtual import now_s
from tests.unit.worker_twins import TwinClock, TwinLeader
from tests.unit.worker_world import Replay, World, in_world, job, replaying


def named_in_gets(leader: TwinLeader, task: str) -> list[bool]:
    return [task in {claim.task for claim in get.holds} for _, get in leader.gets]


# -- the straight road -----------------------------------------------------------------------------------------


def test_all_tasks_are_done_once_and_the_outbox_is_empty_afterwards() -> None:
    async def test(world: World) -> None:
        world.submit(500, 0.01)
        await world.until(lambda: not world.ledger.unfinished())
        await world.until(lambda: not world.results.entries)
        assert set(world.pool.begun.values()) == {1}
        assert {row.given for row in world.ledger.rows.values()} == {1}
        assert world.results.written == 500
        assert world.events == []
        assert world.agent.claims() == ()
        assert world.agent.load() == (0, 0)

    in_world(test)


def test_gets_are_numbered_one_at_a_time_and_rare_when_there_is_nothing_to_do() -> None:
    async def test(world: World) -> None:
        await asyncio.sleep(100.0)
        gets = [get for _, get in world.leader.gets]
        assert [get.number for get in gets] == list(range(1, len(gets) + 1))
        assert len(gets) <= 6
        assert all((get.free, get.slots, get.names, get.wait_s) == (2, 2, ("work",), 20.0) for get in gets)
        assert len(world.leader.heartbeats) == pytest.approx(100, abs=2)

    in_world(test)


def test_a_task_that_comes_while_a_get_waits_is_begun_at_once() -> None:
    async def test(world: World) -> None:
        await asyncio.sleep(7.0)
        (task,) = world.submit(1, 1.0)
        assert await world.until(lambda: world.pool.begun[task]) < 0.01

    in_world(test)


def test_no_more_is_asked_for_while_all_slots_have_long_runs() -> None:
    async def test(world: World) -> None:
        world.leader.per_get = 2
        world.submit(6, 50.0)
        await asyncio.sleep(40.0)
        assert world.pool.begun.total() == 2
        assert len(world.agent.claims()) == 2
        assert len(world.leader.gets) == 1

    in_world(test)


def test_short_runs_are_asked_for_before_the_slots_are_empty() -> None:
    async def test(world: World) -> None:
        world.leader.per_get = 20
        world.submit(2000, 0.01)
        began_s = now_s()
        await world.until(lambda: not world.ledger.unfinished())
        # Two slots with 10 s of work each; what they idle between two Gets would come on top.
        assert now_s() - began_s < 10.5

    in_world(test)


def test_it_works_on_when_one_slot_has_a_long_run() -> None:
    async def test(world: World) -> None:
        world.leader.per_get = 1
        world.submit(1, 100.0)
        world.submit(50, 0.01)
        assert await world.until(lambda: len(world.ledger.unfinished()) == 1) < 5.0

    in_world(test)


def test_the_first_heartbeat_and_each_after_a_change_of_leader_tell_the_tasks() -> None:
    async def test(world: World) -> None:
        first = world.leader
        await asyncio.sleep(5.5)
        world.takeover(2)
        await asyncio.sleep(0.01)
        assert [beat.tasks is not None for _, beat in first.heartbeats] == [True, False, False, False, False, False]
        assert [beat.tasks is not None for _, beat in world.leader.heartbeats] == [True]
        assert (world.leader.heartbeats[0][1].name, world.leader.heartbeats[0][1].slots) == ("name", 2)

    in_world(test)


# -- claims ----------------------------------------------------------------------------------------------------


def test_a_claim_is_named_until_the_leader_has_its_outcome() -> None:
    """Else the leader would take it for never arrived, and give the task to somebody else."""

    async def test(world: World) -> None:
        world.leader.refusals["submit_result"] = StoreError()
        (task,) = world.submit(1, 0.1)
        await world.until(lambda: world.results.written)
        world.submit(30, 0.3)
        await asyncio.sleep(8.0)
        assert len(world.leader.gets) > 3
        assert all(named_in_gets(world.leader, task)[1:])
        beats = [task in {claim.task for claim in beat.running} for at_s, beat in world.leader.heartbeats if at_s > 1]
        assert all(beats)
        assert len(beats) > 5
        assert {row.given for row in world.ledger.rows.values() if row.claim} == {1}
        del world.leader.refusals["submit_result"]
        await world.until(lambda: not world.ledger.unfinished())
        assert set(world.pool.begun.values()) == {1}

    in_world(test)


def test_a_run_that_counts_no_longer_is_killed() -> None:
    async def test(world: World) -> None:
        (lost, other) = world.submit(2, 30.0)
        await world.until(lambda: world.pool.running() == 2)
        world.leader.invalid.add(lost)
        world.ledger.rows[lost].outcome = Outcome(task=lost, epoch=1, attempt=9, kind="done")
        await asyncio.sleep(1.1)
        assert [job.id for job in world.pool.held()] == [other]
        assert [claim.task for claim in world.agent.claims()] == [other]
        assert world.count("run_invalid") == 1
        # Its slot is free, and asked for.
        (third,) = world.submit(1, 1.0)
        assert await world.until(lambda: world.pool.begun[third]) < 0.01

    in_world(test)


def test_runs_of_a_lower_epoch_are_refused() -> None:
    async def test(world: World, replay: Replay) -> None:
        await asyncio.sleep(0.95)
        assert sorted(world.pool.begun) == [job(1, 5).id, job(3, 5).id]
        assert world.count("stale_epoch") == 1
        assert [claim.task for claim in replay.asked[2].holds] == [job(1, 5).id]
        assert [get.number for get in replay.asked] == [1, 2, 3, 4]

    answers = [Got(epoch=5, jobs=(job(1, 5),)), Got(epoch=4, jobs=(job(2, 4),)), Got(epoch=5, jobs=(job(3, 5),))]
    replaying(answers, test)


def test_an_epoch_that_the_node_knows_counts_too() -> None:
    async def test(world: World, replay: Replay) -> None:
        world.agent.follow_epoch(6, split=False)
        world.agent.follow_epoch(3, split=False)
        await asyncio.sleep(0.95)
        assert not world.pool.begun

    replaying([Got(epoch=5, jobs=(job(1, 5),))], test)


def test_in_a_split_a_lower_epoch_counts_and_after_it_the_highest_known_one_does_again() -> None:
    async def test(world: World, replay: Replay) -> None:
        await asyncio.sleep(0.15)
        assert sorted(world.pool.begun) == [job(1, 9).id]
        world.agent.follow_epoch(4, split=True)
        replay.answers.put_nowait(Got(epoch=4, jobs=(job(2, 4),)))
        await world.until(lambda: job(2, 4).id in world.pool.begun)
        world.agent.follow_epoch(4, split=False)
        replay.answers.put_nowait(Got(epoch=8, jobs=(job(3, 8),)))
        await world.until(lambda: world.count("stale_epoch"))
        replay.answers.put_nowait(Got(epoch=9, jobs=(job(4, 9),)))
        await world.until(lambda: job(4, 9).id in world.pool.begun)
        assert job(3, 8).id not in world.pool.begun

    replaying([Got(epoch=9, jobs=(job(1, 9),))], test)


def test_the_same_claim_twice_is_one_run_and_a_newer_one_takes_its_place() -> None:
    async def test(world: World, replay: Replay) -> None:
        await asyncio.sleep(0.95)
        assert world.pool.begun == {job(1, 5).id: 2}
        assert [(held.epoch, held.attempt) for held in world.pool.held()] == [(6, 2)]
        assert [(claim.epoch, claim.attempt) for claim in world.agent.claims()] == [(6, 2)]

    first, same, newer = job(1, 5), job(1, 5), job(1, 6, 2)
    replaying([Got(epoch=5, jobs=(first,)), Got(epoch=5, jobs=(same,)), Got(epoch=6, jobs=(newer, newer))], test)


def test_an_answer_that_means_an_older_run_of_the_task_ends_no_newer_one() -> None:
    async def test(world: World, replay: Replay) -> None:
        await asyncio.sleep(0.5)
        world.leader.heartbeats_pass.clear()
        world.leader.invalid.add(job(1, 0).id)
        await world.until(lambda: len(world.leader.heartbeats) == 2)
        assert [claim.attempt for claim in world.leader.heartbeats[-1][1].running] == [1]
        replay.answers.put_nowait(Got(epoch=0, jobs=(job(1, 0, 2),)))
        await world.until(lambda: [held.attempt for held in world.pool.held()] == [2])
        world.leader.heartbeats_pass.set()
        await world.until(lambda: world.count("run_invalid"))
        assert [held.attempt for held in world.pool.held()] == [2]

    replaying([Got(epoch=0, jobs=(job(1, 0),))], test)


# -- with real children --------------------------------------------------------------------------------------------


async def test_with_real_children(tmp_path: Path) -> None:
    module = tmp_path / "agent_tasks.py"
    module.write_text(
        "import os\nfrom meshq import task\n@task\ndef work(run_s, kind):\n"
        "    if kind == 'exit': os._exit(1)\n    return kind\n"
    )
    world = World()
    pool = ChildPool(2, [str(module)], on_event=lambda name, text: world.events.append((name, text)))
    world.submit(300)
    world.submit(1, kind="exit")
    world.submit(300)
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        group.create_task(pool.run())
        tasks = await pool.start()
        agent = Agent(
            "node", "boot", "name", pool, world.work, world.results, TwinClock(), Config(), tasks,
            lambda name, text: world.events.append((name, text)),
        )  # fmt: skip
        group.create_task(agent.run())
        while world.ledger.unfinished():
            world.leader.changed()
            await asyncio.sleep(0.01)
        await agent.stop(5.0)
    kinds = [row.outcome.kind for row in world.ledger.rows.values() if row.outcome]
    assert kinds == ["done"] * 300 + ["crashed"] + ["done"] * 300
    assert world.results.entries == {}
