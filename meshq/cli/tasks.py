"""`meshq tasks`: the list."""

from __future__ import annotations

import asyncio
import sys
from contextlib import aclosing

import click

from meshq.cli import render
from meshq.cli.common import Command, Local, Number, client_options, note
from meshq.client.record import Record

LIMIT = 50


@click.command(cls=Command)
@click.option("--state", type=click.Choice([str(state) for state in render.SHOWN_STATES]), help="Only these.")
@click.option("--name", metavar="NAME", help="Only those of this name.")
@click.option(
    "--limit", type=Number(1, whole=True), metavar="N", help=f"At most so many.  [default: {LIMIT}; with --json: all]"
)
@client_options
def tasks(local: Local, state: str | None, name: str | None, limit: int | None) -> int:
    """List tasks, newest first.

    With --json one object a line, without the results.

    \b
    Examples:
      meshq tasks
      meshq tasks --state failed --limit 10
      meshq tasks --json | wc -l
    """
    if local.as_json:
        asyncio.run(_stream(local, state, name, limit))
        return 0
    # Loaded here: lines of JSON need no table.
    from meshq.cli.tables import console, tasks_table

    shown = limit or LIMIT
    found = asyncio.run(_listed(local, state, name, shown + 1))
    if not found:
        note("no such tasks" if state or name else "no tasks yet; submit one with: meshq submit primes 100000")
        return 0
    console().print(tasks_table(found[:shown]))
    if any(record.finished and not record.majority for record in found[:shown]):
        note(f"* {render.NO_MAJORITY}")
    if len(found) > shown:
        note(f"these are the newest {shown}; more with --limit N, all with --json")
    return 0


async def _stream(local: Local, state: str | None, name: str | None, limit: int | None) -> None:
    async with (
        local.client() as client,
        aclosing(client.tasks(state=state, name=name, limit=limit)) as found,
    ):
        async for record in found:
            sys.stdout.write(render.record_json(record, with_result=False) + "\n")


async def _listed(local: Local, state: str | None, name: str | None, limit: int) -> list[Record]:
    async with local.client() as client:
        return [record async for record in client.tasks(state=state, name=name, limit=limit)]
