"""The commands as a user runs them: real processes against the real HTTP interface."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from meshq.core import reports
from meshq.core import requests as ask
from meshq.errors import NoLeader, QueueFull, Stopping
from meshq.wire.unix import socket_path
from tests.unit.cli_process import meshq, one_line, start
from tests.unit.client_twin import NODE, Twin


@pytest.fixture
def twin(tmp_path: Path) -> Iterator[Twin]:
    with Twin().serving(tmp_path) as twin:
        yield twin


def sent(twin: Twin) -> Sequence[ask.TaskSpec]:
    return list(twin.specs.values())


# -- submit ----------------------------------------------------------------------------------------------


def test_submit_prints_ids_and_how_safe_they_are(tmp_path: Path, twin: Twin) -> None:
    code, out, err = meshq(tmp_path, "submit", "echo", "1", "--count", "2")
    ids = sorted(twin.tasks)
    assert code == 0
    assert out == f"{ids[0][-8:]}  {ids[0]}\n{ids[1][-8:]}  {ids[1]}\nkept on 2 disks (majority)\n"
    assert err == ""


def test_submit_as_json(tmp_path: Path, twin: Twin) -> None:
    code, out, _ = meshq(tmp_path, "submit", "echo", "--json")
    assert code == 0
    assert json.loads(out) == {"ids": list(twin.tasks), "copies": 2, "majority": True, "queued": False}


def test_submit_without_a_leader_says_where_the_task_is(tmp_path: Path, twin: Twin) -> None:
    twin.copies, twin.majority, twin.queued = 1, False, True
    code, out, _ = meshq(tmp_path, "submit", "echo", "--json")
    assert code == 0
    assert json.loads(out) == {"ids": list(twin.tasks), "copies": 1, "majority": False, "queued": True}
    assert "delivered when a leader is found" in meshq(tmp_path, "submit", "echo")[1]


def test_submit_and_wait_for_what_fails(tmp_path: Path, twin: Twin) -> None:
    code, out, err = meshq(tmp_path, "submit", "fail", "--count", "3", "--wait", "--json")
    first, *rest = map(json.loads, out.splitlines())
    assert code == 1
    assert [each["id"] for each in rest] == first["ids"]
    assert {each["state"] for each in rest} == {"failed"}
    assert one_line(err)
    assert "3 of 3 tasks failed" in err


def test_submit_passes_the_options_on(tmp_path: Path, twin: Twin) -> None:
    args = "submit --priority -3 echo 1 --retries 2 --timeout 1.5 --key k --delay 60"
    assert meshq(tmp_path, *args.split())[0] == 0
    [spec] = sent(twin)
    assert (spec.priority, spec.retries, spec.timeout_s, spec.key, spec.not_before_ms) == (-3, 2, 1.5, "k", 60_000)


def test_a_negative_limit_reaches_the_tasks_own_check(tmp_path: Path, twin: Twin) -> None:
    code, out, err = meshq(tmp_path, "submit", "primes", "-5")
    assert (code, out) == (2, "")
    assert one_line(err)
    assert "limit must be an integer of at least 1, not [-5]" in err


@pytest.mark.parametrize("refusal", [QueueFull(), NoLeader()])
def test_nothing_was_kept(tmp_path: Path, twin: Twin, refusal: Any) -> None:
    twin.refusals.extend([refusal] * 100)
    code, out, err = meshq(tmp_path, "submit", "echo", "--connect-timeout", "0.2")
    assert (code, out) == (3, "")
    assert one_line(err)


# -- run -------------------------------------------------------------------------------------------------


def test_run_prints_the_result_alone(tmp_path: Path, twin: Twin) -> None:
    code, out, err = meshq(tmp_path, "run", "echo", "[1, 2]", "x=é")
    assert (code, err) == (0, "")
    assert json.loads(out) == [[[1, 2]], {"x": "é"}]
    assert one_line(out)


def test_run_prints_integers_of_any_size(tmp_path: Path, twin: Twin) -> None:
    code, out, _ = meshq(tmp_path, "run", "echo", "9" * 6000)
    assert code == 0
    assert out == f"[[{'9' * 6000}], {{}}]\n"


def test_run_of_what_fails(tmp_path: Path, twin: Twin) -> None:
    code, out, err = meshq(tmp_path, "run", "fail")
    assert (code, out) == (1, "")
    assert one_line(err)
    assert "ValueError: boom" in err
    assert "in the_function" in meshq(tmp_path, "run", "fail", "--traceback")[2]


def test_run_without_a_daemon_does_the_work_itself(tmp_path: Path) -> None:
    code, out, err = meshq(tmp_path, "run", "primes", "100")
    assert code == 0
    assert json.loads(out)["count"] == 25
    assert one_line(err)
    assert "no daemon runs here" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("args", "says"), [(["bogus", "10"], "named bogus"), (["primes"], "missing limit")], ids=lambda args: str(args[0])
)
def test_run_without_a_daemon_takes_no_wrong_task(tmp_path: Path, args: list[str], says: str) -> None:
    code, out, err = meshq(tmp_path, "run", *args)
    assert (code, out) == (2, "")
    assert says in err.splitlines()[-1]


def test_run_with_a_wrong_setting_says_only_that(tmp_path: Path) -> None:
    code, _, err = meshq(tmp_path, "run", "echo", "1", MESHQ_SLOTS="x")
    assert code == 2
    assert one_line(err)
    assert "MESHQ_SLOTS" in err


# -- result ----------------------------------------------------------------------------------------------


def test_result_as_json_by_the_end_of_an_id(tmp_path: Path, twin: Twin) -> None:
    meshq(tmp_path, "submit", "echo", "1")
    [task] = twin.tasks
    code, out, _ = meshq(tmp_path, "result", task[-8:], "--json")
    assert code == 0
    assert json.loads(out) == {
        "id": task, "name": "echo", "state": "done", "result": [[1], {}], "error": None, "attempt": 1,
        "retry_of": None, "owner": "", "majority": True, "batch": twin.tasks[task].batch, "progress": None,
        "ending": False,
    }  # fmt: skip
    assert meshq(tmp_path, "result", task)[1] == f"{task[-8:]}  echo: done (attempt 1)\n[[1], {{}}]\n"


def test_result_of_what_failed(tmp_path: Path, twin: Twin) -> None:
    meshq(tmp_path, "submit", "fail")
    code, out, err = meshq(tmp_path, "result", *twin.tasks, "--json")
    assert code == 1
    assert json.loads(out)["error"]["message"] == "boom"
    assert one_line(err)
    [task] = twin.tasks
    code, out, err = meshq(tmp_path, "result", task)
    assert (code, out) == (1, f"{task[-8:]}  fail: failed (attempt 1)\n")
    assert err == f"meshq result: {task[-8:]}: ValueError: boom (--traceback shows where)\n"


@pytest.mark.parametrize("command", [["result", "TASK"], ["run", "fail"]])
def test_a_traceback_is_no_command_to_the_terminal(tmp_path: Path, twin: Twin, command: list[str]) -> None:
    twin.error = {"type": "ValueError", "message": "no", "traceback": "at\x1b[2J one\n\x1b]0;x\x07two\r\n"}
    meshq(tmp_path, "submit", "fail")
    [task] = twin.tasks
    _, _, err = meshq(tmp_path, *(task if word == "TASK" else word for word in command), "--traceback")
    assert err.split("\n")[:2] == ["at [2J one", " ]0;x two"]


@pytest.mark.parametrize(
    ("kind", "message", "says"),
    [
        ("MemoryError", "MemoryError", "MemoryError"),
        ("json.decoder.JSONDecodeError", "JSONDecodeError", "json.decoder.JSONDecodeError"),
        ("TimedOut", "timed out after 2 s", "TimedOut: timed out after 2 s"),
        ("ValueError", "long\n" * 1000, f"ValueError: {'long ' * 100}"[:400] + " …"),
    ],
)
def test_what_a_failure_is_called(tmp_path: Path, twin: Twin, kind: str, message: str, says: str) -> None:
    twin.error = {"type": kind, "message": message, "traceback": ""}
    assert meshq(tmp_path, "run", "fail") == (1, "", f"meshq: {says}\n")


def test_result_of_what_is_not_finished(tmp_path: Path, twin: Twin) -> None:
    meshq(tmp_path, "submit", "hold")
    [task] = twin.tasks
    code, out, err = meshq(tmp_path, "result", task)
    assert (code, out, err) == (0, f"{task[-8:]}  hold: pending (not started yet)\n", "")
    code, out, err = meshq(tmp_path, "result", task, "--timeout", "0.1")
    assert code == 1
    assert "pending" in err
    with start(tmp_path, "result", task, "--wait") as process:
        twin.finish(task, 42)
        assert process.communicate(timeout=30)[0].endswith("\n42\n")
    assert process.returncode == 0


@pytest.mark.parametrize("task", ["ffffffff", "0", "zzzz", "../x"])
def test_no_such_id(tmp_path: Path, twin: Twin, task: str) -> None:
    meshq(tmp_path, "submit", "echo", "--count", "2")
    code, out, err = meshq(tmp_path, "result", task)
    assert (code, out) == (2, "")
    assert one_line(err)


def test_an_ambiguous_id(tmp_path: Path, twin: Twin) -> None:
    meshq(tmp_path, "submit", "echo", "--count", "2")
    code, _, err = meshq(tmp_path, "result", next(iter(twin.tasks))[:8])
    assert code == 2
    assert "more than one" in err.lower()


# -- tasks -----------------------------------------------------------------------------------------------


def test_tasks_for_people_and_for_scripts(tmp_path: Path, twin: Twin) -> None:
    meshq(tmp_path, "submit", "echo", "--count", "60")
    meshq(tmp_path, "submit", "fail")
    code, out, err = meshq(tmp_path, "tasks", COLUMNS="40")
    newest = sorted(twin.tasks)[-1]
    lines = out.splitlines()
    assert code == 0
    assert len(lines) == 51
    assert lines[1].split()[:3] == [newest[-8:], "fail", "failed"]
    assert max(map(len, lines)) <= 80
    assert "--limit" in err
    found = [json.loads(line) for line in meshq(tmp_path, "tasks", "--json")[1].splitlines()]
    assert [each["id"] for each in found] == sorted(twin.tasks, reverse=True)
    assert set(found[0]) == {
        "id", "name", "state", "error", "attempt", "retry_of", "owner", "majority", "batch", "progress", "ending",
    }  # fmt: skip
    assert len(meshq(tmp_path, "tasks", "--json", "--name", "echo", "--limit", "7")[1].splitlines()) == 7


def test_tasks_say_whose_they_are_where_one_is_of_a_credential(tmp_path: Path, twin: Twin) -> None:
    meshq(tmp_path, "submit", "echo")
    meshq(tmp_path, "submit", "fail")
    assert "OWNER" not in meshq(tmp_path, "tasks")[1]
    first, last = sorted(twin.tasks)
    twin.tasks[first] = replace(twin.tasks[first], owner="bob")
    _, out, _ = meshq(tmp_path, "tasks", COLUMNS="80")
    heads, *rows = (line.split() for line in out.splitlines())
    assert heads[2] == "OWNER"
    assert {row[0]: row[2] for row in rows} == {first[-8:]: "bob", last[-8:]: "-"}
    assert max(map(len, out.splitlines())) <= 80
    found = [json.loads(line)["owner"] for line in meshq(tmp_path, "tasks", "--json")[1].splitlines()]
    assert found == ["", "bob"]


# -- status ----------------------------------------------------------------------------------------------


def nodes() -> tuple[reports.NodeView, ...]:
    return (
        replace(NODE, name="a-host-with-a-long-name.example.org", slots=1024, running=1024),
        replace(
            NODE, id="1" * 32, name="日本語のとても長い名前のホスト", role="replica", heard_s=0.4, behind=12_345_678
        ),
        replace(NODE, id="2" * 32, name="bad\x1b[31m\nname", role="worker", heard_s=86400 * 400.0, behind=None),
        replace(NODE, id="3" * 32, role="learner", heard_s=None, address="[fe80::1234:5678:9abc:def0]:65535"),
    )


def test_status_as_json(tmp_path: Path, twin: Twin) -> None:
    code, out, _ = meshq(tmp_path, "status", "--json")
    assert code == 0
    assert json.loads(out) == {
        "node": NODE.id, "leader": NODE.id, "epoch": 3, "majority": True,
        "nodes": [{
            "id": NODE.id, "name": "alpha", "role": "leader", "address": "192.168.1.20:7373", "heard_s": 0.0,
            "slots": 4, "running": 1, "behind": 0, "paused": "", "drained": False,
        }],
        "copies": 0, "split": "", "missing": [], "merge": None, "insecure": False,
        "tasks": {"pending": 0, "running": 0, "done": 7, "failed": 0, "cancelled": 0},
    }  # fmt: skip


def test_status_fits_80_columns(tmp_path: Path, twin: Twin) -> None:
    from rich.cells import cell_len

    twin.status = replace(twin.status, nodes=nodes(), queued=3, tasks={"done": 10**9, "failed": 10**9})
    code, out, _ = meshq(tmp_path, "status", COLUMNS="200")
    assert code == 0
    assert max(map(cell_len, out.splitlines())) == 80
    assert "\x1b" not in out
    assert "leader" in out.splitlines()[0]
    assert [line.split()[2] for line in out.splitlines() if NODE.id[-8:] in line and "1024" in line] == ["leader"]
    assert "3 on this machine's disk wait for a leader" in out


def test_status_says_that_there_is_no_leader(tmp_path: Path, twin: Twin) -> None:
    twin.status = replace(twin.status, leader=None, majority=False)
    assert meshq(tmp_path, "status")[1].startswith("leader   none")
    assert json.loads(meshq(tmp_path, "status", "--json")[1])["leader"] is None


def test_status_waits_until_the_nodes_are_there(tmp_path: Path, twin: Twin) -> None:
    ready = replace(twin.status, nodes=(NODE, replace(NODE, id="1" * 32, heard_s=0.5)))
    code, _, err = meshq(tmp_path, "status", "--wait", "--nodes", "2", "--timeout", "0.3")
    assert code == 1
    assert one_line(err)
    assert "1 of 2 nodes" in err
    gone = replace(ready, nodes=(NODE, replace(NODE, id="1" * 32, heard_s=60.0)))
    twin.status = gone
    with start(tmp_path, "status", "--wait", "--nodes", "2") as process:
        while len(twin.requests) < 4:
            assert process.poll() is None
        twin.status = ready
        process.communicate(timeout=30)
    assert process.returncode == 0


def test_status_waits_for_a_daemon_that_still_starts(tmp_path: Path) -> None:
    with start(tmp_path, "status", "--wait") as process:
        with Twin().serving(tmp_path):
            process.communicate(timeout=30)
        assert process.returncode == 0


# -- no daemon, and down ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "args", [["status"], ["submit", "echo"], ["result", "abcd1234"], ["tasks"], ["tasks", "--json"], ["down"]]
)
def test_without_a_daemon(tmp_path: Path, args: list[str]) -> None:
    code, out, err = meshq(tmp_path, *args)
    assert (code, out) == (3, "")
    assert one_line(err)
    assert "meshq up" in err


def test_a_daemon_that_does_not_answer(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as hanging:
        hanging.bind(str(socket_path(tmp_path)))
        hanging.listen()
        for args, says in (
            (["status"], r"overloaded"),
            (["run", "echo"], r"it may still take the task (\w{8}); see: meshq result \1"),
            (["submit", "echo", "--count", "3"], r"it may still take these 3 tasks, \w{8} to \w{8}; see: meshq tasks"),
        ):
            code, out, err = meshq(tmp_path, *args, "--connect-timeout", "0.3")
            assert (code, out) == (3, "")
            assert one_line(err)
            assert re.search(says + "$", err.rstrip())


def test_a_daemon_that_stops(tmp_path: Path, twin: Twin) -> None:
    twin.refusals.extend([Stopping()] * 100)
    code, out, err = meshq(tmp_path, "submit", "echo")
    assert (code, out) == (3, "")
    assert err == "meshq: this daemon is stopping and takes no new work; nothing was kept\n"
    assert len(twin.requests) == 1


def test_down_waits_until_the_process_is_gone(tmp_path: Path) -> None:
    daemon = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    twin = Twin()
    with twin.serving(tmp_path):
        twin.pid = daemon.pid
        code, _, err = meshq(tmp_path, "down", "--timeout", "0.3")
        assert code == 3
        assert f"kill -9 {daemon.pid}" in err
        assert daemon.poll() is None
        process = start(tmp_path, "down")
        while sum(isinstance(request, ask.Stop) for request in twin.requests) < 2:
            assert process.poll() is None
    with process:
        # The socket is gone, the process is not.
        daemon.communicate(b"\n", timeout=30)
        assert process.communicate(timeout=30)[0] == f"stopped (pid {daemon.pid})\n"
    assert process.returncode == 0
