"""Each rule has a story that holds with it and breaks without it."""

from __future__ import annotations

import pytest

from tests.sim import lease_cases, row_cases
from tests.sim.broken import Case, told_of

CASES = (*lease_cases.CASES, *row_cases.CASES)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_it_holds(case: Case) -> None:
    assert told_of(case, with_fault=False) == ""


@pytest.mark.parametrize("case", CASES, ids=str)
def test_it_breaks_without_its_rule(case: Case) -> None:
    assert case.says in told_of(case, with_fault=True)
