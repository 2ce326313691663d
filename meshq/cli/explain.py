"""`meshq explain`: the story of the cluster, or of a task."""

from __future__ import annotations

import asyncio

import click

from meshq.cli import render
from meshq.cli.common import Command, Local, client_options
from meshq.cli.completing import ids
from meshq.client.record import Story
from meshq.core.reports import ClusterStory


@click.command(cls=Command)
@click.argument("task_id", metavar="[ID]", required=False, shell_complete=ids)
@client_options
def explain(local: Local, task_id: str | None) -> int:
    """Tell who leads and why, or what happened to a task.

    Without ID: who leads, since when, by whose votes, why each other node does not, what is waited for, what this node
    noted lately, and what came home when parts of the cluster met again. With ID (a beginning or an end will do):
    every change of the task, by which node, in which epoch and why; why it does not run; and the outcomes of other
    runs that do not stand.

    \b
    Examples:
      meshq explain
      meshq explain 3f2a9c1d
      meshq explain 3f2a9c1d --json
    """
    found = asyncio.run(_asked(local, task_id))
    if local.as_json:
        click.echo(render.story_json(found) if isinstance(found, Story) else render.cluster_story_json(found))
        return 0
    # Loaded here: JSON needs no table.
    from meshq.cli.stories import cluster_view, task_view
    from meshq.cli.tables import console

    console().print(task_view(found) if isinstance(found, Story) else cluster_view(found))
    return 0


async def _asked(local: Local, task_id: str | None) -> Story | ClusterStory:
    async with local.client() as client:
        return await (client.cluster_story() if task_id is None else client.story(task_id))
