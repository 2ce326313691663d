"""The README: its commands and options are those that exist, and its examples print what it says they print."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from meshq.cli.main import COMMANDS, cli
from meshq.config import Config
from meshq.node.embedded import embedded

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
EXAMPLE_S = 60.0
# The row of the options that all commands take, and the commands that ask no daemon and take none of them.
SHARED = "all but `demo` and `completion`"
ALONE = {"demo", "completion"}


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of the README, and the section that it stands in."""

    section: str
    kind: str
    text: str


def blocks() -> list[Block]:
    """All of them, in order."""
    found: list[Block] = []
    section, kind, lines = "", "", list[str]()
    for line in README.splitlines():
        if not kind and line.startswith("## "):
            section = line.removeprefix("## ")
        elif not kind and line.startswith("```"):
            kind = line.removeprefix("```")
        elif line == "```":
            found.append(Block(section, kind, "\n".join(lines) + "\n"))
            kind, lines = "", []
        elif kind:
            lines.append(line)
    assert not kind, "the last block has no end"
    return found


def examples() -> list[tuple[str, str]]:
    """The Python programs that print something, each with what it prints."""
    pairs = zip(blocks(), blocks()[1:], strict=False)
    return [(code.text, printed.text) for code, printed in pairs if (code.kind, printed.kind) == ("python", "text")]


def modules() -> list[str]:
    """The Python files with tasks: those that print nothing."""
    printing = {code for code, _ in examples()}
    return [block.text for block in blocks() if block.kind == "python" and block.text not in printing]


def rows() -> dict[str, str]:
    """The rows of the table of commands, by the first words in them."""
    begun = README.index("| command |")
    table = README[begun : README.index("\n\n", begun)].splitlines()[2:]
    return {re.sub(r"`meshq (\w+).*", r"\1", row.split(" | ")[0].removeprefix("| ")): row for row in table}


def options(command: click.Command) -> set[str]:
    """The long options of a command, but not `--help`; of a group, those of all its commands."""
    if isinstance(command, click.Group):
        return {name for each in command.commands.values() for name in options(each)}
    return {name for param in command.params for name in param.opts if name.startswith("--")}


def test_two_commands_and_no_more() -> None:
    commands = [block.text for block in blocks() if block.section == "Two commands" and block.kind == "sh"]
    assert len(commands) == 2
    assert all(command.count("\n") == 1 for command in commands)


def test_the_table_names_every_command_and_every_option_of_it() -> None:
    table = rows()
    shared = set(re.findall(r"--[a-z-]+", table.pop(SHARED))) - {"--help"}
    assert set(table) == set(COMMANDS)
    for name, row in table.items():
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        named = set(re.findall(r"`(--[a-z-]+)", row.split(" | ")[1]))
        assert named == options(command) - (set() if name in ALONE else shared), name
        assert name in ALONE or shared <= options(command), name


def test_links_lead_somewhere() -> None:
    titles = {
        re.sub(r"[^a-z -]", "", line[3:].lower()).replace(" ", "-") for line in README.splitlines() if line[:3] == "## "
    }
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert target[1:] in titles if target.startswith("#") else (ROOT / target).exists(), target


async def run(*argv: str, data_dir: Path) -> tuple[int | None, str, str]:
    """Runs a program with this daemon as the local one: its exit code and what it printed."""
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "MESHQ_DATA_DIR": str(data_dir)},
    )
    async with asyncio.timeout(EXAMPLE_S):
        out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def test_the_python_examples_print_what_they_say(tmp_path: Path) -> None:
    assert len(modules()) == 1 and len(examples()) == 2
    tasks = tmp_path / "mytasks.py"
    tasks.write_text(modules()[0], "utf-8")
    async with embedded(Config(tasks=(str(tasks),), slots=1)) as data_dir:
        for code, printed in examples():
            found = await run(sys.executable, "-W", "error", "-c", code, data_dir=data_dir)
            assert found == (0, printed, "")


def consoles(pattern: str) -> list[tuple[str, str]]:
    """The commands in the README's transcripts that this pattern finds, each with all that it printed."""
    found = []
    for block in blocks():
        if block.kind == "console":
            for entry in re.split(r"^(?=\w*\$ )", block.text, flags=re.MULTILINE):
                line, _, printed = entry.partition("\n")
                command = line.partition("$ ")[2]
                if re.match(pattern, command):
                    found.append((command, printed))
    return found


@pytest.mark.parametrize(("command", "printed"), consoles(r"meshq run .*; echo"), ids=lambda text: text.split(";")[0])
async def test_what_goes_wrong_is_said_as_it_stands_here(command: str, printed: str) -> None:
    # With a daemon at hand, as in the transcript; its slots are not needed but for what fails in a task.
    async with embedded(Config(slots=1)) as data_dir:
        meshq = f"{sys.executable} -m meshq"
        script = "exec 2>&1; " + command.replace("meshq ", f"{meshq} ", 1)
        _, out, _ = await run("bash", "-c", script, data_dir=data_dir)
    assert out == printed


async def test_the_first_command_prints_the_result_that_stands_here(tmp_path: Path) -> None:
    printed = next(block.text for block in blocks() if block.section == "Two commands" and block.kind == "text")
    code, out, err = await run(sys.executable, "-m", "meshq", "run", "primes", "100000", data_dir=tmp_path)
    assert (code, err + out) == (0, printed)


def test_json_in_transcripts_is_json() -> None:
    lines = [line for block in blocks() for line in block.text.splitlines() if line.startswith('{"')]
    assert lines
    assert all(isinstance(json.loads(line), dict) for line in lines)
