"""Machines that lose their power, with a queue that is still full."""

from __future__ import annotations

import itertools
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.cluster.conftest import MakeCluster
from tests.cluster.daemon import Cluster
from tests.cluster.load import OPTIONS, Load, other_leader, settle, wait_whole


def kill_in_turn(cluster: Cluster, load: Load, seconds: float) -> int:
    """Kills the leader, a follower, the leader and so on, each as soon as all are in sync; returns how often."""
    chance = random.Random(3)
    end = time.monotonic() + seconds
    for turn in itertools.count():
        leader = wait_whole(cluster)
        if time.monotonic() >= end:
            return turn
        followers = [daemon for daemon in cluster.daemons if daemon is not leader]
        victim = leader if turn % 2 == 0 else followers.pop(chance.randrange(len(followers)))
        load.keep_full(followers[0], 30)
        victim.kill9()
        other_leader(cluster, followers[0], victim)
        load.pause(chance.random())
        victim.start()
        cluster.wait_answer(victim)
    raise AssertionError("never")


@pytest.mark.parametrize(
    "seconds", [30, pytest.param(300, marks=pytest.mark.slow("five minutes of kills: the issue asks for them"))]
)
def test_leader_and_follower_are_killed_in_turn(cluster: MakeCluster, tmp_path: Path, seconds: float) -> None:
    three = cluster(3, options=OPTIONS)
    wait_whole(three)
    with Load(three, tmp_path) as load:
        kills = kill_in_turn(three, load, seconds)
        verdict = settle(load)
    print(f"{kills} kills in {seconds} s")
    assert kills >= seconds / 15, "too few kills to show anything"
    verdict.check()
    assert verdict.gap_s < 15


def test_all_are_killed_at_once_and_started_in_another_order(cluster: MakeCluster, tmp_path: Path) -> None:
    three = cluster(3, options=OPTIONS)
    wait_whole(three)
    with Load(three, tmp_path) as load:
        load.fill(three.daemons[1], 60)
        three.wait_done(three.daemons[1], 5, 30)
        assert load.keep_full(three.daemons[1], 20) >= 20
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda daemon: daemon.kill9(), three.daemons))
        begun = time.monotonic()
        for index in (1, 2, 0):
            three.daemons[index].start()
        wait_whole(three)
        print(f"{time.monotonic() - begun:.1f} s until all are in sync again")
        verdict = settle(load)
    verdict.check()
