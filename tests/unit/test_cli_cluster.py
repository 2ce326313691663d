"""What the commands say of a cluster in trouble, and those that mend it: real processes, as a person sees them."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from meshq.core import requests as ask
from meshq.core.reports import MergeReport
from meshq.errors import Ambiguous, Conflict, MeshqError, NoLeader, NotFound
from meshq.store.identity import ID_FILE
from tests.unit.cli_cluster import BETA, GAMMA, MERGE, flat, lines, three_nodes
from tests.unit.cli_process import meshq, one_line, start
from tests.unit.client_twin import NODE, Twin


@pytest.fixture
def twin(tmp_path: Path) -> Iterator[Twin]:
    with three_nodes(tmp_path) as twin:
        yield twin


def split(twin: Twin, kind: str, *missing: str, copies: int = 1) -> None:
    twin.status = replace(twin.status, majority=False, copies=copies, split=kind, missing=missing)


# -- without a majority ------------------------------------------------------------------------------------


def test_a_warm_part_says_how_it_goes_on(tmp_path: Path, twin: Twin) -> None:
    split(twin, "warm", BETA.id, GAMMA.id, copies=2)
    shown = lines(meshq(tmp_path, "status")[1])
    assert shown[:3] == [
        "leader   alpha 0000000a, without a majority, 2 copies (warm)",
        "waits    for beta 3c6df59e (heard 5 m ago), gamma b65caece (never heard)",
        "tasks    3 pending, 1 running, 30 done, 2 failed, 1 cancelled",
    ]
    found = json.loads(meshq(tmp_path, "status", "--json")[1])
    assert (found["majority"], found["copies"], found["split"]) == (False, 2, "warm")
    assert found["missing"] == [BETA.id, GAMMA.id]


def test_a_cold_one_says_what_recover_would_do(tmp_path: Path, twin: Twin) -> None:
    split(twin, "cold", BETA.id, GAMMA.id)
    out = meshq(tmp_path, "status")[1]
    assert lines(out)[0] == "leader   alpha 0000000a, without a majority, 1 copy (cold)"
    assert "tasks from before wait for them too, new ones run" in flat(out)
    assert (
        "if they never come back: meshq recover makes this machine's copy the cluster, 37 tasks; "
        "beta 3c6df59e, gamma b65caece would join it as new copies" in flat(out)
    )


def test_one_that_waits_says_for_whom(tmp_path: Path, twin: Twin) -> None:
    twin.status = replace(twin.status, leader=None, majority=False, missing=(BETA.id, "d" * 32))
    shown = lines(meshq(tmp_path, "status")[1])
    assert shown[0].startswith("leader   none")
    assert shown[1] == "waits    for beta 3c6df59e (heard 5 m ago), ? dddddddd (never heard)"


def test_a_whole_cluster_says_nothing_of_it(tmp_path: Path, twin: Twin) -> None:
    shown = lines(meshq(tmp_path, "status")[1])
    assert shown[0] == "leader   alpha 0000000a, epoch 3, with a majority"
    assert shown[1].startswith("tasks ")


@pytest.mark.parametrize(
    ("merge", "says"),
    [
        (MERGE, "merged 37 tasks from beta, 2 ran twice, 1 of them differently, 0 lost: meshq explain"),
        (replace(MERGE, merged=1, twice=0), "merged 1 task from beta, 0 ran twice, 0 lost: meshq explain"),
        (replace(MERGE, node="d" * 32, held=4), "1 of them differently, 4 too old to be judged and put aside:"),
    ],
)
def test_the_newest_merge_is_told(tmp_path: Path, twin: Twin, merge: MergeReport, says: str) -> None:
    twin.status = replace(twin.status, merge=merge)
    assert says in flat(meshq(tmp_path, "status")[1])
    assert json.loads(meshq(tmp_path, "status", "--json")[1])["merge"] == asdict(merge)


def test_a_paused_machine_has_its_reason(tmp_path: Path, twin: Twin) -> None:
    why = "the processes of 3 different tasks died here, one after the other, while they pass elsewhere"
    twin.status = replace(twin.status, nodes=(NODE, replace(BETA, paused=why)))
    assert flat(meshq(tmp_path, "status")[1]).endswith(f"beta 3c6df59e gets no work: {why}")
    assert json.loads(meshq(tmp_path, "status", "--json")[1])["nodes"][1]["paused"] == why


def test_submit_says_that_there_is_no_majority(tmp_path: Path, twin: Twin) -> None:
    twin.copies, twin.majority = 1, False
    assert meshq(tmp_path, "submit", "echo")[1].splitlines()[-1] == "kept on 1 copy, without a majority"
    twin.copies = 2
    assert meshq(tmp_path, "submit", "echo")[1].splitlines()[-1] == "kept on 2 copies, without a majority"
    assert json.loads(meshq(tmp_path, "submit", "echo", "--json")[1])["majority"] is False


def test_a_result_without_a_majority_says_that_it_may_change(tmp_path: Path, twin: Twin) -> None:
    meshq(tmp_path, "submit", "echo", "1")
    [task] = twin.tasks
    twin.tasks[task] = replace(twin.tasks[task], majority=False)
    assert meshq(tmp_path, "result", task) == (
        0,
        f"{task[-8:]}  echo: done (attempt 1)\n(without a majority: another outcome may replace it)\n[[1], {{}}]\n",
        "",
    )
    assert json.loads(meshq(tmp_path, "result", task, "--json")[1])["majority"] is False
    meshq(tmp_path, "submit", "hold")
    _, out, err = meshq(tmp_path, "tasks")
    assert [line.split()[2] for line in lines(out)[1:]] == ["pending", "done*"]
    assert err == "* without a majority: another outcome may replace it\n"


def test_run_prints_the_result_alone_and_the_doubt_beside_it(tmp_path: Path, twin: Twin) -> None:
    with start(tmp_path, "run", "hold") as process:
        assert twin.asked_to_wait.wait(30)
        [task] = twin.tasks
        twin.tasks[task] = replace(twin.tasks[task], majority=False)
        twin.finish(task, 42)
        assert process.communicate(timeout=30) == (
            "42\n",
            "meshq run: without a majority: another outcome may replace it\n",
        )
    assert process.returncode == 0


# -- recover -----------------------------------------------------------------------------------------------


def recovered(twin: Twin) -> bool:
    return ask.Recover() in twin.requests


@pytest.mark.parametrize("answer", ["y\n", "YES\n"])
def test_recover_shows_what_would_be_and_asks(tmp_path: Path, twin: Twin, answer: str) -> None:
    split(twin, "cold", BETA.id, GAMMA.id)
    code, out, err = meshq(tmp_path, "recover", typed=answer)
    said = flat(err)
    assert "It waits for beta 3c6df59e (heard 5 m ago), gamma b65caece (never heard)." in said
    assert "This copy holds 37 tasks: 3 pending, 1 running, 30 done, 2 failed, 1 cancelled." in said
    assert (
        "This machine's copy becomes the cluster: 37 tasks; beta 3c6df59e, gamma b65caece join it as new copies when "
        "they come back, what only they hold is merged." in said
    )
    assert said.endswith("Make this copy the cluster? [y/N] ")
    assert (code, out) == (0, "this machine's copy is the cluster now: 37 tasks; see: meshq status\n")
    assert recovered(twin)


def test_one_machine_is_spoken_of_as_one(tmp_path: Path, twin: Twin) -> None:
    split(twin, "cold", BETA.id)
    assert "beta 3c6df59e would join it as a new copy" in flat(meshq(tmp_path, "status")[1])
    said = flat(meshq(tmp_path, "recover", typed="n\n")[2])
    assert "beta 3c6df59e joins it as a new copy when it comes back, what only it holds is merged." in said


@pytest.mark.parametrize("answer", ["n\n", "\n", "maybe\n", "yn\n"])
def test_whatever_is_no_yes_changes_nothing(tmp_path: Path, twin: Twin, answer: str) -> None:
    split(twin, "cold", BETA.id)
    for command in ("recover", "leave"):
        code, out, err = meshq(tmp_path, command, typed=answer)
        assert (code, out) == (1, "")
        assert err.endswith("nothing was done\n")
    assert {type(request) for request in twin.requests} == {ask.StatusQuery}


def test_where_nobody_answers_a_yes_is_needed(tmp_path: Path, twin: Twin) -> None:
    split(twin, "cold", BETA.id)
    for command in ("recover", "leave"):
        code, out, err = meshq(tmp_path, command)
        assert (code, out) == (2, "")
        assert err.splitlines()[-1].startswith(f"meshq {command}: nobody answers here; --yes does it without asking")
    assert {type(request) for request in twin.requests} == {ask.StatusQuery}
    code, out, err = meshq(tmp_path, "recover", "--yes", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {"recovered": True, "node": NODE.id, "tasks": 37, "missing": [BETA.id]}
    assert recovered(twin)


def test_ctrl_c_at_the_question_changes_nothing(tmp_path: Path, twin: Twin) -> None:
    split(twin, "cold", BETA.id)
    with start(tmp_path, "recover") as process:
        assert process.stderr is not None
        said = ""
        while not said.endswith("[y/N] "):
            said += process.stderr.read(1)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert process.stderr.read().strip() == "meshq recover: interrupted"
    assert not recovered(twin)


def test_recover_is_refused_with_the_reason(tmp_path: Path, twin: Twin) -> None:
    code, out, err = meshq(tmp_path, "recover", "--yes")
    assert (code, out) == (2, "")
    assert one_line(err)
    assert "a majority is there, and alpha 0000000a leads" in err
    assert not recovered(twin)
    split(twin, "", BETA.id)
    twin.refuses[ask.Recover] = Conflict("beta came back a moment ago: a majority is there")
    code, out, err = meshq(tmp_path, "recover", "--yes")
    assert (code, out, err) == (2, "", "meshq: beta came back a moment ago: a majority is there\n")


# -- forget ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("node", ["beta", "3c6df59e", BETA.id])
def test_forget_says_whom(tmp_path: Path, twin: Twin, node: str) -> None:
    assert meshq(tmp_path, "forget", node) == (0, "forgot beta 3c6df59e\n", "")
    assert twin.requests[-1] == ask.Forget(node=node)
    assert json.loads(meshq(tmp_path, "forget", node, "--json")[1]) == {"forgotten": BETA.id}


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NotFound("no node is called delta"), 2),
        (Ambiguous("2 nodes are called delta: give an id"), 2),
        (Conflict("delta leads: it can't be forgotten"), 2),
        (NoLeader("no majority, so the roster can't be changed"), 3),
    ],
)
def test_forget_is_refused_with_the_reason(tmp_path: Path, twin: Twin, error: MeshqError, code: int) -> None:
    twin.refuses[ask.Forget] = error
    found = meshq(tmp_path, "forget", "delta", "--connect-timeout", "0.2")
    assert found == (code, "", f"meshq: {error}\n")


def test_what_is_no_node(tmp_path: Path, twin: Twin) -> None:
    code, out, err = meshq(tmp_path, "forget", "a\x1bb")
    assert (code, out) == (2, "")
    assert one_line(err)
    assert "is no node" in err


# -- leave -------------------------------------------------------------------------------------------------


@pytest.fixture
def daemon() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


def test_leave_says_what_happens_asks_and_waits(tmp_path: Path, twin: Twin, daemon: subprocess.Popen[bytes]) -> None:
    (tmp_path / ID_FILE).write_text("an id")
    twin.pid = daemon.pid

    def leave() -> None:
        (tmp_path / ID_FILE).unlink()
        (tmp_path / "meshq.sock").unlink()
        daemon.kill()

    twin.on_stop = leave
    code, out, err = meshq(tmp_path, "leave", typed="y\n")
    said = flat(err)
    assert "This machine, alpha 0000000a, lets its tasks finish, hands over the lead and leaves the cluster" in said
    assert "The queue stays on beta 3c6df59e, gamma b65caece." in said
    assert "the next meshq up begins as a new node" in said
    assert code == 0
    assert out == f"left the cluster and stopped (pid {daemon.pid}); what was here is set aside in {tmp_path}\n"
    assert ask.Stop(leave=True) in twin.requests


def test_one_that_stopped_and_did_not_leave_says_so(
    tmp_path: Path, twin: Twin, daemon: subprocess.Popen[bytes]
) -> None:
    (tmp_path / ID_FILE).write_text("an id")
    twin.pid = daemon.pid

    def stop() -> None:
        (tmp_path / "meshq.sock").unlink()
        daemon.kill()

    twin.on_stop = stop
    code, out, err = meshq(tmp_path, "leave", "--yes")
    assert (code, out) == (3, "")
    assert one_line(err)
    assert "stopped, but did not leave" in err


def test_leave_is_refused_with_the_reason(tmp_path: Path, twin: Twin) -> None:
    twin.status = replace(twin.status, nodes=(NODE,))
    twin.refuses[ask.Stop] = Conflict("this is the only copy: leaving would lose 37 tasks")
    code, out, err = meshq(tmp_path, "leave", typed="y\n")
    assert (code, out) == (2, "")
    assert "No other machine has a copy." in flat(err)
    assert err.endswith("meshq: this is the only copy: leaving would lose 37 tasks\n")


@pytest.mark.parametrize("args", [["recover", "--yes"], ["leave", "--yes"], ["leave"], ["forget", "x"], ["explain"]])
def test_without_a_daemon(tmp_path: Path, args: list[str]) -> None:
    code, out, err = meshq(tmp_path, *args)
    assert (code, out) == (3, "")
    assert one_line(err)
    assert "meshq up" in err
