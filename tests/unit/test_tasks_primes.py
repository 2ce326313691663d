from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from meshq.tasks.primes import primes

# OEIS A006880, A000720: the number of primes up to these limits.
KNOWN = {
    1: 0, 2: 1, 3: 2, 4: 2, 10: 4, 100: 25, 1_000: 168, 10_000: 1_229, 100_000: 9_592, 1_000_000: 78_498,
    10_000_000: 664_579,
}  # fmt: skip
SLOW = 20_000


@pytest.mark.parametrize(("limit", "count"), KNOWN.items())
def test_the_sieve_counts_as_the_tables_do(limit: int, count: int) -> None:
    assert primes(limit)["count"] == count


@pytest.mark.parametrize(("limit", "count"), [(limit, count) for limit, count in KNOWN.items() if limit <= SLOW])
def test_trial_division_counts_as_the_tables_do(limit: int, count: int) -> None:
    assert primes(limit, "trial_division")["count"] == count


def test_both_ways_agree_at_every_small_limit() -> None:
    for limit in range(1, 400):
        sieve, slow = primes(limit), primes(limit, "trial_division")
        assert sieve | {"algorithm": ""} == slow | {"algorithm": ""}


@pytest.mark.parametrize("around", [2 * (1 << 19) + 3, 4 * (1 << 19) + 3])
def test_nothing_is_lost_where_two_segments_meet(around: int) -> None:
    def is_prime(number: int) -> bool:
        return all(number % divisor for divisor in range(3, 2000, 2))

    for limit in range(around - 6, around + 7):
        last = [number for number in range(limit - 400, limit + 1) if number % 2 and is_prime(number)][-10:]
        assert primes(limit)["last"] == last


def test_what_is_told() -> None:
    assert primes(100) == {
        "limit": 100,
        "algorithm": "sieve",
        "count": 25,
        "largest": 97,
        "last": [53, 59, 61, 67, 71, 73, 79, 83, 89, 97],
    }
    assert primes(1)["largest"] is None
    assert primes(7)["last"] == [2, 3, 5, 7]


@pytest.mark.parametrize(
    ("limit", "text"),
    [
        (0, "limit must be from 1 to 100000000, not 0"),
        (-5, "limit must be from 1 to 100000000, not -5"),
        (100_000_001, r"not 100000001 \(MESHQ_PRIMES_MAX_LIMIT sets the most\)"),
        (10**200, "not a number of 665 bits"),
        (True, "limit must be a whole number, not bool True"),
        ("abc", "limit must be a whole number, not str 'abc'"),
        (10.0, "limit must be a whole number, not float 10.0"),
        (None, "limit must be a whole number, not NoneType None"),
    ],
)
def test_bad_limits(limit: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        primes(limit)


@pytest.mark.parametrize("algorithm", ["", "Sieve", None, 3, ["sieve"]])
def test_bad_algorithms(algorithm: Any) -> None:
    with pytest.raises(ValueError, match="algorithm must be one of sieve, trial_division"):
        primes(10, algorithm)


def test_the_most_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MESHQ_PRIMES_MAX_LIMIT", "50")
    assert primes(50)["count"] == 15
    with pytest.raises(ValueError, match="from 1 to 50, not 51"):
        primes(51)


PEAK = """
import resource, sys
from meshq.tasks.primes import primes
result = primes(100_000_000)
if sys.platform == "linux":
    # getrusage would tell the peak of the process before the exec, too.
    lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
    peak_bytes = int(lines["VmHWM"].split()[0]) * 1024
else:
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(result["count"], result["largest"], peak_bytes)
"""


def test_the_maximum_stays_under_100_megabytes() -> None:
    output = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True).stdout
    count, largest, peak_bytes = map(int, output.split())
    assert (count, largest) == (5_761_455, 99_999_989)
    assert peak_bytes < 100_000_000


def test_numpy_is_loaded_only_when_it_is_needed() -> None:
    script = (
        "import sys, meshq.tasks.primes, meshq.tasks.compute\n"
        "meshq.tasks.primes.primes(100, 'trial_division')\nassert 'numpy' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
