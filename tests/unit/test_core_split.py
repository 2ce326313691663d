"""Going on without a majority: the rules, without clock or network."""

from __future__ import annotations

import pytest

from meshq.core.split import Kind, Patience, Peer, Split

PATIENCE = Patience(split_after_s=6.0, cold_after_s=30.0)
ABC = ("a", "b", "c")
LIVE = Peer(alive=True, silent_s=0.1)


def gone(silent_s: float = 7.0, *, kind: str = "", stopping: bool = False) -> Peer:
    """A node that does not answer."""
    return Peer(alive=False, silent_s=silent_s, kind=kind, stopping=stopping)


def warm(leader: str = "") -> Peer:
    """A live node that goes on without a majority."""
    return Peer(alive=True, silent_s=0.1, kind="warm", leader=leader)


def cold(leader: str = "") -> Peer:
    """A live node that has started and found no majority."""
    return Peer(alive=True, silent_s=0.1, kind="cold", leader=leader)


def after_contact(me: str = "b", *, in_sync: bool = True) -> Split:
    """A node that followed a majority's leader until the instant 100."""
    split = Split(me, PATIENCE, 0.0)
    split.touch(100.0, in_sync=in_sync)
    return split


def look(split: Split, now: float, *, epoch: int = 5, in_sync: bool = False, **peers: Peer) -> Split:
    """The node looks around among a, b and c."""
    split.look(ABC, peers, epoch=epoch, in_sync=in_sync, now=now)
    return split


def test_a_majority_that_may_still_answer_is_waited_for() -> None:
    split = look(after_contact(), 105.0, a=gone(5.0), c=gone(5.0))
    assert (split.kind, split.leader, split.term) == (Kind.NONE, None, None)


def test_who_is_left_alone_leads_its_part_after_six_seconds() -> None:
    split = look(after_contact(), 106.5, a=gone(6.5), c=gone(6.5))
    assert (split.kind, split.leader) == (Kind.WARM, "b")
    assert split.term is not None
    assert (split.term.epoch, split.term.split, split.term.kind) == (5, 1, Kind.WARM)


def test_who_was_told_goodbye_does_not_wait() -> None:
    split = look(after_contact(), 100.5, a=gone(0.4, stopping=True), c=gone(0.4, stopping=True))
    assert split.leader == "b"


def test_one_goodbye_of_three_is_no_split() -> None:
    assert not look(after_contact(), 100.5, a=gone(0.4, stopping=True), c=LIVE).kind


def test_a_reachable_majority_without_a_leader_has_its_time() -> None:
    split = look(after_contact(), 120.0, a=LIVE, c=LIVE)
    assert not split.kind
    assert look(split, 131.0, a=LIVE, c=LIVE).kind is Kind.WARM


def test_a_copy_that_was_behind_is_cold_and_waits_for_thirty_seconds() -> None:
    split = look(after_contact(in_sync=False), 107.0, a=gone(), c=gone())
    assert (split.kind, split.leader) == (Kind.COLD, None)
    split = look(split, 130.5, a=gone(), c=gone())
    assert split.leader == "b"
    assert split.term is not None
    assert split.term.kind is Kind.COLD


def test_a_node_that_has_just_started_is_cold() -> None:
    split = Split("b", PATIENCE, 0.0)
    assert look(split, 5.0, a=gone(5.0), c=gone(5.0)).kind is Kind.NONE
    assert look(split, 29.0, a=gone(29.0), c=gone(29.0)).leader is None
    assert look(split, 30.5, a=gone(30.5), c=gone(30.5)).leader == "b"


@pytest.mark.parametrize(
    ("others", "leader"),
    [
        ({"a": warm()}, "a"),
        ({"a": warm("a")}, "a"),
        ({"a": cold("a")}, "b"),  # warm goes before cold
        ({"c": warm("c")}, "b"),  # then the lowest id
        ({"a": warm("x")}, "b"),  # follows somebody out of reach, and leads nothing
        ({"a": Peer(alive=True, silent_s=0.1, kind="warm", stopping=True)}, "b"),
        ({"a": gone(7.0, kind="warm")}, "b"),
        ({"a": Peer(alive=True, silent_s=0.1, leader="m")}, "b"),  # a bridge: it is with the majority
        ({"z": warm("z")}, "b"),  # no replica
    ],
)
def test_whom_a_warm_replica_follows(others: dict[str, Peer], leader: str) -> None:
    peers = {"a": gone(), "c": gone()} | others
    split = after_contact()
    # Five replicas, so that two of them are no majority.
    split.look(("a", "b", "c", "d", "e"), peers | {"d": gone(), "e": gone()}, epoch=5, in_sync=False, now=107.0)
    assert split.leader == leader


def test_a_cold_replica_follows_a_warm_one_at_once() -> None:
    split = Split("a", PATIENCE, 0.0)
    split.look(ABC, {"b": warm("b"), "c": gone()}, epoch=5, in_sync=False, now=7.0)
    assert split.kind is Kind.NONE, "two of three are a majority, which may elect a leader"
    split.look(
        ("a", "b", "c", "d", "e"), {"b": warm("b")} | dict.fromkeys("cde", gone()), epoch=5, in_sync=False, now=7.0
    )
    assert (split.kind, split.leader) == (Kind.COLD, "b")


def test_a_cold_replica_in_sync_with_a_warm_one_is_warm() -> None:
    split = Split("a", PATIENCE, 0.0)
    members, peers = ("a", "b", "c", "d", "e"), {"b": warm("b")} | dict.fromkeys("cde", gone())
    split.look(members, peers, epoch=5, in_sync=False, now=7.0)
    split.look(members, peers, epoch=5, in_sync=True, now=8.0)
    assert split.kind is Kind.WARM
    split.look(members, peers | {"b": gone()}, epoch=5, in_sync=False, now=20.0)
    assert split.leader == "a"


def test_a_lower_replica_that_has_not_decided_has_two_seconds() -> None:
    members, peers = ("a", "b", "c", "d", "e"), {"a": LIVE} | dict.fromkeys("cde", gone())
    split = after_contact()
    split.look(members, peers, epoch=5, in_sync=False, now=107.0)
    assert split.leader is None
    split.look(members, peers, epoch=5, in_sync=False, now=109.1)
    assert split.leader == "b"


def test_a_worker_follows_only_a_replica_that_leads() -> None:
    split = after_contact("w")
    look(split, 107.0, a=warm(), b=gone(), c=gone())
    assert (split.leader, split.term) == (None, None)
    assert look(split, 107.5, a=warm("a"), b=gone(), c=gone()).leader == "a"
    assert look(split, 200.0, a=gone(), b=gone(), c=gone()).leader is None


def test_a_majority_ends_it() -> None:
    split = look(after_contact(), 107.0, a=gone(), c=gone())
    split.touch(108.0, in_sync=True)
    assert (split.kind, split.leader, split.term) == (Kind.NONE, None, None)


def test_who_stands_or_gave_its_word_leads_nothing_meanwhile_and_anew_afterwards() -> None:
    split = look(after_contact(), 107.0, a=gone(), c=gone())
    split.step_back()
    assert (split.leader, split.term) == (None, None)
    assert split.kind is Kind.WARM
    look(split, 110.0, epoch=6, a=gone(), c=gone())
    assert split.term is not None
    assert (split.term.epoch, split.term.split) == (6, 2)


def test_a_row_of_a_later_epoch_begins_another_term() -> None:
    split = look(after_contact(), 107.0, a=gone(), c=gone())
    first = split.term
    assert look(split, 107.5, a=gone(), c=gone()).term == first
    assert look(split, 108.0, epoch=9, a=gone(), c=gone()).term != first


def test_a_node_of_no_cluster_has_no_split() -> None:
    split = Split("b", PATIENCE, 0.0)
    split.look((), {}, epoch=0, in_sync=False, now=1000.0)
    assert (split.kind, split.leader) == (Kind.NONE, None)
