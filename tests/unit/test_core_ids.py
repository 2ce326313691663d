"""Ids: their form, and that they sort by the time at which they were made."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshq.core.ids import is_id, short, uuid7

times = st.integers(0, (1 << 48) - 1)
bits = st.integers(0, (1 << 74) - 1)


@given(times, bits)
def test_an_id_is_a_uuid_of_version_7(now_ms: int, random_bits: int) -> None:
    made = uuid7(now_ms, random_bits)
    parsed = uuid.UUID(made)
    assert is_id(made)
    assert parsed.version == 7
    assert parsed.variant == uuid.RFC_4122
    assert parsed.int >> 80 == now_ms
    assert parsed.hex == made


@given(times, times, bits, bits)
def test_ids_sort_by_time(one_ms: int, other_ms: int, some: int, others: int) -> None:
    if one_ms < other_ms:
        assert uuid7(one_ms, some) < uuid7(other_ms, others)


@given(times, bits, bits)
def test_every_random_bit_makes_another_id(now_ms: int, some: int, others: int) -> None:
    assert (uuid7(now_ms, some) == uuid7(now_ms, others)) == (some == others)


def test_more_bits_than_there_is_room_for_are_cut_off() -> None:
    assert uuid7(1, 1 << 74) == uuid7(1, 0)
    assert uuid7(1 << 48, 7) == uuid7(0, 7)


@pytest.mark.parametrize("text", ["", "0" * 31, "0" * 33, "A" * 32, "g" * 32, "0123-" + "0" * 27, " " * 32])
def test_what_is_no_id(text: str) -> None:
    assert not is_id(text)


def test_the_short_form_is_the_end() -> None:
    assert short("0123456789abcdef") == "89abcdef"
