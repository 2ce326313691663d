"""The agent on a machine that sleeps, or whose daemon stands still: it renews before it does anything else."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from meshq.core.requests import Got, Outcome
from tests.unit.virtual import now_s
from tests.unit.worker_world import Replay, World, in_world, job, replaying

# How the boot clock came to be ahead of what the loop saw: a closed lid, a SIGSTOP.
WAYS = pytest.mark.parametrize("way", ["suspended_s", "stopped_s"])


def pass_over(world: World, way: str, missed_s: float) -> None:
    """Time that the loop does not see."""
    setattr(world.clock, way, getattr(world.clock, way) + missed_s)


def since(calls: Sequence[tuple[float, object]], at_s: float) -> int:
    return sum(when_s >= at_s for when_s, _ in calls)


@WAYS
def test_until_its_claims_are_renewed_it_neither_asks_nor_hands_in(way: str) -> None:
    async def test(world: World) -> None:
        world.submit(1, 1.5)
        world.submit(1, 30.0)
        await world.until(lambda: world.pool.running() == 2)
        await asyncio.sleep(1.0)
        world.leader.heartbeats_pass.clear()
        pass_over(world, way, 3600.0)
        woke_s = now_s()
        await world.until(lambda: world.results.written == 1)
        await asyncio.sleep(4.0)
        assert since(world.leader.heartbeats, woke_s) >= 1
        assert since(world.leader.gets, woke_s) == 0
        assert since(world.leader.submits, woke_s) == 0
        assert world.pool.running() == 1, "what may still be its own goes on"
        world.leader.heartbeats_pass.set()
        assert await world.until(lambda: len(world.ledger.taken) == 1) < 0.1
        assert await world.until(lambda: since(world.leader.gets, woke_s)) < 0.1
        assert world.count("slept") == 1

    in_world(test)


@WAYS
def test_what_is_no_longer_its_own_is_killed_before_anything_is_asked_or_handed_in(way: str) -> None:
    async def test(world: World) -> None:
        (lost, kept) = world.submit(2, 30.0)
        await world.until(lambda: world.pool.running() == 2)
        world.leader.invalid.add(lost)
        world.ledger.rows[lost].outcome = Outcome(task=lost, epoch=1, attempt=9, kind="done")
        pass_over(world, way, 60.0)
        woke_s = now_s()
        await world.until(lambda: since(world.leader.gets, woke_s))
        assert [claim.task for claim in world.leader.gets[-1][1].holds] == [kept]
        assert [held.id for held in world.pool.held()] == [kept]
        assert await world.until(lambda: kept not in world.ledger.unfinished()) < 31.0
        assert world.pool.begun == {lost: 1, kept: 1}
        assert [outcome.task for _, outcome in world.ledger.taken] == [kept]

    in_world(test)


def test_runs_that_were_asked_for_before_the_sleep_are_not_begun_after_it() -> None:
    async def test(world: World, replay: Replay) -> None:
        await world.until(lambda: len(replay.asked) == 1)
        pass_over(world, "suspended_s", 60.0)
        replay.answers.put_nowait(Got(epoch=0, jobs=(job(1, 0),)))
        await world.until(lambda: len(replay.asked) == 2)
        assert not world.pool.begun
        assert replay.asked[1].holds == (), "named nowhere, so the leader gives it to somebody else"

    replaying([], test)


def test_an_answer_to_a_heartbeat_from_before_the_sleep_renews_nothing() -> None:
    async def test(world: World) -> None:
        world.submit(2, 30.0)
        await world.until(lambda: world.pool.running() == 2)
        world.leader.heartbeats_pass.clear()
        await world.until(lambda: len(world.leader.heartbeats) == 2)
        await asyncio.sleep(0.01)
        pass_over(world, "suspended_s", 3600.0)
        woke_s = now_s()
        # The second heartbeat is answered now, the third not at all: the leader is gone.
        world.leader.silent.add("heartbeat")
        world.leader.heartbeats_pass.set()
        world.submit(4, 1.0)
        await asyncio.sleep(60.0)
        assert world.count("answer_overslept") == 1
        assert since(world.leader.gets, woke_s) == 0
        assert since(world.leader.submits, woke_s) == 0
        assert world.results.written == 2
        world.takeover(2)
        assert await world.until(lambda: len(world.ledger.taken) == 2) < 0.1
        await world.until(lambda: not world.ledger.unfinished())

    in_world(test)


def test_a_leader_on_this_machine_gets_nothing_directly_before_the_claims_are_renewed() -> None:
    async def test(world: World) -> None:
        world.submit(1, 2.0)
        await world.until(lambda: world.pool.running() == 1)
        await asyncio.sleep(1.5)
        world.leader.heartbeats_pass.clear()
        pass_over(world, "stopped_s", 60.0)
        await world.until(lambda: world.results.written == 1)
        assert world.leader.submits == []
        world.leader.heartbeats_pass.set()
        await world.until(lambda: not world.ledger.unfinished())
        await world.until(lambda: not world.results.entries)

    in_world(test, local=True)


def test_a_sleep_ends_a_wait_for_work_that_no_leader_remembers() -> None:
    async def test(world: World) -> None:
        await asyncio.sleep(3.0)
        pass_over(world, "suspended_s", 60.0)
        woke_s = now_s()
        assert await world.until(lambda: since(world.leader.gets, woke_s)) < 1.3

    in_world(test)


def test_a_worker_that_slept_can_be_stopped_without_a_leader() -> None:
    async def test(world: World) -> None:
        (task,) = world.submit(1, 3.0)
        await world.until(lambda: world.pool.running() == 1)
        pass_over(world, "suspended_s", 60.0)
        world.work.leader = None
        asked = len(world.leader.gets)
        await world.agent.stop(10.0)
        assert [outcome.task for _, outcome in world.results.entries.values()] == [task]
        assert len(world.leader.gets) == asked

    in_world(test)


@pytest.mark.parametrize("way", ["stopped_s", "nothing"])
def test_a_hiccup_and_a_time_without_a_leader_are_no_sleep(way: str) -> None:
    async def test(world: World) -> None:
        world.submit(2, 100.0)
        await world.until(lambda: world.pool.running() == 2)
        world.leader.silent.add("heartbeat")
        for _ in range(10):
            if way == "stopped_s":
                pass_over(world, way, 3.0)
            await asyncio.sleep(6.0)
        world.work.leader = None
        await asyncio.sleep(60.0)
        assert world.count("slept") == 0

    in_world(test)


def test_a_short_suspend_is_a_sleep_too_for_it_may_come_on_top_of_a_silence() -> None:
    async def test(world: World) -> None:
        await asyncio.sleep(3.0)
        pass_over(world, "suspended_s", 3.0)
        await asyncio.sleep(2.0)
        assert world.count("slept") == 1

    in_world(test)
