from __future__ import annotations

import datetime
from typing import Any, Literal

import pytest

from meshq.core import signature
from meshq.core.infos import Param, TaskInfo
from meshq.errors import BadArguments
from meshq.tasks.primes import primes
from meshq.tasks.registry import describe


def many(
    first: int,
    /,
    second: float,
    third: Literal["red", "green"] | None = None,
    *,
    flag: bool = False,
    when: datetime.datetime | None = None,
) -> None:
    """Parameters of many kinds."""


def starred(*numbers: int, **others: str) -> None:
    """As many as there are."""


def complaint(function: Any, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(BadArguments) as caught:
        signature.check(describe(function), list(args), kwargs)
    assert "\n" not in caught.value.message
    return caught.value.message


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ([1, 2], {}),
        ([1, 2.5, "green"], {"flag": True}),
        ([1], {"second": 1, "third": None}),
        ([10**40, 1.0], {"when": datetime.datetime(2024, 1, 1)}),
    ],
)
def test_what_fits_passes(args: list[Any], kwargs: dict[str, Any]) -> None:
    signature.check(describe(many), args, kwargs)


def test_stars_take_any_number_and_check_each() -> None:
    signature.check(describe(starred), [1, 2, 3], {"any_name": "text"})
    assert complaint(starred, 1, "2") == "starred: numbers must be int, not str '2'"
    assert complaint(starred, x=1) == "starred: x must be str, not int 1"


def test_too_many_and_too_few() -> None:
    assert "takes 2 positional arguments, but 3 were given" in complaint(primes, 1, "sieve", 3)
    assert complaint(primes) == (
        "primes: missing limit; call it as primes(limit: int, algorithm: sieve|trial_division = 'sieve')"
    )
    assert "missing first" in complaint(many, second=1)


def test_an_unknown_keyword_is_answered_with_the_nearest() -> None:
    assert complaint(primes, limt=10) == "primes has no argument limt; did you mean limit?"
    assert "it has limit, algorithm" in complaint(primes, 10, zzz=1)
    # A positional-only parameter can't be given by name.
    assert "has no argument first" in complaint(many, first=1, second=2)


def test_the_same_argument_twice() -> None:
    assert complaint(primes, 10, limit=11) == "primes: limit is given twice, by position and by name"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("abc", "str 'abc'"),
        (True, "bool True"),
        (1.0, "float 1.0"),
        (None, "None"),
        ("x" * 200, "str 'xxx"),
    ],
)
def test_a_wrong_type_is_named(value: Any, shown: str) -> None:
    text = complaint(primes, value)
    assert text.startswith(f"primes: limit must be int, not {shown}")
    assert len(text) < 120


def test_an_int_passes_for_a_float_but_a_bool_for_neither() -> None:
    signature.check(describe(many), [1, 2], {})
    assert complaint(many, 1, True) == "many: second must be float, not bool True"


def test_a_huge_int_is_not_printed_in_full() -> None:
    assert complaint(starred, x=10**10_000) == "starred: x must be str, not an int of 33220 bits"


def test_choices() -> None:
    assert complaint(primes, 10, "seive") == (
        "primes: algorithm must be one of sieve, trial_division, not 'seive'; did you mean sieve?"
    )
    assert "must be one of red, green, not 'blue'" in complaint(many, 1, 2, "blue")
    assert "third must be str or none, not int 3" in complaint(many, 1, 2, 3)


def test_a_type_word_of_a_later_version_lets_everything_pass() -> None:
    info = TaskInfo(
        name="new", params=(Param(name="x", kind="POSITIONAL_OR_KEYWORD", required=True, type="quaternion"),)
    )
    signature.check(info, [object()], {})


def test_lists_pass_for_what_json_does_not_have() -> None:
    def takes(pair: tuple[int, int], group: set[int]) -> None: ...

    signature.check(describe(takes), [[1, 2], [3]], {})
    assert "pair must be tuple, not int 1" in complaint(takes, 1, [])


LONG = "x" * 2_000_000


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ([[10**5000]], {}), ([{1: 10**5000}], {}), ([1, [10**5000]], {}), ([LONG], {}), ([1, LONG], {}),
        ([1], {LONG: 1}), ([[10**4000] * 10_000], {}), ([[[[[1] * 100] * 100] * 100]], {}),
    ],
)  # fmt: skip
def test_whatever_does_not_fit_is_told_in_one_short_line(args: list[Any], kwargs: dict[str, Any]) -> None:
    assert len(complaint(primes, *args, **kwargs)) < 200
