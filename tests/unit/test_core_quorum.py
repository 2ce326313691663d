"""Majorities and vectors."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshq.core import quorum

vectors = st.dictionaries(st.sampled_from("abcd"), st.integers(1, 20), max_size=4)


@pytest.mark.parametrize(("count", "needed"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (6, 4), (7, 4)])
def test_a_majority_is_more_than_half(count: int, needed: int) -> None:
    assert quorum.majority(count) == needed
    members = [str(number) for number in range(count)]
    assert quorum.is_majority(members[:needed], members)
    assert not quorum.is_majority(members[: needed - 1], members)


def test_only_members_count_and_nobody_is_no_majority() -> None:
    assert not quorum.is_majority({"x", "y", "a"}, ("a", "b", "c"))
    assert quorum.is_majority({"x", "a", "c"}, ("a", "b", "c"))
    assert not quorum.is_majority({"a"}, ())
    assert not quorum.is_majority((), ())


@given(st.integers(1, 9).flatmap(lambda count: st.tuples(st.just(count), st.permutations(range(count)))))
def test_any_two_majorities_share_a_member(drawn: tuple[int, list[int]]) -> None:
    count, order = drawn
    needed = quorum.majority(count)
    assert set(range(needed)) & set(order[:needed])


def test_what_a_majority_has_reached() -> None:
    assert quorum.held_by_majority([7, 3, 5], 3) == 5
    assert quorum.held_by_majority([7, 3], 3) == 3
    assert quorum.held_by_majority([7], 3) == float("-inf")
    assert quorum.held_by_majority([9, 8, 1, 1], 4) == 1
    assert quorum.held_by_majority([4], 1) == 4
    assert quorum.held_by_majority([], 0) == float("-inf")


@given(st.lists(st.integers(0, 9), max_size=5), st.integers(1, 5))
def test_a_majority_holds_what_it_is_said_to_hold(values: list[int], count: int) -> None:
    held = quorum.held_by_majority(values[:count], count)
    reached = sum(value >= held for value in values[:count])
    assert held == float("-inf") or reached >= quorum.majority(count)


@given(vectors, vectors, vectors)
def test_a_merge_is_the_least_vector_that_covers_all(
    one: dict[str, int], two: dict[str, int], other: dict[str, int]
) -> None:
    merged = quorum.merge(one, two)
    assert quorum.covers(merged, one)
    assert quorum.covers(merged, two)
    assert merged == quorum.merge(two, one)
    if quorum.covers(other, one) and quorum.covers(other, two):
        assert quorum.covers(other, merged)


def test_covering() -> None:
    assert quorum.covers({}, {})
    assert quorum.covers({"a": 1}, {})
    assert quorum.covers({"a": 2, "b": 1}, {"a": 2})
    assert not quorum.covers({"a": 1}, {"a": 2})
    assert not quorum.covers({"a": 9}, {"b": 1})
    assert quorum.covers({}, {"a": 0})
