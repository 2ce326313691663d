"""`meshq demo`, for real and short."""

from __future__ import annotations

import json
import signal
import tempfile
import time
from pathlib import Path

import pytest

from meshq.cli import demo
from meshq.cli.main import run
from tests.unit.cli_process import start

RESULT = demo.Result(
    nodes=3, seconds=4.0, submitted=80, finished=80, lost=0, run_twice=2, finished_twice=0, killed="alpha",
    leader="beta", without_leader_s=0.61,
)  # fmt: skip


def gone(folder: Path) -> bool:
    """Whether no process has this in its command line any more."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(folder).encode() in entry.read_bytes():
                return False
        except OSError:
            continue
    return True


def test_nothing_is_lost_and_nothing_is_left(tmp_path: Path) -> None:
    with start(tmp_path, "demo", "--seconds", "2", "--json", TMPDIR=str(tmp_path)) as process:
        out, err = process.communicate(timeout=120)
    found = json.loads(out)
    assert process.returncode == 0, err
    assert (found["nodes"], found["submitted"], found["finished"], found["lost"]) == (3, 40, 40, 0)
    assert found["killed"] != found["leader"]
    assert 0 < found["without_leader_s"] < 30
    assert "the leader, is killed: kill -9" in err
    assert list(tmp_path.iterdir()) == []
    assert gone(tmp_path)


def test_it_cleans_up_when_it_is_interrupted(tmp_path: Path) -> None:
    with start(tmp_path, "demo", TMPDIR=str(tmp_path)) as process:
        assert process.stdout is not None
        while "have met" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "meshq demo: interrupted\n"
    assert list(tmp_path.iterdir()) == []
    assert gone(tmp_path)


def test_its_nodes_end_with_it_however_it_ends() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        with start(path, "demo", TMPDIR=folder) as process:
            assert process.stdout is not None
            while "have met" not in process.stdout.readline():
                assert process.poll() is None
            assert not gone(path)
            process.kill()
        end_s = time.monotonic() + 30
        while not gone(path):
            assert time.monotonic() < end_s
            time.sleep(0.05)


def test_the_last_screen() -> None:
    assert demo.result_text(RESULT).splitlines() == [
        "submitted        80  tasks",
        "finished         80",
        "lost              0",
        "run twice         2  cut off by the kill, and begun again on another node",
        "no leader     0.6 s  from the kill of alpha until beta led",
    ]
    assert RESULT.is_well


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ("--nodes 2", "--nodes must be a whole number from 3 to 9, not '2'"),
        ("--seconds 1", "--seconds must be a number from 2 to 600, not '1'"),
    ],
)
def test_out_of_range(args: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["demo", *args.split()]) == 2
    assert says in capsys.readouterr().err
