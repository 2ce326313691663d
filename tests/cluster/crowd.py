"""What a crowd of strangers does to a cluster that is at work. Needs root and `ip netns`.

    python -m tests.cluster.crowd

Three machines run a stream of short tasks; how many they finish in a second is measured while nobody disturbs them,
and again while strangers call from a fourth machine: 2,000 that say nothing and 200 that say one byte of a TLS hello
each second, all of which call again when they are dropped.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from meshq.client.options import new_ids
from tests.cluster.daemon import Cluster, Daemon, Process
from tests.cluster.load import wait_whole
from tests.cluster.net import Net, why_not

BYSTANDERS = str(Path(__file__).parent / "bystanders.py")
PAUSING = str(Path(__file__).parent / "pausing.py")
PORT = 7373
SLOTS = 2
# So many are open at least while the stream goes on; so many more are handed in at once.
OPEN_MIN = 3000
BATCH = 1000
LOOK_S = 0.25
WARM_S = 5.0
# A leader that changes does so because of the strangers, and not since one of a lower id came.
SETTINGS = {"handover_after_s": 86400}


class Stream(threading.Thread):
    """Hands in short tasks at one daemon, so many that there are always some that wait.

    Args:
        daemon: Where.
        run_s: How long each task runs; 0 for one that only answers.
    """

    def __init__(self, daemon: Daemon, run_s: float) -> None:
        super().__init__(name="stream", daemon=True)
        self.failure: Exception | None = None
        self._daemon = daemon
        self._form = {"name": "pause", "args": [run_s]} if run_s else {"name": "echo", "args": [1]}
        self._over = threading.Event()
        self._begun = threading.Event()

    def __enter__(self) -> Self:
        self.start()
        assert self._begun.wait(30), "no task was taken"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self.join(60)
        if self.failure is not None:
            raise AssertionError("the stream broke") from self.failure

    def run(self) -> None:
        """Hands in tasks until the end."""
        try:
            while not self._over.wait(LOOK_S):
                status = self._daemon.look(5)
                opened = status["tasks"]["pending"] + status["tasks"]["running"] if status else OPEN_MIN
                for _ in range(opened, OPEN_MIN, BATCH):
                    forms = [{"id": task, **self._form} for task in new_ids(BATCH)]
                    reply = self._daemon.call("POST", "/submit-task", {"tasks": forms}, timeout_s=30)
                    assert reply.status == 200, reply
                    self._begun.set()
        except Exception as failure:
            # The edge of the thread: whoever leaves the block hears of it.
            self.failure = failure


class Bystanders:
    """Strangers on a machine of the net, from `with` on until the end of the block.

    Args:
        index: Their machine.
        idle, slow: How many say nothing, and how many say one byte each second.
        again_s: After how long one calls again that was dropped.
    """

    def __init__(self, cluster: Cluster, index: int, directory: Path, *, idle: int, slow: int, again_s: float) -> None:
        self._cluster = cluster
        self._count = idle + slow
        at = [f"{cluster.net.address(number)}:{PORT}" for number in range(len(cluster.ids))]
        argv = [sys.executable, BYSTANDERS, str(idle), str(slow), str(again_s), *at]
        self._process = Process(cluster.net, index, argv, directory / "bystanders.log")

    def __enter__(self) -> Self:
        self._process.start()
        self._cluster.wait_until(
            lambda: self.now()["met"] == self._count, 60, f"all have called once\n{self._process.tail()}"
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill9()

    def now(self) -> dict[str, Any]:
        """What they said last: how many are `connected`, and how many `connections` there were so far."""
        assert self._process.alive(), self._process.tail()
        said = [event for event in self._process.events() if event["event"] == "crowd"]
        return said[-1] if said else {"met": 0, "connected": 0, "connections": 0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What was seen for a while.

    Args:
        tasks_per_s: How many tasks were finished in a second.
        leaderships: Who led, in which epoch, in the order seen; None for nobody.
        pss_mib: The memory of the leader's process at the end, its share of what is shared counted.
    """

    tasks_per_s: float
    leaderships: list[tuple[str | None, int]]
    pss_mib: float


def watch(cluster: Cluster, seconds: float) -> Figures:
    """Looks at a cluster at work for so long."""
    leaderships: list[tuple[str | None, int]] = []
    asked = cluster.daemons[1]
    leader = cluster.daemon(
        cluster.wait_status(asked, lambda status: status["leader"], 10, "there is a leader")["leader"]
    )
    begun_s, begun = _done(leader)
    while time.monotonic() < begun_s + seconds:
        time.sleep(LOOK_S)
        status = asked.look()
        seen = (status.get("leader"), status.get("epoch", 0))
        if status and (not leaderships or leaderships[-1] != seen):
            leaderships.append(seen)
    ended_s, ended = _done(leader)
    return Figures(
        tasks_per_s=(ended - begun) / (ended_s - begun_s), leaderships=leaderships, pss_mib=pss_mib(leader.pid)
    )


def _done(daemon: Daemon) -> tuple[float, int]:
    """When it was asked, and how many tasks are done."""
    while not (status := daemon.look(10)):
        time.sleep(LOOK_S)
    return time.monotonic(), status["tasks"]["done"]


def pss_mib(pid: int) -> float:
    """The memory of a process in MiB, with its share of what it shares."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise AssertionError(f"no Pss of {pid}")


def measure(given: argparse.Namespace) -> str:
    """Both figures, as a table."""
    with ExitStack() as stack:
        net = stack.enter_context(Net(4))
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="meshq-crowd-")))
        options = ("--slots", str(SLOTS), "--tasks", PAUSING)
        cluster = Cluster(net, [Daemon(net, index, directory, options, SETTINGS) for index in range(3)])
        stack.callback(cluster.end)
        cluster.start()
        wait_whole(cluster)
        stack.enter_context(Stream(cluster.daemons[1], given.task_ms / 1000))
        time.sleep(WARM_S)
        before = watch(cluster, given.seconds)
        crowd = stack.enter_context(
            Bystanders(cluster, 3, directory, idle=given.idle, slow=given.slow, again_s=given.again_s)
        )
        calls, begun_s = crowd.now()["connections"], time.monotonic()
        during = watch(cluster, given.seconds)
        calls_per_s = (crowd.now()["connections"] - calls) / (time.monotonic() - begun_s)
        connected = crowd.now()["connected"]
    changes = len({*before.leaderships, *during.leaderships}) - 1
    lines = [
        f"{given.idle} idle and {given.slow} slow strangers; {connected} connected at the end, {calls_per_s:.0f} calls "
        "a second",
        f"{'tasks a second, alone':<36} {before.tasks_per_s:>9.1f}",
        f"{'tasks a second, among strangers':<36} {during.tasks_per_s:>9.1f}",
        f"{'ratio':<36} {during.tasks_per_s / before.tasks_per_s:>9.2f}",
        f"{'changes of the leader':<36} {changes:>9}",
        f"{'epoch before and after':<36} {before.leaderships[0][1]:>4} {during.leaderships[-1][1]:>4}",
        f"{'memory of the leader (PSS, MiB)':<36} {before.pss_mib:>9.1f} {during.pss_mib:>9.1f}",
    ]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description="Throughput of a cluster alone, and among strangers.")
    parser.add_argument("--idle", type=int, default=2000, help="strangers that say nothing (2000)")
    parser.add_argument("--slow", type=int, default=200, help="strangers that say a byte a second (200)")
    parser.add_argument("--again-s", type=float, default=0.0, help="seconds until one calls again (0)")
    parser.add_argument("--seconds", type=float, default=20, help="how long each figure is measured (20)")
    parser.add_argument("--task-ms", type=float, default=0, help="how long a task runs (0: it only answers)")
    given = parser.parse_args(argv)
    if trouble := why_not():
        print(f"crowd: {trouble}", file=sys.stderr)
        return 2
    print(measure(given))
    return 0


if __name__ == "__main__":
    sys.exit(main())
