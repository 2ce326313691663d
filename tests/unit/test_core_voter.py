"""A voter's word: what it grants, what it refuses and why, and when the disk must know."""

from __future__ import annotations

import pytest

from meshq.core.events import Persist, Promise, Received, Reply, Resign, VoteReply
from meshq.core.membership import NOBODY
from meshq.core.messages import RenewAnswer
from meshq.core.voter import Voter
from tests.unit.lease_bench import GENESIS, TIMING, A, B, C, lease_of, only, renewal, reply_to, vote_for

LEASE_S = TIMING.lease_s


def voter_of(promise: Promise | None = None, *, now: float = 0.0) -> Voter:
    return Voter(A, promise or Promise(), now)


def promised_to(holder: str, epoch: int = 5, *, now: float = 0.0) -> Voter:
    """A voter that has just promised."""
    voter = voter_of(now=now)
    voter.grant(epoch, holder, LEASE_S, now)
    return voter


def refusal(
    voter: Voter, candidate: str, epoch: int, now: float, *, pre: bool = False, held: tuple[int, str] = (0, "")
) -> str:
    return voter.refusal(candidate, vote_for(epoch, pre=pre, held=held), GENESIS, now)


# -- votes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("epoch", "reason"), [(4, "old_epoch"), (5, "old_epoch"), (6, "")])
def test_only_a_higher_epoch_is_granted(epoch: int, reason: str) -> None:
    voter = promised_to(B)
    assert refusal(voter, C, epoch, LEASE_S + 1) == reason


def test_the_same_vote_is_granted_again_to_the_same_candidate_only() -> None:
    voter = promised_to(B)
    assert refusal(voter, B, 5, 1.0) == ""
    assert refusal(voter, C, 5, 1.0) == "old_epoch"
    assert refusal(voter, B, 4, 1.0) == "old_epoch"


def test_a_promise_in_force_refuses_everybody_but_its_holder() -> None:
    voter = promised_to(B)
    assert refusal(voter, C, 6, LEASE_S - 0.001) == "promised"
    assert refusal(voter, C, 6, LEASE_S - 0.001, pre=True) == "promised"
    assert refusal(voter, B, 6, LEASE_S - 0.001) == ""
    assert refusal(voter, C, 6, LEASE_S) == ""


def test_the_promise_to_itself_counts_like_any_other() -> None:
    voter = promised_to(A)
    assert refusal(voter, B, 6, LEASE_S - 0.001) == "promised"
    assert refusal(voter, B, 6, LEASE_S) == ""


@pytest.mark.parametrize("genesis", ["", "x" * 32])
def test_another_cluster_gets_no_vote(genesis: str) -> None:
    assert voter_of().refusal(B, vote_for(1), genesis, 10.0) == "other_cluster"
    assert voter_of().refusal(B, vote_for(1, pre=True), genesis, 10.0) == "other_cluster"


def test_a_promise_lasts_from_its_receipt_for_the_length_that_the_vote_named() -> None:
    voter = voter_of()
    voter.grant(1, B, 7.0, 100.0)
    assert refusal(voter, C, 2, 106.999) == "promised"
    assert refusal(voter, C, 2, 107.0) == ""


def test_a_shorter_renewal_does_not_shorten_what_was_promised() -> None:
    voter = voter_of()
    voter.grant(1, B, 7.0, 0.0)
    assert voter.grant(1, B, 1.0, 1.0) == []
    assert refusal(voter, C, 2, 6.999) == "promised"
    assert voter.promise == Promise(1, B, 7.0)


# -- after a start ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("candidate", [A, B, C])
@pytest.mark.parametrize("pre", [False, True])
def test_after_a_start_nothing_is_granted_for_the_longest_stored_lease(candidate: str, pre: bool) -> None:
    voter = voter_of(Promise(5, B, 4.0), now=100.0)
    assert refusal(voter, candidate, 6, 103.999, pre=pre) == "just_started"
    assert refusal(voter, candidate, 6, 104.0, pre=pre) == ""


def test_a_hand_over_shortens_no_wait_after_a_start() -> None:
    voter = voter_of(Promise(5, B, 4.0))
    assert refusal(voter, C, 6, 1.0, held=(5, B)) == "just_started"


def test_one_that_never_promised_has_nothing_to_wait_for() -> None:
    assert refusal(voter_of(now=100.0), B, 1, 100.0) == ""


def test_the_longest_lease_is_what_the_disk_is_told() -> None:
    voter = voter_of()
    assert voter.grant(1, B, 2.0, 0.0) == [Persist(Promise(1, B, 2.0))]
    assert voter.grant(1, B, 6.0, 1.0) == [Persist(Promise(1, B, 6.0))]
    assert voter.grant(2, B, 2.0, 9.0) == [Persist(Promise(2, B, 2.0))]


def test_after_a_start_a_renewal_is_followed_at_once() -> None:
    lease = lease_of(C, promise=Promise(5, B, LEASE_S))
    answer = reply_to(lease, A, renewal(6), 0.1)
    assert answer == RenewAnswer(followed=True, epoch=6)
    assert lease.known_leader(0.1) == A
    # Still it grants nothing.
    assert reply_to(lease, B, vote_for(7), 0.2) == VoteReply(False, False, 6, "just_started")


# -- the disk --------------------------------------------------------------------------------------------


def test_a_vote_and_the_first_renewal_of_a_winner_are_written_before_they_are_answered() -> None:
    lease = lease_of(C)
    effects = lease.step(Received(A, vote_for(1)), 1.0)
    kinds = [type(effect) for effect in effects]
    assert kinds.index(Persist) < kinds.index(VoteReply)
    assert only(effects, Persist) == [Persist(Promise(1, A, LEASE_S))]
    effects = lease.step(Received(B, renewal(2)), 2.0)
    kinds = [type(effect) for effect in effects]
    assert kinds.index(Persist) < kinds.index(Reply)
    assert only(effects, Persist) == [Persist(Promise(2, B, LEASE_S))]


def test_what_is_on_disk_is_not_written_again() -> None:
    lease = lease_of(C)
    lease.step(Received(A, renewal(1)), 1.0)
    assert only(lease.step(Received(A, renewal(1)), 1.5), Persist) == []
    assert only(lease_of(C, promise=Promise(1, A, LEASE_S)).step(Received(A, renewal(1)), 0.0), Persist) == []


def test_what_the_disk_refused_is_written_with_the_next_promise() -> None:
    # Otherwise the second renewal would be followed with nothing on disk, and a start would forget the promise.
    lease = lease_of(C)
    assert only(lease.step(Received(A, vote_for(1)), 1.0), Persist)
    lease.step(Resign("the promise could not be written"), 1.0)
    effects = lease.step(Received(A, renewal(1)), 1.5)
    kinds = [type(effect) for effect in effects]
    assert kinds.index(Persist) < kinds.index(Reply)
    assert only(lease.step(Received(A, renewal(1)), 2.0), Persist) == []


def test_a_refusal_and_a_pre_vote_change_nothing() -> None:
    lease = lease_of(C)
    lease.step(Received(A, renewal(5)), 1.0)
    for request, reason in ((vote_for(9), "promised"), (vote_for(5), "old_epoch"), (vote_for(9, pre=True), "promised")):
        effects = lease.step(Received(B, request), 1.1)
        assert effects == [VoteReply(False, request.pre, 5, reason)]
    effects = lease.step(Received(B, vote_for(9, pre=True)), 1.0 + LEASE_S)
    assert only(effects, VoteReply) == [VoteReply(True, True, 5, "")]
    assert only(effects, Persist) == []
    assert lease.voter.promise == Promise(5, A, LEASE_S)


def test_a_pre_vote_asks_about_any_epoch_and_learns_what_to_exceed() -> None:
    lease = lease_of(C, promise=Promise(40, B, LEASE_S))
    assert reply_to(lease, A, vote_for(1, pre=True), 10.0) == VoteReply(True, True, 40, "")


# -- renewals --------------------------------------------------------------------------------------------


def test_the_winner_of_the_promised_epoch_is_followed_whoever_got_the_vote() -> None:
    lease = lease_of(C)
    lease.step(Received(A, vote_for(1)), 1.0)
    assert reply_to(lease, B, renewal(1), 1.1) == RenewAnswer(followed=True, epoch=1)
    assert lease.voter.promise == Promise(1, B, LEASE_S)
    assert lease.known_leader(1.2) == B


def test_a_later_epoch_is_followed_while_another_promise_is_in_force() -> None:
    lease = lease_of(C)
    lease.step(Received(A, renewal(1)), 1.0)
    assert reply_to(lease, B, renewal(3), 1.1) == RenewAnswer(followed=True, epoch=3)
    assert lease.known_leader(1.2) == B


def test_a_lower_epoch_is_refused_and_told_the_higher_one() -> None:
    lease = lease_of(C)
    lease.step(Received(B, renewal(3)), 1.0)
    assert reply_to(lease, A, renewal(2), 1.1) == RenewAnswer(followed=False, epoch=3, reason="old_epoch")
    assert lease.known_leader(1.2) == B


def test_another_cluster_is_not_followed_but_a_fresh_node_follows_any() -> None:
    other = renewal(9, genesis="x" * 32)
    assert reply_to(lease_of(C), A, other, 1.0) == RenewAnswer(followed=False, epoch=0, reason="other_cluster")
    fresh = lease_of(C, members=(C,))
    fresh.roster = NOBODY
    assert reply_to(fresh, A, other, 1.0) == RenewAnswer(followed=True, epoch=9)


def test_a_followed_renewal_prolongs_the_promise_from_its_receipt() -> None:
    lease = lease_of(C)
    lease.step(Received(A, renewal(1)), 1.0)
    lease.step(Received(A, renewal(1)), 2.0)
    assert lease.known_leader(2.0 + LEASE_S - 0.001) == A
    assert lease.known_leader(2.0 + LEASE_S) is None
    assert reply_to(lease, B, vote_for(2), 2.0 + LEASE_S - 0.001) == VoteReply(False, False, 1, "promised")


def test_the_repeated_vote_of_the_leader_makes_nobody_leaderless() -> None:
    # A gathering candidate renews to everybody, so its vote may come after its renewal.
    lease = lease_of(C)
    lease.step(Received(A, renewal(1)), 1.0)
    assert reply_to(lease, A, vote_for(1), 1.1) == VoteReply(True, False, 1, "")
    assert lease.known_leader(1.2) == A
