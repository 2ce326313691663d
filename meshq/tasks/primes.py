"""The task `primes`: how many primes there are up to a limit, by a segmented sieve or by trial division."""

from __future__ import annotations

import math
import os
from collections import deque
from typing import Any, Literal

from meshq.tasks.registry import task

LIMIT_MAX = 100_000_000
LIMIT_VARIABLE = "MESHQ_PRIMES_MAX_LIMIT"
ALGORITHMS = ("sieve", "trial_division")
_LAST = 10
# Odd numbers in a segment: one byte each, so that a segment stays in a processor's cache.
_SEGMENT = 1 << 19


@task
def primes(limit: int, algorithm: Literal["sieve", "trial_division"] = "sieve") -> dict[str, Any]:
    """How many primes are <= LIMIT, the largest of them and the last ten.

    Args:
        limit: From 1 to 100,000,000, or what MESHQ_PRIMES_MAX_LIMIT says.
        algorithm: `sieve` (segmented, numpy) or `trial_division` (plain Python, for long runs).

    Raises:
        ValueError: An argument that is not as above.
    """
    _check(limit, algorithm)
    count, last = _sieve(limit) if algorithm == "sieve" else _trial_division(limit)
    return {
        "limit": limit,
        "algorithm": algorithm,
        "count": count,
        "largest": last[-1] if last else None,
        "last": last,
    }


def _check(limit: object, algorithm: object) -> None:
    limit_max = int(os.environ.get(LIMIT_VARIABLE, LIMIT_MAX))
    if isinstance(limit, bool) or not isinstance(limit, int):
        raise ValueError(f"limit must be a whole number, not {type(limit).__name__} {limit!r:.60}")
    if not 1 <= limit <= limit_max:
        shown = str(limit) if limit.bit_length() < 200 else f"a number of {limit.bit_length()} bits"
        hint = f" ({LIMIT_VARIABLE} sets the most)" if limit > limit_max else ""
        raise ValueError(f"limit must be from 1 to {limit_max}, not {shown}{hint}")
    if algorithm not in ALGORITHMS:
        raise ValueError(f"algorithm must be one of {', '.join(ALGORITHMS)}, not {algorithm!r:.60}")


def _sieve(limit: int) -> tuple[int, list[int]]:
    import numpy as np

    if limit < 2:
        return 0, []
    count, last = 1, [2]
    bases = _base_primes(math.isqrt(limit))
    # Index i of a segment stands for the odd number low + 2 * i.
    segment = np.empty(_SEGMENT, dtype=np.bool_)
    for low in range(3, limit + 1, 2 * _SEGMENT):
        size = min(_SEGMENT, (limit - low) // 2 + 1)
        odds = segment[:size]
        odds[:] = True
        high = low + 2 * (size - 1)
        for base in bases:
            square = base * base
            if square > high:
                break
            first = square if square >= low else low + (base - low) % (2 * base)
            odds[(first - low) // 2 :: base] = False
        found = np.flatnonzero(odds)
        count += len(found)
        last = (last + [low + 2 * int(index) for index in found[-_LAST:]])[-_LAST:]
    return count, last


def _base_primes(limit: int) -> list[int]:
    """The odd primes up to a small limit."""
    marks = bytearray([1]) * (limit + 1)
    for number in range(3, math.isqrt(limit) + 1, 2):
        if marks[number]:
            marks[number * number :: 2 * number] = bytes(len(range(number * number, limit + 1, 2 * number)))
    return [number for number in range(3, limit + 1, 2) if marks[number]]


def _trial_division(limit: int) -> tuple[int, list[int]]:
    """Divides each number by every smaller one up to its root: slow on purpose, and with no memory to speak of."""
    count, last = 0, deque[int](maxlen=_LAST)
    for number in range(2, limit + 1):
        for divisor in range(2, math.isqrt(number) + 1):
            if number % divisor == 0:
                break
        else:
            count += 1
            last.append(number)
    return count, list(last)
