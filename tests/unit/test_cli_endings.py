"""How commands end when somebody ends them, and what they leave on a terminal and in a pipe."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
import tty
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.cli_process import environment, meshq, start
from tests.unit.client_twin import Twin


@pytest.fixture
def twin(tmp_path: Path) -> Iterator[Twin]:
    with Twin().serving(tmp_path) as twin:
        yield twin


# -- Ctrl-C ------------------------------------------------------------------------------------------------


def test_run_ended_by_ctrl_c(tmp_path: Path, twin: Twin) -> None:
    with start(tmp_path, "run", "hold") as process:
        assert twin.asked_to_wait.wait(30)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")
    short = next(iter(twin.tasks))[-8:]
    assert err == f"meshq run: interrupted; the task goes on, see: meshq result {short}\n"


def test_watch_goes_on_until_ctrl_c(tmp_path: Path, twin: Twin) -> None:
    with start(tmp_path, "status", "--watch", "--json") as process:
        assert process.stdout is not None
        assert [json.loads(process.stdout.readline())["epoch"] for _ in range(2)] == [3, 3]
        process.send_signal(signal.SIGINT)
        assert "Traceback" not in process.communicate(timeout=30)[1]
    assert process.returncode == 130


NAP = """
import pathlib, time
from meshq import task
@task
def nap(begun: str) -> None:
    pathlib.Path(begun).touch()
    time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_node_of_its_own_ends_at_once_and_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    tasks, begun, temp = tmp_path / "naps.py", tmp_path / "begun", tmp_path / "temp"
    tasks.write_text(NAP)
    temp.mkdir()
    more = {"MESHQ_TASKS": str(tasks), "TMPDIR": str(temp)}
    with start(tmp_path, "run", "nap", str(begun), **more) as process:
        while not begun.exists():
            assert process.poll() is None
            time.sleep(0.02)
        assert list(temp.iterdir())
        began_s = time.monotonic()
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[1:] == ["meshq run: interrupted"]
    assert list(temp.iterdir()) == []
    assert time.monotonic() - began_s < 1.5


# -- output ------------------------------------------------------------------------------------------------


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path, twin: Twin) -> None:
    meshq(tmp_path, "submit", "echo", "--count", "3000")
    with start(tmp_path, "tasks", "--json") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


def test_a_reader_that_goes_away_from_a_view_is_no_error(tmp_path: Path, twin: Twin) -> None:
    for args in (["status", "--watch"], ["status", "--watch", "--json"]):
        with start(tmp_path, *args) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.readline()
            process.stdout.close()
            assert process.stderr.read() == ""
        assert process.returncode == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("args", [["status"], ["status", "--json"], ["tasks"], ["tasks", "--json"], ["--help"]])
def test_output_that_finds_no_room(tmp_path: Path, twin: Twin, args: list[str]) -> None:
    meshq(tmp_path, "submit", "echo")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "meshq", *args], env=environment(tmp_path), stdout=full, stderr=subprocess.PIPE,
            text=True, check=False,
        )  # fmt: skip
    assert done.stderr == "meshq: can't write the output: No space left on device\n"
    assert done.returncode == 1


# -- a terminal --------------------------------------------------------------------------------------------


def screen(written: str) -> list[str]:
    """The lines that stay on a terminal, of what was written to it: those of colour are not understood."""
    return [line.rpartition("\r\x1b[2K")[2] for line in written.replace("\r\n", "\n").split("\n")]


def test_results_and_the_bar_share_a_terminal(tmp_path: Path, twin: Twin) -> None:
    master, terminal = pty.openpty()
    tty.setraw(terminal)
    written = ""

    def read() -> None:
        nonlocal written
        written += os.read(master, 65536).decode()

    args = [sys.executable, "-m", "meshq", "submit", "hold", "--count", "3", "--wait"]
    env = {**environment(tmp_path), "TERM": "xterm"}
    with subprocess.Popen(args, env=env, stdout=terminal, stderr=terminal) as process:
        for number in range(3):
            while f"{number} of 3 finished" not in written:
                read()
            twin.finish(sorted(twin.tasks)[number], number)
        assert process.wait(30) == 0
    while select.select([master], [], [], 0)[0]:
        read()
    os.close(terminal)
    os.close(master)
    assert " so far: hold" in written
    results = [
        line for task in range(3) for line in (f"{sorted(twin.tasks)[task][-8:]}  hold: done (attempt 1)", f"{task}")
    ]
    assert screen(written)[3:] == ["kept on 2 disks (majority)", *results, ""]


@pytest.mark.parametrize("command", ["run hold", "submit hold --wait", "result {task} --wait"])
def test_the_bar_shows_how_far_a_task_says_that_it_is(tmp_path: Path, twin: Twin, command: str) -> None:
    if "{task}" in command:
        meshq(tmp_path, "submit", "hold")
    master, terminal = pty.openpty()
    tty.setraw(terminal)
    args = [sys.executable, "-m", "meshq", *command.format(task="".join(twin.tasks)).split()]
    env = {**environment(tmp_path), "TERM": "xterm"}
    written = ""
    with subprocess.Popen(args, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=terminal) as process:
        while "pending, " not in written:
            written += os.read(master, 65536).decode()
        [task] = twin.tasks
        twin.tasks[task] = replace(twin.tasks[task], state="running", attempt=1, progress=(3.0, 4.0, "rows"))
        while f"[{'#' * 22}{'-' * 8}] 3 of 4 rows, " not in written:
            written += os.read(master, 65536).decode()
        twin.finish(task, 42)
        out, _ = process.communicate(timeout=30)
    os.close(terminal)
    os.close(master)
    assert process.returncode == 0
    assert out.endswith(b"42\n")
