"""The roster: which of two is newer, how it changes by one replica at a time, and who founds a cluster."""

from __future__ import annotations

from dataclasses import replace

import pytest

from meshq.core.membership import (
    NOBODY,
    Candidate,
    Roster,
    founder,
    handover_target,
    newest,
    next_change,
)

THREE = Roster(genesis="g", members=("a", "b", "c"), epoch=4, version=7, writer="a", seq=9)


def node(
    name: str, *, in_sync: bool = True, alive: bool = True, leaving: bool = False, votes: bool = True
) -> Candidate:
    """A node as the leader sees it."""
    return Candidate(node=name, in_sync=in_sync, alive=alive, leaving=leaving, votes=votes)


def silent(name: str) -> Candidate:
    """A replica that has been silent for long enough to be replaced."""
    return Candidate(node=name, in_sync=False, alive=False, leaving=False, votes=False, silent=True)


def change(roster: Roster, *nodes: Candidate, replicas: int = 5) -> tuple[str, ...] | None:
    """The members after the next change; None where there is none."""
    after = next_change(roster, "a", nodes, replicas)
    if after is None:
        return None
    assert after.version == roster.version + 1
    assert after.genesis == roster.genesis
    return after.members


# -- which is newer --------------------------------------------------------------------------------------


def test_a_recovery_comes_before_everything_then_epoch_version_and_stamp() -> None:
    order = [
        THREE,
        replace(THREE, seq=10),
        replace(THREE, writer="b", seq=0),
        replace(THREE, version=8, writer="", seq=0),
        replace(THREE, epoch=5, version=0),
        replace(THREE, recovery=1, epoch=0),
    ]
    assert [roster.key for roster in order] == sorted(roster.key for roster in order)
    assert newest(order) == order[-1]
    assert newest(order[::-1]) == order[-1]
    assert newest([]) == NOBODY


def test_members_are_sorted_and_each_is_there_once() -> None:
    assert THREE.with_member("aa").members == ("a", "aa", "b", "c")
    assert THREE.with_member("b").members == ("a", "b", "c")
    assert THREE.without_member("b").members == ("a", "c")
    assert THREE.without_member("x").members == ("a", "b", "c")


# -- the next change -------------------------------------------------------------------------------------


def test_nothing_changes_while_all_is_well() -> None:
    assert change(THREE) is None
    assert change(THREE, node("b"), node("c")) is None


def test_the_lowest_that_may_joins_and_only_one_at_a_time() -> None:
    assert change(THREE, node("e"), node("d")) == ("a", "b", "c", "d")


@pytest.mark.parametrize(
    "newcomer", [node("d", in_sync=False), node("d", alive=False), node("d", leaving=True), node("d", votes=False)]
)
def test_who_is_behind_silent_leaving_or_a_worker_only_does_not_join(newcomer: Candidate) -> None:
    assert change(THREE, newcomer) is None
    assert change(THREE, newcomer, node("e")) == ("a", "b", "c", "e")


def test_nobody_joins_a_full_roster() -> None:
    assert change(THREE, node("d"), replicas=3) is None
    assert change(THREE, node("d"), replicas=4) == ("a", "b", "c", "d")


def test_who_leaves_goes_first_and_makes_room() -> None:
    assert change(THREE, node("b", leaving=True), node("c"), node("d"), replicas=3) == ("a", "c")


def test_who_leaves_stays_on_the_roster_if_too_few_of_the_others_are_there() -> None:
    assert change(THREE, node("b", leaving=True), node("c", alive=False)) is None
    assert change(replace(THREE, members=("a", "b")), node("b", leaving=True)) == ("a",)


def test_a_leader_never_removes_itself() -> None:
    assert change(THREE, node("a", leaving=True)) is None


def test_a_silent_replica_stays() -> None:
    assert change(THREE, node("b", alive=False, in_sync=False)) is None


def test_a_silent_replica_makes_room_for_a_live_worker_in_two_changes() -> None:
    worker = node("d", in_sync=False)
    assert change(THREE, node("b"), silent("c"), worker, replicas=3) == ("a", "b")
    two = replace(THREE, members=("a", "b"))
    assert change(two, node("b"), worker, replicas=3) is None, "it joins when it is in sync, not before"
    assert change(two, node("b"), node("d"), replicas=3) == ("a", "b", "d")


@pytest.mark.parametrize("newcomer", [node("d", alive=False), node("d", votes=False), node("d", leaving=True)])
def test_a_silent_replica_stays_if_nobody_can_take_its_place(newcomer: Candidate) -> None:
    assert change(THREE, node("b"), silent("c"), newcomer, replicas=3) is None


def test_silent_replicas_go_where_a_majority_becomes_smaller_without_them() -> None:
    four = replace(THREE, members=("a", "b", "c", "d"))
    assert change(four, node("b"), node("c"), silent("d")) == ("a", "b", "c")
    five = replace(THREE, members=("a", "b", "c", "d", "e"))
    assert change(five, node("b"), node("c"), node("d"), silent("e")) is None
    assert change(five, node("b"), node("c"), silent("d"), silent("e")) == ("a", "b", "c", "d")


# -- hand-over, founding, in sync ------------------------------------------------------------------------


def test_the_lease_goes_to_the_lowest_that_holds_everything_and_stays() -> None:
    assert handover_target(THREE, "a", {"a", "b", "c", "d"}) == "b"
    assert handover_target(THREE, "b", {"b", "a"}) == "a"
    assert handover_target(THREE, "a", {"a", "d"}) is None


def test_the_lowest_fresh_node_founds() -> None:
    assert founder("b", []) == "b"
    assert founder("b", ["c", "a"]) == "a"
    assert founder("a", ["c", "b"]) == "a"
