"""The shell's completion: the script, and what it offers."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshq.cli.completion import VARIABLE
from meshq.cli.main import run
from meshq.core.infos import Name, Names, TaskInfo
from tests.unit.cli_process import environment
from tests.unit.client_twin import NODE, Twin

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def twin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Twin]:
    monkeypatch.setenv("MESHQ_DATA_DIR", str(tmp_path))
    with Twin().serving(tmp_path) as twin:
        twin.names = Names(
            names=(Name(info=TaskInfo(name="primes"), nodes=()), Name(info=TaskInfo(name="resize"), nodes=()))
        )
        yield twin


def offered(data_dir: Path, line: str) -> list[str]:
    """What bash is told at the end of this line."""
    words = line.split(" ")
    asked = {VARIABLE: "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    done = subprocess.run(
        [sys.executable, "-c", "from meshq.cli.main import main; main()"],
        env={**environment(data_dir), **asked}, capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script(shell: str, capsys: Capture) -> None:
    assert run(["completion", shell]) == 0
    out = capsys.readouterr().out
    assert f"{VARIABLE}={shell}_complete" in out
    program = shutil.which(shell)
    if program is not None:
        subprocess.run([program, "-n"], input=out, text=True, check=True, timeout=30)


def test_another_shell(capsys: Capture) -> None:
    assert run(["completion", "tcsh"]) == 2
    assert "'tcsh' is not one of 'bash', 'zsh', 'fish'" in capsys.readouterr().err


def test_commands_options_and_choices(tmp_path: Path) -> None:
    assert offered(tmp_path, "meshq re") == ["result", "retry", "resume", "recover", "restore"]
    assert offered(tmp_path, "meshq submit --max") == ["--max-running"]
    assert offered(tmp_path, "meshq submit --backoff l") == ["linear"]


def test_what_a_daemon_tells(tmp_path: Path, twin: Twin, capsys: Capture) -> None:
    run(["submit", "echo", "--batch", "tonight"])
    [task] = twin.tasks
    assert offered(tmp_path, "meshq submit p") == ["primes"]
    assert offered(tmp_path, "meshq map ") == ["primes", "resize"]
    assert offered(tmp_path, f"meshq result {task[-8:-4]}") == [task[-8:]]
    assert offered(tmp_path, "meshq cancel --batch t") == ["tonight"]
    assert offered(tmp_path, "meshq drain ") == [NODE.name]


def test_without_a_daemon_nothing_is_said(tmp_path: Path) -> None:
    assert offered(tmp_path, "meshq result ") == []
