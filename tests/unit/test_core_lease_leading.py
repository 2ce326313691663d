"""The lease of a leader: how long it counts on it, and everything that ends it."""

from __future__ import annotations

import pytest

from meshq.core.events import (
    Ended,
    Follow,
    Gathered,
    Lead,
    Outdated,
    Persist,
    Received,
    Reply,
    Resign,
    Role,
    RosterChanged,
    SendAll,
    Tick,
    VoteReply,
)
from meshq.core.ids import short
from meshq.core.membership import Roster
from meshq.core.messages import Renew, RenewAnswer, Vote
from tests.unit.lease_bench import (
    COUNTED_S,
    GENESIS,
    TIMING,
    A,
    B,
    C,
    D,
    E,
    comes_after,
    follows,
    lead,
    lease_of,
    only,
    refuses,
    renewal,
    reply_to,
    role_of,
    roster_of,
    says_yes,
    sent,
    vote_for,
)

STEP_S, LEASE_S, HEARTBEAT_S = TIMING.stand_step_s, TIMING.lease_s, TIMING.heartbeat_s
THREE = roster_of(A, B, C)
FIVE = (A, B, C, D, E)


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


def test_answers_to_an_earlier_epochs_renewals_count_for_nothing() -> None:
    lease = lease_of(A, members=FIVE)
    lead(lease, 0.0, B, C)
    lease.step(Resign("chance"), 0.1)
    again_s = lease.deadline(0.1)
    lead(lease, again_s, B, C)
    lease.step(Tick(), again_s + 0.5)
    for voter in (D, E):
        lease.step(follows(voter, renewal(1), again_s + 0.4), again_s + 0.5)
    assert lease.lease_until() == pytest.approx(again_s + COUNTED_S)


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
    assert role_of(lease) is Role.FOLLOWER
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
    assert role_of(lease) is Role.FOLLOWER
    # Not the next epoch's lease either.
    lease.step(Tick(), lease.deadline(1.7))
    ballot = vote_for(2, pre=True)
    lease.step(says_yes(B, ballot, lease.deadline(1.7), epoch=1, roster=THREE), 3.2)
    assert role_of(lease) is Role.VOTING
    lease.step(follows(C, renewal(1), 1.5), 3.2)
    assert role_of(lease) is Role.VOTING


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


@pytest.mark.parametrize("sender", [C, D], ids=["a replica", "a node off the roster"])
def test_refused_by_one_who_promised_a_later_epoch_it_stands_again_above_that(sender: str) -> None:
    lease = lease_of(A)
    lead(lease, 0.0, B)
    lease.step(Tick(), 0.5)
    effects = lease.step(refuses(sender, renewal(1), 0.5, epoch=9), 0.6)
    assert only(effects, Ended) == [Ended(1, f"{short(sender)} promised a later epoch")]
    ballot = sent(effects, Vote)[B]
    assert ballot.pre
    # B's yes is enough, and the epoch of the refusal is not forgotten: a vote that is refused would change nothing.
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


@pytest.mark.parametrize("reason", ["other_cluster", "two_leaders"])
def test_other_refusals_depose_nobody(reason: str) -> None:
    lease = lease_of(A)
    lead(lease, 0.0, B)
    assert lease.step(refuses(C, renewal(1), 0.0, epoch=9, reason=reason), 0.1) == []
    assert lease.leads(0.1)


def test_a_cluster_of_one_elects_itself_at_once() -> None:
    lease = lease_of(A, members=(A,))
    effects = lease.step(Tick(), 0.0)
    assert [type(effect) for effect in effects] == [Persist, Lead, SendAll]
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


# -- rows and rosters that come home ---------------------------------------------------------------------


def test_a_row_of_a_later_epoch_makes_the_leader_stand_above_it_once_per_lease() -> None:
    lease = lease_of(A, members=FIVE)
    lead(lease, 0.0, B, C)
    lease.step(Outdated(7), 0.1)
    effects = lease.step(Tick(), lease.deadline(0.1))
    assert only(effects, Ended) == [Ended(1, "rows of a later epoch came home")]
    assert role_of(lease) is Role.ASKING
    prevote = Vote(epoch=2, pre=True, lease_s=LEASE_S, genesis=GENESIS)
    for voter in (B, C):
        effects = lease.step(says_yes(voter, prevote, 0.6, roster=roster_of(*FIVE)), 0.7)
    assert all(vote.epoch == 8 for vote in sent(effects, Vote).values())
    assert len(sent(effects, Vote)) == 4


def test_a_row_of_an_earlier_epoch_changes_nothing() -> None:
    lease = lease_of(A, members=FIVE)
    lead(lease, 0.0, B, C)
    lease.step(Outdated(1), 0.1)
    lease.step(Tick(), lease.deadline(0.1))
    assert role_of(lease) is Role.LEADER


def test_a_leader_that_a_newer_roster_leaves_out_leads_no_more() -> None:
    lease = lease_of(A, members=FIVE)
    lead(lease, 0.0, B, C)
    recovered = Roster(genesis=GENESIS, members=(B,), recovery=1)
    assert only(lease.step(RosterChanged(recovered), 0.2), Ended) == [Ended(1, "not on the newest roster")]
    assert not lease.leads(0.2)


# -- without a majority ----------------------------------------------------------------------------------


def test_who_leads_stands_or_gave_its_word_is_bound() -> None:
    lease = lease_of(A, members=FIVE)
    assert not lease.bound(10.0)
    lead(lease, 10.0, B, C)
    assert lease.bound(10.1)
    lease.step(Resign("chance"), 10.2)
    assert not lease.bound(10.3), "its promise is its own"
    lease.step(Received(B, vote_for(9)), 10.3 + LEASE_S)
    assert lease.bound(10.4 + LEASE_S)
    assert not lease.bound(10.4 + 2 * LEASE_S)
