"""Tasks that misbehave, on real daemons: each ends with its cause in words, and the next one runs."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from tests.cluster.conftest import MakeCluster
from tests.cluster.daemon import Daemon
from tests.cluster.test_daily import formed, ok, submit
from tests.cluster.trees import runs

RUDE_TASKS = str(Path(__file__).parent / "rude_tasks.py")
OPTIONS = ("--slots", "1", "--tasks", RUDE_TASKS)
# Enough for Python and for whatever it loads.
SETTINGS = {"child_memory_bytes_max": 1 << 30}
CAUSES = {
    "fills_pipes": "killed, for it wrote into its connection with the daemon",
    "raises_odd": "a Odd whose text can't be shown: its str() raised RuntimeError",
    "raises_surrogate": "\\udcff",
    "exits": "the task called sys.exit('enough')",
    "faults": "killed by SIGSEGV (a fault in native code)",
    "eats": "memory",
    "is_killed": "killed by SIGKILL (out of memory?)",
}


def is_gone(pid: int) -> bool:
    """Whether this process has ended."""
    return not runs(pid)


def next_runs(daemon: Daemon) -> None:
    """Whatever was there before, each machine runs the next task."""
    for number in range(3):
        assert ok(daemon, "GET", f"/task/{submit(daemon, 'echo', number)}?wait=30")["result"] == number


def test_each_ends_with_its_cause_and_the_next_task_runs(cluster: MakeCluster) -> None:
    three = cluster(3, options=OPTIONS, settings=SETTINGS)
    first, _, third = formed(three)
    for name, cause in CAUSES.items():
        shown = ok(third, "GET", f"/task/{submit(third, name)}?wait=30")
        assert shown["state"] == "failed", name
        assert cause in shown["error"]["message"], (name, shown["error"])
    assert ok(third, "GET", f"/task/{submit(third, 'forks')}?wait=30")["result"] == "original"
    next_runs(third)
    dead = {task["name"] for task in ok(first, "GET", "/tasks?state=failed&limit=100")["tasks"]}
    assert dead == set(CAUSES)
    assert all(daemon.alive() for daemon in three.daemons)


def test_who_ignores_its_time_limit_is_killed_with_its_group(cluster: MakeCluster, tmp_path: Path) -> None:
    three = cluster(3, options=OPTIONS, settings=SETTINGS)
    _, second, third = formed(three)
    numbers = tmp_path / "numbers"
    shown = ok(third, "GET", f"/task/{submit(third, 'stubborn', str(numbers), timeout_s=0.5)}?wait=30")
    assert (shown["state"], shown["error"]["message"]) == ("failed", "timed out after 0.5 s")
    for pid in map(int, numbers.read_text().split()):
        three.wait_until(partial(is_gone, pid), 10, f"{pid} is gone")
    next_runs(second)


def test_of_a_flood_the_end_is_kept_and_nobody_is_disturbed(cluster: MakeCluster) -> None:
    three = cluster(3, options=OPTIONS)
    _, second, third = formed(three)
    flood = submit(third, "prints", 20_000)
    next_runs(second)
    assert ok(third, "GET", f"/task/{flood}?wait=40")["result"] == "printed"
    # The same from each machine.
    for daemon in three.daemons:
        part = ok(daemon, "GET", f"/task/{flood}/log?wait=5")
        assert part["lost"] > 0
        text = ""
        while not part["ended"]:
            text += part["text"]
            part = ok(daemon, "GET", f"/task/{flood}/log?after={part['next']}&wait=5")
        assert 1 << 20 <= len(text) <= 2 << 20
        assert text.splitlines()[-1] == f"{19_999:08} {'x' * 1014}"
