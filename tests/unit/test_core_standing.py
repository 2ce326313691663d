"""Whose turn it is to stand: the lowest live id, and who stood in vain waits longer."""

from __future__ import annotations

import pytest

from meshq.core.events import Established, Heard, Promise, Received, Resign, Role, Tick
from meshq.core.standing import PENALTY_MAX, Standing
from tests.unit.lease_bench import TIMING, A, B, C, D, E, lead, lease_of, renewal, role_of, win

STEP_S, LEASE_S = TIMING.stand_step_s, TIMING.lease_s
FIVE = (A, B, C, D, E)


def standing_of(me: str, jitter: float = 0.0) -> Standing:
    return Standing(me, TIMING, 10.0, lambda: jitter)


def test_each_live_lower_id_costs_one_step() -> None:
    standing = standing_of(D)
    assert standing.due_at(FIVE, 10.0) == 10.0
    for node, steps in ((A, 1), (E, 1), (C, 2), (B, 3)):
        standing.answered(node, 9.0)
        assert standing.due_at(FIVE, 10.0) == pytest.approx(10.0 + steps * STEP_S)


def test_only_replicas_count_and_only_replicas_stand() -> None:
    standing = standing_of(C)
    standing.answered(A, 10.0)
    assert standing.due_at((B, C), 10.0) == 10.0
    assert standing.due_at((A, B), 10.0) == float("inf")


def test_alive_is_who_answered_within_alive_s() -> None:
    standing = standing_of(B)
    assert not standing.alive(A, 10.0)
    assert standing.heard_at(A) is None
    standing.answered(A, 10.0)
    assert standing.alive(A, 10.0 + TIMING.alive_s - 0.001)
    assert not standing.alive(A, 10.0 + TIMING.alive_s)
    assert standing.heard_at(A) == 10.0


def test_jitter_is_half_a_step_at_most_and_nothing_for_one_that_is_alone() -> None:
    standing = standing_of(A, jitter=0.999)
    assert 10.0 < standing.due_at((A, B), 10.0) < 10.0 + STEP_S / 2
    assert standing.due_at((A,), 10.0) == 10.0


def test_each_vain_attempt_costs_a_round_of_all_replicas_up_to_four() -> None:
    standing = standing_of(A)
    for count in range(1, 7):
        standing.stood_in_vain(20.0, counts=True)
        rounds = min(count, PENALTY_MAX)
        assert standing.due_at((A, B, C), 20.0) == pytest.approx(20.0 + rounds * 3 * STEP_S)
    assert PENALTY_MAX == 4
    standing.stood_in_vain(30.0, counts=False)
    assert standing.due_at((A, B, C), 30.0) == pytest.approx(30.0 + 4 * 3 * STEP_S)
    standing.succeeded()
    assert standing.due_at((A, B, C), 30.0) == 30.0


# -- as the lease uses it --------------------------------------------------------------------------------


def test_a_follower_stands_when_its_promise_has_run_out_and_its_turn_has_come() -> None:
    lease = lease_of(C)
    lease.step(Received(A, renewal(1)), 1.0)
    assert lease.deadline(1.0) == pytest.approx(1.0 + LEASE_S)
    lease.step(Heard(A), 3.0)
    lease.step(Heard(B), 3.0)
    due = 1.0 + LEASE_S + 2 * STEP_S
    assert lease.deadline(3.0) == pytest.approx(1.0 + LEASE_S)
    lease.step(Tick(), 1.0 + LEASE_S)
    assert lease.deadline(1.0 + LEASE_S) == pytest.approx(due)
    lease.step(Tick(), due - 0.001)
    assert role_of(lease) is Role.FOLLOWER
    # By then the leader has been silent for more than two seconds.
    lease.step(Tick(), due)
    assert role_of(lease) is Role.ASKING


def test_one_that_has_just_started_stands_when_it_may_grant_itself() -> None:
    lease = lease_of(A)
    assert lease.deadline(0.0) == 0.0
    lease = lease_of(A, promise=Promise(7, A, LEASE_S))
    assert lease.deadline(0.0) == LEASE_S


def test_a_learner_never_stands() -> None:
    lease = lease_of(D, members=(A, B, C))
    lease.step(Tick(), 100.0)
    assert role_of(lease) is Role.FOLLOWER
    assert lease.deadline(100.0) == float("inf")


def test_failed_candidatures_and_leaderships_wait_longer_until_one_is_established() -> None:
    lease = lease_of(A)
    now = 0.0
    for rounds in (1, 2, 3, 4, 4):
        win(lease, now, B)
        assert role_of(lease) is Role.GATHERING
        now += 0.1
        lease.step(Resign("the disk is full"), now)
        wait_s = rounds * 3 * STEP_S
        assert lease.deadline(now) == pytest.approx(now + wait_s)
        now = lease.deadline(now)
    lead(lease, now, B)
    lease.step(Established(lease.epoch - 1), now)
    lease.step(Resign("no"), now)
    assert lease.deadline(now) == pytest.approx(now + 4 * 3 * STEP_S)
    now = lease.deadline(now)
    lead(lease, now, B)
    lease.step(Established(lease.epoch), now)
    lease.step(Resign("no"), now)
    assert lease.deadline(now) == pytest.approx(now + 1 * 3 * STEP_S)


def test_a_pre_vote_that_fails_costs_no_round() -> None:
    lease = lease_of(A)
    lease.step(Tick(), 0.0)
    assert role_of(lease) is Role.ASKING
    now = 0.0
    while role_of(lease) is not Role.FOLLOWER:
        now = lease.deadline(now)
        lease.step(Tick(), now)
    assert now == pytest.approx(3 * STEP_S)
    assert lease.deadline(now) == pytest.approx(now)
