"""`meshq backup` and `meshq restore` as a user runs them, and the bar that they draw."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from meshq.store import lock
from tests.unit.cli_process import environment, meshq, one_line, start
from tests.unit.queue_files import NODE, OTHER, made, names, tasks_in


def test_a_queue_goes_from_one_machine_to_another(tmp_path: Path) -> None:
    queue = made(tmp_path / "one", NODE, 37)
    file, other = tmp_path / "copy", tmp_path / "two"
    code, out, err = meshq(tmp_path / "one", "backup", str(file))
    assert (code, err) == (0, "")
    assert out.startswith(f"kept 37 tasks in {file} (")
    assert one_line(out)
    code, out, err = meshq(other, "restore", str(file))
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        f"restored 37 tasks to {other}",
        "next: meshq up; if the other machines are gone for good, then meshq recover",
    ]
    assert tasks_in(other / "queue.db") == tasks_in(queue)


def test_both_for_scripts(tmp_path: Path) -> None:
    made(tmp_path / "one", NODE, 1)
    file = tmp_path / "copy"
    code, out, _ = meshq(tmp_path / "one", "backup", str(file), "--json")
    assert (code, json.loads(out)) == (0, {"file": str(file), "tasks": 1, "bytes": file.stat().st_size})
    two = tmp_path / "two"
    for aside in (None, str(two / "queue.db.replaced")):
        code, out, _ = meshq(two, "restore", str(file), "--json", "--force")
        assert (code, json.loads(out)) == (0, {"data_dir": str(two), "tasks": 1, "aside": aside})


def test_what_is_there_is_replaced_by_force_only(tmp_path: Path) -> None:
    one, two, file = tmp_path / "one", tmp_path / "two", tmp_path / "copy"
    made(one, NODE, 3)
    made(two, OTHER, 7)
    file.write_text("dear")
    code, out, err = meshq(one, "backup", str(file))
    assert (code, out, err) == (2, "", f"meshq: {file}: is there already; --force replaces it\n")
    assert meshq(one, "backup", str(file), "--force")[0] == 0
    code, out, err = meshq(two, "restore", str(file))
    assert (code, out) == (2, "")
    assert err == f"meshq: {two}: has a queue already; --force sets it aside and restores this one\n"
    code, out, _ = meshq(two, "restore", str(file), "--force")
    assert code == 0
    assert out.splitlines()[1] == f"the queue that was there is {two / 'queue.db.replaced'}"
    assert len(tasks_in(two / "queue.db.replaced")) == 7


@pytest.mark.parametrize(
    ("command", "file", "code", "says"),
    [
        ("backup", "copy", 2, "there is no queue; --data-dir names"),
        ("restore", "none", 2, "none: there is no such file"),
        ("restore", "text", 3, "text: is no database; give a file that meshq backup made"),
        ("restore", "cut", 3, "cut: is cut off: it has 5000 of"),
        ("restore", ".", 3, "is a folder; give a file that meshq backup made"),
    ],
)
def test_a_refusal_is_one_line_and_changes_nothing(
    tmp_path: Path, command: str, file: str, code: int, says: str
) -> None:
    whole = made(tmp_path / "one", NODE, 50).read_bytes()
    (tmp_path / "text").write_text("hello\n" * 100)
    (tmp_path / "cut").write_bytes(whole[:5000])
    found, out, err = meshq(tmp_path / "new", command, str(tmp_path / file))
    assert (found, out) == (code, "")
    assert one_line(err)
    assert says in err
    assert names(tmp_path) == {"one", "text", "cut"}


def test_a_running_daemon_keeps_its_queue(tmp_path: Path) -> None:
    made(tmp_path / "one", NODE, 3)
    held = lock.acquire(tmp_path / "one")
    assert meshq(tmp_path / "one", "backup", str(tmp_path / "copy"))[0] == 0
    code, out, err = meshq(tmp_path / "one", "restore", str(tmp_path / "copy"), "--force")
    held.release()
    assert (code, out) == (2, "")
    assert err.endswith(f"with pid {os.getpid()} runs on this data directory; stop it first, with: meshq down\n")


def test_no_file_is_wrong_usage(tmp_path: Path) -> None:
    for command in ("backup", "restore"):
        code, out, err = meshq(tmp_path, command)
        assert (code, out) == (2, "")
        assert "missing argument 'FILE'" in err


# A copy that takes as long as its test: a step for each line that it is told.
SLOW = """
import asyncio, sys
from pathlib import Path
from meshq.cli.copying import copied
from meshq.store.backup import Copied
def work(on_progress):
    for done, _ in enumerate(sys.stdin, 1):
        on_progress(done, 4)
        print("step", flush=True)
    return Copied(1, 1)
print(asyncio.run(copied(Path("the-copy"), work)).tasks)
"""


def test_a_copy_that_takes_long_has_a_bar_and_leaves_none(tmp_path: Path) -> None:
    master, terminal = pty.openpty()
    env = {**environment(tmp_path), "TERM": "xterm"}
    with subprocess.Popen(
        [sys.executable, "-c", SLOW], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=terminal, text=True
    ) as process:
        assert process.stdin is not None
        written = ""
        for done in (1, 2):
            process.stdin.write("\n")
            process.stdin.flush()
            while f"{done} of 4 pages" not in written:
                written += os.read(master, 65536).decode()
        assert "[###############---------------] 2 of 4 pages" in written
        assert "the-copy" in written
        out, _ = process.communicate(timeout=30)
    assert out.splitlines()[-1] == "1"
    os.close(terminal)
    try:
        while more := os.read(master, 65536).decode():
            written += more
    except OSError:
        pass  # Linux's word for the end of a terminal
    os.close(master)
    assert written.endswith("\r\x1b[2K")


def test_ctrl_c_ends_a_copy_at_its_next_step(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SLOW], env=environment(tmp_path),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "step\n"
        process.send_signal(signal.SIGINT)
        # Enough for more steps than it takes.
        out, err = process.communicate("\n" * 100_000, timeout=30)
    assert process.returncode == -signal.SIGINT
    assert out.count("step") < 100_000
    assert "_Stopped" not in err


def test_a_backup_that_is_interrupted_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    data_dir = tmp_path / "one"
    made(data_dir, NODE, 30_000, 4000)
    with start(data_dir, "backup", str(tmp_path / "copy")) as process:
        while names(tmp_path) == {"one"}:
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "meshq backup: interrupted\n")
    assert names(tmp_path) == {"one"}
