"""The task `compute`: work of four kinds whose size is one number."""

from __future__ import annotations

import math
from typing import Any, Literal

from meshq.tasks.registry import task

# What a machine of today does in about a minute or less, and what fits a result's 8 MiB.
N_MAX = {"pi": 1_000_000_000, "matmul": 4_096, "factorial": 200_000, "fibonacci": 10_000_000}
_CHUNK = 1 << 20
_SEED_MAX = (1 << 64) - 1


@task
def compute(operation: Literal["pi", "matmul", "factorial", "fibonacci"], n: int, seed: int = 0) -> Any:
    """Estimates pi, multiplies matrices, or takes a factorial or a Fibonacci number of size N.

    Args:
        operation: `pi`: Monte Carlo with n samples; `matmul`: the product of two random n x n matrices, summed
            up; `factorial` and `fibonacci`: the exact number.
        n: The size: at least 1 for `pi` and `matmul`, 0 for the others; the most is `N_MAX`.
        seed: For `pi` and `matmul`: the same seed gives the same numbers. From 0 to 2**64 - 1.

    Raises:
        ValueError: An argument that is not as above.
    """
    _check(operation, n, seed)
    if operation == "pi":
        return _pi(n, seed)
    if operation == "matmul":
        return _matmul(n, seed)
    return math.factorial(n) if operation == "factorial" else fibonacci(n)


def _check(operation: object, n: object, seed: object) -> None:
    if not isinstance(operation, str) or operation not in N_MAX:
        raise ValueError(f"operation must be one of {', '.join(N_MAX)}, not {operation!r:.60}")
    least = 1 if operation in ("pi", "matmul") else 0
    for label, value, low, high in (("n", n, least, N_MAX[operation]), ("seed", seed, 0, _SEED_MAX)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"{label} must be a whole number, not {type(value).__name__} {value!r:.60}")
        if not low <= value <= high:
            shown = str(value) if value.bit_length() < 200 else f"a number of {value.bit_length()} bits"
            raise ValueError(f"{label} must be from {low} to {high} for {operation}, not {shown}")


def _pi(samples: int, seed: int) -> dict[str, Any]:
    import numpy as np

    generator = np.random.default_rng(seed)
    inside = 0
    for start in range(0, samples, _CHUNK):
        points = generator.random((2, min(_CHUNK, samples - start)))
        inside += int(np.count_nonzero((points * points).sum(axis=0) <= 1.0))
    return {"pi": 4 * inside / samples, "inside": inside, "samples": samples, "seed": seed}


def _matmul(size: int, seed: int) -> dict[str, Any]:
    import numpy as np

    generator = np.random.default_rng(seed)
    product = generator.random((size, size)) @ generator.random((size, size))
    return {
        "n": size,
        "seed": seed,
        "trace": float(np.trace(product)),
        "norm": float(np.linalg.norm(product)),
        "checksum": float(product.sum()),
    }


def fibonacci(n: int) -> int:
    """The n-th Fibonacci number by fast doubling: F(2k) and F(2k + 1) out of F(k) and F(k + 1)."""
    current, following = 0, 1
    for bit in bin(n)[2:]:
        double = current * (2 * following - current)
        after = current * current + following * following
        current, following = (after, double + after) if bit == "1" else (double, after)
    return current
