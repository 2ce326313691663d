"""`meshq resume`: a machine that is to get work again."""

from __future__ import annotations

import click

from meshq.cli.common import Command, Local, client_options
from meshq.cli.completing import nodes
from meshq.cli.draining import changed


@click.command(cls=Command)
@click.argument("node", required=False, metavar="[NODE]", shell_complete=nodes)
@client_options
def resume(local: Local, node: str | None) -> int:
    """Give a drained machine work again.

    NODE is its id, the end of its id, or its name; without it, the machine that answers.

    \b
    Examples:
      meshq resume
      meshq resume beta
    """
    return changed(local, node, resume=True)
