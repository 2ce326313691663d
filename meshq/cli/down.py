"""`meshq down`: stops the daemon of this machine."""

from __future__ import annotations

import asyncio
import json

import click

from meshq.cli.amounts import Duration
from meshq.cli.common import Command, Local, local_options
from meshq.cli.stopping import stopped
from meshq.core.limits import TIMEOUT_S_MAX


@click.command(cls=Command)
@click.option(
    "--timeout", "timeout_s", type=Duration(0, TIMEOUT_S_MAX), default=60.0, metavar="TIME",
    help="How long to wait until it is gone.  [default: 60]",
)  # fmt: skip
@local_options
def down(local: Local, timeout_s: float) -> int:
    """Stop the daemon of this machine in stages, and wait until it is gone.

    It keeps its place: the next meshq up brings it back. (meshq leave takes it out for good.)

    \b
    Examples:
      meshq down
      meshq down --data-dir /tmp/b
    """
    pid = asyncio.run(stopped(local, timeout_s, leave=False))
    click.echo(json.dumps({"pid": pid, "stopped": True}) if local.as_json else f"stopped (pid {pid})")
    return 0
