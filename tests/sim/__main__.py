"""`python -m tests.sim --seeds 0:1000`: a line for each seed; exit 1 if one failed, whose whole story is printed."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

from tests.sim import faults
from tests.sim.nemesis import Report, run_seed
from tests.sim.swarm import POLICIES


@dataclass(frozen=True, slots=True)
class Ran:
    """A report, and how long it took."""

    report: Report
    took_s: float


def run(seed: int, nodes: int | None, policy: str | None, fault: str | None) -> Ran:
    """Runs one seed, with one rule taken away where a fault is named."""
    logging.disable(logging.CRITICAL)
    started = time.monotonic()
    with getattr(faults, fault)() if fault else nullcontext():
        report = run_seed(seed, nodes, policy)
    return Ran(report, time.monotonic() - started)


def main() -> int:
    """Runs the seeds that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seeds", default="0:20", help="FROM:TO, or one seed, whose story is printed")
    parser.add_argument("--nodes", type=int, help="machines in the world; without it each seed draws its own")
    parser.add_argument("--policy", choices=POLICIES, help="without_majority; without it each seed draws its own")
    parser.add_argument("--fault", help="a function of tests/sim/faults.py: a rule that is taken away")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    options = parser.parse_args()
    first, _, last = options.seeds.partition(":")
    seeds = range(int(first), int(last) if last else int(first) + 1)
    work = partial(run, nodes=options.nodes, policy=options.policy, fault=options.fault)
    reports = [_told(ran, show=not last) for ran in _run_all(seeds, work, options.jobs)]
    print(_summary(reports))
    return 1 if any(report.failures for report in reports) else 0


def _run_all(seeds: Iterable[int], work: Callable[[int], Ran], jobs: int) -> Iterator[Ran]:
    if jobs <= 1:
        yield from map(work, seeds)
        return
    with ProcessPoolExecutor(jobs) as processes:
        yield from processes.map(work, seeds)


def _told(ran: Ran, *, show: bool) -> Report:
    report = ran.report
    if report.failures or show:
        print("\n".join(report.story))
    verdict = f"FAILED: {report.failures[0]}" if report.failures else "ok"
    print(
        f"seed {report.seed}: {report.swarm.nodes} nodes, {report.swarm.config.without_majority}, "
        f"{report.virtual_s:.0f} s in {ran.took_s:.1f} s, {report.strikes.total()} strikes, "
        f"{report.acknowledged} tasks acknowledged, {report.shown} outcomes shown, {report.run_twice} run twice: "
        f"{verdict}",
        flush=True,
    )
    return report


def _summary(reports: list[Report]) -> str:
    failed = [str(report.seed) for report in reports if report.failures]
    strikes: Counter[str] = Counter()
    for report in reports:
        strikes.update(report.strikes)
    kinds = " ".join(f"{kind}={count}" for kind, count in sorted(strikes.items()))
    return (
        f"{len(reports)} seeds, {len(failed)} failed{': ' if failed else ''}{' '.join(failed)}; "
        f"{sum(report.acknowledged for report in reports)} tasks acknowledged, "
        f"{sum(report.shown for report in reports)} outcomes shown, {sum(report.lost for report in reports)} lost, "
        f"{sum(report.run_twice for report in reports)} run twice, "
        f"{sum(report.changed for report in reports)} changed; {strikes.total()} strikes: {kinds}"
    )


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":
        # The order of sets of strings must be the same in every run.
        fixed = {**os.environ, "PYTHONHASHSEED": "0"}
        os.execve(sys.executable, [sys.executable, "-m", "tests.sim", *sys.argv[1:]], fixed)
    sys.exit(main())
