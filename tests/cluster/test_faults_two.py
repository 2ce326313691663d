"""Two machines, either of which is lost, or their cable: the other goes on and says how; then they are one again."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.conftest import MakeCluster
from tests.cluster.daemon import Cluster, Daemon
from tests.cluster.load import OPTIONS, Load, outcomes, settle, wait_whole

# The promise to whoever has two machines.
GOES_ON_S = 15.0
# What was running on the lost machine may be running there still; nothing here waits for it for so long.
SETTINGS = {"dead_after_s": 5}


def wait_alone(cluster: Cluster, daemon: Daemon, missing: Daemon) -> dict[str, Any]:
    """Waits until this daemon leads without a majority, and names whom it waits for."""
    me, other = cluster.ids[daemon.index], cluster.ids[missing.index]
    status = cluster.wait_status(
        daemon,
        lambda status: status["leader"] == me and not status["majority"],
        GOES_ON_S,
        f"{daemon.name} goes on without {missing.name}",
        poll_s=0.05,
    )
    assert (status["split"], status["copies"], status["missing"]) == ("warm", 1, [other]), status
    return status


def finish_alone(load: Load, daemon: Daemon) -> None:
    """A task that is handed in now is kept, runs and is shown, and each answer says how."""
    (task,) = load.fill(daemon, 1, priority=1)
    kept = load.history.kept(task)
    assert (kept.copies, kept.majority, kept.queued) == (1, False, False)
    view = load.cluster.wait_until(
        lambda: load.finished(daemon, task), GOES_ON_S, f"{daemon.name} finishes a task alone"
    )
    assert (view["state"], view["majority"]) == ("done", False)
    said = daemon.cli("result", task)
    assert "without a majority" in daemon.text("status"), daemon.text("status")
    assert (said.code, said.out["state"]) == (0, "done")


@pytest.mark.parametrize("lost", ["leader", "follower"])
def test_either_of_two_is_lost_and_returns(cluster: MakeCluster, tmp_path: Path, lost: str) -> None:
    two = cluster(2, options=OPTIONS, settings=SETTINGS)
    leader = wait_whole(two)
    follower = next(daemon for daemon in two.daemons if daemon is not leader)
    gone, left = (leader, follower) if lost == "leader" else (follower, leader)
    with Load(two, tmp_path, on=[left.index]) as load:
        load.fill(left, 60)
        two.wait_done(left, 5, 30)
        load.keep_full(left, 20)
        killed = time.monotonic()
        gone.kill9()
        wait_alone(two, left, gone)
        finish_alone(load, left)
        print(f"{time.monotonic() - killed:.1f} s until the {lost}'s loss was overcome and a task finished")
        assert time.monotonic() - killed < GOES_ON_S
        gone.start()
        leader = wait_whole(two)
        verdict = settle(load)
    verdict.check()
    merge = leader.look()["merge"]
    print(f"{leader.name} leads: {merge}")
    # Nothing has to come home where the one that went on alone leads.
    assert leader is left or (merge["node"] == two.ids[left.index] and merge["merged"] > 0)
    assert verdict.alone > 0, "nothing was acknowledged without a majority"
    assert all(final.majority for final in outcomes(left).values())


def test_two_are_cut_apart_and_both_go_on(cluster: MakeCluster, tmp_path: Path) -> None:
    two = cluster(2, options=OPTIONS, settings=SETTINGS)
    wait_whole(two)
    first, second = two.daemons
    with Load(two, tmp_path) as load:
        load.fill(first, 60)
        two.wait_done(first, 5, 30)
        load.keep_full(first, 20)
        two.net.part([0], [1])
        wait_alone(two, first, second)
        wait_alone(two, second, first)
        finish_alone(load, first)
        finish_alone(load, second)
        two.net.whole()
        leader = wait_whole(two)
        verdict = settle(load)
    verdict.check()
    merge = leader.look()["merge"]
    print(merge)
    assert merge["merged"] > 0, "what one side had alone came home unnoticed"
    # Either's leader may have brought it home, still without a majority.
    assert merge["node"] in two.ids
    assert "merged" in leader.text("status")
