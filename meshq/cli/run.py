"""`meshq run`: submit, wait, and the result."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import click

from meshq.cli import progress, render, settings
from meshq.cli.arguments import TaskCommand, task_arguments
from meshq.cli.common import Local, client_options, listens, note, note_lines, on_interrupt
from meshq.cli.signals import end_like_ctrl_c
from meshq.cli.submitting import task_options
from meshq.client.options import Options
from meshq.core.ids import short
from meshq.errors import TaskFailed
from meshq.wire import values


@click.command(cls=TaskCommand)
@task_options
@click.option("--traceback", is_flag=True, help="If it fails, show where.")
@client_options
def run(local: Local, name: str, arguments: tuple[str, ...], options: Options, traceback: bool) -> int:
    """Submit a task, wait, and print its result as one JSON value.

    Where no daemon runs on this data directory, a node of its own does the work and is gone afterwards. (Not with
    --to.)

    \b
    Examples:
      meshq run primes 100000
      meshq run primes 100000 algorithm=trial_division
      meshq run compute factorial 1000
    """
    if options.keep_s == 0:
        raise click.UsageError("the result is printed, so it can't be forgotten at once: --forget is for meshq submit")
    args, kwargs = task_arguments(arguments)
    try:
        result = asyncio.run(_run(local, name, args, kwargs, options))
    except TaskFailed as error:
        where = str((error.error or {}).get("traceback") or "").rstrip()
        if where and traceback:
            note_lines(where)
        elif where:
            error.append(" (--traceback shows where)")
        raise
    click.echo(values.dumps(values.to_json(result)))
    return 0


async def _run(local: Local, name: str, args: list[Any], kwargs: dict[str, Any], options: Options) -> Any:
    async with AsyncExitStack() as stack:
        embedded_here = local.to is None and not listens(local.data_dir)
        if embedded_here:
            config = settings.load(local.data_dir)
            note("meshq run: no daemon runs here, so a node of its own does this task (meshq up starts a daemon)")
            end_like_ctrl_c()
            # Loaded only here: a whole node takes longer to load than a client.
            from meshq.node.embedded import embedded

            local = replace(local, data_dir=await stack.enter_async_context(embedded(config)))
        client = await stack.enter_async_context(local.client())
        handle = await client.with_options(options).submit(name, *args, **kwargs)
        if handle.queued and not embedded_here:
            where = "this" if local.to is None else "that"
            text = f"no leader; the task waits on {where} machine's disk until there is one (see: meshq status)"
            note(f"meshq run: {text}")
        if not embedded_here:
            on_interrupt(f"; the task goes on, see: meshq result {short(handle.id)}")
        try:
            record = await progress.finished(client, handle, render.line(name))
            if not record.majority and not embedded_here:
                note(f"meshq run: {render.NO_MAJORITY}")
            return record.value()
        except asyncio.CancelledError:
            if embedded_here:
                # So that nothing is left that its end would wait for.
                await client.cancel(handle)
            raise
