"""`meshq logs`: what a task printed."""

from __future__ import annotations

import asyncio
import codecs
import json
import os
import re
import sys
from collections.abc import Callable
from contextlib import aclosing

import click

from meshq.cli import render
from meshq.cli.common import Command, Local, client_options, note, on_interrupt
from meshq.cli.completing import ids
from meshq.core.reports import Log

# Colours are let through to a terminal; what moves its cursor or writes its title is not.
_COLOUR = re.compile(r"(\x1b\[[0-9;]*m)")


@click.command(cls=Command)
@click.argument("task_id", metavar="ID", shell_complete=ids)
@click.option("--follow", "-f", is_flag=True, help="Go on until the task is finished, or Ctrl-C.")
@client_options
def logs(local: Local, task_id: str, follow: bool) -> int:
    """Show what a task printed.

    It is kept on the machine that ran the task, the last MiB of it; where a task ran more than once, that of its last
    run. With --json each part is an object with its place in bytes.

    \b
    Examples:
      meshq logs 3f2a9c1d
      meshq logs 3f2a9c1d --follow
      meshq logs 3f2a9c1d | grep -i warning
    """
    if follow:
        on_interrupt(None)
    if not asyncio.run(_printed(local, task_id, follow)):
        note(f"meshq logs: {task_id} has printed nothing{'' if follow else ' so far'}")
    return 0


async def _printed(local: Local, task_id: str, follow: bool) -> bool:
    write = _json if local.as_json else _to_terminal() if sys.stdout.isatty() else _raw
    some = False
    async with local.client() as client, aclosing(client.logs(task_id, follow=follow)) as parts:
        async for part in parts:
            some = True
            if part.lost:
                note(f"meshq logs: {render.size(part.lost)} before this are kept no more")
            write(part)
            sys.stdout.flush()
    return some


def _json(part: Log) -> None:
    text = part.text.decode("utf-8", "replace")
    click.echo(json.dumps({"task": part.task, "node": part.node, "text": text, "next": part.next, "lost": part.lost}))


def _raw(part: Log) -> None:
    sys.stdout.buffer.write(part.text)


def _to_terminal() -> Callable[[Log], None]:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    coloured = not os.environ.get("NO_COLOR")

    def write(part: Log) -> None:
        pieces = _COLOUR.split(decoder.decode(part.text))
        for index, piece in enumerate(pieces):
            if index % 2:
                sys.stdout.write(piece if coloured else "")
            else:
                # A program's own progress bar goes back to the line's beginning; each of its states gets a line.
                whole = piece.replace("\r\n", "\n").replace("\r", "\n")
                sys.stdout.write("".join(char if char.isprintable() or char in "\n\t" else "�" for char in whole))

    return write
