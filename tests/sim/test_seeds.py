"""The nemesis: a hundred seeded worlds of the real node code, and the proof that a seed is the same run each time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SEEDS = "0:100"
FAILED_ONCE = Path(__file__).with_name("seeds.txt")


def sim(*options: str) -> subprocess.CompletedProcess[str]:
    """Runs `python -m tests.sim`, which fixes the hash seed for itself."""
    command = [sys.executable, "-m", "tests.sim", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


def test_a_hundred_seeds_keep_every_promise() -> None:
    ran = sim("--seeds", SEEDS, "--jobs", "2")
    print(ran.stdout.splitlines()[-1])
    assert ran.returncode == 0, ran.stdout
    lines = [line for line in ran.stdout.splitlines() if line.startswith("seed ")]
    assert len(lines) == 100
    assert {"survive,", "stop,"} <= {word for line in lines for word in line.split()}, "both policies occur"
    # A nemesis that kept the clients from everything would prove nothing.
    assert sum(int(line.split(" tasks acknowledged")[0].split()[-1]) for line in lines) > 2_000


def test_seeds_that_ever_failed_stay_sound() -> None:
    seeds = [line.split()[0] for line in FAILED_ONCE.read_text("utf-8").splitlines() if line[:1].isdigit()]
    assert seeds
    for seed in seeds:
        ran = sim("--seeds", f"{seed}:{int(seed) + 1}")
        assert ran.returncode == 0, ran.stdout


@pytest.mark.parametrize(
    ("fault", "seed", "broken"),
    [
        ("promise_not_on_disk", 0, "its disk says"),
        ("a_reused_seq", 0, "but that stamp is"),
        ("vector_before_rows", 4, "claims"),
    ],
)
def test_a_rule_that_is_taken_away_is_missed(fault: str, seed: int, broken: str) -> None:
    ran = sim("--fault", fault, "--seeds", f"{seed}:{seed + 1}")
    assert ran.returncode == 1, f"without {fault}, seed {seed} is as sound as ever"
    assert broken in ran.stdout


def test_a_seed_is_the_same_run_each_time() -> None:
    first, second, after_others = sim("--seeds", "3"), sim("--seeds", "3"), sim("--seeds", "1:4")
    assert _without_real_time(first.stdout) == _without_real_time(second.stdout)
    assert len(first.stdout.splitlines()) > 10
    # How many strikes, tasks and seconds there were is the same, too, whatever ran before in this process.
    assert _without_real_time(after_others.stdout)[-2] == _without_real_time(first.stdout)[-2]


def _without_real_time(text: str) -> list[str]:
    return [line.split(" in ")[0] + line.partition(" s, ")[2] for line in text.splitlines()]
