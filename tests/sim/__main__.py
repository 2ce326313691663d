"""`python -m tests.sim --seeds 0:100`: runs seeds, a line each; exit 1 if one failed. A failed one prints its story."""

from __future__ import annotations

import argparse
import os
import sys
import time

from tests.sim.nemesis import Report, run_seed

STORY_LINES = 400


def main() -> int:
    """Runs the seeds that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seeds", default="0:20", help="FROM:TO, or one seed, whose story is printed")
    parser.add_argument("--nodes", type=int, default=3, help="machines in the world")
    options = parser.parse_args()
    first, _, last = options.seeds.partition(":")
    seeds = range(int(first), int(last) if last else int(first) + 1)
    failed = [report.seed for report in (_run(seed, options.nodes, show=not last) for seed in seeds) if report.failures]
    print(f"{len(seeds)} seeds, {len(failed)} failed{': ' if failed else ''}{' '.join(map(str, failed))}")
    return 1 if failed else 0


def _run(seed: int, nodes: int, *, show: bool) -> Report:
    started = time.monotonic()
    report = run_seed(seed, nodes)
    if report.failures or show:
        print("\n".join(report.story[-STORY_LINES:]))
    verdict = f"FAILED: {report.failures[0]}" if report.failures else "ok"
    print(
        f"seed {seed}: {report.virtual_s:.0f} s in {time.monotonic() - started:.1f} s, {report.acknowledged} tasks "
        f"acknowledged, {report.shown} outcomes shown, {report.run_twice} run twice: {verdict}",
        flush=True,
    )
    return report


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":
        # The order of sets of strings must be the same in every run.
        fixed = {**os.environ, "PYTHONHASHSEED": "0"}
        os.execve(sys.executable, [sys.executable, "-m", "tests.sim", *sys.argv[1:]], fixed)
    sys.exit(main())
