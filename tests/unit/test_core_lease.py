"""The lease of a candidate and a leader: pre-vote, vote, gather, renew, and how it ends."""

from __future__ import annotations

import pytest

from meshq.core.events import (
    Answered,
    Effect,
    Ended,
    Follow,
    Gather,
    Gathered,
    GatherFailed,
    Lead,
    Persist,
    Promise,
    Received,
    Reply,
    Resign,
    Role,
    RosterChanged,
    Send,
    SendAll,
    Tick,
    VoteReply,
)
from meshq.core.membership import Roster
from meshq.core.messages import Renew, RenewAnswer, Vote, VoteAnswer
from tests.unit.lease_bench import (
    COUNTED_S,
    GENESIS,
    TIMING,
    A,
    B,
    C,
    D,
    E,
    follows,
    lead,
    lease_of,
    only,
    refuses,
    renewal,
    reply_to,
    roster_of,
    says_yes,
    sent,
    vote_for,
    win,
)

STEP_S, LEASE_S, HEARTBEAT_S = TIMING.stand_step_s, TIMING.lease_s, TIMING.heartbeat_s
THREE = roster_of(A, B, C)
FIVE = (A, B, C, D, E)


def comes_after(effects: list[Effect], first: type[Effect], later: type[Effect]) -> bool:
    """Whether every effect of the one kind stands before all of the other."""
    firsts = [index for index, effect in enumerate(effects) if isinstance(effect, first)]
    laters = [index for index, effect in enumerate(effects) if isinstance(effect, later)]
    return bool(firsts) and bool(laters) and max(firsts) < min(laters)


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
    assert lease.role is Role.ASKING


def test_nobody_raises_an_epoch_unless_a_majority_would_grant() -> None:
    lease = lease_of(A, members=FIVE)
    ballot = sent(lease.step(Tick(), 0.0), Vote)[B]
    lease.step(says_yes(B, ballot, 0.0, epoch=0, roster=lease.roster), 0.1)
    lease.step(no_vote(C, ballot, 0.0, epoch=0, reason="promised"), 0.1)
    now = 0.1
    while lease.role is not Role.FOLLOWER:
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


def test_an_answer_of_an_earlier_pre_vote_counts_for_nothing() -> None:
    lease = lease_of(A)
    early = sent(lease.step(Tick(), 0.0), Vote)[B]
    now = 0.0
    while lease.role is not Role.FOLLOWER:
        now = lease.deadline(now)
        lease.step(Tick(), now)
    lease.step(Tick(), now)
    assert lease.role is Role.ASKING
    lease.step(says_yes(B, early, now - 0.001, epoch=0, roster=THREE), now + 0.1)
    assert lease.role is Role.ASKING
    lease.step(says_yes(B, early, now, epoch=0, roster=THREE), now + 0.1)
    assert lease.role is Role.VOTING


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
    assert lease.role is Role.GATHERING
    assert [sorted(effect.granters) for effect in only(effects, Gather)] == [[B]]
    assert only(effects, SendAll) == [SendAll(renewal(1))]
    assert only(effects, Lead) == []
    assert not lease.leads(0.0)
    assert lease.known_leader(0.0) is None
    # Its votes last while it gathers.
    assert only(lease.step(Tick(), HEARTBEAT_S), SendAll) == [SendAll(renewal(1))]
    assert only(lease.step(Gathered(1, B, THREE), 0.6), Lead) == [Lead(1)]
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
    assert lease.role is Role.GATHERING
    lease.step(says_yes(C, vote_for(1), 0.0, roster=THREE), 0.5)
    assert only(lease.step(Gathered(1, C, THREE), 0.6), Lead) == [Lead(1)]


def test_a_gather_that_fails_ends_the_candidature_when_no_vote_comes() -> None:
    lease = lease_of(A)
    win(lease, 0.0, B)
    lease.step(GatherFailed(1, B), 0.1)
    assert only(lease.step(Tick(), 3 * STEP_S), Ended)
    assert lease.role is Role.FOLLOWER


def test_what_was_gathered_for_another_epoch_counts_for_nothing() -> None:
    lease = lease_of(A)
    win(lease, 0.0, B)
    assert lease.step(Gathered(0, B, THREE), 0.1) == []
    assert lease.step(GatherFailed(0, B), 0.1) == []
    assert lease.role is Role.GATHERING


def test_it_leads_only_with_a_majority_of_the_newest_roster_that_a_granter_named() -> None:
    newer = roster_of(*FIVE, version=2)
    lease = lease_of(A)
    win(lease, 0.0, B)
    effects = lease.step(Gathered(1, B, newer), 0.1)
    assert only(effects, Lead) == []
    # The voters that it did not know of are asked now.
    assert sent(effects, Vote) == {D: vote_for(1), E: vote_for(1)}
    lease.step(Tick(), 0.2)
    assert lease.role is Role.GATHERING, "two of five are no majority yet, but the others have their time"
    effects = lease.step(says_yes(D, vote_for(1), 0.1, roster=newer), 0.3)
    assert [sorted(effect.granters) for effect in only(effects, Gather)] == [[D]]
    assert only(lease.step(Gathered(1, D, newer), 0.4), Lead) == [Lead(1)]
    assert lease.leads(0.4)


def test_voters_of_a_newer_roster_that_do_not_answer_end_the_candidature() -> None:
    lease = lease_of(A)
    win(lease, 0.0, B)
    lease.step(Gathered(1, B, roster_of(*FIVE, version=2)), 0.1)
    assert lease.step(Tick(), 0.1 + 3 * STEP_S - 0.001) == [SendAll(renewal(1))]
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


# -- lead ------------------------------------------------------------------------------------------------


def test_the_lease_counts_from_when_that_was_sent_which_a_majority_answered() -> None:
    lease = lease_of(A, members=FIVE)
    lead(lease, 0.0, B, C)
    assert lease.lease_until() == pytest.approx(COUNTED_S)
    for now in (0.5, 1.0, 1.5):
        lease.step(Tick(), now)
    lease.step(follows(B, renewal(1), 1.0), 1.6)
    assert lease.lease_until() == pytest.approx(COUNTED_S), "one and itself are no majority of five"
    lease.step(follows(D, renewal(1), 0.5), 1.6)
    assert lease.lease_until() == pytest.approx(0.5 + COUNTED_S)
    # An older answer that comes later takes nothing back.
    lease.step(follows(B, renewal(1), 0.5), 1.7)
    lease.step(follows(C, renewal(1), 1.5), 1.7)
    assert lease.lease_until() == pytest.approx(1.0 + COUNTED_S)


def test_answers_of_learners_count_for_nothing() -> None:
    lease = lease_of(A)
    lead(lease, 0.0, B)
    for now in (0.5, 1.0):
        lease.step(Tick(), now)
    lease.step(follows(D, renewal(1), 1.0), 1.1)
    assert lease.lease_until() == pytest.approx(COUNTED_S)


def test_a_leader_steps_down_when_its_lease_runs_out() -> None:
    lease = lease_of(A)
    lead(lease, 0.0, B)
    assert lease.leads(COUNTED_S - 0.001)
    assert not lease.leads(COUNTED_S)
    assert lease.known_leader(COUNTED_S) is None
    assert lease.deadline(COUNTED_S - 0.3) <= COUNTED_S
    effects = lease.step(Tick(), COUNTED_S)
    assert only(effects, Ended) == [Ended(1, "the lease ran out")]
    assert only(effects, SendAll) == []


def test_a_leader_that_slept_through_its_lease_says_nothing_more_as_leader() -> None:
    lease = lease_of(A)
    lead(lease, 0.0, B)
    effects = lease.step(Received(C, renewal(2)), 60.0)
    assert [type(effect) for effect in effects] == [Ended, Persist, Follow, Reply]
    # Not even an answer that was under way brings the lease back.
    lease = lease_of(A)
    lead(lease, 0.0, B)
    lease.step(Tick(), 1.0)
    assert only(lease.step(follows(B, renewal(1), 1.0), 60.0), Ended)
    assert not lease.leads(60.0)


def test_the_leaders_promise_to_itself_outlasts_what_it_counts() -> None:
    lease = lease_of(A)
    lead(lease, 0.0, B)
    lease.step(Tick(), 1.5)
    lease.step(Tick(), COUNTED_S)
    assert lease.role is Role.FOLLOWER
    assert reply_to(lease, B, vote_for(2), 1.5 + LEASE_S - 0.001) == VoteReply(False, False, 1, "promised")
    assert reply_to(lease, B, vote_for(2), 1.5 + LEASE_S) == VoteReply(True, False, 2, "")


def test_a_leader_renews_every_heartbeat_and_writes_nothing_for_it() -> None:
    lease = lease_of(A)
    lead(lease, 0.0, B)
    assert lease.deadline(0.0) == pytest.approx(HEARTBEAT_S)
    assert lease.step(Tick(), HEARTBEAT_S - 0.001) == []
    assert lease.step(Tick(), HEARTBEAT_S) == [SendAll(Renew(epoch=1, lease_s=LEASE_S, genesis=GENESIS))]


def test_a_leader_follows_a_later_epoch_and_refuses_its_own_from_another() -> None:
    lease = lease_of(A)
    lead(lease, 0.0, B)
    assert reply_to(lease, C, renewal(1), 0.1) == RenewAnswer(followed=False, epoch=1, reason="two_leaders")
    assert lease.leads(0.1)
    effects = lease.step(Received(C, renewal(2)), 0.2)
    assert only(effects, Ended) == [Ended(1, "another leads")]
    assert only(effects, Reply) == [Reply(RenewAnswer(followed=True, epoch=2))]
    assert not lease.leads(0.2)


def test_no_late_answer_revives_an_epoch_that_ended() -> None:
    lease = lease_of(A)
    lead(lease, 0.0, B)
    lease.step(Tick(), 1.5)
    lease.step(Resign("nothing could be committed"), 1.6)
    for voter in (B, C):
        assert lease.step(follows(voter, renewal(1), 1.5), 1.7) == []
    assert not lease.leads(1.7)
    assert lease.role is Role.FOLLOWER
    # Not the next epoch's lease either.
    lease.step(Tick(), lease.deadline(1.7))
    ballot = vote_for(2, pre=True)
    lease.step(says_yes(B, ballot, lease.deadline(1.7), epoch=1, roster=THREE), 3.2)
    assert lease.role is Role.VOTING
    lease.step(follows(C, renewal(1), 1.5), 3.2)
    assert lease.role is Role.VOTING


def test_granting_anothers_vote_ends_the_epoch_for_good() -> None:
    # It can only be granted once the promise to itself is over, which a clock that jumps may bring about at once.
    lease = lease_of(A)
    lead(lease, 0.0, B)
    now = LEASE_S + 1.0
    effects = lease.step(Received(C, vote_for(2)), now)
    assert only(effects, Ended)
    assert only(effects, VoteReply) == [VoteReply(True, False, 2, "")]
    assert comes_after(effects, Persist, VoteReply)
    assert lease.step(follows(B, renewal(1), now - 0.1), now) == []
    assert not lease.leads(now)


def test_refused_by_a_replica_with_a_later_epoch_it_stands_again_above_that_epoch() -> None:
    lease = lease_of(A)
    lead(lease, 0.0, B)
    lease.step(Tick(), 0.5)
    effects = lease.step(refuses(C, renewal(1), 0.5, epoch=9), 0.6)
    assert only(effects, Ended) == [Ended(1, "a replica promised a later epoch")]
    ballot = sent(effects, Vote)[B]
    assert ballot.pre
    # B's yes is enough, and what C refused with is not forgotten: a vote that C must refuse would change nothing.
    effects = lease.step(says_yes(B, ballot, 0.6, epoch=1, roster=THREE), 0.7)
    assert sent(effects, Vote) == {B: vote_for(10), C: vote_for(10)}


def test_it_stands_again_at_most_once_per_lease() -> None:
    lease = lease_of(A)
    lead(lease, 0.0, B)
    lease.step(refuses(C, renewal(1), 0.0, epoch=9), 0.1)
    lease.step(says_yes(B, vote_for(2, pre=True), 0.1, epoch=1, roster=THREE), 0.1)
    lease.step(says_yes(B, vote_for(10), 0.1, roster=THREE), 0.1)
    lease.step(Gathered(10, B, THREE), 0.1)
    assert lease.leads(0.1)
    lease.step(follows(B, renewal(10), 1.5), 1.6)
    assert only(lease.step(refuses(C, renewal(10), 1.5, epoch=12), 1.6), Ended) == []
    lease.step(Tick(), 2.5)
    lease.step(follows(B, renewal(10), 2.5), 2.5)
    assert only(lease.step(refuses(C, renewal(10), 2.5, epoch=12), 0.1 + LEASE_S), Ended)


@pytest.mark.parametrize(("sender", "reason"), [(D, "old_epoch"), (C, "other_cluster")])
def test_other_refusals_depose_nobody(sender: str, reason: str) -> None:
    lease = lease_of(A)
    lead(lease, 0.0, B)
    assert lease.step(refuses(sender, renewal(1), 0.0, epoch=9, reason=reason), 0.1) == []
    assert lease.leads(0.1)


def test_a_cluster_of_one_elects_itself_at_once() -> None:
    lease = lease_of(A, members=(A,))
    effects = lease.step(Tick(), 0.0)
    assert [type(effect) for effect in effects] == [Persist, SendAll, Lead]
    assert lease.leads(0.0)
    for now in (0.5, 1.0, 1.5, 2.0, 60.0):
        lease.step(Tick(), now)
    # It slept for 58 s, and stands again after the round that a lost leadership costs.
    assert not lease.leads(60.0)
    due = lease.deadline(60.0)
    lease.step(Tick(), due)
    assert lease.leads(due)
    assert lease.epoch == 2


def test_a_larger_roster_needs_its_own_majority() -> None:
    lease = lease_of(A, members=(A,))
    lease.step(Tick(), 0.0)
    lease.step(follows(B, renewal(1), 0.0), 0.1)
    lease.step(RosterChanged(roster_of(A, B, version=2)), 0.2)
    assert lease.leads(0.2), "the learner followed before it was made a replica"
    lease.step(Tick(), 0.5)
    assert lease.lease_until() == pytest.approx(COUNTED_S)
    lease.step(follows(B, renewal(1), 0.5), 0.6)
    assert lease.lease_until() == pytest.approx(0.5 + COUNTED_S)


def test_an_older_roster_changes_nothing() -> None:
    lease = lease_of(A)
    lease.step(RosterChanged(roster_of(A, version=0)), 0.0)
    lease.step(RosterChanged(Roster()), 0.0)
    assert lease.roster == THREE


def test_a_lost_leader_is_told_once() -> None:
    lease = lease_of(C)
    assert only(lease.step(Received(A, renewal(1)), 1.0), Follow) == [Follow(A, 1)]
    assert only(lease.step(Received(A, renewal(1)), 1.5), Follow) == []
    assert only(lease.step(Tick(), 1.5 + LEASE_S), Follow) == [Follow(None, 1)]
    assert only(lease.step(Tick(), 1.5 + LEASE_S), Follow) == []
    assert only(lease.step(Received(A, renewal(2)), 5.0), Follow) == [Follow(A, 2)]
