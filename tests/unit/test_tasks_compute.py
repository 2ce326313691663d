from __future__ import annotations

import math
from typing import Any

import pytest

from meshq.tasks.basic import echo
from meshq.tasks.compute import N_MAX, compute, fibonacci


def test_pi_is_near_and_the_same_for_the_same_seed() -> None:
    result = compute("pi", 1_500_000, seed=3)
    assert abs(result["pi"] - math.pi) < 0.01
    assert result == compute("pi", 1_500_000, seed=3)
    assert result["inside"] != compute("pi", 1_500_000, seed=4)["inside"]
    assert result["pi"] == 4 * result["inside"] / 1_500_000


def test_matmul_is_the_product_of_two_seeded_matrices() -> None:
    import numpy as np

    generator = np.random.default_rng(5)
    left, right = generator.random((30, 30)), generator.random((30, 30))
    result = compute("matmul", 30, seed=5)
    assert result["trace"] == pytest.approx(float(np.einsum("ij,ji->", left, right)))
    assert result["checksum"] == pytest.approx(float(left.sum(axis=0) @ right.sum(axis=1)))
    assert result["norm"] == pytest.approx(
        math.sqrt(float(np.einsum("ij,jk->ik", left, right).ravel() @ (left @ right).ravel()))
    )
    assert result["trace"] != compute("matmul", 30, seed=6)["trace"]


def test_factorial_and_fibonacci_are_exact() -> None:
    assert compute("factorial", 0) == 1
    assert compute("factorial", 30) == 265252859812191058636308480000000
    previous, current = 0, 1
    for n in range(1, 300):
        assert compute("fibonacci", n) == current
        previous, current = current, previous + current
    assert fibonacci(0) == 0
    # Cassini's identity, where no table reaches.
    assert fibonacci(10_001) * fibonacci(9_999) - fibonacci(10_000) ** 2 == 1


@pytest.mark.parametrize(
    ("operation", "n", "text"),
    [
        ("sqrt", 3, "operation must be one of pi, matmul, factorial, fibonacci, not 'sqrt'"),
        (None, 3, "operation must be one of"),
        ("pi", 0, "n must be from 1 to 1000000000 for pi, not 0"),
        ("matmul", 5000, "n must be from 1 to 4096 for matmul, not 5000"),
        ("factorial", -1, "n must be from 0 to 200000 for factorial, not -1"),
        ("fibonacci", 10**200, "not a number of 665 bits"),
        ("fibonacci", True, "n must be a whole number, not bool True"),
        ("fibonacci", "3", "n must be a whole number, not str '3'"),
    ],
)
def test_bad_arguments(operation: Any, n: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        compute(operation, n)


def test_a_bad_seed() -> None:
    with pytest.raises(ValueError, match="seed must be from 0 to"):
        compute("pi", 1, seed=-1)


def test_the_largest_results_fit() -> None:
    assert compute("factorial", N_MAX["factorial"]).bit_length() / 8 < 8 << 20
    assert N_MAX["fibonacci"] * math.log2((1 + math.sqrt(5)) / 2) / 8 < 8 << 20


def test_echo() -> None:
    assert echo([1, None]) == [1, None]
    assert echo() is None
