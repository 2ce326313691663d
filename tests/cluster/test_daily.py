"""What people ask every day, of any node, across leaders that are killed: names, logs, progress, drains, batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.cluster.conftest import MakeCluster
from tests.cluster.daemon import Cluster, Daemon
from tests.cluster.trees import descendants

DAILY_TASKS = str(Path(__file__).parent / "daily_tasks.py")
OPTIONS = ("--slots", "1", "--tasks", DAILY_TASKS)


def formed(cluster: Cluster) -> tuple[Daemon, Daemon, Daemon]:
    """The three daemons, once the first leads and the others are replicas in sync."""
    first, second, third = cluster.daemons
    cluster.wait_leader(third, cluster.ids[0], 30)
    cluster.wait_replicas(third, 3)
    return first, second, third


def ok(daemon: Daemon, method: str, path: str, body: object = None) -> Any:
    """What a daemon answers that must."""
    reply = daemon.call(method, path, body, timeout_s=40)
    assert reply.status == 200, reply
    return reply.body


def submit(daemon: Daemon, name: str, *args: object, **options: object) -> str:
    """The id of a new task."""
    return str(ok(daemon, "POST", "/submit-task", {"name": name, "args": args, **options})["ids"][0])


def until_runs(cluster: Cluster, daemon: Daemon, task: str, *, elsewhere: str = "") -> dict[str, Any]:
    """The task as this daemon shows it, once it runs and has told its progress."""

    def look() -> dict[str, Any]:
        shown = daemon.call("GET", f"/task/{task}").body
        return dict(shown) if shown.get("progress") and shown["worker"] != elsewhere else {}

    return cluster.wait_until(look, 30, f"{task} tells how far it is")


def drained(daemon: Daemon) -> set[str]:
    """The nodes that are drained, as this daemon says."""
    return {node["name"] for node in daemon.look().get("nodes", ()) if node["drained"]}


def test_a_run_is_watched_from_everywhere_while_its_leader_dies(cluster: MakeCluster, tmp_path: Path) -> None:
    three = cluster(3, options=OPTIONS)
    first, second, third = formed(three)
    for daemon in three.daemons:
        names = {each["info"]["name"]: each for each in ok(daemon, "GET", "/names")["names"]}
        assert names["talk"]["nodes"] == three.ids
        assert names["talk"]["info"]["doc"] == "Prints and tells its progress, and waits until PATH exists."
        assert [param["name"] for param in names["talk"]["info"]["params"]] == ["path", "number"]
    # The leader and another one are drained, so that it is known who works.
    ok(second, "POST", "/drain/node0")
    ok(second, "POST", "/drain/-")
    three.wait_until(lambda: drained(third) == {"node0", "node1"}, 10, "two are drained")
    gate = tmp_path / "gate"
    task = submit(first, "talk", str(gate), 7)
    for daemon in three.daemons:
        shown = until_runs(three, daemon, task)
        assert (shown["worker"], shown["progress"]) == (three.ids[2], [1.0, 4.0, "waits"])
        log = ok(daemon, "GET", f"/task/{task}/log?wait=10")
        assert log == {"task": task, "node": three.ids[2], "text": "begins 7\n", "next": 9, "lost": 0, "ended": False}
    first.kill9()
    three.wait_leader(second, three.ids[1])
    assert until_runs(three, second, task)["progress"] == [1.0, 4.0, "waits"]
    gate.touch()
    log = ok(second, "GET", f"/task/{task}/log?after=9&wait=20")
    assert (log["text"], log["node"]) == ("grün\n", three.ids[2])
    assert ok(third, "GET", f"/task/{task}?wait=20")["result"] == 7
    assert ok(second, "GET", f"/task/{task}/log?after={log['next']}&wait=20")["ended"]
    first.start()
    three.wait_answer(first)
    three.wait_until(lambda: drained(third) == {"node0", "node1"}, 15, "they are drained still")
    for name in ("node0", "node1"):
        ok(third, "POST", f"/resume/{name}")
    three.wait_until(lambda: drained(third) == set(), 10, "nobody is drained")
    third.kill9()
    lost = second.call("GET", f"/task/{task}/log", timeout_s=40)
    assert (lost.status, lost.body["code"]) == (404, "not_found")
    assert f"is kept by node2 ({three.ids[2][-8:]}), which does not answer" in lost.body["message"]


def test_who_cancels_waits_until_the_run_is_dead(cluster: MakeCluster, tmp_path: Path) -> None:
    three = cluster(3, options=OPTIONS)
    first, second, third = formed(three)
    ok(first, "POST", "/drain/-")
    task = submit(second, "talk", str(tmp_path / "never"))
    worker = three.daemon(until_runs(three, second, task)["worker"])
    before = set(descendants(worker.pid))
    answer = ok(third if worker is second else second, "POST", f"/task/{task}/cancel?wait=20")
    assert (answer["state"], answer["ending"]) == ("cancelled", False)
    assert before - set(descendants(worker.pid)), "the child that ran it is gone"
    assert ok(first, "GET", f"/task/{task}")["progress"] is None
    # The next one runs in a child of its own.
    gate = tmp_path / "gate"
    gate.touch()
    assert ok(first, "GET", f"/task/{submit(third, 'talk', str(gate), 3)}?wait=30")["result"] == 3


def test_a_batch_is_retried_and_called_off_across_a_killed_leader(cluster: MakeCluster, tmp_path: Path) -> None:
    three = cluster(3, options=OPTIONS)
    first, second, third = formed(three)
    gate = tmp_path / "gate"
    failing = [submit(second, "fails_until", str(gate), batch="night") for _ in range(3)]
    other = submit(second, "fails_until", str(gate), batch="day")
    for task in (*failing, other):
        assert ok(third, "GET", f"/task/{task}?wait=30")["state"] == "failed"
    waiting = [submit(first, "talk", str(gate), batch="night", delay_s=3600) for _ in range(2)]
    gate.touch()
    first.kill9()
    three.wait_leader(second, three.ids[1])
    again = ok(third, "POST", "/retry-failed?batch=night")["ids"]
    assert len(set(again)) == 3
    for task in again:
        shown = ok(second, "GET", f"/task/{task}?wait=30")
        assert (shown["state"], shown["batch"]) == ("done", "night")
    assert ok(third, "POST", "/retry-failed?batch=night")["ids"] == [], "each once"
    assert set(ok(third, "POST", "/batch/night/cancel")["ids"]) == set(waiting)
    assert ok(third, "POST", "/batch/night/cancel")["ids"] == []
    page = ok(second, "GET", "/tasks?batch=night&limit=100")["tasks"]
    assert {task["id"] for task in page} == {*failing, *waiting, *again}
    assert {task["state"] for task in page if task["id"] in waiting} == {"cancelled"}
    unknown = third.call("POST", "/batch/none/cancel")
    assert (unknown.status, unknown.body["code"]) == (404, "not_found")
