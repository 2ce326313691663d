"""Every parser of what comes from outside holds its promise over inputs that are a little wrong.

`python -m tests.fuzz` does the same by the million, led by the code that the inputs reach.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz import parsers
from tests.fuzz.mutations import mutated, reshaped

SEEDS = {name: list(parsers.seeds(name)) for name in parsers.PARSERS}


@pytest.mark.parametrize("name", parsers.PARSERS)
def test_a_parser_takes_what_is_right(name: str) -> None:
    for data in SEEDS[name]:
        assert parsers.held(parsers.PARSERS[name], data), data[:100]


@pytest.mark.parametrize("name", parsers.PARSERS)
@given(choice=st.integers(min_value=0), bytewise=st.booleans())
@settings(deadline=None, max_examples=40, derandomize=True)
def test_a_parser_takes_or_refuses_what_is_wrong(name: str, choice: int, bytewise: bool) -> None:
    rng = random.Random(choice)
    data = rng.choice(SEEDS[name])
    for _ in range(3):
        data = (None if bytewise else reshaped(rng, data)) or mutated(rng, data)
        parsers.held(parsers.PARSERS[name], data)
