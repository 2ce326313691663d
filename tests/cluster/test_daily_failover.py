"""Delays, retries, keys, cancels, checkpoints, bounds and what is forgotten, across leaders that are killed."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from tests.cluster.conftest import MakeCluster
from tests.cluster.daemon import Cluster, Daemon
from tests.cluster.test_daily import OPTIONS, drained, formed, ok, submit, until_runs

GATES = str(Path(__file__).parent / "user_tasks.py")
# Who is killed is given up soon.
SETTINGS = {"dead_after_s": 4.0}


def waits(cluster: Cluster, daemon: Daemon, task: str) -> dict[str, Any]:
    """The task as this daemon shows it, once it failed and waits for another attempt."""

    def look() -> dict[str, Any]:
        shown = ok(daemon, "GET", f"/task/{task}")
        return dict(shown) if shown["state"] == "pending" and shown["failures"] else {}

    return cluster.wait_until(look, 30, f"{task} waits for its retry")


def rests(cluster: Cluster, asked: Daemon, *idle: Daemon) -> None:
    """Takes these out of the work."""
    for daemon in idle:
        ok(daemon, "POST", "/drain/-")
    names = {daemon.name for daemon in idle}
    cluster.wait_until(lambda: drained(asked) == names, 10, f"{names} are drained")


def on_disk(daemon: Daemon, sql: str, *values: str) -> list[tuple[Any, ...]]:
    """Rows of this daemon's copy of the queue."""
    path = daemon.data_dir / "queue.db"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as conn:
        return conn.execute(sql, values).fetchall()


def test_delay_retry_key_and_cancel_outlast_their_leader(cluster: MakeCluster, tmp_path: Path) -> None:
    three = cluster(3, options=OPTIONS, settings=SETTINGS)
    first, second, third = formed(three)
    rests(three, third, first)
    gate = tmp_path / "gate"
    failing = submit(second, "fails_until", str(gate), retries=1, backoff="constant", backoff_s=6, key="again")
    before = waits(three, second, failing)
    delayed = submit(second, "echo", 1, delay_s=10, key="later")
    off = submit(second, "talk", str(gate), delay_s=3600)
    assert ok(second, "POST", f"/task/{off}/cancel")["state"] == "cancelled"
    gate.touch()
    first.kill9()
    three.wait_leader(third, three.ids[1])
    assert submit(third, "echo", 2, key="later") == delayed, "the same key is the same task"
    assert submit(third, "fails_until", "elsewhere", key="again") == failing
    again = ok(third, "GET", f"/task/{failing}?wait=30")
    assert (again["state"], again["failures"]) == ("done", 1)
    assert again["started_ms"] >= before["not_before_ms"] > before["submitted_ms"]
    late = ok(third, "GET", f"/task/{delayed}?wait=30")
    assert (late["state"], late["result"]) == ("done", 1)
    # It counts from when it came to the door, a moment before the leader had it.
    assert late["started_ms"] >= late["not_before_ms"] > late["submitted_ms"] + 5_000
    assert ok(third, "GET", f"/task/{off}")["state"] == "cancelled"
    refused = third.call("POST", f"/task/{delayed}/cancel")
    assert (refused.status, refused.body.get("state")) == (200, "done"), "what is finished stays as it is"


def test_a_run_goes_on_from_its_checkpoint_when_leader_and_worker_die_as_one(
    cluster: MakeCluster, tmp_path: Path
) -> None:
    three = cluster(3, options=OPTIONS, settings=SETTINGS)
    first, second, third = formed(three)
    rests(three, third, second, third)
    gate = tmp_path / "gate"
    task = submit(third, "goes_on", str(gate))
    assert until_runs(three, third, task)["worker"] == three.ids[0]
    for daemon in (second, third):
        three.wait_until(partial(has_checkpoint, daemon, task), 20, "it is kept")
    ok(third, "POST", "/resume/-")
    first.kill9()
    three.wait_leader(third, three.ids[1])
    shown = until_runs(three, third, task, elsewhere=three.ids[0])
    assert shown["worker"] == three.ids[2]
    assert shown["progress"][0] == 2.0
    gate.touch()
    assert ok(second, "GET", f"/task/{task}?wait=30")["result"] == 1
    for daemon in (second, third):
        three.wait_until(partial(has_no_checkpoint, daemon, task), 20, "it is gone")


def has_checkpoint(daemon: Daemon, task: str) -> bool:
    """Whether this daemon has what a run of the task kept."""
    return bool(on_disk(daemon, "SELECT 1 FROM payloads WHERE ref = ?", f"{task}/checkpoint"))


def has_no_checkpoint(daemon: Daemon, task: str) -> bool:
    """The contrary."""
    return not has_checkpoint(daemon, task)


def is_forgotten(daemon: Daemon, task: str) -> bool:
    """Whether all that this daemon has of the task is that it was there."""
    look = "SELECT state FROM tasks WHERE id = ? UNION ALL SELECT ref FROM payloads WHERE ref LIKE ?"
    return on_disk(daemon, look, task, f"{task}/%") == [("purged",)]


def starts(notes: Path) -> int:
    """How many runs began."""
    return notes.read_text().count("start") if notes.exists() else 0


def at_once(lines: list[str]) -> Iterator[int]:
    """How many ran, after each line."""
    count = 0
    for line in lines:
        count += 1 if line.startswith("start") else -1
        yield count


def test_no_more_run_than_the_bound_allows_when_another_leads(cluster: MakeCluster, tmp_path: Path) -> None:
    three = cluster(3, options=("--slots", "4", "--tasks", GATES), settings=SETTINGS)
    first, second, third = formed(three)
    rests(three, third, first)
    notes = tmp_path / "notes"
    tasks = [submit(second, "gate", str(notes), number, max_running=2) for number in range(6)]
    three.wait_until(lambda: starts(notes) == 2, 20, "two run")
    first.kill9()
    three.wait_leader(third, three.ids[1])
    # The new leader gives out older tasks once it knows what runs: this one is behind the six.
    other = submit(third, "echo", 1, delay_s=0)
    assert ok(third, "GET", f"/task/{other}?wait=30")["state"] == "done"
    behind = submit(second, "note", str(tmp_path / "other"), 0, max_running=1)
    assert ok(third, "GET", f"/task/{behind}?wait=30")["state"] == "done"
    assert starts(notes) == 2
    Path(f"{notes}.open").touch()
    for number, task in enumerate(tasks):
        assert ok(third, "GET", f"/task/{task}?wait=40")["result"] == number
    lines = notes.read_text().splitlines()
    assert len(lines) == 12, "each ran once"
    assert max(at_once(lines)) == 2


def test_what_is_forgotten_is_gone_from_every_copy_whoever_leads(cluster: MakeCluster, tmp_path: Path) -> None:
    three = cluster(3, options=OPTIONS, settings=SETTINGS)
    first, second, third = formed(three)
    rests(three, third, first)
    gate = tmp_path / "gate"
    task = submit(second, "talk", str(gate), 7, forget=True)
    until_runs(three, second, task)
    first.kill9()
    three.wait_leader(third, three.ids[1])
    until_runs(three, third, task)
    gate.touch()
    three.wait_until(lambda: third.call("GET", f"/task/{task}").status == 404, 30, "it is purged")
    for daemon in (second, third):
        three.wait_until(partial(is_forgotten, daemon, task), 20, "nothing is left")
    gone = third.call("POST", f"/task/{task}/retry")
    assert (gone.status, gone.body["code"]) == (404, "not_found")
