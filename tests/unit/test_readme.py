"""The README: its commands and options are those that exist, and its examples print what it says they print."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from dataclasses import fields
from pathlib import Path

import click
import pytest

from meshq import AsyncClient, Client, Options
from meshq.cli.demo import Result, result_text
from meshq.cli.main import COMMANDS, cli
from meshq.config import Config
from meshq.core.requests import Answer, Request
from meshq.node.embedded import embedded
from meshq.wire.forms import TaskForm
from meshq.wire.http import build_app
from tests.executor.suite import ABSTRACT, LEFT_OUT
from tests.unit.readme import README, ROOT, blocks, commands

EXAMPLE_S = 60.0
LINE_CHARS_MAX = 125
# What only workers and other nodes use, and what the client's own methods are made of.
WORKERS = ("/get-task", "/submit-result", "/heartbeat", "/peer")
INNER = ("ask", "found", "map_parts", "submit_packed", "close", "with_options")


class Nobody:
    """A service that is never asked."""

    async def admit(self, owner: str, kind: type) -> None:
        raise AssertionError(owner)

    async def call(self, request: Request, *, local: bool) -> Answer:
        raise AssertionError(request)


def table(head: str) -> list[list[str]]:
    """The cells of the table with this head."""
    begun = README.index(head)
    rows = README[begun : README.index("\n\n", begun)].splitlines()[2:]
    return [re.split(r"(?<!\\)\|", row)[1:-1] for row in rows]


def long_options(cell: str) -> set[str]:
    """The options in a cell."""
    return set(re.findall(r"`(--[a-z-]+)", cell))


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
    own: dict[str, set[str]] = {}
    shared: list[set[str]] = []
    for first, second, _ in table("| command |"):
        if found := re.match(r" `meshq (\w+)", first):
            own[found[1]] = long_options(second)
        else:
            shared.append(long_options(second) - {"--help"})
    assert set(own) == set(COMMANDS)
    for name, named in own.items():
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        # Each of the last rows belongs to those commands that have all of it.
        groups = [group for group in shared if group <= options(command)]
        assert named.union(*groups) == options(command), name


def test_every_operation_has_a_row() -> None:
    table_text = "\n".join("|".join(cells) for cells in table("| what | shell | HTTP | Python (`Client`"))
    known = "\n".join(cells[0] for cells in table("| path |")).replace("`, `", " ")
    app = build_app(Nobody(), None, new_id=str, wall_ms=int, body_bytes_max=1)
    for route in app.router.routes():
        assert route.resource is not None
        path = route.resource.canonical
        assert re.search(re.escape(path.rpartition("/")[2]), known) or path.startswith("/task/"), path
        if path not in WORKERS:
            assert re.search(re.sub(r"\\{\w+\\}", "\\\\w+", re.escape(path)), table_text), path
    for client in (Client, AsyncClient):
        for method in (name for name in dir(client) if not name.startswith("_") and name not in INNER):
            assert f"{method}(" in table_text or f"client.{method}(" in README, method


def test_every_word_of_a_submit_has_a_row() -> None:
    cells = table("| what | shell | HTTP | Python | allowed |")
    columns = ("|".join(row[column] for row in cells) for column in (1, 2, 3))
    shell, http, python = (set(re.findall(r"`(-*[a-z_-]+)", column)) for column in columns)
    submit, run = (cli.get_command(click.Context(cli), name) for name in ("submit", "run"))
    assert submit is not None and run is not None
    elsewhere = {name for row in table("| command |")[-3:] for name in long_options(row[1])}
    assert shell == (options(submit) & options(run)) - elsewhere
    assert http == set(TaskForm.__struct_fields__) - {"name", "args", "kwargs", "payload", "id", "count"}
    assert python == {field.name for field in fields(Options)}


def test_the_tests_of_executors_that_are_not_run_have_their_reasons() -> None:
    shown = {name for cells in table("| test | why not |") for name in re.findall(r"`(test_\w+)`", cells[0])}
    assert shown == set(LEFT_OUT)
    reasons = {cells[1].replace("`", "").strip() for cells in table("| test | why not |")}
    assert reasons >= set(LEFT_OUT.values()) - {ABSTRACT}


def test_lines_are_no_longer_than_can_be_read() -> None:
    text = re.sub(r"^```.*?^```$", "", README, flags=re.MULTILINE | re.DOTALL)
    for line in text.splitlines():
        assert len(line) <= LINE_CHARS_MAX or line.startswith("|"), line


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


def test_the_demo_shows_what_it_ends_with() -> None:
    shown = next(block.text for block in blocks() if block.section == "The first minute" and block.kind == "console")
    made = Result(
        nodes=3, seconds=10.0, submitted=200, finished=200, lost=0, run_twice=2, finished_twice=0, killed="alpha",
        leader="beta", without_leader_s=2.46,
    )  # fmt: skip
    assert shown.endswith(f"\n\n{result_text(made)}\n")


def consoles(pattern: str) -> list[tuple[str, str]]:
    """The commands in the README's transcripts that this pattern finds, each with all that it printed."""
    shown = (each for block in blocks() if block.kind == "console" for each in commands(block.text))
    return [(command, printed) for command, printed in shown if re.match(pattern, command)]


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
