"""Taking a machine out of the work, and giving it work again."""

from __future__ import annotations

import asyncio
import json

import click

from meshq.cli import render
from meshq.cli.common import Local
from meshq.client.asking import HERE
from meshq.core.ids import short
from meshq.core.reports import NodeView
from meshq.wire import forms


def changed(local: Local, text: str | None, *, resume: bool) -> int:
    """Drains or resumes a node, and says so.

    Args:
        local: Whom to ask.
        text: The node, as people name it; None for the one that answers.
        resume: Whether it gets work again.
    """
    named = HERE if text is None else forms.node(text)
    node = asyncio.run(_changed(local, named, resume))
    if local.as_json:
        click.echo(json.dumps({"resumed" if resume else "drained": node.id if node else named}))
        return 0
    shown = render.node_text(node.id, render.node_names([node])) if node else named
    if resume:
        click.echo(f"{shown} gets work again")
        return 0
    left = f"finishes the {render.tasks_text(node.running)} that it runs and " if node and node.running else ""
    click.echo(f"{shown} is drained: it {left}begins no more")
    # A line of its own, so that it can be copied.
    click.echo(f"give it work again with: meshq resume {short(node.id) if node else named}")
    return 0


async def _changed(local: Local, named: str, resume: bool) -> NodeView | None:
    """The node, as far as it can be told which one is meant; that is the daemon's to say."""
    async with local.client() as client:
        await (client.resume(named) if resume else client.drain(named))
        status = await client.status()
    fit = [
        each for each in status.nodes
        if (each.id == status.node if named == HERE else named == each.name or each.id.endswith(named))
    ]  # fmt: skip
    return fit[0] if len(fit) == 1 else None
