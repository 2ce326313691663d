"""What the voters gave: majorities of votes, of copies, and of answered renewals, always of the members named."""

from __future__ import annotations

from meshq.core.mandate import Mandate
from meshq.core.messages import VoteAnswer
from tests.unit.lease_bench import A, B, C, D, E, roster_of

THREE, FOUR = roster_of(A, B, C), roster_of(A, B, C, D, version=2)


def mandate_of(now: float = 10.0) -> Mandate:
    return Mandate(A, THREE.key, now)


def grant(mandate: Mandate, voter: str, sent_s: float = 10.0, *, newer: bool = False) -> None:
    roster = FOUR if newer else THREE
    mandate.granted(voter, sent_s, VoteAnswer(granted=True, pre=False, epoch=1, vector={}, roster=roster))


def test_everybody_is_asked_once() -> None:
    mandate = mandate_of()
    assert mandate.to_ask((A, B, C)) == [B, C]
    assert mandate.to_ask((A, B, C, D)) == [D]
    assert mandate.to_ask((A, B, C, D)) == []


def test_votes_count_among_the_members() -> None:
    mandate = mandate_of()
    assert mandate.is_won((A,))
    assert not mandate.is_won((A, B, C))
    grant(mandate, D)
    assert not mandate.is_won((A, B, C))
    grant(mandate, B)
    assert mandate.is_won((A, B, C))
    assert mandate.is_won((A, B, C, D, E))
    assert not mandate.is_won(())


def test_what_was_gathered_counts_once_the_newest_roster_is_here() -> None:
    mandate = mandate_of()
    grant(mandate, B, newer=True)
    assert set(mandate.to_gather()) == {B}
    assert mandate.to_gather() == {}
    assert mandate.is_gathering()
    assert not mandate.is_gathered(FOUR)
    mandate.gathered(B)
    assert not mandate.is_gathering()
    assert not mandate.is_gathered(THREE), "B named a newer one"
    assert not mandate.is_gathered(FOUR), "two of four"
    mandate.gathered(D)
    assert mandate.is_gathered(FOUR)


def test_what_could_not_be_pulled_is_not_gathered() -> None:
    mandate = mandate_of()
    grant(mandate, B)
    mandate.to_gather()
    mandate.gather_failed(B)
    assert not mandate.is_gathering()
    assert not mandate.is_gathered(THREE)


def test_a_majority_has_followed_since_the_middle_one() -> None:
    mandate = mandate_of()
    assert mandate.acked_by_majority((A,)) == 10.0
    assert mandate.acked_by_majority((A, B, C)) == float("-inf")
    grant(mandate, B, 9.0)
    assert mandate.acked_by_majority((A, B, C)) == 9.0
    mandate.acked(A, 12.0)
    mandate.acked(C, 11.0)
    assert mandate.acked_by_majority((A, B, C)) == 11.0
    mandate.acked(C, 8.0)
    assert mandate.acked_by_majority((A, B, C)) == 11.0
    mandate.acked(D, 20.0)
    mandate.acked(E, 20.0)
    assert mandate.acked_by_majority((A, B, C)) == 11.0
    assert mandate.acked_by_majority((A, B, C, D)) == 11.0
    assert mandate.acked_by_majority((A, B, C, D, E)) == 12.0
    assert mandate.acked_by_majority((B, C)) == 9.0
