"""A task's states and moves, its counters, and which of two versions of it stays."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshq.config import Config
from meshq.core import task as moves
from meshq.core.limits import PRIORITY_MAX
from meshq.core.task import FINISHED, OPEN, RANK, TRANSITIONS, Move, State, Task, progress_key
from meshq.errors import InvariantBroken

NOW_MS = 5_000
ACTS: dict[Move, Callable[[Task], Task]] = {
    Move.CLAIM: lambda task: moves.claimed(task, "w2", NOW_MS),
    Move.ADOPT: lambda task: moves.adopted(task, "w2", 3, NOW_MS),
    Move.RELEASE: lambda task: moves.released(task, NOW_MS),
    Move.RETRY: lambda task: moves.retried(task, 9_000, b"error", NOW_MS),
    Move.SUCCEED: lambda task: moves.succeeded(task, "w2", b"result", None, NOW_MS),
    Move.FAIL: lambda task: moves.failed(task, b"error", NOW_MS),
    Move.CANCEL: lambda task: moves.cancelled(task, NOW_MS),
    Move.LOSE: lambda task: moves.lost(task, NOW_MS),
    Move.PURGE: lambda task: moves.purged(task, NOW_MS),
}


def task_of(state: State = State.PENDING, **fields: Any) -> Task:
    """A task in this state."""
    usual = {"rank": RANK[state], "version": 4, "attempt": 1}
    return Task(id="1", name="primes", state=state.value, **usual | fields)


@pytest.mark.parametrize(("state", "move"), list(itertools.product(State, ACTS)))
def test_each_move_goes_as_the_table_says_or_raises_before_anything_changes(state: State, move: Move) -> None:
    task = task_of(state)
    if (state, move) in TRANSITIONS:
        moved = ACTS[move](task)
        assert moved.state == TRANSITIONS[state, move]
        assert moved.rank == RANK[State(moved.state)]
        assert moved.version == task.version + 1
    else:
        with pytest.raises(InvariantBroken, match=f"is {state.value}: {move.value} is no move"):
            ACTS[move](task)


def test_finished_is_final_and_purged_more_so() -> None:
    for (state, move), after in TRANSITIONS.items():
        if state in FINISHED:
            assert (move, after) == (Move.PURGE, State.PURGED)
        assert state is not State.PURGED
        assert RANK[after] >= RANK[state]
    assert OPEN | FINISHED | {State.PURGED} == set(State)


def test_a_claim_is_an_attempt() -> None:
    task = moves.claimed(task_of(attempt=2), "w2", NOW_MS)
    assert (task.attempt, task.worker, task.started_ms) == (3, "w2", NOW_MS)


def test_an_adopted_run_keeps_its_attempt_and_its_start() -> None:
    running = task_of(State.RUNNING, attempt=2, worker="w1", started_ms=1_000)
    again = moves.adopted(running, "w2", 2, NOW_MS)
    assert (again.attempt, again.worker, again.started_ms) == (2, "w2", 1_000)
    pending = moves.adopted(task_of(attempt=1), "w2", 2, NOW_MS)
    assert (pending.attempt, pending.started_ms) == (2, NOW_MS)
    assert moves.adopted(task_of(attempt=4), "w2", 2, NOW_MS).attempt == 4


def test_a_released_run_costs_nothing_and_a_lost_one_is_counted() -> None:
    running = task_of(State.RUNNING, attempt=2, worker="w1", started_ms=1_000, losses=1)
    released = moves.released(running, NOW_MS)
    assert (released.worker, released.started_ms, released.losses, released.failures) == (None, None, 1, 0)
    assert (moves.lost(running, NOW_MS).losses, moves.lost(running, NOW_MS).state) == (2, "running")
    assert (moves.lost(released, NOW_MS).losses, moves.lost(released, NOW_MS).state) == (2, "pending")


def test_failures_crashes_and_losses_are_counted_apart() -> None:
    running = task_of(State.RUNNING, failures=1, crashes=1, losses=1)
    retried = moves.retried(running, 9_000, b"error", NOW_MS)
    assert (retried.failures, retried.crashes, retried.losses) == (2, 1, 1)
    assert (retried.error, retried.not_before_ms, retried.worker) == (b"error", 9_000, None)
    crashed = moves.retried(running, 9_000, b"error", NOW_MS, crashed=True)
    assert (crashed.failures, crashed.crashes, crashed.losses) == (1, 2, 1)
    assert moves.failed(running, b"e", NOW_MS, raised=True).failures == 2
    assert moves.failed(running, b"e", NOW_MS, crashed=True).crashes == 2
    assert moves.failed(running, b"e", NOW_MS).failures == 1


def test_a_success_drops_the_error_of_an_earlier_attempt() -> None:
    done = moves.succeeded(task_of(State.RUNNING, error=b"earlier"), "w2", None, "1/result", NOW_MS)
    assert (done.error, done.result, done.result_ref, done.finished_ms) == (None, None, "1/result", NOW_MS)
    assert moves.succeeded(task_of(attempt=0), "w2", b"r", None, NOW_MS).attempt == 1, "it ran at least once"


def test_nothing_is_left_of_a_purged_task_but_that_it_was_there() -> None:
    done = task_of(
        State.DONE, payload=b"p", payload_ref="1/args", result=b"r", result_ref="1/result", error=b"e", story=b"s",
        submitted_ms=1, finished_ms=2,
    )  # fmt: skip
    assert moves.purged(done, NOW_MS) == task_of(
        State.PURGED, version=5, submitted_ms=1, finished_ms=NOW_MS
    )  # fmt: skip


def test_every_move_adds_an_entry_to_the_story_that_says_when_who_and_why() -> None:
    claim = moves.claimed(task_of(story=b"before"), "w2", NOW_MS, "claimed")
    assert claim.story == b"before" + b"\x1eclaim\x1f5000\x1fw2\x1fclaimed"
    running = task_of(State.RUNNING, worker="w1")
    for move, act in ACTS.items():
        if (State.RUNNING, move) in TRANSITIONS:
            assert act(running).story.startswith(b"\x1e" + move.value.encode() + b"\x1f5000\x1fw"), move


def test_a_cause_is_one_short_line() -> None:
    found = moves.entry(Move.FAIL, 1, None, "a\x1eb\nc\x1d\x1f" + "x" * 500 + "\udc80")
    assert found == b"\x1efail\x1f1\x1f\x1fa b c  " + b"x" * (moves.CAUSE_CHARS_MAX - 7)
    assert moves.entry(Move.FAIL, 1, None, "\udc80é").endswith("\x1f é".encode())


@pytest.mark.parametrize(("backoff", "backoff_s", "failures", "delay_ms"), [
    ("exponential", 0.0, 5, 0), ("exponential", 1.0, 0, 1_000), ("exponential", 1.0, 3, 8_000),
    ("exponential", 0.5, 2, 2_000), ("exponential", 10.0, 30, 3_600_000), ("exponential", 1.0, 1_000, 3_600_000),
    ("linear", 2.0, 0, 2_000), ("linear", 2.0, 3, 8_000), ("linear", 60.0, 900, 3_600_000),
    ("constant", 2.0, 0, 2_000), ("constant", 2.0, 9, 2_000), ("constant", 7_200.0, 0, 3_600_000),
])  # fmt: skip
def test_the_wait_before_a_retry_grows_as_asked_up_to_an_hour(
    backoff: str, backoff_s: float, failures: int, delay_ms: int
) -> None:
    task = task_of(backoff=backoff, backoff_s=backoff_s, failures=failures)
    assert moves.retry_delay_ms(task, 0.0) == delay_ms


def test_what_failed_together_comes_back_up_to_half_a_wait_apart() -> None:
    task = task_of(backoff="constant", backoff_s=10.0)
    delays = [moves.retry_delay_ms(task, chance) for chance in (0.0, 0.25, 0.5, 0.75)]
    assert delays == [10_000, 8_750, 7_500, 6_250]


def test_a_task_gains_a_priority_with_each_step_that_it_waits() -> None:
    step_ms = 60_000
    places = [moves.order_ms(at_ms, priority, 60.0) for at_ms, priority in ((1, 1), (0, 0), (step_ms, 1), (step_ms, 0))]
    assert places == sorted(places)
    assert moves.order_ms(0, 0, 60.0) == moves.order_ms(step_ms, 1, 60.0), "it is as old as a step and no more"
    assert moves.order_ms(5, -2, 0.5) == 1_005
    assert moves.order_ms(1, -(1 << 62), 60.0) == 1 << 53, "a database can hold it, whatever a row says"


def test_the_place_of_a_row_that_does_not_tell_it_is_that_of_the_default_step() -> None:
    assert moves.plain_order_ms(5_000, 2) == moves.order_ms(5_000, 2, Config().priority_step_s)
    assert moves.plain_order_ms(0, 1 << 62) == moves.order_ms(0, PRIORITY_MAX, Config().priority_step_s)


def test_the_progress_key_goes_by_rank_then_majority_then_epoch_then_version_then_stamp() -> None:
    least = task_of(rank=0, majority=0, epoch=1, version=1, writer="a", seq=1)
    greater = [
        replace(least, seq=2),
        replace(least, writer="b", seq=0),
        replace(least, version=2, writer="", seq=0),
        replace(least, epoch=2, version=0),
        replace(least, majority=1, epoch=0),
        replace(least, rank=1, epoch=0),
        replace(least, rank=2, epoch=0),
    ]
    keys = [progress_key(task) for task in (least, *greater)]
    assert keys == sorted(keys)
    assert len(set(keys)) == len(keys)


@given(st.lists(st.tuples(*[st.integers(0, 2)] * 4, st.sampled_from("ab"), st.integers(0, 2)), min_size=1))
def test_whatever_the_order_the_greatest_version_stays(keys: list[tuple[int, int, int, int, str, int]]) -> None:
    versions = [
        task_of(rank=rank, majority=majority, epoch=epoch, version=version, writer=writer, seq=seq)
        for rank, majority, epoch, version, writer, seq in keys
    ]
    for order in (versions, versions[::-1]):
        kept = order[0]
        for other in order[1:]:
            kept = max(kept, other, key=progress_key)
        assert progress_key(kept) == max(keys)
