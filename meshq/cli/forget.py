"""`meshq forget`: a machine that never comes back."""

from __future__ import annotations

import asyncio
import json

import click

from meshq.cli import render
from meshq.cli.common import Command, Local, client_options
from meshq.cli.completing import nodes
from meshq.core.reports import NodeView
from meshq.wire import forms


@click.command(cls=Command)
@click.argument("node", shell_complete=nodes)
@client_options
def forget(local: Local, node: str) -> int:
    """Take a machine that never comes back off the roster.

    NODE is its id, the end of its id, or its name, as meshq status shows them. It no longer counts for the majority
    then. If it comes back all the same, it joins as a new copy. A machine that is up is not forgotten: run meshq leave
    there.

    \b
    Examples:
      meshq forget beta
      meshq forget 3c6df59e
    """
    found = asyncio.run(_forget(local, forms.node(node)))
    if local.as_json:
        click.echo(json.dumps({"forgotten": found.id if found else node}))
    else:
        click.echo(f"forgot {render.node_text(found.id, render.node_names([found])) if found else node}")
    return 0


async def _forget(local: Local, node: str) -> NodeView | None:
    async with local.client() as client:
        # Asked before: afterwards it is not listed any more. Which one is meant is the daemon's to say.
        nodes = (await client.status()).nodes
        await client.forget(node)
    fit = [each for each in nodes if node == each.name or each.id.endswith(node)]
    return fit[0] if len(fit) == 1 else None
