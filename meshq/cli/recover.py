"""`meshq recover`: makes this machine's copy the cluster."""

from __future__ import annotations

import asyncio
import json

import click

from meshq.cli import render
from meshq.cli.asking import agreed, status_of
from meshq.cli.common import Command, Local, local_options
from meshq.core.reports import Status
from meshq.errors import Conflict


@click.command(cls=Command)
@click.option("--yes", is_flag=True, help="Don't ask.")
@local_options
def recover(local: Local, yes: bool) -> int:
    """Make this machine's copy of the queue the cluster.

    For when a majority of the machines never comes back. It is refused while a majority is there. It says first which
    machines are waited for and what this copy holds, and asks. What only the others hold is missing until they come
    back; they join as new copies then, and it is merged. Tasks that ran there may run a second time.

    \b
    Examples:
      meshq recover
      meshq recover --yes
    """
    found = asyncio.run(status_of(local))
    if found.majority:
        leader = render.node_text(found.leader or "", render.node_names(found.nodes))
        raise Conflict(f"a majority is there, and {leader} leads: nothing is to be recovered (see: meshq status)")
    if not yes and not agreed(_prospect(found), "Make this copy the cluster?"):
        return 1
    asyncio.run(_recover(local))
    held = render.held(found)
    if local.as_json:
        told = {"recovered": True, "node": found.node, "tasks": held, "missing": list(found.missing)}
        click.echo(json.dumps(told))
    else:
        click.echo(f"this machine's copy is the cluster now: {render.tasks_text(held)}; see: meshq status")
    return 0


async def _recover(local: Local) -> None:
    async with local.client() as client:
        await client.recover()


def _prospect(status: Status) -> str:
    """What is there, and what would be."""
    names = render.node_names(status.nodes)
    missing = render.missing_text(status, names)
    others = render.nodes_text(status.missing, names) or "other machines"
    counts = ", ".join(f"{status.tasks.get(state, 0)} {state}" for state in render.SHOWN_STATES)
    held = render.tasks_text(render.held(status))
    joining = "join it as new copies when they come back, what only they hold is merged"
    if len(status.missing) == 1:
        joining = "joins it as a new copy when it comes back, what only it holds is merged"
    return "\n".join(
        render.paragraph(text)
        for text in (
            f"It waits for {missing}." if missing else "It knows of no machine to wait for.",
            f"This copy holds {held}: {counts}.",
            f"This machine's copy becomes the cluster: {held}; {others} {joining}. Until then that is missing here, "
            "and tasks that ran there may run again.",
        )
    )
