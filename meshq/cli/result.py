"""`meshq result`: one task."""

from __future__ import annotations

import asyncio

import click

from meshq.cli import render
from meshq.cli.amounts import Duration
from meshq.cli.common import Command, Local, client_options, note, note_lines
from meshq.cli.completing import ids
from meshq.cli.progress import finished
from meshq.client.record import Record
from meshq.core.ids import short
from meshq.core.limits import TIMEOUT_S_MAX
from meshq.core.task import State


@click.command(cls=Command)
@click.argument("task_id", metavar="ID", shell_complete=ids)
@click.option("--wait", is_flag=True, help="Wait until it is finished.")
@click.option(
    "--timeout", "timeout_s", type=Duration(0, TIMEOUT_S_MAX), metavar="TIME",
    help="Wait at most so long; exit with 1 if it is not finished by then.",
)  # fmt: skip
@click.option("--traceback", is_flag=True, help="If it failed, show where.")
@client_options
def result(local: Local, task_id: str, wait: bool, timeout_s: float | None, traceback: bool) -> int:
    """Show a task's state, and its result or error.

    ID may be a beginning or an end of the id that no other task has. Exits with 1 if the task ended without a result.

    \b
    Examples:
      meshq result 3f2a9c1d
      meshq result 3f2a9c1d --wait --timeout 60
      meshq result 3f2a9c1d --json
    """
    waits = wait or timeout_s is not None
    record = asyncio.run(_result(local, task_id, waits, timeout_s))
    click.echo(render.record_json(record) if local.as_json else render.record_text(record, with_reason=False))
    shows_where = bool(record.error and record.error.get("traceback"))
    if traceback and record.error and shows_where:
        note_lines(str(record.error["traceback"]))
    if record.finished and record.state != State.DONE:
        hint = " (--traceback shows where)" if shows_where and not traceback and not local.as_json else ""
        note(f"meshq result: {short(record.id)}: {render.line(record.reason)}{hint}")
        return 1
    if waits and not record.finished:
        note(f"meshq result: {short(record.id)} is {record.state} after {timeout_s:g} s; ask again later")
        return 1
    return 0


async def _result(local: Local, task_id: str, waits: bool, timeout_s: float | None) -> Record:
    async with local.client() as client:
        return await (finished(client, task_id, task_id, timeout_s) if waits else client.task(task_id))
