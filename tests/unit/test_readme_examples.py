"""What the README shows of daily use, of tasks, of Python and in its ten examples is run here, on a real daemon."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.executor.daemon import daemon
from tests.unit.readme import ROOT, Block, Ids, blocks, commands, plain

SECTIONS = ("Daily use", "Your own tasks", "Python", "Ten examples", "HTTP", "Configuration")
EXAMPLES = "Ten examples"
COMMAND_S = 90.0
LINES_MAX = 15
SLOTS = 6


@dataclass(frozen=True, slots=True)
class Piece:
    """What is run as one: a transcript, or a program with what it prints."""

    place: str
    kind: str
    text: str
    printed: str = ""


def shown() -> list[Block]:
    """The blocks of these sections."""
    return [block for block in blocks() if block.section in SECTIONS]


def pieces() -> list[Piece]:
    """What is run, in order."""
    found = []
    for block, after in zip(shown(), [*shown()[1:], None], strict=True):
        place = block.title if block.section == EXAMPLES else block.section
        if block.kind == "console":
            found.append(Piece(place, "console", block.text))
        elif block.kind == "python" and after is not None and after.kind == "text":
            found.append(Piece(place, "python", block.text, after.text))
    return found


def modules() -> dict[str, str]:
    """The files that the README says to save, by their names, which stand in their first lines."""
    texts = [block.text for block in shown() if block.kind == "python" and block.text.startswith("# ")]
    return {text.partition("\n")[0].removeprefix("# "): text for text in texts}


@dataclass(frozen=True, slots=True)
class Shell:
    """A shell on a machine with a daemon.

    Args:
        folder: Where its files are.
        environ: Its variables.
    """

    folder: Path
    environ: dict[str, str]

    def run(self, *argv: str) -> tuple[str, str]:
        """Runs a program; what it printed on stdout, and on stderr."""
        done = subprocess.run(
            argv, cwd=self.folder, env=self.environ, stdin=subprocess.DEVNULL, capture_output=True, timeout=COMMAND_S,
            check=False,
        )  # fmt: skip
        return done.stdout.decode(), done.stderr.decode()


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """One with the README's modules, on a machine called gamma, whose daemon is the user's own."""
    home = tmp_path_factory.mktemp("home")
    for name, text in modules().items():
        (home / name).write_text(text, "utf-8")
    programs = home / "bin"
    programs.mkdir()
    for name in ("meshq", "pytest"):
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {name} "$@"\n', "utf-8")
        program.chmod(0o755)
    data_dir = home / ".local" / "share" / "meshq"
    data_dir.mkdir(parents=True)
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("MESHQ_", "XDG_", "PYTEST_"))}
    environ |= {
        "HOME": str(home), "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "NO_COLOR": "1",
        # What the shell in a terminal would say.
        "COLUMNS": "80", "MESHQ_DATA_DIR": str(data_dir),
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        # The daemon looks for modules, and its tasks for files, where it was started.
        patch.chdir(home)
        patch.setenv("MESHQ_NAME", "gamma")
        tasks = [str(home / "jobs.py"), str(home / "mytasks.py")]
        with daemon(data_dir, allow=["functions:*"], tasks=tasks, slots=SLOTS):
            yield Shell(home, environ)


def check(command: str, expected: str, out: str, err: str) -> None:
    """What is shown is what came on stdout and stderr, each in its order; who was first varies where both came."""
    shown, on_out, on_err = (plain(text).splitlines() for text in (expected, out, err))
    assert sorted(shown) == sorted(on_out + on_err), command
    for stream in (on_out, on_err):
        # Each `in` goes on where the one before it ended.
        rest = iter(shown)
        assert all(line in rest for line in stream), command


@pytest.mark.parametrize("place", list(dict.fromkeys(piece.place for piece in pieces())))
def test_it_prints_what_stands_in_the_readme(shell: Shell, place: str) -> None:
    ids, variables = Ids(), ""
    for piece in pieces():
        if piece.place != place:
            continue
        if "curl" in piece.text and shutil.which("curl") is None:
            pytest.skip("curl is not installed")
        if piece.kind == "python":
            check(piece.text, piece.printed, *shell.run(sys.executable, "-W", "error", "-c", piece.text))
            continue
        for command, expected in commands(piece.text):
            if command.startswith("S="):
                variables = f"{command}\n"
                continue
            out, err = shell.run("bash", "-c", variables + ids.put_in(command))
            ids.meet(expected, out)
            check(command, expected, out, err)


def test_there_are_ten_short_examples() -> None:
    examples = [block for block in blocks() if block.section == EXAMPLES and block.kind in ("python", "console")]
    assert [block.title.partition(".")[0] for block in examples] == [str(number) for number in range(1, 11)]
    for block in examples:
        # Of a transcript the commands count, and not what they print.
        lines = commands(block.text) if block.kind == "console" else block.text.splitlines()
        assert len(lines) <= LINES_MAX, block.title
    assert {piece.place for piece in pieces()} >= {block.title for block in examples}
