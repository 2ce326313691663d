"""`meshq names`: which tasks can be submitted."""

from __future__ import annotations

import asyncio
import difflib
import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict

import click

from meshq.cli import completing, render
from meshq.cli.common import Command, Local, client_options, note
from meshq.core import signature
from meshq.core.infos import Name, TaskInfo
from meshq.core.reports import Status
from meshq.errors import UnknownTask

INDENT = "    "


@click.command(cls=Command)
@click.argument("name", required=False, metavar="[NAME]", shell_complete=completing.names)
@client_options
def names(local: Local, name: str | None) -> int:
    """List the tasks that can be submitted.

    For each its signature, the first line of its docstring, and the machines that run it; with NAME also the options
    that it brings along. An argument with a `=` may be left out.

    \b
    Examples:
      meshq names
      meshq names primes
    """
    found, status = asyncio.run(_asked(local))
    if name is not None:
        found = _of(name, found)
    if local.as_json:
        for each in found:
            click.echo(json.dumps(asdict(each.info) | {"nodes": list(each.nodes)}))
        return 0
    if not found:
        note("meshq names: no live machine has told a task yet; see: meshq status")
        return 0
    called = render.node_names(status.nodes)
    for each in found:
        click.echo("\n".join(_text(each, called, whole=name is not None)))
    return 0


async def _asked(local: Local) -> tuple[Sequence[Name], Status]:
    async with local.client() as client:
        return (await client.names()).names, await client.status()


def _of(name: str, found: Sequence[Name]) -> Sequence[Name]:
    fit = [each for each in found if each.info.name == name]
    if not fit:
        known = [each.info.name for each in found]
        near = difflib.get_close_matches(name, known, 1, 0.5)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)[:400] or 'none'}"
        raise UnknownTask(f"no live machine knows a task named {name[:60]}; {hint}")
    return fit


def _text(name: Name, called: Mapping[str, str], *, whole: bool) -> Iterator[str]:
    yield from _wrapped(render.line(signature.usage(name.info)), "", INDENT * 2)
    if name.info.doc:
        yield from _wrapped(render.line(name.info.doc), INDENT)
    yield from _wrapped(_where(name.nodes, called), INDENT)
    if whole and (brought := _brought(name.info)):
        yield from _wrapped(f"brings along: {brought}", INDENT)


def _where(nodes: Sequence[str], called: Mapping[str, str]) -> str:
    if len(nodes) > 1 and set(nodes) >= set(called):
        return f"on all {len(nodes)} machines"
    return f"on {', '.join(sorted(called.get(node) or render.node_text(node, called) for node in nodes))}"


def _brought(info: TaskInfo) -> str:
    given = {
        "priority": info.priority, "timeout": info.timeout_s, "retries": info.retries, "max-running": info.max_running,
    }  # fmt: skip
    return " ".join(f"--{word} {value:g}" for word, value in given.items() if value is not None)


def _wrapped(text: str, indent: str, more: str | None = None) -> list[str]:
    return textwrap.wrap(
        text, render.WIDTH, initial_indent=indent, subsequent_indent=indent if more is None else more,
        break_long_words=True, break_on_hyphens=False,
    )  # fmt: skip
