"""A cluster as its users see it: real daemons on machines of their own, driven by the command line alone."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

from meshq import Client
from tests.cluster.conftest import MakeCluster
from tests.cluster.daemon import Cluster, Daemon
from tests.cluster.net import Net

USER_TASKS = str(Path(__file__).parent / "user_tasks.py")
PRIMES_TO_100000 = 9592


def three_replicas(cluster: Cluster) -> tuple[Daemon, Daemon, Daemon]:
    """The three daemons, once the first leads and the others are replicas in sync."""
    first, second, third = cluster.daemons
    cluster.wait_leader(third, cluster.ids[0], 30)
    cluster.wait_replicas(third, 3)
    return first, second, third


def submit(daemon: Daemon, *args: str) -> list[str]:
    """The ids of tasks that were acknowledged by a majority."""
    answer = daemon.ask("submit", *args)
    assert answer["majority"] and not answer["queued"] and answer["copies"] >= 2, answer
    ids: list[str] = answer["ids"]
    assert len(ids) == len(set(ids))
    return ids


def tasks(daemon: Daemon) -> dict[str, dict[str, Any]]:
    """All tasks by id; fails where one is listed twice."""
    lines = daemon.ask("tasks", timeout_s=60)
    by_id = {line["id"]: line for line in lines}
    assert len(by_id) == len(lines), [
        name for name, count in Counter(line["id"] for line in lines).items() if count > 1
    ]
    return by_id


def seconds_to_leader(cluster: Cluster, asked: Daemon, gone: str, expected: str) -> float:
    """Seconds from now until this daemon names a leader that is not the one that is gone; it must be the expected."""
    begun = time.monotonic()
    status = cluster.wait_status(
        asked, lambda status: status["leader"] not in (None, gone), 30, "there is another leader", poll_s=0.01
    )
    waited_s = time.monotonic() - begun
    assert status["leader"] == expected, status
    assert status["majority"], status
    return waited_s


def lines(path: Path) -> list[list[str]]:
    """What the user tasks noted."""
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def noted(path: Path, word: str) -> Counter[str]:
    """How often each number was noted with that word."""
    return Counter(line[1] for line in lines(path) if line[0] == word)


def test_1_fresh_nodes_become_one_cluster(cluster: MakeCluster) -> None:
    three = cluster(3)
    three_replicas(three)
    for daemon in three.daemons:
        status = three.wait_replicas(daemon, 3)
        assert status["leader"] == min(three.ids)
        assert status["majority"] is True
        assert status["node"] == three.ids[daemon.index]
        assert status["epoch"] >= 1
        nodes = {node["id"]: node for node in status["nodes"]}
        assert sorted(nodes) == three.ids
        assert [nodes[name]["role"] for name in three.ids] == ["leader", "replica", "replica"]
        assert [nodes[name]["name"] for name in three.ids] == ["node0", "node1", "node2"]
        for index, name in enumerate(three.ids):
            assert nodes[name]["slots"] == 1
            if index != daemon.index:
                ip, _, port = nodes[name]["address"].rpartition(":")
                assert port == "7373" and (ip == three.net.address(index) or ip.startswith("["))
                assert nodes[name]["heard_s"] < 5
    epochs = {daemon.ask("status")["epoch"] for daemon in three.daemons}
    assert len(epochs) == 1


def test_2_every_node_works(cluster: MakeCluster) -> None:
    three = cluster(3)
    _, follower, other = three_replicas(three)
    ids = submit(follower, "primes", "30000", "algorithm=trial_division", "--count", "200")
    assert len(ids) == 200
    three.wait_done(other, 200, 60)
    done = tasks(other)
    assert sorted(done) == sorted(ids)
    assert {task["state"] for task in done.values()} == {"done"}
    with Client(other.data_dir) as client:
        assert {record.worker for record in client.tasks()} == set(three.ids)
    assert {task["attempt"] for task in done.values()} == {1}
    assert other.ask("result", ids[-1])["result"]["count"] == 3245


def test_3_the_leader_is_killed_in_the_middle(cluster: MakeCluster) -> None:
    three = cluster(3)
    leader, second, third = three_replicas(three)
    ids = submit(third, "primes", "100000", "algorithm=trial_division", "--count", "500")
    before = three.wait_done(third, 50, 60)["tasks"]
    assert before["pending"] > 200, f"the queue was nearly empty when the fault came: {before}"

    leader.kill9()
    leaderless_s = seconds_to_leader(three, third, three.ids[0], three.ids[1])
    print(f"{leaderless_s:.2f} s without a leader")
    assert tasks(third).keys() == set(ids)

    three.wait_done(second, 500, 120)
    finished = tasks(second)
    assert sorted(finished) == sorted(ids)
    assert {task["state"] for task in finished.values()} == {"done"}
    # What ran on the killed node ran again; nothing else did.
    again = [task for task in finished.values() if task["attempt"] > 1]
    assert len(again) <= 10, again
    for name in [*ids[::50], *(task["id"] for task in again)]:
        result = second.ask("result", name)
        assert (result["state"], result["error"]) == ("done", None)
        assert result["result"]["count"] == PRIMES_TO_100000
    assert second.ask("status")["tasks"] == {"pending": 0, "running": 0, "done": 500, "failed": 0, "cancelled": 0}


def test_4_a_leader_that_stops_hands_over(cluster: MakeCluster, tmp_path: Path) -> None:
    three = cluster(3, options=("--slots", "2", "--tasks", USER_TASKS))
    leader, second, third = three_replicas(three)
    runs = tmp_path / "runs"
    epoch = third.ask("status")["epoch"]
    ids = submit(third, "note", str(runs), "0.3", "--count", "200")
    before = three.wait_done(third, 20, 30)["tasks"]
    assert before["pending"] > 50, f"the queue was nearly empty when the fault came: {before}"

    assert leader.stop() == 0, leader.tail()
    waited_s = seconds_to_leader(three, third, three.ids[0], three.ids[1])
    # The lease was handed over before the process ended; one that runs out takes 2.5 s.
    assert waited_s < 1.5, f"{waited_s:.2f} s without a leader"
    assert third.ask("status")["epoch"] == epoch + 1

    three.wait_done(third, 200, 60)
    assert {task["state"] for task in tasks(third).values()} == {"done"}
    assert sorted(tasks(second)) == sorted(ids)
    assert noted(runs, "start") == Counter({"0": 200}), "a task ran twice, or not at all"
    assert noted(runs, "end") == Counter({"0": 200})


def test_5_a_killed_follower_comes_back(cluster: MakeCluster) -> None:
    three = cluster(3)
    leader, second, third = three_replicas(three)
    third.kill9()
    ids = submit(second, "primes", "1000", "--count", "100")
    three.wait_done(second, 100, 60)

    third.start()
    assert three.wait_answer(third)["node"] == three.ids[2]
    back = three.wait_replicas(leader, 3)
    assert {node["id"]: (node["role"], node["behind"]) for node in back["nodes"]}[three.ids[2]] == ("replica", 0)
    assert sorted(tasks(third)) == sorted(ids)

    # It votes and holds the queue again: without it, the second would have no majority.
    leader.kill9()
    seconds_to_leader(three, third, three.ids[0], three.ids[1])
    assert {task["state"] for task in tasks(third).values()} == {"done"}
    more = submit(third, "primes", "1000", "--count", "10")
    three.wait_done(third, 110, 60)
    assert tasks(second).keys() == {*ids, *more}


def test_6_results_without_a_leader_reach_the_next(cluster: MakeCluster, tmp_path: Path) -> None:
    # The leader does no work, so all four tasks outlive it.
    three = cluster(3, options=("--tasks", USER_TASKS), each=lambda net, index: ("--slots", "0" if index == 0 else "2"))
    leader, second, third = three_replicas(three)
    runs = tmp_path / "runs"
    ids = [name for number in range(4) for name in submit(third, "gate", str(runs), str(number))]
    three.wait_until(lambda: len(lines(runs)) == 4, 20, "all four tasks run")

    leader.kill9()
    Path(f"{runs}.open").touch()
    three.wait_until(lambda: len(noted(runs, "end")) == 4, 5, "all four tasks have ended", poll_s=0.01)
    ended = time.monotonic()
    waited_s = seconds_to_leader(three, third, three.ids[0], three.ids[1])
    assert waited_s > 0.5, "there was a leader before the tasks had ended"
    print(f"the next leader came {time.monotonic() - ended:.2f} s after the last result")

    three.wait_done(third, 4, 30)
    assert sorted(tasks(second)) == sorted(ids)
    assert [third.ask("result", name)["result"] for name in ids] == [0, 1, 2, 3]
    assert noted(runs, "start") == Counter("0123"), "a task whose result was on disk ran again"


def test_7_one_seed_without_multicast(cluster: MakeCluster) -> None:
    def seeds(net: Net, index: int) -> tuple[str, ...]:
        return ("--seed", f"{net.address(0)}:7373") if index > 0 else ()

    three = cluster(3, each=seeds, multicast=False)
    first, second, third = three_replicas(three)
    # The second and the third know each other by hearsay only, and reach each other all the same.
    first.kill9()
    seconds_to_leader(three, third, three.ids[0], three.ids[1])
    ids = submit(third, "primes", "1000", "--count", "20")
    three.wait_done(second, 20, 30)
    assert sorted(tasks(second)) == sorted(ids)
