"""`meshq retry`: submits finished tasks anew."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import click

from meshq.cli import render
from meshq.cli.common import Command, Local, client_options, note
from meshq.cli.completing import batches, ids
from meshq.client.handle import Handle


@click.command(cls=Command)
@click.argument("task_id", metavar="[ID]", required=False, shell_complete=ids)
@click.option("--failed", is_flag=True, help="All that failed and were not tried again since.")
@click.option("--batch", metavar="BATCH", shell_complete=batches, help="With --failed: only those of this batch.")
@client_options
def retry(local: Local, task_id: str | None, failed: bool, batch: str | None) -> int:
    """Submit a finished task anew, or all that failed.

    Each becomes a new task with the same arguments and options, which names the old one. (meshq tasks --failed lists
    those that failed.)

    \b
    Examples:
      meshq retry 3f2a9c1d
      meshq retry --failed
      meshq retry --failed --batch tonight
    """
    if (task_id is None) is not failed:
        raise click.UsageError("give either the ID of a task or --failed")
    if batch is not None and not failed:
        raise click.UsageError("--batch needs --failed")
    handles = asyncio.run(_retried(local, task_id, batch))
    if local.as_json:
        click.echo(render.submitted_json(handles))
    elif handles:
        click.echo(render.submitted_text(handles))
    if not handles:
        where = "" if batch is None else f" of the batch {render.line(batch)}"
        note(f"meshq retry: no task{where} has failed that was not tried again since")
    return 0


async def _retried(local: Local, task_id: str | None, batch: str | None) -> Sequence[Handle]:
    async with local.client() as client:
        return await client.retry_failed(batch) if task_id is None else [await client.retry(task_id)]
