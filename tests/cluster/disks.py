"""What tests of disks share: work for a cluster, and what its daemons say of their disks."""

from __future__ import annotations

from pathlib import Path

from tests.cluster.conftest import MakeCluster
from tests.cluster.daemon import Cluster, Daemon

SMALL = ("--slots", "1", "--tasks", str(Path(__file__).with_name("pausing.py")))


# -- work ------------------------------------------------------------------------------------------------


def submit(daemon: Daemon, count: int, wait_s: float = 0.1) -> set[str]:
    """The ids of tasks that were acknowledged; if there was no leader just then, by the outbox of this daemon."""
    return set(daemon.ask("submit", "pause", str(wait_s), "--count", str(count))["ids"])


def ids_done(daemon: Daemon) -> set[str]:
    """The tasks that are done, as this daemon's own copy or its leader tells."""
    return {task["id"] for task in daemon.ask("tasks", timeout_s=60) if task["state"] == "done"}


def wait_in_sync(cluster: Cluster, asked: Daemon, node: str, timeout_s: float = 40) -> None:
    """Waits until that node is a replica that holds everything, or leads."""
    cluster.wait_status(
        asked,
        lambda status: (
            status["leader"] is not None
            and any(
                each["id"] == node and each["role"] in ("leader", "replica") and each["behind"] == 0
                for each in status["nodes"]
            )
        ),
        timeout_s,
        f"{asked.name} sees {node} in sync",
    )


def told(daemon: Daemon, event: str) -> list[str]:
    """What the daemon said with that name."""
    return [entry["text"] for entry in daemon.events() if entry.get("event") == event]


def wait_new_id(cluster: Cluster, daemon: Daemon, old: str) -> str:
    """Waits until the daemon answers under another id than this."""
    return str(
        cluster.wait_status(daemon, lambda status: status["node"] != old, 30, f"{daemon.name} has a new id")["node"]
    )


def whole_three(cluster: MakeCluster) -> Cluster:
    """Three daemons that are one cluster: the first leads, and all hold the queue."""
    three = cluster(3, options=SMALL)
    third = three.daemons[2]
    three.wait_leader(third, three.ids[0], 30)
    three.wait_replicas(third, 3)
    return three
