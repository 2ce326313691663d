"""What the key costs: throughput and latency with TLS against `--insecure`. Needs root and `ip netns`.

    python -m tests.cluster.measure_tls

On three machines each, in turns with the key and without: how many echo tasks a second, from submitting 10,000 until
all results are here, and how long one echo takes, from submit to result. The client is on the machine of a follower,
so every request and every answer goes to the leader and back over the network.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from meshq import Client
from tests.cluster.daemon import INSECURE, Cluster, Daemon
from tests.cluster.load import wait_whole
from tests.cluster.net import Net, why_not

WARM_TASKS = 500
RESULT_S = 300.0
# A run is of one leadership.
SETTINGS: Mapping[str, object] = {"handover_after_s": 86400}


@dataclass(frozen=True, slots=True)
class Run:
    """One run: tasks in a second, and the median time of one task in milliseconds."""

    tasks_per_s: float
    latency_ms: float


def run(settings: Mapping[str, object], tasks: int, echoes: int) -> Run:
    """One run on three new machines."""
    with ExitStack() as stack:
        net = stack.enter_context(Net(3))
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="meshq-tls-")))
        daemons = [Daemon(net, index, directory, ("--slots", "1"), {**SETTINGS, **settings}) for index in range(3)]
        cluster = Cluster(net, daemons)
        stack.callback(cluster.end)
        cluster.start()
        leader = wait_whole(cluster)
        warned = any(event["event"] == "insecure" for event in leader.events())
        assert warned == bool(settings), f"not what was to be measured\n{leader.tail()}"
        follower = next(daemon for daemon in daemons if daemon is not leader)
        client = stack.enter_context(Client(follower.data_dir))
        _throughput(client, WARM_TASKS)
        # Short ones first: what thousands of tasks leave to be done must not be measured with them.
        latency_ms = statistics.median(_latency_ms(client, number) for number in range(echoes))
        return Run(_throughput(client, tasks), latency_ms)


def _throughput(client: Client, tasks: int) -> float:
    begun_s = time.monotonic()
    handles = client.submit_many("echo", [(number,) for number in range(tasks)])
    results = list(client.results(handles, timeout_s=RESULT_S))
    taken_s = time.monotonic() - begun_s
    assert results == list(range(tasks)), "an echo is another's"
    return tasks / taken_s


def _latency_ms(client: Client, number: int) -> float:
    begun_s = time.monotonic()
    assert client.submit("echo", number).result(RESULT_S) == number
    return 1000 * (time.monotonic() - begun_s)


def table(secured: Sequence[Run], insecure: Sequence[Run]) -> str:
    """The medians, and with the key against without."""
    lines = [f"{'medians of ' + str(len(secured)) + ' runs each':<32} {'key':>9} {'insecure':>9} {'ratio':>7}"]
    for title, figures in (
        ("tasks a second", [[run.tasks_per_s for run in runs] for runs in (secured, insecure)]),
        ("one task, submit to result, ms", [[run.latency_ms for run in runs] for runs in (secured, insecure)]),
    ):
        with_key, without = map(statistics.median, figures)
        lines.append(f"{title:<32} {with_key:>9.2f} {without:>9.2f} {with_key / without:>7.2f}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description="Throughput and latency with the cluster's key against without.")
    parser.add_argument("--runs", type=int, default=3, help="how often each is measured (3)")
    parser.add_argument("--tasks", type=int, default=10_000, help="tasks of one run (10000)")
    parser.add_argument("--echoes", type=int, default=200, help="single tasks of one run (200)")
    given = parser.parse_args(argv)
    if trouble := why_not():
        print(f"measure_tls: {trouble}", file=sys.stderr)
        return 2
    secured: list[Run] = []
    insecure: list[Run] = []
    for number in range(given.runs):
        for title, settings, found in (("key", {}, secured), ("insecure", INSECURE, insecure)):
            found.append(run(settings, given.tasks, given.echoes))
            told = f"{found[-1].tasks_per_s:.0f} tasks a second, {found[-1].latency_ms:.2f} ms for one"
            print(f"run {number + 1}, {title}: {told}", file=sys.stderr, flush=True)
    print(table(secured, insecure))
    return 0


if __name__ == "__main__":
    sys.exit(main())
