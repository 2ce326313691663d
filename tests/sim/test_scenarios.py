"""Single stories, each about one rule: it holds as it stands, and is seen to break when the rule is taken away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import nullcontext
from typing import Any

from meshq.core.messages import Renew, Rows, Vote
from meshq.core.requests import ClaimRef, Get, Got, Heartbeat, Outcome, SubmitResult, Submitted
from meshq.wire import values
from tests.sim import faults
from tests.sim.checks import Checker
from tests.sim.host import TASKS
from tests.sim.world import SimWorld

Story = Callable[[SimWorld, Checker], Coroutine[Any, Any, None]]


def broken(story: Story, fault: faults.Fault | None = None, *, slots: int = 0) -> list[str]:
    """What the checkers found wrong when the story ran, with a rule taken away or with none."""
    world = SimWorld(7, slots=slots)
    checker = Checker(world)

    async def run() -> None:
        await world.form()
        looking = asyncio.create_task(_look(checker))
        await story(world, checker)
        looking.cancel()
        checker.look()

    with fault() if fault else nullcontext():
        world.run(run())
    return world.failures


async def _look(checker: Checker) -> None:
    while True:
        checker.look()
        await asyncio.sleep(0.01)


async def worker_says(world: SimWorld, node: str, worker: str, *runs: ClaimRef) -> None:
    """A worker that speaks HTTP to this node, as anybody may."""
    beat = Heartbeat(node=worker, boot="1", name=worker, slots=1, running=runs, tasks=TASKS)
    await world.at(node, lambda running: running.gateway.call(beat))


async def worker_gets(world: SimWorld, node: str, worker: str) -> ClaimRef:
    """That worker is given a run."""
    ask = Get(node=worker, boot="1", number=1, slots=1, free=1, names=("work",), wait_s=20.0)
    got = await world.at(node, lambda running: running.gateway.call(ask))
    assert isinstance(got, Got)
    return got.jobs[0].claim


def result_of(worker: str, run: ClaimRef) -> SubmitResult:
    """What that worker found out."""
    done = Outcome(task=run.task, epoch=run.epoch, attempt=run.attempt, kind="done", result=values.pack(worker))
    return SubmitResult(node=worker, boot="1", outcomes=(done,))


# -- a result that only its dying leader holds, while the next leader writes another ---------------------


async def two_results(world: SimWorld, checker: Checker) -> None:
    first, second, third = world.nodes
    await worker_says(world, first, "w1")
    await worker_says(world, first, "w2")
    spec = world.spec()
    checker.on_submitted(await world.submit(first, spec))
    run = await worker_gets(world, first, "w1")
    # The first leader writes a result that reaches nobody.
    world.network.isolate(first)
    world.at(first, lambda running: running.gateway.lead(result_of("w1", run)))
    await world.until("the second leads", lambda: world.reigns(second))
    # The second leader writes another, which reaches nobody either, and dies.
    await worker_says(world, second, "w2")
    run = await worker_gets(world, second, "w2")
    world.network.isolate(second)
    world.at(second, lambda running: running.gateway.lead(result_of("w2", run)))
    await asyncio.sleep(0.2)
    world.crash(second)
    # The first comes back and leads again; what it shows now was never on two disks in the second's epoch.
    world.network.heal()
    await world.until("the first leads again", lambda: world.reigns(first) or world.reigns(third))
    leader = world.leaders()[0]
    await worker_says(world, leader, "w1")
    await asyncio.sleep(1.0)
    checker.on_view(await world.task(leader, spec.id))
    # The second brings its own result home.
    world.start(second)
    await asyncio.sleep(20.0)
    for node in world.nodes:
        checker.on_view(await world.task(node, spec.id))
    assert checker.told.outcomes, "nobody was shown a result, so nothing was tried"


def test_a_result_that_was_shown_outlives_a_later_one_that_was_not() -> None:
    assert broken(two_results) == []


def test_without_restamping_a_result_that_was_shown_changes() -> None:
    assert any("was shown as" in text for text in broken(two_results, faults.no_restamping))


# -- a voter that restarts and is asked at once ----------------------------------------------------------


async def hasty_voter(world: SimWorld, checker: Checker) -> None:
    leader, voter, candidate = world.nodes
    # The candidate hears nothing more from the leader, and stands when its promise has run out.
    world.network.cuts |= {(leader, candidate), (candidate, leader)}
    since = world.loop.time()
    await asyncio.sleep(2.4)
    # The leader still counts on the voter's last promise when that one starts anew, and is asked.
    world.network.cuts |= {(leader, voter), (voter, leader)}
    world.crash(voter)
    world.start(voter)
    await world.until("another leads", lambda: world.leaders() not in ([], [leader]), 20.0)
    assert world.loop.time() - since < 12.0


def test_a_voter_that_has_just_started_grants_nothing() -> None:
    assert broken(hasty_voter) == []


def test_without_the_wait_after_a_start_two_lead() -> None:
    assert any("2 leaders" in text for text in broken(hasty_voter, faults.no_wait_after_start))


# -- a late answer after a hand-over ---------------------------------------------------------------------


async def late_answer(world: SimWorld, checker: Checker) -> None:
    first, second, _ = world.nodes
    # Answers to the leader's renewals take as long as they may, so that some arrive after it has let go.
    world.network.weather.delay_s_min = world.network.weather.delay_s_max = 0.15
    await asyncio.sleep(2.0)

    def not_told(sender: str, to: str, message: Any) -> bool:
        # The first hears nothing of the second's candidature or leadership, so it has to know by itself.
        return not (to == first and isinstance(message, Vote | Renew) and not getattr(message, "pre", False))

    world.network.tap = not_told
    world.at(first, lambda running: running.leadership.hand_over(5.0))
    await world.until("the second leads", lambda: second in world.leaders())
    await asyncio.sleep(3.0)
    assert world.leaders() == [second]


def test_a_late_answer_revives_nothing_after_a_hand_over() -> None:
    assert broken(late_answer) == []


def test_a_leader_that_counts_on_what_it_let_go_is_one_too_many() -> None:
    assert any("2 leaders" in text for text in broken(late_answer, faults.let_go_and_lead))


# -- a vector taken over before its rows -----------------------------------------------------------------


async def torn_pull(world: SimWorld, checker: Checker) -> None:
    leader, _, third = world.nodes
    await worker_says(world, leader, "w1")
    world.crash(third)
    # More than one frame of rows, of which the third machine gets the first only.
    specs = [world.spec(payload=values.pack([["x" * 900], {}])) for _ in range(2_500)]
    answer = await world.submit(leader, *specs)
    assert isinstance(answer, Submitted)
    frames = 0

    def first_frame_only(sender: str, to: str, message: Any) -> bool:
        nonlocal frames
        if to == third and isinstance(message, Rows) and message.rows:
            frames += 1
            return frames == 1
        return True

    world.network.tap = first_frame_only
    world.start(third)
    await world.until("a frame is lost", lambda: frames > 1)
    await asyncio.sleep(1.0)
    checker.look()
    checker.look_at_vectors()


def test_a_torn_pull_claims_nothing() -> None:
    assert broken(torn_pull) == []


def test_a_vector_before_its_rows_claims_what_is_not_there() -> None:
    assert any("claims" in text for text in broken(torn_pull, faults.vector_before_rows))


# -- pauses ----------------------------------------------------------------------------------------------


async def sleeping_leader(world: SimWorld, checker: Checker) -> None:
    first, second, _ = world.nodes
    world.pause(first)
    await world.until("the second leads", lambda: world.reigns(second), 20.0)
    renewals: list[float] = []

    def count(sender: str, to: str, message: Any) -> bool:
        if sender == first and isinstance(message, Renew):
            renewals.append(world.loop.time())
        return True

    world.network.tap = count
    world.resume(first)
    await world.until("the sleeper follows", lambda: _follows(world, first, second))
    assert renewals == []


def _follows(world: SimWorld, node: str, leader: str) -> bool:
    running = world.machines[node].running
    return running is not None and running.elector.lease.leader == leader


def test_a_leader_that_slept_is_no_leader_when_it_wakes() -> None:
    assert broken(sleeping_leader) == []


# -- a claim that comes home after the census -------------------------------------------------------------


async def late_claim(world: SimWorld, checker: Checker) -> None:
    first, second, _ = world.nodes
    await worker_says(world, first, "w1")
    spec = world.spec()
    checker.on_submitted(await world.submit(first, spec))
    # Everybody knows that it is committed, so that nobody re-stamps it.
    await asyncio.sleep(2.0)
    # The first leader gives it away, which reaches nobody, nor does the answer reach the worker.
    world.network.isolate(first)
    await worker_gets(world, first, "w1")
    await world.until("the second leads", lambda: world.reigns(second))
    await worker_says(world, second, "w1")
    await world.until("the census is over", lambda: _census_over(world, second))
    assert _state_at(world, second, spec.id) == "pending"
    world.network.heal()
    await world.until("the claim is home", lambda: _state_at(world, second, spec.id) == "running")
    since_s = world.loop.time()
    while _state_at(world, second, spec.id) == "running":
        assert world.loop.time() - since_s < 25.0, "the task runs nowhere, and waits for ever"
        await worker_says(world, second, "w1")
        await asyncio.sleep(1.0)
    assert (await worker_gets(world, second, "w1")).attempt == 2


def _census_over(world: SimWorld, node: str) -> bool:
    running = world.machines[node].running
    reign = running.leadership.reign if running is not None else None
    return reign is not None and reign.dispatcher.census_over


def _state_at(world: SimWorld, node: str, task: str) -> object:
    ((state,),) = world.machines[node].disk.rows(f"SELECT state FROM tasks WHERE id = '{task}'")
    return state


def test_a_claim_that_comes_home_late_and_that_nobody_has_is_free_again() -> None:
    assert broken(late_claim) == []
