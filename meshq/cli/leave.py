"""`meshq leave`: takes this machine out of its cluster."""

from __future__ import annotations

import asyncio
import json

import click

from meshq.cli import render
from meshq.cli.amounts import Duration
from meshq.cli.asking import agreed, status_of
from meshq.cli.common import Command, Local, local_options
from meshq.cli.stopping import stopped
from meshq.core.limits import TIMEOUT_S_MAX
from meshq.core.reports import Status
from meshq.errors import StoreError
from meshq.store.identity import ID_FILE


@click.command(cls=Command)
@click.option("--yes", is_flag=True, help="Don't ask.")
@click.option(
    "--timeout", "timeout_s", type=Duration(0, TIMEOUT_S_MAX), default=60.0, metavar="TIME",
    help="How long to wait until the daemon is gone.  [default: 60]",
)  # fmt: skip
@local_options
def leave(local: Local, yes: bool, timeout_s: float) -> int:
    """Take this machine out of its cluster for good.

    It lets its tasks finish, hands over what it leads, leaves the roster and stops. Its data is set aside, never
    deleted, and the next meshq up here begins as a new node. To stop it for a while only, use meshq down.

    \b
    Examples:
      meshq leave
      meshq leave --yes
    """
    if not yes and not agreed(_prospect(asyncio.run(status_of(local)), local), "Leave?"):
        return 1
    pid = asyncio.run(stopped(local, timeout_s, leave=True))
    if (local.data_dir / ID_FILE).exists():
        raise StoreError(
            f"the daemon (pid {pid}) stopped, but did not leave: its log says why; meshq up brings it back"
        )
    if local.as_json:
        click.echo(json.dumps({"pid": pid, "left": True}))
    else:
        click.echo(f"left the cluster and stopped (pid {pid}); what was here is set aside in {local.data_dir}")
    return 0


def _prospect(status: Status, local: Local) -> str:
    names = render.node_names(status.nodes)
    others = [node.id for node in status.nodes if node.role in ("leader", "replica") and node.id != status.node]
    first = "hands over the lead and leaves" if status.leader == status.node else "leaves"
    kept = f"The queue stays on {render.nodes_text(others, names)}." if others else "No other machine has a copy."
    return render.paragraph(
        f"This machine, {render.node_text(status.node, names)}, lets its tasks finish, {first} the cluster for good, "
        f"and stops. {kept} What is here is set aside in {local.data_dir}, and the next meshq up begins as a new node."
    )
