"""What a crowd of strangers does to a cluster that is at work. Needs root and `ip netns`.

    python -m tests.cluster.crowd

Three machines run a stream of short tasks; how many they finish in a second is measured while nobody disturbs them,
and again while strangers call from a fourth machine: 2,000 that say nothing and 200 that say one byte of a TLS hello
each second, all of which call again when they are dropped. With `--again-s 0` they do so at once: then it is a flood of
calls rather than a crowd. The strangers need processor time of the same machine, so that is told, too.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
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

    @property
    def pid(self) -> int:
        """Their process."""
        return self._process.pid

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
        leader_cpu: How much of one processor the leader's process had.
    """

    tasks_per_s: float
    leader_cpu: float
    leaderships: list[tuple[str | None, int]]
    pss_mib: float


def watch(cluster: Cluster, seconds: float) -> Figures:
    """Looks at a cluster at work for so long."""
    leaderships: list[tuple[str | None, int]] = []
    asked = cluster.daemons[1]
    leader = cluster.daemon(
        cluster.wait_status(asked, lambda status: status["leader"], 10, "there is a leader")["leader"]
    )
    begun_cpu_s = cpu_s(leader.pid)
    begun_s, begun = _done(leader)
    while time.monotonic() < begun_s + seconds:
        time.sleep(LOOK_S)
        status = asked.look()
        seen = (status.get("leader"), status.get("epoch", 0))
        if status and (not leaderships or leaderships[-1] != seen):
            leaderships.append(seen)
    ended_s, ended = _done(leader)
    taken_s = ended_s - begun_s
    return Figures(
        tasks_per_s=(ended - begun) / taken_s,
        leader_cpu=(cpu_s(leader.pid) - begun_cpu_s) / taken_s,
        leaderships=leaderships,
        pss_mib=pss_mib(leader.pid),
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


def cpu_s(pid: int) -> float:
    """The processor time that a process has had."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Round:
    """What was seen without strangers and then among them; `strangers` says what these did."""

    alone: Figures
    among: Figures
    strangers: str


def one_round(cluster: Cluster, directory: Path, given: argparse.Namespace) -> Round:
    """Both figures, one after the other."""
    alone = watch(cluster, given.seconds)
    with Bystanders(cluster, 3, directory, idle=given.idle, slow=given.slow, again_s=given.again_s) as crowd:
        before, before_cpu_s, begun_s = crowd.now()["connections"], cpu_s(crowd.pid), time.monotonic()
        among = watch(cluster, given.seconds)
        taken_s, last = time.monotonic() - begun_s, crowd.now()
        strangers = (
            f"{last['connected']} connected at the end, {(last['connections'] - before) / taken_s:.0f} calls a second, "
            f"for which they had {(cpu_s(crowd.pid) - before_cpu_s) / taken_s:.2f} of a processor"
        )
    return Round(alone, among, strangers)


def measure(given: argparse.Namespace) -> list[Round]:
    """So many rounds on one cluster."""
    rounds = []
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
        for number in range(given.rounds):
            log = directory / f"round{number}"
            log.mkdir()
            rounds.append(one_round(cluster, log, given))
            alone, among = rounds[-1].alone.tasks_per_s, rounds[-1].among.tasks_per_s
            print(f"round {number + 1}: {alone:.0f} and {among:.0f} tasks a second, {among / alone:.2f}; strangers: "
                  f"{rounds[-1].strangers}", file=sys.stderr, flush=True)  # fmt: skip
    return rounds


def table(rounds: Sequence[Round]) -> str:
    """The medians, and what became of the leadership."""
    leaderships = [seen for each in rounds for seen in (*each.alone.leaderships, *each.among.leaderships)]
    # A process keeps what it once had: before the first strangers, and the most among them.
    pss = (rounds[0].alone.pss_mib, max(each.among.pss_mib for each in rounds))
    lines = [
        f"{'medians of ' + str(len(rounds)) + ' rounds':<36} {'alone':>9} {'among them':>11} {'ratio':>7}",
        _line("tasks a second", rounds, lambda figures: figures.tasks_per_s),
        _line("processor of the leader", rounds, lambda figures: figures.leader_cpu),
        f"{'memory of the leader (PSS, MiB)':<36} {pss[0]:>9.2f} {pss[1]:>11.2f} {pss[1] / pss[0]:>7.2f}",
        f"{'epoch, before and after':<36} {leaderships[0][1]:>9} {leaderships[-1][1]:>11}",
        f"{'changes of the leader':<36} {len(set(leaderships)) - 1:>21}",
    ]
    return "\n".join(lines)


def _line(title: str, rounds: Sequence[Round], figure: Callable[[Figures], float]) -> str:
    alone = statistics.median(figure(each.alone) for each in rounds)
    among = statistics.median(figure(each.among) for each in rounds)
    ratio = statistics.median(figure(each.among) / figure(each.alone) for each in rounds)
    return f"{title:<36} {alone:>9.2f} {among:>11.2f} {ratio:>7.2f}"


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description="Throughput of a cluster alone, and among strangers.")
    parser.add_argument("--idle", type=int, default=2000, help="strangers that say nothing (2000)")
    parser.add_argument("--slow", type=int, default=200, help="strangers that say a byte a second (200)")
    parser.add_argument("--again-s", type=float, default=1.0, help="seconds until one that is dropped calls again (1)")
    parser.add_argument("--rounds", type=int, default=3, help="how often both are measured, in turns (3)")
    parser.add_argument("--seconds", type=float, default=20, help="how long each figure is measured (20)")
    parser.add_argument("--task-ms", type=float, default=0, help="how long a task runs (0: it only answers)")
    given = parser.parse_args(argv)
    if trouble := why_not():
        print(f"crowd: {trouble}", file=sys.stderr)
        return 2
    print(table(measure(given)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
