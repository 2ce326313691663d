"""`meshq submit`: hands tasks in."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Any

import click

from meshq.cli import render
from meshq.cli.arguments import TaskCommand, task_arguments
from meshq.cli.common import Local, Number, client_options, note, on_interrupt
from meshq.cli.submitting import task_options
from meshq.client.aio import AsyncClient
from meshq.client.handle import Handle
from meshq.client.options import Options
from meshq.client.record import Record
from meshq.core.task import State


@click.command(cls=TaskCommand)
@task_options
@click.option("--count", type=Number(1, 1_000_000, whole=True), default=1, metavar="N", help="Submit it N times.")
@click.option("--wait", is_flag=True, help="Wait for the results; exit with 1 if one failed.")
@client_options
def submit(local: Local, name: str, arguments: tuple[str, ...], options: Options, count: int, wait: bool) -> int:
    """Submit a task; return when the cluster keeps it.

    Each argument is read as JSON, else as a text; KEY=VALUE is a keyword argument; after -- all is plain text.

    \b
    Examples:
      meshq submit primes 100000
      meshq submit primes 100000 algorithm=trial_division --count 200
      meshq submit compute pi 1000000 --wait
      meshq submit mytask '[1, 2]' true -5 -- 007 a=b
      meshq submit mytask --at 18:30 --retries 3 --timeout 10m --batch tonight
    """
    if wait and options.keep_s == 0:
        raise click.UsageError("--wait and --forget exclude each other: a result can't be both wanted and forgotten")
    if count > 1 and options.key is not None:
        raise click.UsageError("--count and --key exclude each other: with one key all of them are one task")
    args, kwargs = task_arguments(arguments)
    return asyncio.run(_submit(local, name, (args, kwargs), options, count, wait))


async def _submit(
    local: Local, name: str, call: tuple[Sequence[Any], Mapping[str, Any]], options: Options, count: int, wait: bool
) -> int:
    args, kwargs = call
    async with local.client() as client:
        handles = await client.with_options(options).submit_many(name, [args] * count, **kwargs)
        click.echo(render.submitted_json(handles) if local.as_json else render.submitted_text(handles))
        return await _wait(local, client, name, handles) if wait else 0


async def _wait(local: Local, client: AsyncClient, name: str, handles: Sequence[Handle]) -> int:
    # Loaded here: most submits don't wait, and draw no bar.
    from meshq.cli.progress import finished, progress

    failed = 0
    on_interrupt("; the tasks go on, see: meshq tasks")
    if len(handles) == 1:
        record = await finished(client, handles[0], render.line(name))
        click.echo(_shown(local, record))
        failed += record.state != State.DONE
    else:
        with progress(name, len(handles)) as step:
            async with aclosing(client.records(handles)) as records:
                async for record in records:
                    step(_shown(local, record))
                    failed += record.state != State.DONE
    if failed:
        note(f"meshq submit: {failed} of {len(handles)} tasks failed; see: meshq result ID --traceback")
    return 1 if failed else 0


def _shown(local: Local, record: Record) -> str:
    return render.record_json(record) if local.as_json else render.record_text(record)
