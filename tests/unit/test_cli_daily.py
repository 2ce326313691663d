"""cancel, retry, logs, names, drain, resume, and the lists of a batch and of failures."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from meshq.cli.main import run
from meshq.core import requests as ask
from meshq.core.infos import Name, Names, Param, TaskInfo
from tests.unit.cli_process import environment, start
from tests.unit.client_twin import NODE, Twin

Capture = pytest.CaptureFixture[str]
BETA = replace(NODE, id="0" * 31 + "b", name="beta", role="replica", running=0)


@pytest.fixture
def twin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Twin]:
    monkeypatch.setenv("MESHQ_DATA_DIR", str(tmp_path))
    with Twin().serving(tmp_path) as twin:
        yield twin


def done(capsys: Capture, line: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = run(line.split())
    out, err = capsys.readouterr()
    return code, out, err


# -- cancel ----------------------------------------------------------------------------------------------


def test_cancel_one(twin: Twin, capsys: Capture) -> None:
    run(["submit", "hold"])
    [task] = twin.tasks
    assert done(capsys, f"cancel {task[-8:]}") == (0, f"{task[-8:]}  hold: cancelled (not started yet)\n", "")
    code, out, _ = done(capsys, f"cancel {task} --json")
    assert (code, json.loads(out)["state"]) == (0, "cancelled")


def test_cancel_what_is_finished_changes_nothing(twin: Twin, capsys: Capture) -> None:
    run(["submit", "echo"])
    [task] = twin.tasks
    code, out, err = done(capsys, f"cancel {task}")
    assert (code, out) == (2, "")
    assert err == f"meshq: {task[-8:]} is done and stays so; only an unfinished task is cancelled\n"
    assert twin.tasks[task].state == "done"
    assert done(capsys, "cancel ffffffff")[0] == 2


def test_cancel_a_batch(twin: Twin, capsys: Capture) -> None:
    run(["submit", "hold", "--count", "3", "--batch", "b"])
    run(["submit", "hold", "--batch", "other"])
    assert done(capsys, "cancel --batch b") == (0, "cancelled 3 tasks\n", "")
    assert sorted(view.state for view in twin.tasks.values()) == ["cancelled"] * 3 + ["pending"]
    code, out, err = done(capsys, "cancel --batch b --json")
    assert (code, json.loads(out)) == (0, {"ids": []})
    assert "no task of the batch b is unfinished" in err


def test_cancel_waits_for_the_runs(twin: Twin, capsys: Capture) -> None:
    run(["submit", "hold", "--batch", "b", "--count", "2"])
    for task, view in twin.tasks.items():
        twin.tasks[task] = replace(view, state="running", attempt=1, ending=True)
    task = min(twin.tasks)
    code, out, err = done(capsys, f"cancel {task} --wait --timeout 0.2s")
    assert (code, out) == (1, f"{task[-8:]}  hold: cancelled (attempt 1); its run has not ended yet\n")
    assert f"the run of {task[-8:]} has not ended after 0.2 s; the tasks are cancelled all the same" in err
    assert any(isinstance(request, ask.Cancel) and request.wait_s > 0.1 for request in twin.requests)
    twin.tasks[task] = replace(twin.tasks[task], ending=False)
    code, out, err = done(capsys, "cancel --batch b --timeout 0.2s")
    assert (code, out) == (1, "cancelled 1 task\n")
    assert f"the run of {max(twin.tasks)[-8:]} has" in err


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("cancel", "give either the ID of a task or --batch BATCH"),
        ("cancel 3f2a9c1d --batch b", "give either the ID"),
        ("cancel 3f2a9c1d --timeout x", "--timeout must be a time"),
        ("retry", "give either the ID of a task or --failed"),
        ("retry 3f2a9c1d --failed", "give either the ID"),
        ("retry 3f2a9c1d --batch b", "--batch needs --failed"),
        ("tasks --failed --state done", "--failed and --state done exclude each other"),
        ("logs", "missing argument 'ID'"),
        ("logs xyz", "'xyz' is no task id"),
    ],
)
def test_wrong_usage(twin: Twin, capsys: Capture, line: str, says: str) -> None:
    code, out, err = done(capsys, line)
    assert (code, out) == (2, "")
    assert says in err
    assert err.count("\n") == 1
    assert twin.requests == []


# -- retry -----------------------------------------------------------------------------------------------


def test_retry_one(twin: Twin, capsys: Capture) -> None:
    run(["submit", "echo"])
    [old] = twin.tasks
    code, out, err = done(capsys, f"retry {old[-8:]}")
    [new] = set(twin.tasks) - {old}
    assert (code, out, err) == (0, f"{new[-8:]}  {new}\nkept on 2 disks (majority)\n", "")
    assert twin.tasks[new].retry_of == old


def test_retry_all_that_failed(twin: Twin, capsys: Capture) -> None:
    run(["submit", "fail", "--count", "2", "--batch", "b"])
    run(["submit", "fail"])
    code, out, _ = done(capsys, "retry --failed --batch b --json")
    assert code == 0
    assert [twin.tasks[new].batch for new in json.loads(out)["ids"]] == ["b", "b"]
    assert len(json.loads(done(capsys, "retry --failed --json")[1])["ids"]) == 3
    twin.tasks.clear()
    code, out, err = done(capsys, "retry --failed --batch b")
    assert (code, out) == (0, "")
    assert err == "meshq retry: no task of the batch b has failed that was not tried again since\n"


# -- tasks -----------------------------------------------------------------------------------------------


def test_failed_tasks_show_their_error_in_one_line(twin: Twin, capsys: Capture) -> None:
    twin.error["message"] = "no such\nfile: " + "x" * 100
    run(["submit", "fail", "--batch", "b"])
    run(["submit", "echo", "--batch", "b"])
    run(["submit", "fail"])
    code, out, _ = done(capsys, "tasks --failed --batch b")
    first = min(twin.tasks)
    head, line = out.splitlines()
    assert code == 0
    assert head.split() == ["ID", "NAME", "TRY", "AGE", "ERROR"]
    assert line.startswith(f"{first[-8:]}  fail")
    assert "ValueError: no such file: xxx" in line
    assert len(line) <= 80
    assert [json.loads(each)["batch"] for each in done(capsys, "tasks --batch b --json")[1].splitlines()] == ["b"] * 2
    assert done(capsys, "tasks --failed --batch none")[2] == "no such tasks\n"


def test_progress_is_shown(twin: Twin, capsys: Capture) -> None:
    run(["submit", "hold"])
    [task] = twin.tasks
    twin.tasks[task] = replace(twin.tasks[task], state="running", attempt=1, progress=(45.0, 100.0, "rows\x1b[2J"))
    assert done(capsys, f"result {task}")[1] == f"{task[-8:]}  hold: running (attempt 1); 45 of 100 rows [2J\n"
    assert "running 45%" in done(capsys, "tasks")[1]
    assert json.loads(done(capsys, "tasks --json")[1])["progress"] == [45.0, 100.0, "rows\x1b[2J"]
    twin.tasks[task] = replace(twin.tasks[task], progress=(7.0, 0.0, ""))
    assert done(capsys, f"result {task}")[1].endswith("(attempt 1); 7\n")


# -- logs ------------------------------------------------------------------------------------------------


def test_logs_are_printed_as_they_are(tmp_path: Path, twin: Twin) -> None:
    run(["submit", "echo"])
    [task] = twin.tasks
    twin.printed[task] = "grün\r50 %\x1b[2Jnot closed".encode() + b"\xff"
    printed = tmp_path / "printed"
    with printed.open("wb") as file:
        subprocess.run(
            [sys.executable, "-m", "meshq", "logs", task[-8:]], env=environment(tmp_path), stdout=file, check=True
        )
    assert printed.read_bytes() == twin.printed[task]


def test_logs_as_json_and_what_is_lost(twin: Twin, capsys: Capture) -> None:
    run(["submit", "echo"])
    [task] = twin.tasks
    twin.printed[task], twin.lost_bytes = b"x" * 2048 + b"0123456789abc", 2048
    code, out, err = done(capsys, f"logs {task} --json")
    parts = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [part["text"] for part in parts] == ["0123456789", "abc"]
    assert parts[0] == {"task": task, "node": NODE.id, "text": "0123456789", "next": 2058, "lost": 2048}
    assert err == "meshq logs: 2.0 KiB before this are kept no more\n"


def test_logs_of_what_printed_nothing(twin: Twin, capsys: Capture) -> None:
    run(["submit", "echo"])
    [task] = twin.tasks
    twin.printed[task] = b""
    assert done(capsys, f"logs {task}") == (0, "", f"meshq logs: {task} has printed nothing so far\n")


def test_logs_follow_until_the_task_is_finished(tmp_path: Path, twin: Twin) -> None:
    run(["submit", "hold"])
    [task] = twin.tasks
    twin.printed[task] = b"begins\n"
    with start(tmp_path, "logs", task, "--follow") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begins\n"
        assert process.poll() is None
        twin.printed[task] += b"ends\n"
        twin.finish(task, 1)
        assert process.stdout.readline() == "ends\n"
        process.communicate(timeout=30)
    assert process.returncode == 0


# -- names -----------------------------------------------------------------------------------------------

RESIZE = TaskInfo(
    name="resize", doc="Makes a picture smaller.",
    params=(
        Param(name="path", kind="POSITIONAL_OR_KEYWORD", required=True, type="str"),
        Param(name="size", kind="POSITIONAL_OR_KEYWORD", required=False, type="int", default="200"),
        Param(name="how", kind="KEYWORD_ONLY", required=False, choices=("fast", "good"), default="'fast'"),
    ),
    retries=3, timeout_s=60.0,
)  # fmt: skip


@pytest.fixture
def named(twin: Twin) -> Twin:
    twin.status = replace(twin.status, nodes=(NODE, BETA))
    names = (Name(info=TaskInfo(name="echo"), nodes=(BETA.id,)), Name(info=RESIZE, nodes=(NODE.id, BETA.id)))
    twin.names = Names(names=names)
    return twin


def test_names(named: Twin, capsys: Capture) -> None:
    assert done(capsys, "names") == (
        0,
        "echo()\n    on beta\nresize(path: str, size: int = 200, *, how: fast|good = 'fast')\n"
        "    Makes a picture smaller.\n    on all 2 machines\n",
        "",
    )


def test_one_name(named: Twin, capsys: Capture) -> None:
    code, out, _ = done(capsys, "names resize")
    assert code == 0
    assert out.splitlines()[-1] == "    brings along: --timeout 60 --retries 3"
    code, out, _ = done(capsys, "names resize --json")
    assert (json.loads(out)["name"], json.loads(out)["nodes"]) == ("resize", [NODE.id, BETA.id])
    code, out, err = done(capsys, "names resise")
    assert (code, out) == (2, "")
    assert err == "meshq: no live machine knows a task named resise; did you mean resize?\n"


def test_no_names(twin: Twin, capsys: Capture) -> None:
    code, out, err = done(capsys, "names")
    assert (code, out) == (0, "")
    assert "no live machine has told a task yet" in err


# -- drain and resume ------------------------------------------------------------------------------------


def test_drain_and_resume(named: Twin, capsys: Capture) -> None:
    code, out, _ = done(capsys, "drain beta")
    again = "give it work again with: meshq resume"
    assert (code, out) == (0, f"beta 0000000b is drained: it begins no more\n{again} 0000000b\n")
    said = "alpha 0000000a is drained: it finishes the 1 task that it runs and begins no more"
    assert done(capsys, "drain")[1] == f"{said}\n{again} 0000000a\n"
    assert done(capsys, "resume 0000000b")[1] == "beta 0000000b gets work again\n"
    assert json.loads(done(capsys, "resume --json")[1]) == {"resumed": NODE.id}
    drains = [request for request in named.requests if isinstance(request, ask.Drain)]
    assert [(drain.node, drain.resume) for drain in drains] == [
        ("beta", False), ("", False), ("0000000b", True), ("", True),
    ]  # fmt: skip


def test_the_status_shows_a_drained_machine(named: Twin, capsys: Capture) -> None:
    named.status = replace(named.status, nodes=(NODE, replace(BETA, drained=True, paused="drained")))
    out = done(capsys, "status")[1]
    assert "beta 0000000b is drained and gets no work: meshq resume 0000000b" in out
    assert out.count("gets no work") == 1
    assert [node["drained"] for node in json.loads(done(capsys, "status --json")[1])["nodes"]] == [False, True]
