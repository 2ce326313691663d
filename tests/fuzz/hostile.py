"""A cluster at work, and hostile requests to all of its daemons. Needs root and `ip netns`.

    python -m tests.fuzz.hostile --requests 100000

Callers of all kinds send what is wrong in every way that they can: strangers, bearers of a credential, holders of the
key, nodes on links, and the machine's own user on the Unix socket. Meanwhile tasks are handed in and run. In the end no
daemon may have died or hung, no answer may be 500, the leader must be the same, every task must be done, and the
daemons' memory may have grown by MEMORY_MIB at most.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import textwrap
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshq.core import ids
from meshq.wire.unix import socket_path
from tests.cluster.crowd import pss_mib
from tests.cluster.daemon import KEY, Cluster, Daemon, Process
from tests.cluster.load import OPTIONS, Load, settle, wait_whole
from tests.cluster.net import Net, why_not
from tests.cluster.outside import PORT, Endpoints

# What a daemon may take in all for bodies that are under way (BODIES_BYTES_MAX), and half of that for all else.
MEMORY_MIB = 384
NOBODYS = "0" * 32
SOURCES = 40
COLUMNS = 80
SETTINGS = {"handover_after_s": 86400}


@dataclass(frozen=True, slots=True)
class Report:
    """What came back for each kind of caller, and what is wrong.

    Args:
        slowest_s: The longest time until an answer to a whole request, of each kind.
        tasks: How many were handed in meanwhile and finished, and how many the attacker handed in itself.
    """

    seen: dict[str, dict[str, int]]
    slowest_s: dict[str, float]
    grown_mib: float
    tasks: tuple[int, int]
    wrong: list[str]


def attack(cluster: Cluster, directory: Path, requests: int, seed: int) -> Report:
    """All of it, on a cluster that is up."""
    leader = wait_whole(cluster)
    daemons = [daemon for daemon in cluster.daemons if daemon.alive()]
    pids = [daemon.pid for daemon in daemons]
    before = leader.look()
    grown = [pss_mib(pid) for pid in pids]
    issued = leader.ask("key issue", "--submit-only", "bob")["credential"]
    what = {
        "requests": requests, "seed": seed, "key": KEY.text, "credential": issued,
        "sources": _addresses(cluster.net, len(cluster.ids)),
        "at": [(cluster.net.address(index), PORT) for index in range(len(cluster.ids))],
        "sockets": [str(socket_path(daemon.data_dir)) for daemon in daemons],
        "cluster": ids.cluster_hash("meshq"),
        "calls": _calls(),
    }  # fmt: skip
    argv = [sys.executable, "-m", "tests.fuzz.attacker", json.dumps(what)]
    attacker = Process(cluster.net, len(cluster.ids), argv, directory / "attacker.log")
    with Load(cluster, directory, pace_s=0.2, run_s=0.05) as load:
        attacker.start()
        cluster.wait_until(
            lambda: not attacker.alive() or _is_over(attacker), 60 + requests / 50, "the attack is over", poll_s=0.5
        )
        said = attacker.events()
        attacker.kill9()
        verdict = settle(load)
    rows = [row for row in said if row["event"] == "seen"]
    seen = {row["who"]: row["seen"] for row in rows}
    rest = max(pss_mib(daemon.pid) - old for daemon, old in zip(daemons, grown, strict=True) if daemon.alive())
    wrong = [] if seen else [f"the attacker broke: {attacker.tail()}"]
    # What the attacker handed in itself is nobody's, whatever became of it.
    theirs = set(verdict.broken.get("unasked", ()))
    broken = {kind: left for kind, tasks in verdict.broken.items() if (left := set(tasks) - theirs)}
    wrong += [f"{kind}: {len(tasks)} tasks" for kind, tasks in broken.items()]
    wrong += [f"{who}: {count} times {end}" for who, ends in seen.items() for end, count in ends.items() if _bad(end)]
    wrong += [f"{daemon.name} died" for daemon, pid in zip(daemons, pids, strict=True)
              if not daemon.alive() or daemon.pid != pid]  # fmt: skip
    after = leader.look()
    if (after["leader"], after["epoch"]) != (before["leader"], before["epoch"]):
        wrong.append(f"the leader changed: {after['leader']}, epoch {after['epoch']}; it was epoch {before['epoch']}")
    wrong += [f"{daemon.name} logged: {event}" for daemon in daemons for event in daemon.events() if _is_bug(event)]
    if rest > MEMORY_MIB:
        wrong.append(f"the memory of a daemon grew by {rest:.0f} MiB")
    tasks = verdict.acknowledged, len(theirs)
    return Report(seen, {row["who"]: row["slowest_s"] for row in rows}, rest, tasks, wrong)


def _addresses(net: Net, index: int) -> list[str]:
    """The attacker's own, of which it takes some more."""
    own = net.address(index)
    more = [f"{own.rpartition('.')[0]}.{number}" for number in range(100, 100 + SOURCES)]
    for address in more:
        net.add_address(index, f"{address}/24")
    return [own, *more]


def _is_bug(event: dict[str, Any]) -> bool:
    """Whether a line of a daemon's log tells of what nobody foresaw: a request or a message that broke its handler."""
    return "traceback" in event


def _is_over(attacker: Process) -> bool:
    return any(row["event"] == "over" for row in attacker.events())


def _bad(end: str) -> bool:
    return end == "NO ANSWER" or (end.startswith("5") and end not in ("503", "507"))


def _calls() -> list[tuple[str, str, Any]]:
    """Every path but those that stop a daemon, with a body that would do something to tasks and nodes of nobody's."""
    calls = Endpoints(NOBODYS, NOBODYS, NOBODYS).all()
    # What is taken from the queue and never run would be no parser's fault.
    odd: dict[str, Any] = {"args": [[1, "x", 2.5, {"a": [None]}]], "priority": 1, "batch": "b"}
    names: dict[str, dict[str, Any]] = {"/get-task": {"names": ["nobodys"]}, "/submit-task": odd}
    return [
        (method, path, {**body, **names.get(path, {})} if isinstance(body, dict) else body)
        for method, path, body in calls
        if path not in ("/stop", "/leave", "/recover") and not path.startswith(("/key/", "/peer"))
    ]


def table(report: Report) -> str:
    """What came back, for people."""
    lines = [f"{'CALLER':<22} {'REQUESTS':>8} {'SLOWEST':>8}  WHAT CAME BACK"]
    for who, seen in report.seen.items():
        ends = ", ".join(
            f"{end}\N{NO-BREAK SPACE}×\N{NO-BREAK SPACE}{count}"
            for end, count in sorted(seen.items(), key=lambda entry: -entry[1])
        )
        slowest = f"{report.slowest_s[who]:.1f} s" if report.slowest_s[who] else ""
        head = f"{who:<22} {sum(seen.values()):>8} {slowest:>8}  "
        lines += textwrap.wrap(ends, COLUMNS, initial_indent=head, subsequent_indent=" " * len(head))
    lines.append(f"{report.tasks[0]} tasks were handed in meanwhile, and {report.tasks[1]} by the attacker")
    lines.append(f"the memory of no daemon grew by more than {report.grown_mib:.0f} MiB")
    return "\n".join([*lines, *report.wrong])


def run(requests: int, seed: int) -> Report:
    """The same, with a cluster of its own."""
    with ExitStack() as stack:
        net = stack.enter_context(Net(4))
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="meshq-hostile-")))
        cluster = Cluster(net, [Daemon(net, index, directory, OPTIONS, SETTINGS) for index in range(3)])
        stack.callback(cluster.end)
        cluster.start()
        return attack(cluster, directory, requests, seed)


def main(argv: Sequence[str] | None = None) -> int:
    """Attacks and prints the table."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz.hostile", description="Hostile requests to a cluster at work."
    )
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(argv)
    if trouble := why_not():
        print(f"hostile: {trouble}", file=sys.stderr)
        return 2
    report = run(given.requests, given.seed)
    print(table(report))
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
