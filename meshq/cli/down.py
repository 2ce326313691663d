"""`meshq down`: stops the daemon of this machine."""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import suppress
from pathlib import Path

import click

from meshq.cli.common import Command, Local, Number, listens, local_options, note
from meshq.client.aio import AsyncClient
from meshq.errors import NoDaemon

CHECK_S = 0.1
TELL_S = 2.0


@click.command(cls=Command)
@click.option(
    "--timeout", "timeout_s", type=Number(0), default=60.0, metavar="SECONDS",
    help="How long to wait until it is gone.  [default: 60]",
)  # fmt: skip
@local_options
def down(local: Local, timeout_s: float) -> int:
    """Stop the daemon of this machine in stages, and wait until it is gone.

    \b
    Examples:
      meshq down
      meshq down --data-dir /tmp/b
    """
    pid = asyncio.run(_down(local, timeout_s))
    click.echo(json.dumps({"pid": pid, "stopped": True}) if local.as_json else f"stopped (pid {pid})")
    return 0


async def _down(local: Local, timeout_s: float) -> int:
    async with AsyncClient(local.data_dir, connect_timeout_s=local.connect_timeout_s) as client:
        pid = (await client.health()).pid
        with suppress(NoDaemon):
            # A daemon that has nothing to finish may be gone before it answers.
            await client.stop()
    loop = asyncio.get_running_loop()
    began_s = told_s = loop.time()
    while listens(local.data_dir) or _lives(pid):
        if loop.time() - began_s >= timeout_s:
            raise NoDaemon(f"the daemon (pid {pid}) still stops after {timeout_s:g} s; end it with: kill -9 {pid}")
        if loop.time() - told_s >= TELL_S:
            told_s = loop.time()
            note(f"stopping: tasks that run here may finish ({told_s - began_s:.0f} s)")
        await asyncio.sleep(CHECK_S)
    return pid


def _lives(pid: int) -> bool:
    """Whether a process still works. One that ended and was not yet collected by its parent does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return not Path("/proc/self").exists()
