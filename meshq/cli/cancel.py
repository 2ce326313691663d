"""`meshq cancel`: calls tasks off."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

import click

from meshq.cli import render
from meshq.cli.amounts import Duration
from meshq.cli.common import Command, Local, client_options, note, on_interrupt
from meshq.cli.completing import batches, ids
from meshq.client.aio import AsyncClient
from meshq.client.record import Record
from meshq.core.ids import short
from meshq.core.limits import TIMEOUT_S_MAX
from meshq.core.task import State
from meshq.errors import Conflict

WAIT_S = 60.0
AT_ONCE = 16


@click.command(cls=Command)
@click.argument("task_id", metavar="[ID]", required=False, shell_complete=ids)
@click.option("--batch", metavar="BATCH", shell_complete=batches, help="All unfinished tasks of this batch.")
@click.option("--wait", is_flag=True, help="Wait until the runs have ended, too.")
@click.option(
    "--timeout", "timeout_s", type=Duration(0, TIMEOUT_S_MAX), metavar="TIME",
    help="Wait at most so long; exit with 1 if a run has not ended by then.  [default: 60s]",
)  # fmt: skip
@client_options
def cancel(local: Local, task_id: str | None, batch: str | None, wait: bool, timeout_s: float | None) -> int:
    """Call off a task, or all tasks of a batch.

    It returns when the cluster has it; a run that goes on is killed by its
    machine, with its process group. A task that is finished stays as it is.

    \b
    Examples:
      meshq cancel 3f2a9c1d
      meshq cancel 3f2a9c1d --wait
      meshq cancel --batch tonight --wait --timeout 5m
    """
    if (task_id is None) == (batch is None):
        raise click.UsageError("give either the ID of a task or --batch BATCH")
    wait_s = (WAIT_S if timeout_s is None else timeout_s) if wait or timeout_s is not None else 0.0
    if task_id is not None:
        return asyncio.run(_one(local, task_id, wait_s))
    return asyncio.run(_all(local, batch or "", wait_s))


async def _one(local: Local, task_id: str, wait_s: float) -> int:
    on_interrupt("; a task that was called off stays so")
    async with local.client() as client:
        record = await client.cancel(task_id, wait_s=wait_s)
    if record.state != State.CANCELLED:
        raise Conflict(f"{short(record.id)} is {record.state} and stays so; only an unfinished task is cancelled")
    click.echo(render.record_json(record) if local.as_json else render.record_head(record))
    return _still([record] if wait_s and record.ending else [], wait_s)


async def _all(local: Local, batch: str, wait_s: float) -> int:
    on_interrupt("; tasks that were called off stay so")
    async with local.client() as client:
        ids = await client.cancel_batch(batch)
        click.echo(json.dumps({"ids": list(ids)}) if local.as_json else f"cancelled {render.tasks_text(len(ids))}")
        if not ids:
            note(f"meshq cancel: no task of the batch {render.line(batch)} is unfinished")
        return _still(await _ended(client, batch, frozenset(ids), wait_s), wait_s) if ids and wait_s else 0


async def _ended(client: AsyncClient, batch: str, ids: frozenset[str], wait_s: float) -> Sequence[Record]:
    """Waits for the runs of those that have begun; returns those that have not ended by then."""
    # Loaded here: most commands draw no bar.
    from meshq.cli.progress import Bar

    begun = [
        record.id
        async for record in client.tasks(batch=batch, state=State.CANCELLED)
        if record.id in ids and record.attempt
    ]
    bar, turns = Bar(render.line(batch), len(begun), "ended"), asyncio.Semaphore(AT_ONCE)
    end_s = asyncio.get_running_loop().time() + wait_s

    async def ended(task_id: str) -> Record:
        async with turns:
            left_s = max(0.0, end_s - asyncio.get_running_loop().time())
            record = await client.cancel(task_id, wait_s=left_s)
            bar.step()
            return record

    try:
        return [record for record in await asyncio.gather(*map(ended, begun)) if record.ending]
    finally:
        bar.close()


def _still(running: Sequence[Record], wait_s: float) -> int:
    if not running:
        return 0
    who = f"the run of {short(running[0].id)} has" if len(running) == 1 else f"{len(running)} runs have"
    note(f"meshq cancel: {who} not ended after {wait_s:g} s; the tasks are cancelled all the same")
    return 1
