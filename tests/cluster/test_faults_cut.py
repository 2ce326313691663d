"""Machines that do not hear each other, or stand still, with a queue that is still full."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from tests.cluster.conftest import MakeCluster
from tests.cluster.daemon import Cluster, Daemon
from tests.cluster.load import OPTIONS, Load, other_leader, settle, wait_whole

# As long as a split takes to begin, and a little work in it.
CUT_S = 10.0
# These tests count epochs, so no lower id that has come back takes the lease over meanwhile.
SETTINGS = {"handover_after_s": 3600}


def no_majority(cluster: Cluster, asked: Daemon) -> dict[str, Any]:
    """Waits until this daemon says that no majority is behind it."""
    return cluster.wait_status(
        asked, lambda status: not status["majority"], 20, f"{asked.name} says that there is no majority", poll_s=0.05
    )


def test_the_leader_stands_still_for_twenty_seconds(cluster: MakeCluster, tmp_path: Path) -> None:
    three = cluster(3, options=OPTIONS, settings=SETTINGS)
    leader = wait_whole(three)
    second, third = [daemon for daemon in three.daemons if daemon is not leader]
    with Load(three, tmp_path) as load:
        load.fill(second, 80)
        paused = time.monotonic()
        leader.pause()
        epoch = other_leader(three, third, leader)["epoch"]
        print(f"{time.monotonic() - paused:.1f} s until another led")
        load.pause(paused + 20 - time.monotonic())
        assert load.keep_full(second, 1) > 0
        leader.resume()
        # It knows at once that its time is over, and soon who leads instead.
        assert other_leader(three, leader, leader)["epoch"] >= epoch
        wait_whole(three)
        verdict = settle(load)
    verdict.check()
    assert verdict.gap_s < 15


def test_one_of_three_is_cut_off_and_comes_back(cluster: MakeCluster, tmp_path: Path) -> None:
    three = cluster(3, options=OPTIONS, settings=SETTINGS)
    with Load(three, tmp_path) as load:
        leader = wait_whole(three)
        followers = [daemon for daemon in three.daemons if daemon is not leader]
        load.fill(leader, 120)
        three.net.part([leader.index])
        no_majority(three, leader)
        other_leader(three, followers[1], leader)
        load.pause(CUT_S)
        three.net.whole()
        leader = wait_whole(three)

        load.keep_full(leader, 20)
        follower = next(daemon for daemon in three.daemons if daemon is not leader)
        epoch = leader.look()["epoch"]
        three.net.part([follower.index])
        no_majority(three, follower)
        load.pause(CUT_S)
        three.net.whole()
        wait_whole(three)
        verdict = settle(load)
    verdict.check()
    assert leader.look()["epoch"] == epoch, "one that was cut off cost the others their leader"
    assert verdict.gap_s < 15


def test_ways_are_lost_in_one_direction(cluster: MakeCluster, tmp_path: Path) -> None:
    three = cluster(3, options=OPTIONS, settings=SETTINGS)
    with Load(three, tmp_path) as load:
        for lost in ("the leader is not heard", "the leader hears nobody"):
            leader = wait_whole(three)
            followers = [daemon for daemon in three.daemons if daemon is not leader]
            load.keep_full(leader, 30)
            for follower in followers:
                ends = (leader.index, follower.index)
                three.net.cut_one_way(*(ends if lost == "the leader is not heard" else ends[::-1]))
            no_majority(three, leader)
            for follower in followers:
                other_leader(three, follower, leader)
            load.pause(CUT_S)
            three.net.whole()

        leader = wait_whole(three)
        load.keep_full(leader, 20)
        epoch = leader.look()["epoch"]
        follower = next(daemon for daemon in three.daemons if daemon is not leader)
        three.net.cut_one_way(leader.index, follower.index)
        load.pause(CUT_S)
        three.net.whole()
        wait_whole(three)
        verdict = settle(load)
    verdict.check()
    assert leader.look()["epoch"] == epoch, "one that hears nothing of the leader cost the others their leader"
    assert verdict.gap_s < 15
