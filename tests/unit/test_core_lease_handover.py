"""Handing the lease over: prepare, ready, go; what each step needs, and what happens when one is lost."""

from __future__ import annotations

import pytest

from meshq.core.events import (
    Ended,
    HandOver,
    HandoverReady,
    Lead,
    LetGo,
    Persist,
    Received,
    Resign,
    Role,
    Send,
    Tick,
    VoteReply,
)
from meshq.core.lease import Lease
from meshq.core.messages import Done, Handover, Vote
from tests.unit.lease_bench import (
    COUNTED_S,
    GENESIS,
    TIMING,
    A,
    B,
    Bench,
    C,
    follows,
    is_refused,
    lead,
    lease_of,
    only,
    renewal,
    reply_to,
    role_of,
    roster_of,
    says_yes,
    sent,
    vote_for,
)

THREE = roster_of(A, B, C)
LEASE_S = TIMING.lease_s


def step_of(name: str, epoch: int = 1) -> Handover:
    return Handover(epoch=epoch, step=name, genesis=GENESIS)


def follower_of(leader: str, me: str, now: float = 0.0) -> Lease:
    """A node that follows in epoch 1."""
    lease = lease_of(me)
    lease.step(Received(leader, renewal(1)), now)
    return lease


def ready_target(now: float = 0.1) -> Lease:
    """B, which has won its pre-vote for a hand-over of A's epoch 1."""
    target = follower_of(A, B)
    effects = target.step(Received(A, step_of("prepare")), now)
    ballot = sent(effects, Vote)[C]
    effects = target.step(says_yes(C, ballot, now, epoch=1, roster=THREE), now)
    assert only(effects, Send) == [Send(A, step_of("ready"))]
    return target


# -- the steps -------------------------------------------------------------------------------------------


def test_the_holder_asks_the_target_to_prepare() -> None:
    lease = lease_of(A)
    lead(lease, 0.0, B)
    assert lease.step(HandOver(B), 0.1) == [Send(B, step_of("prepare"))]
    assert follower_of(C, A).step(HandOver(B), 0.1) == []
    assert only(lease.step(HandOver(B), COUNTED_S), Send) == []


def test_the_target_asks_in_the_name_of_the_hand_over_and_promises_nothing_yet() -> None:
    target = follower_of(A, B)
    effects = target.step(Received(A, step_of("prepare")), 0.1)
    assert sent(effects, Vote) == {node: vote_for(2, pre=True, held=(1, A)) for node in (A, C)}
    assert only(effects, Persist) == []
    assert target.known_leader(0.1) == A


def test_voters_compare_epoch_and_holder() -> None:
    voter = follower_of(A, C)
    for held in ((1, A), (0, A), (2, A), (1, B), (1, C), (0, "")):
        expected = VoteReply(True, True, 1, "") if held == (1, A) else VoteReply(False, True, 1, "promised")
        assert reply_to(voter, B, vote_for(2, pre=True, held=held), 0.1) == expected


def test_the_holder_grants_the_pre_vote_and_the_vote_only_once_it_let_go() -> None:
    lease = lease_of(A)
    lead(lease, 0.0, B)
    assert reply_to(lease, B, vote_for(2, pre=True, held=(1, A)), 0.1) == VoteReply(True, True, 1, "")
    assert reply_to(lease, B, vote_for(2, held=(1, A)), 0.1) == VoteReply(False, False, 1, "not_let_go")
    assert lease.leads(0.1)
    lease.step(LetGo(B, lease.epoch), 0.2)
    assert reply_to(lease, B, vote_for(2), 0.2) == VoteReply(False, False, 1, "promised")
    assert reply_to(lease, B, vote_for(2, held=(1, A)), 0.2) == VoteReply(True, False, 2, "")


def test_a_majority_makes_the_target_ready_and_it_waits_for_the_holder() -> None:
    target = ready_target()
    assert role_of(target) is Role.READY
    # The holder goes on renewing, which ends nothing.
    target.step(Received(A, renewal(1)), 0.5)
    assert role_of(target) is Role.READY
    assert target.known_leader(0.5) == A


def test_what_the_holder_does_when_the_target_is_ready() -> None:
    lease = lease_of(A)
    lead(lease, 0.0, B)
    effects = lease.step(Received(B, step_of("ready")), 0.1)
    assert only(effects, HandoverReady) == [HandoverReady(B)]
    assert reply_to(lease, B, step_of("ready"), 0.1) == Done()
    assert lease.leads(0.1), "it leads until it has let go"
    assert is_refused(reply_to(lease, B, step_of("ready", epoch=2), 0.1))
    assert is_refused(reply_to(lease, B, step_of("ready"), COUNTED_S))


def test_letting_go_ends_the_epoch_for_good_before_the_target_hears_of_it() -> None:
    lease = lease_of(A)
    lead(lease, 0.0, B)
    lease.step(Tick(), 0.5)
    effects = lease.step(LetGo(B, lease.epoch), 0.6)
    assert effects == [Ended(1, f"handed over to {B[-8:]}"), Send(B, step_of("go"))]
    assert not lease.leads(0.6)
    for voter in (B, C):
        assert lease.step(follows(voter, renewal(1), 0.5), 0.7) == []
    assert not lease.leads(0.7)
    assert lease.step(LetGo(B, lease.epoch), 0.8) == []


def test_go_makes_the_target_vote_with_its_token() -> None:
    target = ready_target()
    effects = target.step(Received(A, step_of("go")), 0.3)
    assert sent(effects, Vote) == {node: vote_for(2, held=(1, A)) for node in (A, C)}
    kinds = [type(effect) for effect in effects]
    assert kinds.index(Persist) < kinds.index(Send)
    # A second one, late or doubled, starts nothing.
    assert is_refused(reply_to(target, A, step_of("go"), 0.4))
    assert target.epoch == 2


def test_go_counts_whatever_became_of_the_pre_vote() -> None:
    target = follower_of(A, B)
    effects = target.step(Received(A, step_of("go")), 0.3)
    assert set(sent(effects, Vote)) == {A, C}


@pytest.mark.parametrize(("name", "sender", "epoch"), [
    ("prepare", C, 1), ("prepare", A, 2), ("prepare", A, 0), ("go", C, 1), ("go", A, 2), ("jump", A, 1),
])  # fmt: skip
def test_a_step_that_does_not_fit_what_was_promised_is_refused(name: str, sender: str, epoch: int) -> None:
    target = follower_of(A, B)
    assert is_refused(reply_to(target, sender, step_of(name, epoch), 0.1))
    assert role_of(target) is Role.FOLLOWER


def test_a_ready_target_that_is_asked_again_says_again_that_it_is_ready() -> None:
    target = ready_target()
    effects = target.step(Received(A, step_of("prepare")), 1.0)
    ballot = sent(effects, Vote)[C]
    effects = target.step(says_yes(C, ballot, 1.0, epoch=1, roster=THREE), 1.0)
    assert only(effects, Send) == [Send(A, step_of("ready"))]


def test_a_pre_vote_that_named_a_hand_over_makes_no_candidate_of_its_own_accord() -> None:
    # C would have granted only because A seemed to let go; the answer comes when B stands for itself.
    target = follower_of(A, B)
    effects = target.step(Received(A, step_of("prepare")), 0.1)
    ballot = sent(effects, Vote)[C]
    target.step(Resign("stopped"), 0.2)
    now = target.deadline(0.2)
    while role_of(target) is not Role.ASKING:
        now = target.deadline(now)
        target.step(Tick(), now)
    target.step(says_yes(C, ballot, 0.1, epoch=1, roster=THREE), now)
    assert role_of(target) is Role.ASKING


def test_a_target_that_gets_no_majority_follows_on_and_waits_for_its_turn() -> None:
    target = follower_of(A, B)
    target.step(Received(A, step_of("prepare")), 0.1)
    target.step(Received(A, renewal(1)), 0.5)
    now = 0.5
    while role_of(target) is Role.ASKING:
        now = target.deadline(now)
        target.step(Tick(), now)
    assert role_of(target) is Role.FOLLOWER
    assert target.known_leader(now) == A
    assert target.deadline(now) >= 0.5 + LEASE_S


# -- whole stories ---------------------------------------------------------------------------------------


def led(leader: str = A) -> Bench:
    """Three nodes, of which the lowest leads."""
    bench = Bench.of(A, B, C)
    bench.run(2.0)
    assert bench.leaders() == [leader]
    return bench


def test_a_hand_over_takes_no_lease_and_only_one_leads() -> None:
    bench = led()
    bench.step(A, HandOver(B))
    for _ in range(40):
        bench.run(0.0025)
        assert len(bench.leaders()) <= 1
    assert bench.leaders() == [B]
    assert bench.led == [(A, 1), (B, 2)]


def test_the_old_holder_takes_nothing_back_after_a_hand_over() -> None:
    bench = led()
    bench.step(A, HandOver(C))
    bench.run(20.0)
    assert bench.leaders() == [C]
    assert bench.led == [(A, 1), (C, 2)]


def test_a_go_that_is_lost_costs_one_lease() -> None:
    bench = led()
    bench.lets_go = False
    bench.step(A, HandOver(B))
    bench.run(0.1)
    assert bench.leaders() == [A]
    bench.cuts = {(A, B)}
    bench.step(A, LetGo(B, 1))
    bench.run(0.01)
    bench.cuts = set()
    assert bench.leaders() == []
    bench.run_until(lambda: bool(bench.leaders()), LEASE_S + 3 * TIMING.stand_step_s)
    assert bench.leaders() != [A], "the others have their turn before it"


def test_a_target_that_dies_when_it_is_ready_leaves_the_lease_where_it_was() -> None:
    bench = led()
    bench.lets_go = False
    bench.step(A, HandOver(B))
    bench.run(0.1)
    bench.crash(B)
    bench.run(10.0)
    assert bench.leaders() == [A]
    assert bench.led == [(A, 1)]


def test_a_hand_over_needs_a_majority_that_would_grant() -> None:
    bench = led()
    # The target reaches nobody but the holder, who alone with it would be two of three; so it is kept from both.
    bench.cuts = {(B, C), (C, B), (B, A)}
    bench.step(A, HandOver(B))
    bench.run(5.0)
    assert bench.led == [(A, 1)]
    assert only(bench.leases[A].step(Tick(), bench.now), Lead) == []
    assert bench.leaders() == [A]
