"""`meshq explain`: the story of the cluster and of a task, as people see it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from meshq.core.reports import Change, Clash, ClusterStory, Event, Standpoint, TaskStory, TaskView
from meshq.wire import values
from tests.unit.cli_cluster import BETA, GAMMA, MERGE, flat, lines, three_nodes
from tests.unit.cli_process import meshq, one_line
from tests.unit.client_twin import NODE, Twin


@pytest.fixture
def twin(tmp_path: Path) -> Iterator[Twin]:
    with three_nodes(tmp_path) as twin:
        yield twin


# -- explain -----------------------------------------------------------------------------------------------


def cluster_story(now_ms: int) -> ClusterStory:
    return ClusterStory(
        node=GAMMA.id, leader=NODE.id, epoch=7, majority=True, since_ms=now_ms - 300_000, votes=(NODE.id, GAMMA.id),
        nodes=(
            Standpoint(node=GAMMA.id, name="gamma", role="replica", why="follows alpha, whose promise has 1.9 s left"),
            Standpoint(node=NODE.id, name="alpha", role="leader", why="won the vote of epoch 7"),
            Standpoint(
                node=BETA.id, name="beta-with-a-long-name\x1b[2J", role="replica",
                why="was heard 5 m ago; it lacks 120 rows, and would stand only after it has them and 30 s more",
            ),
        ),
        waits="for beta 3c6df59e, which the next commit needs",
        events=tuple(Event(at_ms=now_ms - 1000 * left, text=f"event {left}") for left in range(29, -1, -1)),
        merges=(replace(MERGE, at_ms=now_ms - 86_400_000 * 3),),
    )  # fmt: skip


def test_the_cluster_is_explained(tmp_path: Path, twin: Twin) -> None:
    now_ms = time.time_ns() // 1_000_000
    twin.cluster_story = cluster_story(now_ms)
    code, out, err = meshq(tmp_path, "explain")
    shown = lines(out)
    assert (code, err) == (0, "")
    assert shown[0] == "leader   alpha 0000000a, epoch 7, with a majority"
    assert re.fullmatch(r"since    (\d{4}-\d\d-\d\d )?\d\d:\d\d:\d\d, 5 m ago", shown[1])
    assert shown[2:4] == [
        "votes    alpha 0000000a, gamma b65caece",
        "waits    for beta 3c6df59e, which the next commit needs",
    ]
    rows = [line.split() for line in shown[6:9]]
    assert [row[:3] for row in rows[:2]] == [["alpha", "0000000a", "leader"], ["beta-with-a", "3c6df59e", "replica"]]
    assert [line.split()[:3] for line in shown if line.startswith("gamma*")] == [["gamma*", "b65caece", "replica"]]
    said = flat(out)
    assert "would stand only" in said
    assert "event 0 " in f"{said} "
    assert "event 19 " in said
    assert "event 20 " not in said
    assert "merged 37 tasks from beta-with-a-long-name [2J, 2 ran twice, 1 of them differently, 0 lost" in said
    assert json.loads(meshq(tmp_path, "explain", "--json")[1]) == json.loads(json.dumps(asdict(twin.cluster_story)))


def test_a_cluster_without_a_leader_is_explained(tmp_path: Path, twin: Twin) -> None:
    twin.cluster_story = replace(twin.cluster_story, leader=None, majority=False, votes=())
    assert lines(meshq(tmp_path, "explain")[1])[:2] == ["leader   none", "votes    none"]
    twin.cluster_story = replace(twin.cluster_story, leader=NODE.id)
    assert lines(meshq(tmp_path, "explain")[1])[0] == "leader   ? 0000000a, epoch 3, without a majority"


WORDS = TaskView(id="e" * 24 + "12345678", name="words", state="pending", attempt=1)


def story(twin: Twin, view: TaskView = WORDS) -> str:
    """The id of a task that has one."""
    now_ms = time.time_ns() // 1_000_000
    twin.tasks[view.id] = view
    twin.stories[view.id] = TaskStory(
        task=view, waits="no live node that knows words has a free slot" if view.state == "pending" else "",
        changes=(
            Change(at_ms=now_ms, move="submit", epoch=6, node=BETA.id, cause="a client, through gamma"),
            Change(at_ms=now_ms, move="claim", epoch=6, node=BETA.id, worker=GAMMA.id),
            Change(at_ms=now_ms, move="lose", epoch=7, node=NODE.id, worker=GAMMA.id, cause="gamma fell silent"),
        ),
        clashes=(
            Clash(
                task=view.id, state="done", worker=GAMMA.id, epoch=5, result=values.pack(["x" * 300]), error=None,
                finished_ms=now_ms, differs=True,
            ),
            Clash(
                task=view.id, state="failed", worker=None, epoch=6, result=None, finished_ms=None, differs=True,
                error=values.pack({"type": "ValueError", "message": "no\nnever", "traceback": ""}),
            ),
            Clash(
                task=view.id, state="done", worker=BETA.id, epoch=6, result=values.pack(1), error=None,
                finished_ms=now_ms, differs=False,
            ),
        ) if view.state == "done" else (),
    )  # fmt: skip
    return view.id


def test_a_task_that_does_not_run_is_explained(tmp_path: Path, twin: Twin) -> None:
    task = story(twin)
    code, out, _ = meshq(tmp_path, "explain", "12345678")
    shown = lines(out)
    assert code == 0
    assert shown[:2] == [
        "12345678  words: pending (attempt 1)",
        "waits    no live node that knows words has a free slot",
    ]
    found = [re.sub(r"^[\d:]{8}", "TIME", line.rstrip()) for line in shown[3:]]
    assert [re.split(r"\s{2,}", line) for line in found] == [
        ["WHEN", "MOVE", "NODE", "EPOCH", "WORKER", "CAUSE"],
        ["TIME", "submit", "3c6df59e", "6", "-", "a client, through gamma"],
        ["TIME", "claim", "3c6df59e", "6", "b65caece"],
        ["TIME", "lose", "0000000a", "7", "b65caece", "gamma fell silent"],
    ]
    found_json = json.loads(meshq(tmp_path, "explain", task, "--json")[1])
    assert found_json["id"] == task
    assert found_json["changes"] == [asdict(change) for change in twin.stories[task].changes]
    assert found_json["waits"].startswith("no live node")


def test_other_outcomes_of_a_task_are_shown(tmp_path: Path, twin: Twin) -> None:
    task = story(twin, replace(WORDS, state="done", result=values.pack(2), majority=False))
    said = flat(meshq(tmp_path, "explain", task)[1])
    assert "done (attempt 1) (without a majority: another outcome may replace it)" in said
    assert "done on b65caece, epoch 5, differently" in said
    assert "… (--json prints all)" in said
    assert "failed on ?, epoch 6, differently: ValueError: no never" in said
    assert "done on 3c6df59e, epoch 6, the same" in said
    clashes = json.loads(meshq(tmp_path, "explain", task, "--json")[1])["clashes"]
    assert clashes[0]["result"] == ["x" * 300]
    assert clashes[1]["error"]["message"] == "no\nnever"


def test_times_of_other_days_have_their_date(tmp_path: Path, twin: Twin) -> None:
    task = story(twin)
    old = replace(twin.stories[task].changes[0], at_ms=1_700_000_000_000)
    twin.stories[task] = replace(twin.stories[task], changes=(old, *twin.stories[task].changes))
    shown = lines(meshq(tmp_path, "explain", task, TZ="UTC")[1])
    assert next(line[:19].rstrip() for line in shown if "submit" in line) == "2023-11-14 22:13:20"


def test_no_such_story(tmp_path: Path, twin: Twin) -> None:
    for text in ("ffffffff", "zz"):
        code, out, err = meshq(tmp_path, "explain", text)
        assert (code, out) == (2, "")
        assert one_line(err)
