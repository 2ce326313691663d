"""Machines that come and go in order while the queue is full."""

from __future__ import annotations

import time
from pathlib import Path

from tests.cluster.conftest import MakeCluster
from tests.cluster.load import OPTIONS, Load, other_leader, settle, wait_whole

# The lease is handed over; one that runs out costs 2.5 s and a vote.
HANDOVER_S = 1.5


def test_a_new_node_joins_under_load(cluster: MakeCluster, tmp_path: Path) -> None:
    three = cluster(3, options=OPTIONS, spare=1)
    leader = wait_whole(three)
    epoch = leader.look()["epoch"]
    with Load(three, tmp_path) as load:
        load.fill(leader, 150)
        started = time.monotonic()
        new = three.start_next()
        wait_whole(three)
        print(f"{time.monotonic() - started:.1f} s until the new node was a replica in sync")
        assert load.keep_full(new, 1) > 0
        three.wait_until(lambda: load.done_by(new), 20, "the new node has done a task")
        verdict = settle(load)
    verdict.check()
    assert leader.look()["epoch"] == epoch, "a new node cost the others their leader"
    assert verdict.run_twice == ()


def test_a_leader_hands_over_returns_and_leads_again_under_load(cluster: MakeCluster, tmp_path: Path) -> None:
    three = cluster(3, options=OPTIONS, settings={"handover_after_s": 5})
    leader = wait_whole(three)
    epoch = leader.look()["epoch"]
    others = [daemon for daemon in three.daemons if daemon is not leader]
    with Load(three, tmp_path, on=[daemon.index for daemon in others], pace_s=0.1) as load:
        load.fill(others[0], 60)
        three.wait_done(others[0], 5, 30)
        load.keep_full(others[0], 20)
        assert leader.stop() == 0, leader.tail()
        other_leader(three, others[1], leader)
        assert others[1].look()["epoch"] == epoch + 1
        leader.start()
        three.wait_leader(others[1], three.ids[leader.index], 40)
        assert load.keep_full(others[0], 1) > 0
        verdict = settle(load)
    verdict.check()
    assert verdict.run_twice == ()
    assert verdict.gap_s < HANDOVER_S
