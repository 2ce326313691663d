"""`meshq tasks`: the list."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

import click

from meshq.cli import render
from meshq.cli.common import Command, Local, Number, client_options, note
from meshq.cli.completing import batches, names
from meshq.client.aio import AsyncClient
from meshq.client.record import Record
from meshq.core.task import State

LIMIT = 50


@click.command(cls=Command)
@click.option("--state", type=click.Choice([str(state) for state in render.SHOWN_STATES]), help="Only these.")
@click.option("--failed", is_flag=True, help="Only failed ones, with their errors; the same as --state failed.")
@click.option("--name", metavar="NAME", shell_complete=names, help="Only those of this name.")
@click.option("--batch", metavar="BATCH", shell_complete=batches, help="Only those of this batch.")
@click.option(
    "--limit", type=Number(1, whole=True), metavar="N", help=f"At most so many.  [default: {LIMIT}; with --json: all]"
)
@client_options
def tasks(local: Local, state: str | None, failed: bool, name: str | None, batch: str | None, limit: int | None) -> int:
    """List tasks, newest first.

    With --json one object a line, without the results.

    \b
    Examples:
      meshq tasks
      meshq tasks --state running --limit 10
      meshq tasks --failed --batch tonight
      meshq tasks --json | wc -l
    """
    if failed and state not in (None, State.FAILED):
        raise click.UsageError(f"--failed and --state {state} exclude each other")
    wanted = _Wanted(State.FAILED.value if failed else state, name, batch)
    if local.as_json:
        asyncio.run(_stream(local, wanted, limit))
        return 0
    # Loaded here: lines of JSON need no table.
    from meshq.cli.tables import console, failed_table, tasks_table

    shown = limit or LIMIT
    found = asyncio.run(_listed(local, wanted, shown + 1))
    if not found:
        narrowed = wanted != _Wanted(None, None, None)
        note("no such tasks" if narrowed else "no tasks yet; submit one with: meshq submit primes 100000")
        return 0
    table = failed_table if wanted.state == State.FAILED else tasks_table
    console().print(table(found[:shown]))
    if any(record.finished and not record.majority for record in found[:shown]):
        note(f"* {render.NO_MAJORITY}")
    if len(found) > shown:
        note(f"these are the newest {shown}; more with --limit N, all with --json")
    return 0


@dataclass(frozen=True, slots=True)
class _Wanted:
    state: str | None
    name: str | None
    batch: str | None

    def of(self, client: AsyncClient, limit: int | None) -> AsyncGenerator[Record, None]:
        return client.tasks(state=self.state, name=self.name, batch=self.batch, limit=limit)


async def _stream(local: Local, wanted: _Wanted, limit: int | None) -> None:
    async with local.client() as client, aclosing(wanted.of(client, limit)) as found:
        async for record in found:
            sys.stdout.write(render.record_json(record, with_result=False) + "\n")


async def _listed(local: Local, wanted: _Wanted, limit: int) -> list[Record]:
    async with local.client() as client:
        return [record async for record in wanted.of(client, limit)]
