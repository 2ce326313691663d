"""`meshq drain`: a machine that is to get no work."""

from __future__ import annotations

import click

from meshq.cli.common import Command, Local, client_options
from meshq.cli.completing import nodes
from meshq.cli.draining import changed


@click.command(cls=Command)
@click.argument("node", required=False, metavar="[NODE]", shell_complete=nodes)
@client_options
def drain(local: Local, node: str | None) -> int:
    """Take a machine out of the work; nothing is lost.

    NODE is its id, the end of its id, or its name; without it, the machine that answers. What runs there is finished,
    and no more is begun, also after a restart, until meshq resume. It keeps its copy of the queue and its vote.

    \b
    Examples:
      meshq drain
      meshq drain beta
      meshq status --watch        see when SLOTS shows that nothing runs there
    """
    return changed(local, node, resume=False)
