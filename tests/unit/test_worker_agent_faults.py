"""The agent when leaders go, disks are full, results are refused, and when it stops itself."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from meshq.config import Config
from meshq.core.limits import CLAIMS_MAX
from meshq.core.requests import Got
from meshq.errors import DiskFull, InvariantBroken, Malformed, MeshqError, NoLeader, StaleEpoch, TooLarge
from meshq.wire.values import unpack
from tests.unit.virtual import now_s, virtually
from tests.unit.worker_twins import TwinClock
from tests.unit.worker_world import Replay, World, in_world, replaying, working

# -- a leader that goes, or says no ------------------------------------------------------------------------------


def test_results_that_end_while_nobody_leads_reach_the_next_leader_at_once() -> None:
    async def test(world: World) -> None:
        world.submit(2, 10.0)
        await world.until(lambda: world.pool.running() == 2)
        world.work.leader = None
        await asyncio.sleep(100.0)
        assert len(world.results.entries) == 2
        world.takeover(2)
        assert await world.until(lambda: not world.ledger.unfinished()) < 0.01
        assert {boot for boot, _ in world.ledger.taken} == {"boot-1"}
        assert set(world.pool.begun.values()) == {1}

    in_world(test)


@pytest.mark.parametrize("what", ["get", "heartbeat", "submit_result"])
def test_a_leader_that_says_nothing_any_more_is_left_when_another_leads(what: str) -> None:
    async def test(world: World) -> None:
        world.leader.silent.add(what)
        world.submit(2, 0.1)
        await asyncio.sleep(3.0)
        world.takeover(2)
        world.submit(2, 0.1)
        assert await world.until(lambda: not world.ledger.unfinished()) < 0.5
        assert await world.until(lambda: world.leader.heartbeats) < 0.01

    in_world(test)


def test_with_no_leader_it_asks_about_once_a_second() -> None:
    async def test(world: World) -> None:
        world.leader.refusals = dict.fromkeys(("get", "heartbeat", "submit_result"), NoLeader())
        await asyncio.sleep(100.0)
        assert 70 < len(world.leader.gets) < 140
        assert 90 < len(world.leader.heartbeats) < 110

    in_world(test)


@pytest.mark.parametrize("error", [NoLeader(), StaleEpoch(), InvariantBroken(), Malformed(), DiskFull(), MeshqError()])
@pytest.mark.parametrize("what", ["get", "heartbeat"])
def test_no_bad_answer_ends_the_work(what: str, error: MeshqError) -> None:
    async def test(world: World) -> None:
        world.leader.refusals[what] = error
        await asyncio.sleep(5.0)
        del world.leader.refusals[what]
        world.submit(10, 0.1)
        await world.until(lambda: not world.ledger.unfinished())
        assert world.count(f"{what}_failed") > 2

    in_world(test)


def test_an_empty_answer_that_comes_too_early_is_no_reason_to_hurry() -> None:
    async def test(world: World, replay: Replay) -> None:
        await asyncio.sleep(60.0)
        assert len(replay.asked) < 100

    replaying([Got(epoch=0)] * 1000, test)


# -- stop ----------------------------------------------------------------------------------------------------------


def test_stop_drains_releases_hands_in_and_says_so() -> None:
    async def main() -> None:
        world = World()
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            group.create_task(world.agent.run())
            ids = world.submit(6, 2.0)
            await world.until(lambda: world.pool.running() == 2)
            asked = len(world.leader.gets)
            await world.agent.stop(10.0)
        kinds = [outcome.kind for _, outcome in world.ledger.taken]
        assert sorted(kinds) == ["done", "done"] + ["released"] * 4
        assert world.ledger.unfinished() == ids[2:]
        assert all(world.ledger.rows[task].claim is None for task in ids)
        assert world.agent.claims() == ()
        assert world.results.entries == {}
        assert len(world.leader.gets) == asked
        assert world.leader.heartbeats[-1][1].draining
        assert 2.0 < now_s() < 2.5

    virtually(main())


def test_a_stop_with_no_leader_leaves_the_outcomes_on_disk_and_the_next_boot_sends_them() -> None:
    async def main() -> None:
        world = World()
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            group.create_task(world.agent.run())
            world.submit(2, 1.0)
            await world.until(lambda: world.pool.running() == 2)
            world.work.leader = None
            await world.agent.stop(10.0)
        assert len(world.results.entries) == 2
        assert world.count("outcomes_left") == 1
        world.boot = "boot-2"
        world.work.leader = world.leader
        world.new_agent()
        async with working(world):
            await world.until(lambda: not world.ledger.unfinished())
            await world.until(lambda: not world.results.entries)
        assert [boot for boot, _ in world.ledger.taken] == ["boot-1", "boot-1"]

    virtually(main())


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("seed", range(25))
def test_nothing_is_lost_wherever_it_is_cancelled(seed: int, local: bool) -> None:
    """Each run that ended is with the leader or on disk, whichever await the cancellation hits."""

    async def main() -> None:
        world = World(seed=seed, local=local)
        chance = TwinClock(seed)
        world.submit(400, 0.003)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(world.agent.run())
            await asyncio.sleep(0.02 + 0.2 * chance.random())
            ended = {outcome.task for outcome in world.pool.ended}
            running.cancel()
        safe = {outcome.task for _, outcome in world.ledger.taken}
        safe |= {outcome.task for _, outcome in world.results.entries.values()}
        assert ended
        assert ended <= safe
        await world.agent.stop(1.0)
        ended = {outcome.task for outcome in world.pool.ended}
        safe |= {outcome.task for _, outcome in world.results.entries.values()}
        assert ended <= safe

    virtually(main())


def test_a_seed_gives_the_same_run_every_time() -> None:
    def story() -> list[Any]:
        async def main() -> list[Any]:
            async with working(World(seed=3)) as world:
                world.submit(50, 0.05)
                await asyncio.sleep(0.3)
                world.work.leader = None
                await asyncio.sleep(10.0)
                world.takeover(2)
                await world.until(lambda: not world.ledger.unfinished())
                return [world.leader.gets, world.leader.heartbeats, world.leader.submits, world.events, now_s()]

        return virtually(main())

    assert story() == story()


# -- results that can't be kept, or won't be taken -----------------------------------------------------------------


def test_where_the_leader_is_this_node_nothing_goes_over_the_outbox() -> None:
    async def test(world: World) -> None:
        world.submit(50, 0.01)
        await world.until(lambda: not world.ledger.unfinished())
        assert world.results.written == 0
        world.leader.refusals["submit_result"] = NoLeader()
        world.submit(2, 0.01)
        await world.until(lambda: world.results.written == 2)
        assert world.count("direct_result_failed") >= 1
        world.takeover(2)
        await world.until(lambda: not world.ledger.unfinished())

    in_world(test, local=True)


def test_with_a_full_disk_results_go_to_the_leader_from_memory() -> None:
    async def test(world: World) -> None:
        world.results.failure = DiskFull()
        world.submit(20, 0.01)
        await world.until(lambda: not world.ledger.unfinished())
        assert world.count("outbox_failed") >= 1
        world.work.leader = None
        world.submit(1)
        world.results.failure = None
        world.takeover(2)
        await world.until(lambda: not world.ledger.unfinished())
        assert world.agent.claims() == ()

    in_world(test)


def test_a_full_disk_and_no_leader_lose_nothing_as_long_as_the_daemon_lives() -> None:
    async def test(world: World) -> None:
        world.submit(2, 1.0)
        await world.until(lambda: world.pool.running() == 2)
        world.work.leader, world.results.failure = None, DiskFull()
        await asyncio.sleep(30.0)
        assert len(world.agent.claims()) == 2
        world.takeover(2)
        await world.until(lambda: not world.ledger.unfinished())
        assert set(world.pool.begun.values()) == {1}

    in_world(test)


def test_a_result_that_the_leader_never_takes_fails_its_task_and_bars_no_other() -> None:
    async def test(world: World) -> None:
        world.leader.outcome_bytes_max = 50_000
        world.leader.refusals["size"] = TooLarge("100002 bytes, but 50000 are allowed")
        (large,) = world.submit(1, 0.05, kind="large")
        world.submit(20, 0.05)
        await world.until(lambda: not world.ledger.unfinished())
        await world.until(lambda: not world.results.entries)
        outcome = world.ledger.rows[large].outcome
        assert outcome is not None
        assert (outcome.kind, outcome.final) == ("failed", True)
        assert outcome.error is not None
        assert "refused its result: 100002 bytes" in unpack(outcome.error)["message"]
        assert {row.outcome.kind for row in world.ledger.rows.values() if row.outcome and row.id != large} == {"done"}

    in_world(test)


def test_an_outcome_that_is_refused_in_any_form_is_set_aside() -> None:
    async def test(world: World) -> None:
        world.leader.refusals["submit_result"] = Malformed()
        world.submit(2, 0.05)
        await world.until(lambda: world.count("outcome_set_aside") == 2)
        assert await world.until(lambda: not world.results.entries) < 1.0
        assert world.agent.claims() == ()

    in_world(test)


def test_large_results_are_sent_in_parts_that_a_request_may_have() -> None:
    async def test(world: World) -> None:
        world.leader.refusals["submit_result"] = NoLeader()
        world.submit(30, 1.0, kind="large")
        await world.until(lambda: len(world.results.entries) == 30)
        world.leader.submits.clear()
        del world.leader.refusals["submit_result"]
        world.agent.wake()
        await world.until(lambda: not world.results.entries)
        sizes = [sum(len(outcome.result or b"") for outcome in request.outcomes) for _, request in world.leader.submits]
        assert max(sizes) <= 512 << 10
        assert len(sizes) == 6
        sent = [outcome.task for _, request in world.leader.submits for outcome in request.outcomes]
        assert sent == [outcome.task for outcome in world.pool.ended]

    in_world(test, slots=30, config=Config(body_bytes_max=1 << 20))


TAKEN, TAKEN_HERE, UNWANTED, FORGOTTEN = "taken", "taken where no disk had them", "unwanted", "gone from the outbox"


@pytest.mark.parametrize("how", [TAKEN, TAKEN_HERE, UNWANTED, FORGOTTEN])
def test_it_asks_again_when_fewer_runs_wait_for_a_leader(how: str) -> None:
    async def test(world: World) -> None:
        world.leader.refusals["submit_result"] = NoLeader()
        world.results.failure = DiskFull() if how == TAKEN_HERE else None
        ended = world.submit(CLAIMS_MAX // 2 + 1)
        await world.until(lambda: len(world.pool.ended) == len(ended))
        asked = len(world.leader.gets)
        late = world.submit(2)
        # Beyond so many a Get and a heartbeat could not name them all.
        await asyncio.sleep(60.0)
        assert len(world.leader.gets) == asked
        if how == UNWANTED:
            world.leader.invalid.update(ended)
        elif how == FORGOTTEN:
            world.results.entries.clear()
        else:
            del world.leader.refusals["submit_result"]
        await world.until(lambda: world.pool.begun.keys() >= {*late}, 60.0)

    in_world(test, local=how == TAKEN_HERE)
