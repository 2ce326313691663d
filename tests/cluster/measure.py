"""How long a cluster is without a leader, as a client sees it that asks every 50 ms. Needs root and `ip netns`.

    python -m tests.cluster.measure --runs 30

Three figures, each measured `--runs` times and printed as median and worst:

- killed leader: three machines, kill -9; from the kill until a majority acknowledges a submit to one of the others.
- hand-over: three machines, SIGTERM; the longest time between two such acknowledgements around it.
- two machines, one killed: from the kill until a task that was handed in after it is finished on the one left.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from meshq.client.options import new_ids
from tests.cluster.daemon import Cluster, Daemon, Reply
from tests.cluster.history import longest_gap
from tests.cluster.load import wait_whole
from tests.cluster.net import Net, why_not

ASK_S = 0.05
ANSWER_S = 10.0
PATIENCE_S = 60.0
STEADY_S = 1.0
LEASE_S = 2.5
REQUESTS_MAX = 256
# No leadership moves but by what is measured; a machine that was killed in one run is up again in the next.
SETTINGS = {"handover_after_s": 86400}


@dataclass(slots=True)
class Asker:
    """A client of one daemon that starts a request every 50 ms, whether or not those before were answered.

    Args:
        daemon: Whom it asks.
        good: Whether an answer is the one that is waited for.
    """

    daemon: Daemon
    good: Callable[[Reply], bool]
    good_at_s: list[float] = field(default_factory=list)
    first: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, story: Awaitable[object]) -> None:
        """Asks until the story is over.

        Raises:
            TimeoutError: It was not within a minute.
        """
        with ThreadPoolExecutor(REQUESTS_MAX) as threads:
            async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
                over = asyncio.ensure_future(story)
                while not over.done():
                    group.create_task(self._ask(threads))
                    await asyncio.wait([over], timeout=ASK_S)
                await over

    async def _ask(self, threads: ThreadPoolExecutor) -> None:
        if await asyncio.get_running_loop().run_in_executor(threads, self._is_good):
            self.good_at_s.append(time.monotonic())
            self.first.set()

    def _is_good(self) -> bool:
        body = {"id": new_ids(1)[0], "name": "echo", "args": ["measured"], "priority": 1}
        try:
            return self.good(self.daemon.call("POST", "/submit-task", body, timeout_s=ANSWER_S))
        except (OSError, http.client.HTTPException):
            return False


def by_majority(reply: Reply) -> bool:
    """Whether a submit was acknowledged by a majority."""
    return reply.status == 200 and bool(reply.body["majority"])


def killed_leader(cluster: Cluster) -> float:
    """Seconds from the leader's death to the next acknowledgement."""
    leader, asked = _leader_and_other(cluster)
    return asyncio.run(_after_death(leader, Asker(asked, by_majority)))


def two_one_killed(cluster: Cluster, run: int) -> float:
    """Seconds from one machine's death until the other has taken and finished a task without a majority."""
    leader, other = _leader_and_other(cluster)
    gone, left = (leader, other) if run % 2 == 0 else (other, leader)
    return asyncio.run(_after_death(gone, Asker(left, lambda reply: _is_finished(left, reply))))


async def _after_death(gone: Daemon, asker: Asker) -> float:
    killed_s = time.monotonic()
    gone.kill9()
    await asker.run(asker.first.wait())
    gone.start()
    return asker.good_at_s[0] - killed_s


def _is_finished(daemon: Daemon, reply: Reply) -> bool:
    if reply.status != 200:
        return False
    view = daemon.call("GET", f"/task/{reply.body['ids'][0]}?wait={ANSWER_S / 2}", timeout_s=ANSWER_S).body
    return bool(view["state"] == "done" and not view["majority"])


def handed_over(cluster: Cluster) -> float:
    """The longest time between two acknowledgements while the leader stops in order."""
    leader, asked = _leader_and_other(cluster)
    asker = Asker(asked, by_majority)

    async def story() -> None:
        await asyncio.sleep(STEADY_S)
        leader.terminate()
        await asyncio.to_thread(leader.wait, PATIENCE_S / 2)
        await asyncio.sleep(STEADY_S)

    asyncio.run(asker.run(story()))
    leader.start()
    return longest_gap(asker.good_at_s)


def _leader_and_other(cluster: Cluster) -> tuple[Daemon, Daemon]:
    leader = wait_whole(cluster, PATIENCE_S)
    # A node that has just started promises nothing for one lease: it would be its start that is measured.
    time.sleep(LEASE_S + STEADY_S)
    return leader, next(daemon for daemon in cluster.daemons if daemon is not leader)


def measure(title: str, machines: int, runs: int, once: Callable[[Cluster, int], float]) -> str:
    """One line of the table."""
    found: list[float] = []
    with ExitStack() as stack:
        net = stack.enter_context(Net(machines))
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="meshq-measure-")))
        daemons = [Daemon(net, index, directory, ("--slots", "1"), SETTINGS) for index in range(machines)]
        cluster = Cluster(net, daemons)
        stack.callback(cluster.end)
        cluster.start()
        for run in range(runs):
            found.append(once(cluster, run))
            print(f"{title}: run {run + 1}: {found[-1]:.2f} s", file=sys.stderr, flush=True)
    return f"{title:<42} {runs:>4} {statistics.median(found):>8.2f} {max(found):>8.2f}"


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description="Time without a leader, as a client sees it.")
    parser.add_argument("--runs", type=int, default=30, help="how often each is measured (30)")
    parser.add_argument("--only", choices=["killed", "handover", "two"], help="one of the three figures")
    given = parser.parse_args(argv)
    if trouble := why_not():
        print(f"measure: {trouble}", file=sys.stderr)
        return 2
    figures: dict[str, tuple[str, int, Callable[[Cluster, int], float]]] = {
        "killed": ("three machines, leader killed", 3, lambda cluster, run: killed_leader(cluster)),
        "handover": ("three machines, leader hands over", 3, lambda cluster, run: handed_over(cluster)),
        "two": ("two machines, one killed, task finished", 2, two_one_killed),
    }
    lines = [
        measure(title, machines, given.runs, once)
        for name, (title, machines, once) in figures.items()
        if given.only in (None, name)
    ]
    print(f"{'seconds':<42} {'runs':>4} {'median':>8} {'worst':>8}")
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
