"""The lease of a candidate: pre-vote, vote, and what it gathers before it leads."""

from __future__ import annotations

import pytest

from meshq.core.events import (
    Answered,
    Ended,
    Gather,
    Gathered,
    GatherFailed,
    Lead,
    Persist,
    Promise,
    Received,
    Reply,
    Role,
    Send,
    SendAll,
    Tick,
    VoteReply,
)
from meshq.core.limits import EPOCH_MAX
from meshq.core.messages import Vote, VoteAnswer
from tests.unit.lease_bench import (
    TIMING,
    A,
    B,
    C,
    D,
    E,
    comes_after,
    lease_of,
    only,
    renewal,
    reply_to,
    role_of,
    roster_of,
    says_yes,
    sent,
    vote_for,
    win,
)

STEP_S, LEASE_S, HEARTBEAT_S = TIMING.stand_step_s, TIMING.lease_s, TIMING.heartbeat_s
THREE = roster_of(A, B, C)
FIVE = (A, B, C, D, E)


def no_vote(voter: str, request: Vote, sent_s: float, *, epoch: int, reason: str) -> Answered:
    answer = VoteAnswer(granted=False, pre=request.pre, epoch=epoch, reason=reason, vector={}, roster=THREE)
    return Answered(voter, sent_s, request, answer)


# -- pre-vote --------------------------------------------------------------------------------------------


def test_a_candidate_asks_first_and_promises_nothing() -> None:
    lease = lease_of(A)
    effects = lease.step(Tick(), 0.0)
    assert sent(effects, Vote) == {B: vote_for(1, pre=True), C: vote_for(1, pre=True)}
    assert only(effects, Persist) == []
    assert lease.voter.promise == Promise()
    assert role_of(lease) is Role.ASKING


def test_nobody_raises_an_epoch_unless_a_majority_would_grant() -> None:
    lease = lease_of(A, members=FIVE)
    ballot = sent(lease.step(Tick(), 0.0), Vote)[B]
    lease.step(says_yes(B, ballot, 0.0, epoch=0, roster=lease.roster), 0.1)
    lease.step(no_vote(C, ballot, 0.0, epoch=0, reason="promised"), 0.1)
    now = 0.1
    while role_of(lease) is not Role.FOLLOWER:
        now = lease.deadline(now)
        assert only(lease.step(Tick(), now), Persist) == []
    assert lease.voter.promise == Promise()
    assert now == pytest.approx(3 * STEP_S)


def test_those_who_have_not_said_yes_are_asked_again_within_the_phase() -> None:
    # Their promises run out a little later than this node's own.
    lease = lease_of(A, members=FIVE)
    ballot = sent(lease.step(Tick(), 0.0), Vote)[B]
    lease.step(says_yes(B, ballot, 0.0, epoch=0, roster=lease.roster), 0.01)
    assert lease.deadline(0.01) == pytest.approx(STEP_S / 2)
    assert set(sent(lease.step(Tick(), STEP_S / 2), Vote)) == {C, D, E}


def test_the_vote_exceeds_every_epoch_that_anybody_answered_with() -> None:
    lease = lease_of(A, members=FIVE)
    ballot = sent(lease.step(Tick(), 0.0), Vote)[B]
    # Who refuses has promised more than those who grant.
    lease.step(no_vote(E, ballot, 0.0, epoch=30, reason="promised"), 0.1)
    lease.step(says_yes(B, ballot, 0.0, epoch=7, roster=lease.roster), 0.1)
    effects = lease.step(says_yes(C, ballot, 0.0, epoch=3, roster=lease.roster), 0.1)
    assert set(sent(effects, Vote).values()) == {vote_for(31)}


def test_an_epoch_that_nobody_could_read_is_neither_promised_nor_asked_for() -> None:
    lease = lease_of(A)
    ballot = sent(lease.step(Tick(), 0.0), Vote)[B]
    lease.step(no_vote(C, ballot, 0.0, epoch=EPOCH_MAX - 1, reason="promised"), 0.1)
    effects = lease.step(says_yes(B, ballot, 0.0, epoch=1, roster=THREE), 0.1)
    assert [type(effect) for effect in effects] == [Ended]
    assert (lease.role, lease.voter.promise.epoch) == (Role.FOLLOWER, 0)


def test_an_answer_of_an_earlier_pre_vote_counts_for_nothing() -> None:
    lease = lease_of(A)
    early = sent(lease.step(Tick(), 0.0), Vote)[B]
    now = 0.0
    while role_of(lease) is not Role.FOLLOWER:
        now = lease.deadline(now)
        lease.step(Tick(), now)
    lease.step(Tick(), now)
    assert role_of(lease) is Role.ASKING
    lease.step(says_yes(B, early, now - 0.001, epoch=0, roster=THREE), now + 0.1)
    assert role_of(lease) is Role.ASKING
    lease.step(says_yes(B, early, now, epoch=0, roster=THREE), now + 0.1)
    assert role_of(lease) is Role.VOTING


# -- vote ------------------------------------------------------------------------------------------------


def test_the_candidates_own_promise_is_on_disk_before_anybody_is_asked() -> None:
    lease = lease_of(A)
    ballot = sent(lease.step(Tick(), 0.0), Vote)[B]
    effects = lease.step(says_yes(B, ballot, 0.0, epoch=0, roster=THREE), 0.1)
    assert only(effects, Persist) == [Persist(Promise(1, A, LEASE_S))]
    assert comes_after(effects, Persist, Send)
    assert sent(effects, Vote) == {B: vote_for(1), C: vote_for(1)}


def test_a_candidate_grants_nobody_else_a_vote() -> None:
    lease = lease_of(A)
    ballot = sent(lease.step(Tick(), 0.0), Vote)[B]
    lease.step(says_yes(B, ballot, 0.0, epoch=0, roster=THREE), 0.1)
    assert reply_to(lease, C, vote_for(1), 0.2) == VoteReply(False, False, 1, "old_epoch")
    assert reply_to(lease, C, vote_for(2), 0.2) == VoteReply(False, False, 1, "promised")


def test_a_grant_of_an_earlier_epoch_is_no_vote_for_this_one() -> None:
    lease = lease_of(A)
    ballot = sent(lease.step(Tick(), 0.0), Vote)[B]
    lease.step(says_yes(B, ballot, 0.0, epoch=4, roster=THREE), 0.1)
    assert lease.step(says_yes(B, vote_for(4), 0.1, roster=THREE), 0.2) == []
    assert role_of(lease) is Role.VOTING


def test_one_that_grants_anothers_vote_asks_no_more() -> None:
    lease = lease_of(A)
    ballot = sent(lease.step(Tick(), 0.0), Vote)[B]
    assert reply_to(lease, C, vote_for(1), 0.1) == VoteReply(True, False, 1, "")
    assert role_of(lease) is Role.FOLLOWER
    assert lease.step(says_yes(B, ballot, 0.0, epoch=0, roster=THREE), 0.2) == []
    assert lease.deadline(0.2) >= 0.1 + LEASE_S


def test_a_vote_without_a_majority_ends() -> None:
    lease = lease_of(A)
    ballot = sent(lease.step(Tick(), 0.0), Vote)[B]
    lease.step(says_yes(B, ballot, 0.0, epoch=0, roster=THREE), 0.1)
    ended = lease.step(Tick(), 0.1 + 3 * STEP_S)
    assert only(ended, Ended) == [Ended(1, "no majority granted")]
    # A grant that comes now is late.
    assert lease.step(says_yes(B, vote_for(1), 0.1, roster=THREE), 1.4) == []


def test_a_loser_follows_the_winner_of_the_same_epoch() -> None:
    lease = lease_of(A)
    ballot = sent(lease.step(Tick(), 0.0), Vote)[B]
    lease.step(says_yes(B, ballot, 0.0, epoch=0, roster=THREE), 0.1)
    effects = lease.step(Received(C, renewal(1)), 0.2)
    assert only(effects, Ended) == [Ended(1, "another leads")]
    assert only(effects, Persist) == [Persist(Promise(1, C, LEASE_S))]
    assert comes_after(effects, Persist, Reply)
    assert lease.step(says_yes(B, vote_for(1), 0.1, roster=THREE), 0.3) == []
    assert lease.known_leader(0.3) == C


# -- gather ----------------------------------------------------------------------------------------------


def test_the_winner_renews_and_gathers_before_it_leads() -> None:
    lease = lease_of(A)
    effects = win(lease, 0.0, B)
    assert role_of(lease) is Role.GATHERING
    assert [sorted(effect.granters) for effect in only(effects, Gather)] == [[B]]
    # Not to C: it may follow the leader of a newer roster than this one's.
    assert Send(B, renewal(1)) in effects
    assert Send(C, renewal(1)) not in effects
    assert only(effects, SendAll) == []
    assert only(effects, Lead) == []
    assert not lease.leads(0.0)
    assert lease.known_leader(0.0) is None
    # Its votes last while it gathers.
    assert lease.step(Tick(), HEARTBEAT_S) == [Send(B, renewal(1))]
    assert lease.step(Gathered(1, B, THREE), 0.6) == [Lead(1), SendAll(renewal(1))]
    assert lease.leads(0.6)
    assert lease.known_leader(0.6) == A


def test_votes_that_come_while_it_gathers_are_gathered_too() -> None:
    lease = lease_of(A, members=FIVE)
    win(lease, 0.0, B, C)
    effects = lease.step(says_yes(D, vote_for(1), 0.0, roster=lease.roster), 0.1)
    assert [sorted(effect.granters) for effect in only(effects, Gather)] == [[D]]
    lease.step(GatherFailed(1, B), 0.2)
    lease.step(Gathered(1, C, lease.roster), 0.2)
    assert not lease.leads(0.2)
    lease.step(Gathered(1, D, lease.roster), 0.3)
    assert lease.leads(0.3)


def test_a_gather_that_fails_leaves_time_for_another_vote() -> None:
    lease = lease_of(A)
    win(lease, 0.0, B)
    lease.step(GatherFailed(1, B), 0.1)
    assert role_of(lease) is Role.GATHERING
    lease.step(says_yes(C, vote_for(1), 0.0, roster=THREE), 0.5)
    assert only(lease.step(Gathered(1, C, THREE), 0.6), Lead) == [Lead(1)]


def test_a_gather_that_fails_ends_the_candidature_when_no_vote_comes() -> None:
    lease = lease_of(A)
    win(lease, 0.0, B)
    lease.step(GatherFailed(1, B), 0.1)
    assert only(lease.step(Tick(), 3 * STEP_S), Ended)
    assert role_of(lease) is Role.FOLLOWER


def test_what_was_gathered_for_another_epoch_counts_for_nothing() -> None:
    lease = lease_of(A)
    win(lease, 0.0, B)
    assert lease.step(Gathered(0, B, THREE), 0.1) == []
    assert lease.step(GatherFailed(0, B), 0.1) == []
    assert role_of(lease) is Role.GATHERING


def test_it_leads_only_with_a_majority_of_the_newest_roster_that_a_granter_named() -> None:
    newer = roster_of(*FIVE, version=2)
    lease = lease_of(A)
    win(lease, 0.0, B)
    effects = lease.step(Gathered(1, B, newer), 0.1)
    assert only(effects, Lead) == []
    # The voters that it did not know of are asked now.
    assert sent(effects, Vote) == {D: vote_for(1), E: vote_for(1)}
    lease.step(Tick(), 0.2)
    assert role_of(lease) is Role.GATHERING, "two of five are no majority yet, but the others have their time"
    effects = lease.step(says_yes(D, vote_for(1), 0.1, roster=newer), 0.3)
    assert [sorted(effect.granters) for effect in only(effects, Gather)] == [[D]]
    assert only(lease.step(Gathered(1, D, newer), 0.4), Lead) == [Lead(1)]
    assert lease.leads(0.4)


def test_voters_of_a_newer_roster_that_do_not_answer_end_the_candidature() -> None:
    lease = lease_of(A)
    win(lease, 0.0, B)
    lease.step(Gathered(1, B, roster_of(*FIVE, version=2)), 0.1)
    assert lease.step(Tick(), 0.1 + 3 * STEP_S - 0.001) == [Send(B, renewal(1))]
    assert only(lease.step(Tick(), 0.1 + 3 * STEP_S), Ended)


def test_it_waits_for_a_newer_roster_even_where_its_own_would_do() -> None:
    # B names a roster that it could not send yet; C has the old one.
    lease = lease_of(A)
    newer = roster_of(A, B, C, D, version=2)
    win(lease, 0.0, B, roster=newer)
    lease.step(says_yes(C, vote_for(1), 0.0, roster=THREE), 0.0)
    assert only(lease.step(Gathered(1, C, THREE), 0.1), Lead) == []
    effects = lease.step(Gathered(1, B, newer), 0.2)
    assert only(effects, Lead) == [Lead(1)]


def test_one_that_is_not_on_the_newest_roster_does_not_lead() -> None:
    lease = lease_of(A)
    win(lease, 0.0, B)
    effects = lease.step(Gathered(1, B, roster_of(B, C, version=2)), 0.1)
    assert only(effects, Lead) == []
    assert only(effects, Ended) == [Ended(1, "not on the newest roster")]
    assert lease.deadline(0.1) == float("inf")
